"""The command line that all scripts share: --conf FILE and section.key=value."""

import argparse
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from utils.common.errors import UserError
from utils.conf.load import DEFAULT_CONF, load_conf
from utils.conf.schema import Conf


class CommandParser(argparse.ArgumentParser):
    """Tells what is wrong with a command line as everything else is told: by one UserError."""

    def error(self, message: str) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        unknown = message.split()[2:] if message.startswith("unrecognized arguments") else []
        close = [match for word in unknown for match in get_close_matches(word, options, n=1)]
        raise UserError(f"{message}; {f'did you mean {close[0]}?' if close else '--help lists what there is'}")


def path_argument(text: str) -> Path:
    """An argument that names a file or a directory.

    Raises UserError where it is empty, which Path would take for the current directory, or not UTF-8: pages and
    records, which name it, are.
    """
    if not text.strip():
        raise UserError("a path on the command line is empty text; was a variable not set?")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{text}: the name of this file or directory is not UTF-8; rename it")
    return Path(text)


def command_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that every command takes: --conf FILE and section.key=value ..."""
    parser = CommandParser(description=description)
    default = f"configuration file (default: {DEFAULT_CONF})"
    parser.add_argument("--conf", type=path_argument, metavar="FILE", help=default)
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings that replace the file's, read as YAML"
    )
    return parser


def parse_command(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; settings may stand before, between and after the other arguments."""
    return parser.parse_intermixed_args()


def is_given(overrides: Iterable[str], key: str) -> bool:
    """Whether the command line sets a dotted key, or a section around it."""
    return any(f"{key}.".startswith(f"{override.partition('=')[0].strip()}.") for override in overrides)


def refuse_conf_beside(args: argparse.Namespace, option: str) -> None:
    """Raise UserError where --conf stands beside an option that names a trial, and so a configuration."""
    if args.conf and getattr(args, option):
        raise UserError(f"--{option} {getattr(args, option)}: goes by the trial's own configuration; leave out --conf")


def conf_from_command(description: str) -> Conf:
    """Parse a preprocessing script's command line into its configuration."""
    args = parse_command(command_parser(description))
    return load_conf(args.conf or DEFAULT_CONF, args.overrides)
