"""The sound within a file, without ID3 tags before it and other data after it.

libsndfile loses the bytes of a tag when it reads from memory, and takes an Ogg file with data after its end for cut
short.
"""

import io
from typing import BinaryIO

SKIP_TAG = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"OggS", b".snd", b"caff")  # not .mp3, .flac: decoders do
TAG_HEADER = 10  # bytes
PAGE_HEADER = 27  # bytes of an Ogg page header before its segment table
LAST_PAGE = 4  # flag of the page that ends a stream
TAIL = 2**20  # bytes in which to look for the last page


class Span(io.RawIOBase):
    """The bytes of a file from `start` to `end`, as a file."""

    def __init__(self, file: BinaryIO, start: int, end: int):
        self.file, self.start, self.size, self.position = file, start, end - start, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, origin + offset)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: memoryview) -> int:
        self.file.seek(self.start + self.position)
        count = self.file.readinto(memoryview(buffer)[: max(0, self.size - self.position)])
        self.position += count
        return count


def open_span(file: BinaryIO) -> BinaryIO:
    """The sound in an open file, as a file; the file itself if it holds nothing else."""
    size = file.seek(0, io.SEEK_END)
    start = _tags_end(file)
    end = _ogg_end(file, start, size)
    file.seek(0)
    return file if (start, end) == (0, size) else Span(file, start, end)


def _tags_end(file: BinaryIO) -> int:
    """The offset of a sound behind ID3 tags; 0 if there are none to skip."""
    start = 0
    while (header := _read(file, start, TAG_HEADER))[:3] == b"ID3" and len(header) == TAG_HEADER:
        length = sum((byte & 127) << (7 * place) for place, byte in enumerate(reversed(header[6:])))
        has_footer = header[5] & 16
        start += TAG_HEADER + length + (TAG_HEADER if has_footer else 0)
    return start if header[:4] in SKIP_TAG else 0


def _ogg_end(file: BinaryIO, start: int, size: int) -> int:
    """The end of an Ogg file's last page; the file's size if it is not Ogg, or has no such page."""
    if _read(file, start, 4) != b"OggS":
        return size
    tail = _read(file, max(start, size - TAIL), TAIL)
    page = tail.rfind(b"OggS")
    header = tail[page : page + PAGE_HEADER]
    if page < 0 or len(header) < PAGE_HEADER or not header[5] & LAST_PAGE:
        return size
    segments = tail[page + PAGE_HEADER :][: header[26]]
    return min(size, size - len(tail) + page + PAGE_HEADER + header[26] + sum(segments))


def _read(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)
