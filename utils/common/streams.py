"""Standard output and error that accept any text, and end a command silently when their reader has gone."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import NoReturn, TextIO
from unicodedata import category

KEPT = "\n\t"  # control characters that are printed as they are
PIPE_CLOSED = 141  # a shell's exit status after SIGPIPE, as of `cat` in `cat FILE | head`


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make sys.stdout and sys.stderr `Stream`s within the block, and flush them at its end, before Python does.

    A stream that was closed before the command began discards everything.
    """
    # never closed: the next file would get the number of the closed stream, and what C code prints to that
    out, err = (Stream(stream or open(os.devnull, "w")) for stream in (sys.stdout, sys.stderr))  # noqa: PTH123, SIM115
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            err.flush()


class Stream:
    """A text stream that prints escapes (\\u001b, \\xe9) for what its encoding lacks or a terminal would obey.

    A failed write raises SystemExit. As that is not an Exception, logging and `atomic_write` do not handle it.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        start = "\r" if text.startswith("\r") else ""  # tqdm returns to the start of the line
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
        """End the command. The rest of the stream's buffer is discarded, or Python would write it again and fail."""
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self._stream.fileno())
        os.close(devnull)
        if error.errno == errno.EPIPE:
            raise SystemExit(PIPE_CLOSED) from None
        print(f"error: {self._stream.name}: could not be written ({error.strerror})", file=sys.stderr)
        raise SystemExit(2) from None


def visible(text: str, kept: str = KEPT) -> str:
    """Escape the characters that could move a terminal's cursor or reverse a line. JSON stays the same JSON.

    These are Unicode's categories C (control, format, surrogate, unassigned) and its line separators.
    """
    if text.isprintable():
        return text
    return "".join(character if character in kept else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    if category(character)[0] != "C" and character not in "\u2028\u2029":
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
