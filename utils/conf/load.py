"""Read configuration files: their YAML, their bases, the command line's settings."""

import re
import stat
from collections.abc import Hashable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import ConstructorError

from utils.common.errors import UserError
from utils.common.io import atomic_write
from utils.conf.schema import Conf, Section, TripletLossConf

DEFAULT_CONF = "conf.yaml"
LARGEST_FILE = 1_000_000  # bytes of a configuration file; conf.yaml has 7,000
ROOT = Path(__file__).resolve().parents[2]  # this repository
# A file replaces its base's whole, not entry by entry
TABLES = {"num_clips", "corrections", "variants", "metrics", "sweep_conf"}


def load_conf(path: Path | str, overrides: list[str] | tuple[str, ...] = ()) -> Conf:
    """Read a configuration file with its bases, apply `section.key=value` overrides, and check the result.

    Raises UserError with one line for each thing that is wrong, blamed on the file or on the override that brought it.
    """
    tree = _read_tree(Path(path), seen=[])
    sources = dict.fromkeys(_problems(tree), str(path))
    for override in overrides:
        _apply_override(tree, override)
        sources = {problem: sources.get(problem, shown(override)) for problem in _problems(tree)}
    if sources:
        raise UserError("\n".join(f"{source}: {problem}" for problem, source in sources.items()))
    return Conf.model_validate(tree)


def checked(tree: dict, source: str) -> Conf:
    """The configuration that a tree holds, or UserError with one line for each thing that is wrong."""
    try:
        return Conf.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(f"{source}: {_explain(problem)}" for problem in error.errors())) from None


def _problems(tree: dict) -> list[str]:
    """A line for each thing that is wrong."""
    try:
        Conf.model_validate(tree)
    except ValidationError as error:
        return [_explain(problem) for problem in error.errors()]
    return []


def save_conf(conf: Conf, path: Path | str) -> None:
    """Write the configuration as resolved: without a base, every value in place."""
    with atomic_write(path) as temporary:
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
        tree = parse_yaml(_text(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file{_where_it_is(path)}") from None
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


def _text(path: Path) -> str:
    """A configuration file's text; what is no file, and might never end, is not opened."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path}: a folder, pipe or device; name a configuration file")
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path}: {path.stat().st_size} bytes are too many; name a configuration file")
    return path.read_text(encoding="utf-8-sig")


def _where_it_is(path: Path) -> str:
    """Advice for a command that runs elsewhere than at the repository's root, where this file lies."""
    return f"; run this from the repository's root: cd {ROOT}" if (ROOT / path).is_file() else ""


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
        return _explain_unknown(key, _keys_beside(problem["loc"]), problem["input"])
    if problem["type"] == "missing":
        return f"{key}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], dict | Section):  # a rule over several keys names them itself
        return f"{key}: {message}" if key else message
    quotes = ", and YAML reads this as something else: put it into quotes" if problem["type"] == "string_type" else ""
    return f"{key}: is {shown(problem['input'])}; {message[0].lower()}{message[1:]}{quotes}"


def _explain_unknown(key: str, beside: list[str], value: Any) -> str:
    """One line for an unknown dotted key, with what may have been meant by it, or by the one key below it."""
    section, known = key.rpartition(".")[0], list(_dotted_keys(Conf))
    for name in (*(f"{key}.{below}" for below in _only_leaf(value)), key):
        word = name.rpartition(".")[2]
        near = get_close_matches(word, beside, n=1) if name == key else []
        if meant := [f"{section}.{other}".strip(".") for other in near] or _meant(name, known, like=not section):
            return f"{name}: unknown key; did you mean {' or '.join(meant)}?"
    return f"{key}: unknown key; the keys here are {', '.join(beside)}"


def _meant(key: str, known: list[str], like: bool) -> list[str]:
    """The known keys that an unknown one may stand for: those of the same last word, or else of one that is like it."""
    of_word: dict[str, list[str]] = {}
    for other in dict.fromkeys(known):
        of_word.setdefault(other.rpartition(".")[2], []).append(other)
    word = key.rpartition(".")[2]
    words = [word] if word in of_word else get_close_matches(word, of_word, n=1) if like else []
    meant = [other for word in words for other in of_word[word]]
    return get_close_matches(key, meant, n=1, cutoff=0.8) or meant


def _only_leaf(value: Any) -> list[str]:
    """The dotted key within a value that holds a single one: {"a": {"b": 3}} -> ["a.b"]."""
    parts = []
    while isinstance(value, dict) and len(value) == 1:  # not by recursion: it may be nested as deeply as one likes
        [(key, value)] = value.items()
        parts.append(str(key))
    return [".".join(parts)] if parts and not isinstance(value, dict) else []


def _dotted_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a section and below, dotted."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _dotted_keys(field.annotation, f"{prefix}{name}.")


def _keys_beside(location: tuple) -> list[str]:
    """The keys that the section around `location` may have."""
    section: type[BaseModel] = Conf
    for part in location[:-1]:
        annotation = section.model_fields[part].annotation if part in section.model_fields else TripletLossConf
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
    return list(section.model_fields)


# --- YAML ---

UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")  # no path, name or word has them
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
PLAIN = re.compile(r"[-+]?(0|[1-9][0-9]*|[0-9]*\.[0-9]*(e[-+]?[0-9]+)?|\.inf|\.nan)", re.IGNORECASE)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str):
        super().__init__(text)
        self.keys: list[str] = []  # the way to the value that is being read

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ConstructorError(None, None, "aliases (*name) are not read here", self.peek_event().start_mark)
        key = [index.value] if isinstance(index, yaml.ScalarNode) else []
        self.keys += key
        node = super().compose_node(parent, index)
        if node.tag in NUMBERS and not PLAIN.fullmatch(node.value):
            what = "is no plain decimal number, and YAML reads another: write one, or put text into quotes"
            where = "".join(f"{key}: " for key in self.keys)
            raise ConstructorError(None, None, f"{where}{shown(node.value)} {what}", node.start_mark)
        del self.keys[len(self.keys) - len(key) :]
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError):  # of int(), datetime() and others, which PyYAML lets through
            what = f"{shown(node.value)} is no valid {node.tag.rpartition(':')[2]}; put text into quotes"
            raise ConstructorError(None, None, what, node.start_mark) from None
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ConstructorError(None, None, "too large a number", node.start_mark)
        return value

    def construct_scalar(self, node: yaml.Node) -> Any:
        value = super().construct_scalar(node)
        if UNPRINTABLE.search(value):
            raise ConstructorError(None, None, "a value with control characters", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and not isinstance(key, str):
                what = f"the key {shown(key_node.value)} is read as {key!r}; put it into quotes"
                raise ConstructorError(None, None, what, key_node.start_mark)
            if isinstance(key, Hashable) and key in seen:
                raise ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            seen |= {key} if isinstance(key, Hashable) else set()  # PyYAML refuses the others
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value that a YAML text stands for.

    Raises ValueError with one line: what is wrong, and where.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
        raise ValueError(f"{place}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
