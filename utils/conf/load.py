"""Read a configuration: files with their bases, settings of the command line, YAML without its traps."""

import re
import stat
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from utils.common.errors import UserError, reason_of
from utils.common.io import atomic_write
from utils.conf.schema import FIELDS, Conf, Section

ROOT = Path(__file__).resolve().parents[2]  # this repository
LARGEST = 1_000_000  # bytes of a configuration file; conf.yaml has 7,000
TABLES = {"num_clips", "corrections", "variants", "metrics", "sweep_conf"}  # replaced as a whole, not merged


def load_conf(path: Path | str, overrides: list[str] | tuple[str, ...] = ()) -> Conf:
    """Read a configuration file with its bases, apply `section.key=value` overrides, and check the result.

    Raises UserError with one line for each problem, which names the file or the override that caused it.
    """
    tree = _read_tree(Path(path))
    sources = dict.fromkeys(_problems(tree), str(path))
    for override in overrides:
        apply_override(tree, override)
        sources = {problem: sources.get(problem, shown(override)) for problem in _problems(tree)}
    if sources:
        raise UserError("\n".join(f"{source}: {problem}" for problem, source in sources.items()))
    return Conf.model_validate(tree)


def checked(tree: dict, source: str) -> Conf:
    """Check a tree of settings. Raises UserError with one line for each problem."""
    try:
        return Conf.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(f"{source}: {_explain(problem)}" for problem in error.errors())) from None


def save_conf(conf: Conf, path: Path | str) -> None:
    """Write every setting, without a base."""
    with atomic_write(path) as temporary:
        text = yaml.safe_dump(conf.model_dump(), sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")


def set_key(tree: dict, dotted: str, value: Any, source: str) -> None:
    """Set the value of a dotted key in a tree of settings."""
    *sections, last = dotted.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UserError(f"{source}: {section} is a value, not a section")
    tree[last] = value


def shown(value: Any) -> str:
    """A value for a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- files and overrides ---------------------------------------------------------------------------------


def _read_tree(path: Path, seen: tuple[Path, ...] = ()) -> dict:
    """Read the settings of a file, merged over those of its `base` (a path relative to the file)."""
    if path.resolve() in seen:
        raise UserError(f"{path}: `base` leads back to this file; break the circle")
    tree = _read_yaml(path)
    if not isinstance(tree, dict):
        raise UserError(f"{path}: has no `key: value` settings")
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"{path}: base: {shown(base)} must be the path of a configuration file")
    return _merged(_read_tree(path.parent / base, (*seen, path.resolve())), tree)


def _read_yaml(path: Path) -> Any:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading might never end
            raise UserError(f"{path}: a folder, pipe or device; name a configuration file")
        if status.st_size > LARGEST:
            raise UserError(f"{path}: {status.st_size} bytes are too many; name a configuration file")
        return parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        advice = f"; run this from the repository's root: cd {ROOT}" if (ROOT / path).is_file() else ""
        raise UserError(f"{path}: no such configuration file{advice}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _merged(base: dict, change: dict) -> dict:
    """Merge `change` over `base`, section by section."""
    merged = dict(base)
    for key, value in change.items():
        is_section = key not in TABLES and isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if is_section else value
    return merged


def apply_override(tree: dict, override: str) -> None:
    """Set one `section.key=value` in the tree; the value is read as YAML."""
    dotted, equals, text = override.partition("=")
    if not equals or not all(dotted.strip().split(".")):
        raise UserError(f"{override!r}: not a setting; write section.key=value")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{override!r}: {shown(text)} is not a valid YAML value ({error})") from None
    set_key(tree, dotted.strip(), value, repr(override))


# --- problems --------------------------------------------------------------------------------------------


def _problems(tree: dict) -> list[str]:
    """Describe each problem of a tree of settings in one line."""
    try:
        Conf.model_validate(tree)
    except ValidationError as error:
        return [_explain(problem) for problem in error.errors()]
    return []


def _explain(problem: dict) -> str:
    """Describe one of pydantic's findings: the key, its value, and what it may be."""
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return _explain_unknown(key, problem["input"])
    if problem["type"] == "missing":
        return f"{key}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], dict | Section):  # a rule over several keys, which names them
        return f"{key}: {message}" if key else message
    advice = ", and YAML reads this as something else: put it into quotes" if problem["type"] == "string_type" else ""
    return f"{key}: is {shown(problem['input'])}; {message[0].lower()}{message[1:]}{advice}"


def _explain_unknown(key: str, value: Any) -> str:
    """Describe an unknown key and suggest a known one.

    An unknown section that holds a single setting is described as that setting: its name says more.
    """
    section, _, word = key.rpartition(".")
    similar = "criteria.TripletLoss" if section.startswith("metrics.") else section
    beside = [name.rpartition(".")[2] for name in FIELDS if name.rpartition(".")[0] == similar]
    setting = key
    while isinstance(value, dict) and len(value) == 1:
        [(name, value)] = value.items()
        setting = f"{setting}.{name}"
    if setting != key and (known := _of_the_same_name(setting)):
        return f"{setting}: unknown key; did you mean {known}?"
    close = [f"{section}.{name}".strip(".") for name in get_close_matches(word, beside, n=1)]
    if known := close[0] if close else _of_the_same_name(key):
        return f"{key}: unknown key; did you mean {known}?"
    return f"{key}: unknown key; the keys here are {', '.join(beside)}"


def _of_the_same_name(key: str) -> str:
    """The known keys with the same, or a similar, last word; the most similar alone if the sections are similar too."""
    words = [name.rpartition(".")[2] for name in FIELDS]
    close = get_close_matches(key.rpartition(".")[2], words, n=1, cutoff=0.8)
    known = [name for name, word in zip(FIELDS, words, strict=True) if word in close]
    return " or ".join(get_close_matches(key, known, n=1, cutoff=0.8) or known)


# --- YAML ------------------------------------------------------------------------------------------------

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")  # characters that no path, name or word has
PLAIN_VALUES = {
    "null": "~|null|Null|NULL|",
    "bool": "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
    "int": "[-+]?(0|[1-9][0-9]{0,17})",
    "float": r"[-+]?((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without what no configuration needs and a stranger's file could abuse.

    Aliases, by which nine lines can stand for gigabytes, tags, and repeated keys are errors. Numbers are decimal: what
    YAML 1.1 reads as octal (010) or base 60 (1:20) is text, and so are dates.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _error("aliases (*name) are not supported", event)
        if event.tag:
            raise _error(f"tags are not supported, such as {shown(event.tag)}", event)
        return super().compose_node(parent, index)

    def construct_scalar(self, node: yaml.Node) -> Any:
        value = super().construct_scalar(node)
        if CONTROL.search(value):
            raise _error("a value with control characters", node)
        return value

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        keys = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _error(f"a key is read as {shown(key)}; put it into quotes", key_node)
            if key in keys:
                raise _error(f"the key {shown(key)} is repeated", key_node)
            keys.add(key)
        return super().construct_mapping(node, deep)


for kind, pattern in PLAIN_VALUES.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(rf"({pattern})\Z"), None)


def _error(problem: str, place: yaml.Node | yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def parse_yaml(text: str) -> Any:
    """Parse YAML text. Raises ValueError with one line: the place and the problem."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
        raise ValueError(f"{place}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(reason_of(error)) from None
