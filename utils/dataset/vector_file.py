"""A file of word vectors from outside, read row by row, in word2vec's text or binary form, compressed or not.

Its form is taken by evidence: the first row has to fit, and the file has to end where its first line promises. A
stranger's file, or half a download of 1.7 GB, is refused in one line, and nothing is unpickled.
"""

import bz2
import codecs
import gzip
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from utils.common.errors import UserError

BLOCK = 10_000_000  # bytes read at a time
LONGEST_LINE, LONGEST_WORD = 2_000_000, 10_000  # bytes
MOST_DIMENSIONS = 100_000
HEADER = re.compile(rb"\s*(-?\d{1,19})\s+(-?\d{1,19})\s*")
TEXT = re.compile(rb"[\t\n\r -~]{16,}")  # so many bytes of numbers are no text
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError)  # what decompressors raise
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}  # by their first bytes
OTHERS = {  # what is no file of word vectors, by its first bytes
    b"\x80": "gensim's own format, which can run code when it is read; where you trust the file, convert it: "
    "KeyedVectors.load(FILE).save_word2vec_format('vectors.bin', binary=True)",
    b"\xba\x16\x4f\x2f": "fastText's own format; take the .vec file of the same vectors",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"<": "a web page, not word vectors; download the file anew",
    codecs.BOM_UTF16_LE: "text in UTF-16; save it as UTF-8",
    codecs.BOM_UTF16_BE: "text in UTF-16; save it as UTF-8",
}

Row = tuple[str, np.ndarray]  # a word and its vector (E,) float32


def vector_rows(path: Path) -> Iterator[Row]:
    """The words and vectors of a file in word2vec text or binary form, in its order; compressed by gzip, bz2 or xz.

    Raises:
        UserError: no such file, a form that would have to be unpickled or unpacked, a first line that promises
            something else than follows, or content that is not word vectors. Some show at the last row alone.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; set word2vec_embeddings.file to the path of your word vectors")
    try:
        with path.open("rb") as stream:
            beginning = stream.read(8)
        open_any = next((opener for magic, opener in COMPRESSED.items() if beginning.startswith(magic)), open)
        with open_any(path, "rb") as stream:
            yield from _checked_rows(stream)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno:  # no right to read it
            raise
        raise UserError(f"{path}: not word vectors: it is cut short, or damaged ({error}); get it anew") from None


class _Promise(NamedTuple):
    """What the first line says of a file."""

    count: int
    size: int  # dimensions

    def __str__(self) -> str:
        return f"its first line promises {self.count} vectors of {self.size} dimensions"


def _checked_rows(stream: BinaryIO) -> Iterator[Row]:
    """The rows; raises ValueError where they are not what the first line promises."""
    promise = _promise(stream)
    first = stream.readline(LONGEST_LINE)
    form = _text_rows if _numbers(first) is not None else _binary_rows
    number = 0
    for number, (name, vector) in enumerate(form(stream, first, promise), 1):
        try:
            word = name.decode()
        except UnicodeDecodeError:
            raise ValueError(f"not word vectors with words in UTF-8: the word of row {number} is {name!r}") from None
        if number > promise.count:
            raise ValueError(f"{promise}, but it holds more than {promise.count}; mend that line")
        if not np.isfinite(vector).all():
            raise ValueError(f"the vector of {word!r} is not finite")
        yield word, vector
    if number < promise.count:
        raise ValueError(f"{promise}, but it holds {number}; it is cut short, or that line is wrong")


def _promise(stream: BinaryIO) -> _Promise:
    """Read the first line."""
    line = stream.readline(LONGEST_LINE).removeprefix(codecs.BOM_UTF8)
    for beginning, what in OTHERS.items():
        if line.startswith(beginning):
            raise ValueError(what)
    if found := HEADER.fullmatch(line):
        promise = _Promise(*map(int, found.groups()))
        if promise.count < 1 or not 0 < promise.size <= MOST_DIMENSIONS:
            raise ValueError(f"{promise}; mend that line")
        return promise
    if len(numbers := _numbers(line) or []) > 1:  # as GloVe's files have it
        rows = 1 + sum(1 for line in _lines(stream) if line.strip())
        raise ValueError(f"has no first line that says what follows; put the line '{rows} {len(numbers)}' before it")
    raise ValueError(
        f"not word vectors: its first line must be how many there are, and of how many dimensions, such as "
        f"'3000000 300', but is {_shown(line)}"
    )


def _text_rows(stream: BinaryIO, first: bytes, promise: _Promise) -> Iterator[tuple[bytes, np.ndarray]]:
    for number, line in enumerate(chain([first], _lines(stream)), 1):
        if not line.strip():
            continue
        numbers = _numbers(line)
        if numbers is None:
            raise ValueError(f"not word vectors: row {number} is not a word and its numbers: {_shown(line)}")
        if len(numbers) != promise.size:
            what = f"row {number} has {len(numbers)}: {_shown(line)}"
            raise ValueError(f"{promise}, but {what}; mend the first line, or get the file anew")
        with np.errstate(over="ignore"):
            yield line.partition(b" ")[0], np.array(numbers, np.float32)


def _binary_rows(stream: BinaryIO, first: bytes, promise: _Promise) -> Iterator[tuple[bytes, np.ndarray]]:
    """Words, each followed by a space and its vector; a line feed may stand between."""
    width, buffer, start, number = 4 * promise.size, first, 0, 0
    while True:
        end = buffer.find(b" ", start, start + LONGEST_WORD)
        if end < 0 and len(buffer) - start > LONGEST_WORD:
            raise ValueError(f"not word vectors: neither text nor binary form has {_shown(buffer[start:])}")
        if end < 0 or len(buffer) - end <= width:
            block = stream.read(BLOCK)
            if not block:
                break
            buffer, start = buffer[start:] + block, 0
            continue
        start, number, name = end + 1 + width, number + 1, buffer[start:end].lstrip(b"\n")
        vector = buffer[end + 1 : start]
        if number == 1 and TEXT.fullmatch(vector):
            raise ValueError(f"not word vectors: its first row fits neither text nor binary form: {_shown(first)}")
        yield name, np.frombuffer(vector, "<f4")
    if rest := buffer[start:].strip():
        what = f"{_shown(rest)} follows vector {number}"
        raise ValueError(f"{promise}, but {what}; it is cut short, or that line is wrong")


def _lines(stream: BinaryIO) -> Iterable[bytes]:
    return iter(lambda: stream.readline(LONGEST_LINE), b"")


def _numbers(line: bytes) -> list[float] | None:
    """The numbers of a row of the text form, behind its word; None where it is none."""
    cells = line.rstrip().split(b" ")[1:]
    try:
        return [float(cell) for cell in cells] or None
    except ValueError:
        return None


def _shown(content: bytes) -> str:
    """The beginning of a line, as an error shows it."""
    return repr(content[:60].rstrip().decode("utf-8", "replace")) + "…" * (len(content) > 60)
