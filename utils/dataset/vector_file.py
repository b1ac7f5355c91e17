"""Read a file of word vectors row by row, in word2vec's text or binary form, compressed or not.

The content decides the form: the first row must fit it, and the file must end where its first line promises. Nothing
is unpickled.
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

from utils.common.counts import counted
from utils.common.errors import UserError

BLOCK = 10_000_000  # bytes read at a time
LONGEST_LINE, LONGEST_WORD = 2_000_000, 10_000  # bytes
MOST_DIMENSIONS = 100_000
HEADER = re.compile(rb"\s*(-?\d{1,19})\s+(-?\d{1,19})\s*")
TEXT = re.compile(rb"[\t\n\r -~]{16,}")  # binary numbers are never printable for so many bytes
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError)  # what decompressors raise
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}  # by first bytes
REFUSED = {  # by first bytes
    b"\x80": "gensim's own format, which can run code when it is read; if you trust the file, convert it: "
    "KeyedVectors.load(FILE).save_word2vec_format('vectors.bin', binary=True)",
    b"\xba\x16\x4f\x2f": "fastText's own format; use the .vec file of the same vectors",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"<": "a web page, not word vectors; download the file again",
    codecs.BOM_UTF16_LE: "text in UTF-16; save it as UTF-8",
    codecs.BOM_UTF16_BE: "text in UTF-16; save it as UTF-8",
}

Row = tuple[str, np.ndarray]  # a word and its vector (E,) float32


def vector_rows(path: Path) -> Iterator[Row]:
    """Read words and vectors from a file in word2vec's text or binary form, compressed by gzip, bz2, xz or not at all.

    Raises UserError if the file is missing, would have to be unpickled or unpacked, or holds anything but what its
    first line promises; for some files only at the last row.
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
        if isinstance(error, OSError) and error.errno:  # such as no permission
            raise
        raise UserError(f"{path}: cut short or damaged ({error}); download it again") from None


class _Promise(NamedTuple):
    """The first line of a file."""

    count: int
    size: int  # dimensions

    def __str__(self) -> str:
        return f"its first line promises {counted(self.count, 'vector')} of {counted(self.size, 'dimension')}"


def _checked_rows(stream: BinaryIO) -> Iterator[Row]:
    """Read rows; raises ValueError if they are not what the first line promises."""
    promise = _promise(stream)
    first = stream.readline(LONGEST_LINE)
    rows = _binary_rows(stream, first, promise) if _numbers(first) is None else _text_rows(stream, first, promise)
    number = 0
    for number, (name, vector) in enumerate(rows, 1):
        try:
            word = name.removeprefix(codecs.BOM_UTF8).decode()
        except UnicodeDecodeError:
            raise ValueError(f"not word vectors with words in UTF-8: the word of row {number} is {name!r}") from None
        if number > promise.count:
            raise ValueError(f"{promise}, but it holds more than {promise.count}; correct that line")
        if not np.isfinite(vector).all():
            raise ValueError(f"the vector of {word!r} is not finite")
        yield word, vector
    if number < promise.count:
        raise ValueError(f"{promise}, but it holds {number}; download it again, or correct that line")


def _promise(stream: BinaryIO) -> _Promise:
    """Read the first line."""
    line = stream.readline(LONGEST_LINE).removeprefix(codecs.BOM_UTF8)
    for beginning, reason in REFUSED.items():
        if line.startswith(beginning):
            raise ValueError(reason)
    if header := HEADER.fullmatch(line):
        promise = _Promise(*map(int, header.groups()))
        if promise.count < 1 or not 0 < promise.size <= MOST_DIMENSIONS:
            raise ValueError(f"{promise}; correct that line")
        return promise
    if len(numbers := _numbers(line) or []) > 1:  # GloVe's form
        rows = 1 + sum(1 for line in _lines(stream) if line.strip())
        raise ValueError(f"has no first line with count and dimensions; put the line '{rows} {len(numbers)}' before it")
    raise ValueError(
        f"not word vectors: the first line must give their count and dimensions, such as '3000000 300', but is "
        f"{_shown(line)}"
    )


def _text_rows(stream: BinaryIO, first: bytes, promise: _Promise) -> Iterator[tuple[bytes, np.ndarray]]:
    for number, line in enumerate(chain([first], _lines(stream)), 1):
        if not line.strip():
            continue
        numbers = _numbers(line)
        if numbers is None:
            raise ValueError(f"not word vectors: row {number} is not a word and its numbers: {_shown(line)}")
        if len(numbers) != promise.size:
            raise ValueError(
                f"{promise}, but row {number} has {len(numbers)}: {_shown(line)}; correct that line, or download the "
                "file again"
            )
        with np.errstate(over="ignore"):
            yield line.partition(b" ")[0], np.array(numbers, np.float32)


def _binary_rows(stream: BinaryIO, first: bytes, promise: _Promise) -> Iterator[tuple[bytes, np.ndarray]]:
    """Read words, each followed by a space and its vector; a line feed may separate the rows."""
    width, buffer, start, number = 4 * promise.size, first, 0, 0
    while True:
        space = buffer.find(b" ", start, start + LONGEST_WORD)
        if space < 0 and len(buffer) - start > LONGEST_WORD:
            raise ValueError(f"not word vectors: neither text nor binary form has {_shown(buffer[start:])}")
        if space < 0 or len(buffer) - space <= width:
            block = stream.read(BLOCK)
            if not block:
                break
            buffer, start = buffer[start:] + block, 0
            continue
        number += 1
        name, vector = buffer[start:space].lstrip(b"\n"), buffer[space + 1 : space + 1 + width]
        if number == 1 and TEXT.fullmatch(vector):
            raise ValueError(f"not word vectors: its first row fits neither text nor binary form: {_shown(first)}")
        yield name, np.frombuffer(vector, "<f4")
        start = space + 1 + width
    if rest := buffer[start:].strip():
        raise ValueError(
            f"{promise}, but {_shown(rest)} follows vector {number}; download it again, or correct that line"
        )


def _lines(stream: BinaryIO) -> Iterable[bytes]:
    return iter(lambda: stream.readline(LONGEST_LINE), b"")


def _numbers(line: bytes) -> list[float] | None:
    """The numbers after the word in a row of the text form; None if it is not one."""
    cells = line.rstrip().split(b" ")[1:]
    try:
        return [float(cell) for cell in cells] or None
    except ValueError:
        return None


def _shown(content: bytes) -> str:
    """The beginning of a line, for an error message."""
    return repr(content[:60].rstrip().decode("utf-8", "replace")) + "…" * (len(content) > 60)
