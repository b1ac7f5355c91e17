"""Errors for the user: one clear line on standard error and exit status 2, no traceback."""

import gc
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable

from utils.common.streams import standard_streams

INTERRUPTED = 130  # a shell's exit status after ctrl-C
# torch reports exhausted memory, of the machine or a GPU, by RuntimeErrors of no particular type
OUT_OF_MEMORY = re.compile(r"DefaultCPUAllocator|out of memory|STATUS_ALLOC_FAILED")
# Python's, oneDNN's and fork's words where the system refuses another thread or process
OUT_OF_THREADS = re.compile(r"can't start new thread|could not create a primitive|Resource temporarily unavailable")


class UserError(Exception):
    """An error that the user can fix. The message says where (file, row or key), what is wrong and what to do."""


def reason_of(error: BaseException) -> str:
    """An error's message in one line; its type where it has none."""
    return " ".join((str(error) or type(error).__name__).split())


def begin_command(read_command: Callable[[], object]) -> None:
    """Read a script's command line before its imports, which take seconds: --help and what is wrong in it end here.

    main() reads it again. From here on ctrl-C exits silently, until `run_command` reverts that.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:  # main() has the first of torchrun's processes speak for all
        run_command(read_command)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # the caller may ignore ctrl-C
        signal.signal(signal.SIGINT, _exit_silently)
    gc.disable()  # imports make a million objects and no garbage; `run_command` looks for it again


def _exit_silently(*_: object) -> None:
    os._exit(INTERRUPTED)


def run_command(main: Callable[[], object]) -> None:
    """Run a script's main(). An error that the user can fix ends it with status 2 and no traceback."""
    if signal.getsignal(signal.SIGINT) is _exit_silently:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.freeze()  # never among what was imported: that takes a tenth of a second each time
    gc.enable()
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    with standard_streams():
        try:
            main()
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, Exception) and _user_message(error) is None:
                raise
            sys.exit(report_error(error))


def report_error(error: BaseException) -> int:
    """Print why a command ended: one line per problem, or the traceback of a bug. Returns the exit status.

    An interrupt without a message is silent, and so is SystemExit.
    """
    if isinstance(error, SystemExit):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        if error.args:
            print(f"\n{error}" if sys.stderr.isatty() else error, file=sys.stderr)  # below an unfinished progress bar
        return INTERRUPTED
    message = _user_message(error)
    if message is None:
        traceback.print_exception(error)
        return 1
    for line in message.split("\n"):
        print(f"error: {line}", file=sys.stderr)
    return 2


def _user_message(error: BaseException) -> str | None:
    """The message for an error that the user can fix; None for a bug."""
    reason = str(error).partition("\n")[0]
    if out_of_memory(error):
        requested = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
        reason = f"{requested[1]} more were requested" if requested else reason or "none is left"
        return f"there is not enough memory ({reason}); use shorter clips or a lower param_conf.batch_size"
    if isinstance(error, (RuntimeError, BlockingIOError)) and OUT_OF_THREADS.search(reason):
        reason = getattr(error, "strerror", reason)
        return (
            f"no further thread or process can be started ({reason}), or memory is short; "
            "run the command with OMP_NUM_THREADS=1, or raise the limit that `ulimit -u` shows"
        )
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else reason
    return str(error) if isinstance(error, UserError) else None


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy, h5py or torch ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None
    )
