"""YAML from outside, read by PyYAML's safe loader less what no configuration needs and a stranger's file could abuse.

Nine lines of aliases stand for gigabytes, a key that stands twice is lost in silence, 010 is 8 and 1:20 is 80, the key
`no` is False, and PyYAML lets errors of int() and datetime() through as tracebacks: here each is one line with a place.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.constructor import ConstructorError

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
