"""Errors for the user: one clear line on standard error and exit status 2, no traceback."""

import sys
import traceback
import warnings
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend: the message names the file, row or key, what is wrong and what to do."""

    def __init__(self, message: str):
        # torch's data loader raises a worker's error anew, with the worker's traceback before its message
        super().__init__(message.rpartition("UserError: ")[2].rstrip())


def run_command(main: Callable[[], None]) -> None:
    """Run a script's main(); end with one clear line per problem and exit status 2 instead of a traceback."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        main()
    except (UserError, OSError, MemoryError, KeyboardInterrupt) as error:
        sys.exit(complain(error))


def complain(error: BaseException) -> int:
    """Report what ended a command, without a traceback where none is of use; its exit status."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if not isinstance(error, (UserError, OSError, MemoryError)):
        traceback.print_exception(error)
        return 1
    message = str(error)
    if isinstance(error, OSError):  # a full disk, a folder without permission, a file that vanished
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}"
    if isinstance(error, MemoryError):
        message = f"there is not enough memory ({error or 'none is left'})"
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return 2
