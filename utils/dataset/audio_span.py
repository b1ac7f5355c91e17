"""The part of a file that is a sound: without a tag before it, or what was appended to it.

libsndfile loses the bytes of a tag where it reads from memory, and takes an Ogg file for cut short that has anything
behind its end.
"""

import io
from typing import BinaryIO

TAGGED = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"OggS", b".snd", b"caff")  # an .mp3's tag is its decoder's
TAG_HEADER = 10  # bytes
PAGE_HEADER = 27  # bytes of an Ogg page, its table of segments apart
LAST_PAGE = 4  # the flag of the page that ends a stream
TAIL = 2**20  # bytes, in which the last page is looked for


class Span(io.RawIOBase):
    """The bytes of a file from `start` to `end`, as a file."""

    def __init__(self, file: BinaryIO, start: int, end: int):
        self.file, self.start, self.size, self.at = file, start, end - start, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: memoryview) -> int:
        self.file.seek(self.start + self.at)
        count = self.file.readinto(memoryview(buffer)[: max(0, self.size - self.at)])
        self.at += count
        return count


def open_span(file: BinaryIO) -> BinaryIO:
    """The sound in an open file, as a file; the file itself where there is nothing around it."""
    size = file.seek(0, io.SEEK_END)
    start = _behind_tags(file)
    end = _end_of_ogg(file, start, size)
    file.seek(0)
    return file if (start, end) == (0, size) else Span(file, start, end)


def _behind_tags(file: BinaryIO) -> int:
    """Where a sound begins that stands behind ID3 tags."""
    start = 0
    while (header := _read(file, start, TAG_HEADER))[:3] == b"ID3" and len(header) == TAG_HEADER:
        length = sum((byte & 127) << (7 * place) for place, byte in enumerate(reversed(header[6:])))
        start += TAG_HEADER + length + (TAG_HEADER if header[5] & 16 else 0)  # the flag of a footer
    return start if header[:4] in TAGGED else 0


def _end_of_ogg(file: BinaryIO, start: int, size: int) -> int:
    """Where the page ends that ends an Ogg file; the file's size where it is none, or has no such page."""
    if _read(file, start, 4) != b"OggS":
        return size
    tail = _read(file, max(start, size - TAIL), TAIL)
    page = tail.rfind(b"OggS")
    header = tail[page : page + PAGE_HEADER]
    if page < 0 or len(header) < PAGE_HEADER or not header[5] & LAST_PAGE:
        return size
    segments = tail[page + PAGE_HEADER :][: header[26]]
    return min(size, size - len(tail) + page + PAGE_HEADER + header[26] + sum(segments))


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
