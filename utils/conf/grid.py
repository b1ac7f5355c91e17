"""The grid of a sweep: a configuration at each of its points, checked before anything starts."""

import json
import math
from itertools import product
from typing import Any

import yaml

from utils.common.errors import UserError
from utils.conf.load import TABLES, checked, set_key
from utils.conf.schema import Conf, Role, flat, result_settings, role_of, unused_because

TOGETHER = "settings"  # the key of sweep_conf whose values are several settings each
LARGEST = 100_000  # points of a grid
TRIED = 1000  # points with a problem; no more are looked for
SHOWN = 20  # problems on the terminal
WRITTEN = 50  # values of a grid in an advice
UNTRAINED = {
    Role.RUNTIME: "decides no number",
    Role.EVALUATION: "changes what trials are measured on, not how they train: measure them by it afterwards",
}


def grid_points(conf: Conf) -> list[dict[str, Any]]:
    """The points of sweep_conf's grid: {dotted key: value} for every combination, the last key's values fastest.

    Of the key `settings` each value is a mapping, of settings that go together.
    """
    count, points = math.prod(map(len, conf.sweep_conf.values())), []
    if count > LARGEST:
        raise UserError(f"sweep_conf: has {count} points, but a sweep takes {LARGEST} at most; shorten its lists")
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
        pairs += [(f"{key}.{name}", setting) for name, setting in _together(value)] if deeper else [(str(key), value)]
    return pairs


def grid_confs(conf: Conf) -> list[Conf]:
    """The configuration at each of the `grid_points`.

    Raises UserError with one line for each thing that is wrong.
    """
    confs, problems = [], {}  # a dictionary: a bad value is one line, however many points have it
    seen: dict[str, dict[str, Any]] = {}
    points = grid_points(conf)
    swept = {section for point in points for section in _sections(point)}
    for number, point in enumerate(points):
        try:
            there = conf_at(conf, point)
            same = seen.setdefault(json.dumps(result_settings(there, swept), sort_keys=True), point)
            if same is not point:
                raise UserError(f"sweep_conf: {same} and {point} are one experiment; leave one of them out")
            confs.append(there)
        except UserError as error:
            problems |= dict.fromkeys(str(error).splitlines())
            if number - len(confs) == TRIED:
                break
    if len(problems) > SHOWN:
        problems = [*list(problems)[:SHOWN], f"sweep_conf: {len(problems) - SHOWN} more things are wrong"]
    if problems:
        raise UserError("\n".join(problems))
    return confs


def conf_at(conf: Conf, point: dict[str, Any]) -> Conf:
    """The configuration at one of the `grid_points`; the sections that it leaves alone have been checked."""
    tree = dict(conf) | conf.model_dump(include=_sections(point)) | {"sweep_conf": {}}
    for key, value in point.items():
        _require_trained(conf, key, value)
        set_key(tree, key, value, f"sweep_conf: {key}")
    there = checked(tree, "sweep_conf").model_copy(update={"sweep_conf": conf.sweep_conf})
    for key in point:
        if why := unused_because(there, key):
            raise UserError(f"sweep_conf: {key}: plays no part beside {why}; {_without(conf, key)}")
    return there


def _sections(point: dict[str, Any]) -> set[str]:
    return {key.partition(".")[0] for key in point}


def _require_trained(conf: Conf, key: str, value: Any) -> None:
    """Raise UserError where a setting, or one within a section, would train no other trial."""
    for name, setting in flat({key: value}).items():
        if (why := UNTRAINED.get(role_of(name))) and (name == key or setting != _now(conf, name)):
            raise UserError(f"sweep_conf: {name}: {why}; {_without(conf, key)}")


def _now(conf: Conf, key: str) -> Any:
    value: Any = conf
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


def _without(conf: Conf, key: str) -> str:
    """What to write in the place of a grid with a key that should not be there."""
    if key not in conf.sweep_conf:
        return f"leave it out of {TOGETHER}"
    rest = {other: values for other, values in conf.sweep_conf.items() if other != key}
    if not rest:
        return "name another key"
    if sum(map(len, rest.values())) > WRITTEN:
        return "leave it out of sweep_conf"
    grid = yaml.safe_dump(rest, default_flow_style=True, width=10_000).strip()
    return f'write "sweep_conf={grid}"'
