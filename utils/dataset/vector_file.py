"""A file of word vectors from outside, looked through before gensim reads it.

gensim reserves what the first line promises, unpickles its own format, and reads a cut or a longer file as if it were
whole; a stranger's file, or half a download of 1.7 GB, is refused here in one line instead.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from utils.common.errors import UserError

BLOCK = 10_000_000  # bytes of word vectors looked through at a time
PICKLE_START = b"\x80"  # gensim's own .save format


def read_vector_file(path: Path) -> Mapping[str, np.ndarray]:
    """Read word vectors in word2vec text or binary form, gzipped or not.

    Raises:
        UserError: no such file, a form that would have to be unpickled, a header that promises more or fewer vectors
            than there are, or content that is not word vectors.
    """
    from gensim.models import KeyedVectors

    if not path.is_file():
        raise UserError(f"{path}: no such file; set word2vec_embeddings.file to the path of your word vectors")
    try:
        form = _vector_form(path)
        vectors = KeyedVectors.load_word2vec_format(str(path), binary=not form.is_text)
    except UserError:
        raise
    except Exception as error:  # gensim and the decompressors raise many types for damaged files
        why = " ".join((str(error) or type(error).__name__).split())
        raise UserError(
            f"{path}: not word vectors in word2vec text or binary form, with words in UTF-8 ({why})"
        ) from None
    if not np.isfinite(vectors.vectors).all():
        word = vectors.index_to_key[first_not_finite(vectors.vectors)]
        raise UserError(f"{path}: the vector of {word!r} is not finite")
    if form.is_longer_than(vectors.key_to_index):
        raise UserError(
            f"{path}: holds more than the {form.count} vectors that its first line promises; mend that line"
        )
    return vectors


def first_not_finite(vectors: np.ndarray) -> int:
    """The first row (of (V, E)) with a NaN or an infinity."""
    return int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])


class _VectorForm(NamedTuple):
    """How a word2vec file is laid out, by its first line and its length."""

    count: int  # vectors, as the first line promises
    size: int  # dimensions
    is_text: bool
    rows: int  # of the text form, behind the first line
    length: int  # bytes behind the first line, decompressed

    def is_longer_than(self, words: Collection[str]) -> bool:
        """Whether vectors follow those of the words that were read."""
        if self.is_text:
            return self.rows > self.count
        read = sum(len(word.encode()) + 1 + 4 * self.size for word in words)
        # A line feed may follow each vector; where a word stands twice, the words do not tell what was read.
        return len(words) == self.count and self.length - read > self.count


def _vector_form(path: Path) -> _VectorForm:
    """Look through a word2vec file; raises UserError where it promises more than it holds, before that is reserved."""
    from smart_open import open as open_any

    with open_any(path, "rb") as stream:
        header = stream.readline(1000)
        if header.startswith(PICKLE_START):
            raise UserError(
                f"{path}: gensim's own format can run code when it is read; where you trust the file, convert it: "
                f"KeyedVectors.load({str(path)!r}).save_word2vec_format('vectors.bin', binary=True)"
            )
        count, size = (int(number) for number in header.split())
        first = stream.readline(1_000_000)
        rows, length = _rows_and_bytes(stream)
    rows, length = rows + 1, length + len(first)
    is_text = _is_row(first, size)
    if count < 1 or size < 1 or count * size * (2 if is_text else 4) > length:
        raise UserError(
            f"{path}: its first line promises {count} vectors of {size} dimensions, which the file does not hold; "
            "it is cut short, or that line is wrong"
        )
    return _VectorForm(count, size, is_text, rows, length)


def _rows_and_bytes(stream: BinaryIO) -> tuple[int, int]:
    """What is left of a stream: lines, without empty ones at the end, and bytes."""
    rows = length = 0
    line_feeds = 1  # at the end of what was looked at
    for block in iter(lambda: stream.read(BLOCK), b""):
        length += len(block)
        body = block.rstrip(b"\r\n")
        if body:
            rows += line_feeds + body.count(b"\n")
            line_feeds = 0
        line_feeds += block.count(b"\n", len(body))
    return rows, length


def _is_row(line: bytes, size: int) -> bool:
    """Whether this is a row of the text form: a word and as many numbers as the first line promises."""
    cells = line.split()
    try:
        return len([float(cell) for cell in cells[-size:]]) == size and len(cells) == size + 1
    except ValueError:
        return False
