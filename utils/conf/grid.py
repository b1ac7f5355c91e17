"""The grid of a sweep: a configuration at each of its points, checked before anything starts."""

import json
from itertools import product
from typing import Any

import yaml

from utils.common.errors import UserError
from utils.conf.reading import TABLES, checked, set_key
from utils.conf.schema import Conf, idle_because, role_of, telling

TOGETHER = "settings"  # the key of sweep_conf whose values are several settings each


def grid_points(conf: Conf) -> list[dict[str, Any]]:
    """The points of sweep_conf's grid: {dotted key: value} for every combination, the last key's values fastest.

    Of the key `settings` each value is a mapping, of settings that go together.
    """
    points = []
    for values in product(*conf.sweep_conf.values()):
        point: dict[str, Any] = {}
        for key, value in zip(conf.sweep_conf, values, strict=True):
            for name, setting in _together(value) if key == TOGETHER else [(key, value)]:
                for other in point:
                    if _within(name, other) or _within(other, name):
                        raise UserError(f"sweep_conf: {name}: is set beside {other} at one point; leave one out")
                point[name] = setting
        points.append(point)
    return points


def _within(key: str, section: str) -> bool:
    return f"{key}.".startswith(f"{section}.")


def _together(settings: Any) -> list[tuple[str, Any]]:
    """The dotted keys and values of settings that go together; tables stay whole."""
    if not isinstance(settings, dict):
        raise UserError(f"sweep_conf: {TOGETHER}: holds {settings!r:.80}, but each value is a {{key: value}} mapping")
    pairs = []
    for key, value in settings.items():
        deeper = isinstance(value, dict) and value and key not in TABLES
        pairs += [(f"{key}.{name}", setting) for name, setting in _together(value)] if deeper else [(key, value)]
    return pairs


def grid_confs(conf: Conf) -> list[Conf]:
    """The configuration at each of the `grid_points`.

    Raises UserError with one line for each thing that is wrong.
    """
    confs, problems = [], {}  # a dictionary: a bad value is one line, however many points have it
    seen: dict[str, dict[str, Any]] = {}
    for point in grid_points(conf):
        try:
            there = _conf_at(conf, point)
        except UserError as error:
            problems |= dict.fromkeys(str(error).splitlines())
            continue
        same = seen.setdefault(json.dumps(telling(there), sort_keys=True), point)
        if same is not point:
            problems[f"sweep_conf: {same} and {point} are one experiment; leave one of them out"] = None
        confs.append(there)
    if problems:
        raise UserError("\n".join(problems))
    return confs


def _conf_at(conf: Conf, point: dict[str, Any]) -> Conf:
    tree = conf.model_dump()
    for key, value in point.items():
        if not role_of(key).decides_numbers:
            raise UserError(f"sweep_conf: {key}: decides no number; {_without(conf, key)}")
        set_key(tree, key, value, f"sweep_conf: {key}")
    there = checked(tree, "sweep_conf")
    for key in point:
        if why := idle_because(there, key):
            raise UserError(f"sweep_conf: {key}: plays no part beside {why}; {_without(conf, key)}")
    return there


def _without(conf: Conf, key: str) -> str:
    """What to write in the place of a grid with a key that should not be there."""
    if key not in conf.sweep_conf:
        return f"leave it out of {TOGETHER}"
    rest = {other: values for other, values in conf.sweep_conf.items() if other != key}
    if not rest:
        return "name another key"
    grid = yaml.safe_dump(rest, default_flow_style=True, width=10_000).strip()
    return f'write "sweep_conf={grid}"'
