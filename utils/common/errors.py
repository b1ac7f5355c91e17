"""Errors for the user: one clear line on standard error and exit status 2, no traceback."""

import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable

from utils.common.streams import standard_streams

INTERRUPTED = 130  # the status that a shell gives for an end by ctrl-C
# What torch says where its own memory or a GPU's has run out: it has no type for all of these
OUT_OF_MEMORY = re.compile(r"DefaultCPUAllocator|out of memory|STATUS_ALLOC_FAILED")

# What Python, C++ and oneDNN say where the system starts no further thread or process
OUT_OF_THREADS = re.compile(r"can't start new thread|could not create a primitive|Resource temporarily unavailable")


class UserError(Exception):
    """Something the user can mend: the message names the file, row or key, what is wrong and what to do."""


def begin_command() -> None:
    """A script's first act: ctrl-C ends it in silence while it imports the rest. `run_command` takes this back."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the caller does without ctrl-C
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: object) -> None:
    os._exit(INTERRUPTED)


def run_command(main: Callable[[], None]) -> None:
    """Run a script's main(); end with one clear line per problem and exit status 2 instead of a traceback.

    What it prints goes through `standard_streams`.
    """
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    with standard_streams():
        try:
            main()
        except (UserError, OSError, MemoryError, KeyboardInterrupt) as error:
            sys.exit(complain(error))
        except RuntimeError as error:
            if not lacks(error):
                raise
            sys.exit(complain(error))


def complain(error: BaseException) -> int:
    """Report what ended a command, without a traceback where none is of use; its exit status.

    An interrupt is silent, unless it has a message; whoever raises SystemExit has said why.
    """
    if isinstance(error, SystemExit):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        if error.args:
            print(f"\n{error}" if sys.stderr.isatty() else error, file=sys.stderr)  # below a bar that was going on
        return INTERRUPTED
    lack = lacks(error)
    if not isinstance(error, (UserError, OSError)) and not lack:
        traceback.print_exception(error)
        return 1
    message = lack or str(error)
    if isinstance(error, OSError) and not lack:  # a full disk, a folder without permission, a file that vanished
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}"
    for line in message.split("\n"):
        print(f"error: {line}", file=sys.stderr)
    return 2


def lacks(error: BaseException) -> str | None:
    """What the machine has too little of, by an error, and what to do; None where that is not its reason."""
    why = str(error).partition("\n")[0]
    if out_of_memory(error):
        asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)|$", str(error))[1]
        why = f"{asked} more were asked for" if asked else why or "none is left"
        return f"there is not enough memory ({why}); shorter clips, and a lower param_conf.batch_size, need less"
    if isinstance(error, (RuntimeError, BlockingIOError)) and OUT_OF_THREADS.search(why):
        return (
            f"no further thread or process can be started ({getattr(error, 'strerror', why)}), or memory is short; "
            "OMP_NUM_THREADS=1 in front of the command needs fewer, and `ulimit -u` shows the limit"
        )
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python's, numpy's, h5py's or torch's is that memory has run out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None
    )
