"""Audio files: read, decoded block by block, resampled, and refused where they are damaged."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from utils.common.digests import read_digested
from utils.common.errors import UserError

UNCOUNTED = 2**63 - 1  # libsndfile's frames of a .flac that was written into a pipe
BLOCK = 4_000_000  # samples decoded at a time, over all channels
LOUDEST = 1e12  # full scale is 1; far beyond, energies overflow
# What libsndfile notes of a file that ends early, and then reads on as if it were whole. A .wav written into a pipe has
# no size, which is 0xFFFFFFFF (ffmpeg) or 0x7FFFF000 (SoX), and an .aiff 0: those end where they end.
CUT_SHORT = re.compile(
    r"^data : (?!4294967295 |2147479552 )\d+ \(should be \d+\)"
    r"|^ SSND : [1-9]\d* \(should be \d+\)"
    r"|^\*\*\* Calculated frame count \d+ does not match value from 'ds64' chunk of [1-9]"
    r"|^Ogg ?: (Last page lacks an end-of-stream bit|Junk after the last page)",
    re.MULTILINE,
)
# An .mp3 without a count of its frames: libsndfile guesses its length, and reads a variable bit rate up to there alone.
GUESSED = re.compile(r"^  bitrate mode +: constant", re.MULTILINE)


class Clip(NamedTuple):
    """An audio file."""

    file_name: str  # in the split's folder
    seconds: float
    sample_rate: int  # Hz
    channels: int
    sha256: str  # of its content


def probe_clip(path: Path) -> Clip:
    """Decode an audio file to its end, block by block.

    Raises UserError where it cannot be decoded, is cut short, holds no samples, or some that are not finite or absurd.
    """
    content, sha256 = read_audio(path)
    with open_audio(path, content) as stream:
        samples = sum(len(block) for block in _blocks(path, stream))
        seconds = round(samples / stream.samplerate, 6)
        return Clip(path.name, seconds, stream.samplerate, stream.channels, sha256)


def read_audio(path: Path) -> tuple[bytes | None, str]:
    """`read_digested` of an audio file, for `open_audio`; raises UserError where it cannot be read."""
    try:
        return read_digested(path)
    except OSError as error:
        raise _unreadable(path, error.strerror) from None


@contextmanager
def open_audio(path: Path | str, content: bytes | None = None) -> Iterator[soundfile.SoundFile]:
    """Open an audio file, from its content where that is in memory.

    Raises UserError where it cannot be decoded, or is cut short.
    """
    try:
        with _hushed(path), soundfile.SoundFile(path if content is None else BytesIO(content)) as stream:
            if CUT_SHORT.search(stream.extra_info):
                raise UserError(f"{path}: cut short: the file ends before its samples do; get the clip anew")
            if stream.frames == UNCOUNTED or (stream.format == "MP3" and GUESSED.search(stream.extra_info)):
                what = "it has no count of its frames, which would tell whether it is whole"
                raise UserError(f"{path}: {what}; convert it to a .wav or .flac file (not into a pipe)")
            yield stream
    except soundfile.LibsndfileError as error:
        raise _unreadable(path, error.error_string.rstrip(".")) from None


def _unreadable(path: Path | str, why: str) -> UserError:
    return UserError(f"{path}: unreadable audio ({why}); if it plays elsewhere, convert it to .wav or .flac")


def highest_frequency(path: Path | str) -> float:
    """The highest frequency (Hz) that an audio file can hold."""
    with open_audio(path) as stream:
        return stream.samplerate / 2


@contextmanager
def _hushed(path: Path | str) -> Iterator[None]:
    """Drop what libsndfile's MP3 decoder says on standard error, of sound files too, past Python's own."""
    if Path(path).suffix.lower() != ".mp3":
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def mono_blocks(path: Path | str, stream: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """An open file's samples in blocks, channels averaged: (samples,) float32.

    Raises UserError where there are none, fewer than the file promises, or some that are not finite or absurd.
    """
    for block in _blocks(path, stream):
        yield block if block.ndim == 1 else block.mean(axis=1)


def resampled(blocks: Iterable[np.ndarray], sample_rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """A waveform in blocks (samples,) float32 at another sample rate (Hz), to the bit as soxr has the whole of it.

    Memory does not grow with the waveform: no block that comes out is much longer than BLOCK.
    """
    if sample_rate == new_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(sample_rate, new_rate, num_channels=1, quality="HQ")
    step = max(1, BLOCK * sample_rate // max(sample_rate, new_rate))
    for block in blocks:
        for start in range(0, len(block), step):
            yield stream.resample_chunk(block[start : start + step])
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _blocks(path: Path | str, stream: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """The samples in blocks, float32: (samples,) or (samples, channels)."""
    pcm_16 = stream.subtype == "PCM_16"
    read = 0
    while len(block := stream.read(max(1, BLOCK // stream.channels), dtype="int16" if pcm_16 else "float32")):
        read += len(block)
        if pcm_16:  # the same numbers as the library's own conversion, in a quarter of the time
            block = block.astype(np.float32)
            block *= np.float32(1 / 32768)
        elif not (peak := np.abs(block).max()) < LOUDEST:
            what = f"a sample of {peak:g}; full scale is 1: scale it" if peak < np.inf else "NaN or infinite samples"
            raise UserError(f"{path}: holds {what}")
        yield block
    if read == 0:
        raise UserError(f"{path}: the clip has no samples")
    if read < stream.frames:
        raise UserError(f"{path}: cut short: {read} of {stream.frames} samples; get the clip anew")
