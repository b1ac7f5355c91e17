"""The command line that all scripts share: --conf FILE and section.key=value.

Importing this imports no library: --help needs none.
"""

import argparse
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

from utils.common.errors import UserError

if TYPE_CHECKING:
    from utils.conf.schema import Conf

DEFAULT_CONF = "conf.yaml"


class CommandParser(argparse.ArgumentParser):
    """Report a wrong command line by a UserError, as all other errors are."""

    def error(self, message: str) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        unknown = message.partition("unrecognized arguments: ")[2].split()
        close = [option for word in unknown for option in get_close_matches(word, options, n=1)]
        raise UserError(f"{message}; {f'did you mean {close[0]}?' if close else 'see --help'}")


def path_argument(text: str) -> Path:
    """Convert an argument that names a file or directory.

    Raises UserError if it is empty, which Path would read as the current directory, or not UTF-8, as all output is.
    """
    if not text.strip():
        raise UserError("a path on the command line is empty text; was a variable not set?")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{text}: this name is not UTF-8; rename the file or directory")
    return Path(text)


def command_parser(description: str, paths: Mapping[str, str] = MappingProxyType({})) -> argparse.ArgumentParser:
    """A parser of paths ({name: help}), and of --conf FILE and section.key=value, which all commands take."""
    parser = CommandParser(description=description)
    for name, what in paths.items():
        parser.add_argument(name, type=path_argument, metavar=name.upper(), help=what)
    default = f"configuration file (default: {DEFAULT_CONF})"
    parser.add_argument("--conf", type=path_argument, metavar="FILE", help=default)
    what = "settings that override the configuration file, in YAML"
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.key=value", help=what)
    return parser


def trial_parser(description: str, paths: Mapping[str, str] = MappingProxyType({})) -> argparse.ArgumentParser:
    """The arguments of every postprocessing script; `paths` as in `command_parser`."""
    parser = command_parser(description, paths)
    default = "the newest trial of the series that matches the settings on the command line"
    parser.add_argument("--trial", type=path_argument, metavar="DIR", help=f"trial directory (default: {default})")
    return parser


def parse_command(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; settings and options may come in any order."""
    return parser.parse_intermixed_args()


def is_given(overrides: Iterable[str], key: str) -> bool:
    """Whether the command line sets a dotted key, or a section around it."""
    return any(f"{key}.".startswith(f"{override.partition('=')[0].strip()}.") for override in overrides)


def is_setting(text: str) -> bool:
    """Whether an argument is section.key=value, by its section."""
    from utils.conf.schema import Conf

    key, equals, _ = text.partition("=")
    return bool(equals) and key.partition(".")[0] in Conf.model_fields


def conf_of(args: argparse.Namespace) -> "Conf":
    """Load the configuration that parsed arguments ask for."""
    from utils.conf.load import load_conf

    return load_conf(args.conf or DEFAULT_CONF, args.overrides)


def conf_unless(args: argparse.Namespace, option: str) -> "Conf | None":
    """As `conf_of`, but None if an option names a trial, which has its own configuration; then --conf is refused."""
    if not getattr(args, option):
        return conf_of(args)
    if args.conf:
        raise UserError(f"--{option} {getattr(args, option)}: uses the trial's saved configuration; leave out --conf")
    return None


def conf_from_command(description: str) -> "Conf":
    """Load the configuration that the command line of a preprocessing script asks for."""
    return conf_of(parse_command(command_parser(description)))


def trial_args(description: str) -> argparse.Namespace:
    """Parse the command line of a postprocessing script, and check the configuration that it asks for."""
    args = parse_command(trial_parser(description))
    conf_unless(args, "trial")
    return args
