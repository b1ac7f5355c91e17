"""The grid of a sweep: the configuration of each point, checked before any training starts."""

import json
import math
from itertools import product
from typing import Any

from utils.common.errors import UserError
from utils.conf.load import TABLES, checked, set_key, shown
from utils.conf.schema import Conf, flat, result_settings, role_of, unused_because

TOGETHER = "settings"  # the key of sweep_conf whose values are mappings of several settings
MAX_POINTS = 100_000
MAX_PROBLEMS = 20  # shown of a grid


def grid_points(conf: Conf) -> list[dict[str, Any]]:
    """List the points of sweep_conf's grid, {dotted key: value} each; the last key varies fastest.

    Each value of the key `settings` is a mapping of settings that are varied together.
    """
    count = math.prod(map(len, conf.sweep_conf.values()))
    if count > MAX_POINTS:
        raise UserError(f"sweep_conf: has {count} points, but a sweep takes {MAX_POINTS} at most; shorten its lists")
    return [_point(conf, values) for values in product(*conf.sweep_conf.values())]


def _point(conf: Conf, values: tuple) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for key, value in zip(conf.sweep_conf, values, strict=True):
        for name, setting in _joint_settings(value) if key == TOGETHER else [(key, value)]:
            for other in point:
                if f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}."):
                    raise UserError(f"sweep_conf: {name}: is set beside {other} at one point; leave one out")
            point[name] = setting
    return point


def _joint_settings(settings: Any) -> list[tuple[str, Any]]:
    """List the dotted keys and values of settings that are varied together; tables stay whole."""
    if not isinstance(settings, dict):
        raise UserError(f"sweep_conf: {TOGETHER}: holds {shown(settings)}; each value must be a {{key: value}} mapping")
    pairs = []
    for key, value in settings.items():
        if isinstance(value, dict) and value and key not in TABLES:
            pairs += [(f"{key}.{name}", setting) for name, setting in _joint_settings(value)]
        else:
            pairs.append((key, value))
    return pairs


def grid_confs(conf: Conf) -> list[Conf]:
    """Make the configuration of each of the `grid_points`. Raises UserError with one line for each problem."""
    points = grid_points(conf)
    swept = {key.partition(".")[0] for point in points for key in point}
    confs: list[Conf] = []
    problems: dict[str, None] = {}  # a dictionary, because a wrong value makes the same line at many points
    first_with: dict[str, dict[str, Any]] = {}  # the first point with these results
    for point in points:
        try:
            confs.append(conf_at(conf, point))
            results = json.dumps(result_settings(confs[-1], swept), sort_keys=True)
            if results in first_with:
                raise UserError(f"sweep_conf: {first_with[results]} and {point} are the same experiment; remove one")
            first_with[results] = point
        except UserError as error:
            problems |= dict.fromkeys(str(error).splitlines())
            if len(problems) > MAX_PROBLEMS:
                break
    lines = list(problems)
    if len(lines) > MAX_PROBLEMS:
        lines[MAX_PROBLEMS:] = ["sweep_conf: there are more problems"]
    if lines:
        raise UserError("\n".join(lines))
    return confs


def conf_at(conf: Conf, point: dict[str, Any]) -> Conf:
    """Make the configuration of one of the `grid_points`; only the sections that it changes are checked."""
    sections = conf.model_dump(include={key.partition(".")[0] for key in point})
    before = flat(sections)
    tree = dict(conf) | sections | {"sweep_conf": {}}
    for key, value in point.items():
        for name, setting in flat({key: value}).items():
            role = role_of(name)
            if not role.decides_numbers and (name == key or setting != before.get(name)):
                raise UserError(f"sweep_conf: {name}: {role.value}; leave it out of sweep_conf")
        set_key(tree, key, value, f"sweep_conf: {key}")
    changed = checked(tree, "sweep_conf").model_copy(update={"sweep_conf": conf.sweep_conf})
    for key in point:
        if why := unused_because(changed, key):
            raise UserError(f"sweep_conf: {key}: has no effect with {why}; leave it out of sweep_conf")
    return changed
