"""conf.yaml: read, inherited, overridden and checked before any work starts."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from utils.common.errors import UserError
from utils.common.io import whole_file
from utils.conf.hostile_yaml import parse_yaml, shown
from utils.conf.schema import Conf, Section, TripletLossConf

DEFAULT_CONF = "conf.yaml"
# A file replaces its base's whole, not entry by entry
TABLES = {"num_clips", "corrections", "variants", "metrics", "sweep_conf"}


def load_conf(path: Path | str, overrides: list[str] | tuple[str, ...] = ()) -> Conf:
    """Read a configuration file with its bases, apply `section.key=value` overrides, and check the result.

    Raises UserError with one line for each thing that is wrong.
    """
    tree = _read_tree(Path(path), seen=[])
    for override in overrides:
        _apply_override(tree, override)
    return checked(tree, str(path))


def checked(tree: dict, source: str) -> Conf:
    """The configuration that a tree holds, or UserError with one line for each thing that is wrong."""
    try:
        return Conf.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(f"{source}: {_explain(problem)}" for problem in error.errors())) from None


def save_conf(conf: Conf, path: Path | str) -> None:
    """Write the configuration as resolved: without a base, every value in place."""
    with whole_file(path) as temporary:
        temporary.write_text(conf_text(conf), encoding="utf-8")


def conf_text(conf: Conf) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(conf.model_dump(), sort_keys=False, allow_unicode=True)


def _read_tree(path: Path, seen: list[Path]) -> dict:
    """The mapping in a YAML file, laid over the mapping of its `base` (a path relative to the file)."""
    path = path.resolve() if seen else path
    if path.resolve() in seen:
        raise UserError(f"{path}: `base` leads back to this file; break the circle")
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: holds no `key: value` settings")
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"{path}: base: {shown(base)} must be the path of a configuration file")
    return _merged(_read_tree(path.parent / base, [*seen, path.resolve()]), tree)


def _merged(base: dict, change: dict) -> dict:
    """`base` with the keys of `change` laid over it, section by section."""
    both = dict(base)
    for key, value in change.items():
        deeper = key not in TABLES and isinstance(value, dict) and isinstance(both.get(key), dict)
        both[key] = _merged(both[key], value) if deeper else value
    return both


def _apply_override(tree: dict, override: str) -> None:
    """Set one `section.key=value` in the tree; the value is read as YAML."""
    dotted, equals, text = override.partition("=")
    if not equals or not all(dotted.strip().split(".")):
        raise UserError(f"{override!r}: a setting on the command line is written section.key=value")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{override!r}: {shown(text)} is not a valid YAML value ({error})") from None
    set_key(tree, dotted.strip(), value, repr(override))


def set_key(tree: dict, dotted: str, value: Any, source: str) -> None:
    """Set the value of one dotted key in the tree."""
    *sections, last = dotted.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UserError(f"{source}: {section} is a value, not a section")
    tree[last] = value


def _explain(problem: dict) -> str:
    """One line for one of pydantic's findings: the key, what it was, what it may be."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(problem["loc"])
        close = get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the keys here are {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], dict | Section):  # a rule over several keys names them itself
        return f"{key}: {message}" if key else message
    return f"{key}: is {shown(problem['input'])}; {message[0].lower()}{message[1:]}"


def _keys_beside(location: tuple) -> list[str]:
    """The keys that the section around `location` may have."""
    section: type[BaseModel] = Conf
    for part in location[:-1]:
        annotation = section.model_fields[part].annotation if part in section.model_fields else TripletLossConf
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
    return list(section.model_fields)
