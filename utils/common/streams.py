"""Standard output and error that take any text, and that end a command quietly where nobody reads on."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import NoReturn, TextIO
from unicodedata import category

KEPT = "\n\t"  # of the control characters
PIPE_CLOSED = 141  # the status that a shell gives for an end by SIGPIPE, as of `cat` in `cat FILE | head`


@contextmanager
def standard_streams() -> Iterator[None]:
    """Within it, sys.stdout and sys.stderr are `Stream`s; at its end they are flushed, before Python does it.

    One that was closed before the command began takes everything, and shows nothing.
    """
    # opened for good: the next file would get the closed one's number, and what C code prints to that
    out, err = (Stream(stream or open(os.devnull, "w")) for stream in (sys.stdout, sys.stderr))  # noqa: PTH123, SIM115
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            err.flush()


class Stream:
    """A text stream that shows what cannot or should not be printed as escapes: \\u001b, \\xe9.

    A write that fails ends the command by SystemExit. That is no Exception: on its way up nothing takes it for an error
    of its own, as logging and `atomic_write` would.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        start = "\r" if text.startswith("\r") else ""  # tqdm's way back to the start of a line
        encoding = self._stream.encoding or "utf-8"
        shown = visible(text.removeprefix(start)).encode(encoding, "backslashreplace").decode(encoding)
        try:
            self._stream.write(start + shown)
        except OSError as error:
            self._end(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> NoReturn:
        """End the command; what is left in the stream goes nowhere, or Python would try again and complain."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if error.errno != errno.EPIPE:
            print(f"error: {self._stream.name}: could not be written ({error.strerror})", file=sys.stderr)
        raise SystemExit(PIPE_CLOSED if error.errno == errno.EPIPE else 2) from None


def visible(text: str, kept: str = KEPT) -> str:
    """A text in which what could move a terminal's cursor, or turn a line around, stands as its escape.

    These are Unicode's categories C (control, format, surrogate, unassigned) and its line separators. JSON stays JSON.
    """
    if text.isprintable():
        return text
    return "".join(_escape(character) if _moves(character, kept) else character for character in text)


def _moves(character: str, kept: str) -> bool:
    return (category(character)[0] == "C" or character in "\u2028\u2029") and character not in kept


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
