"""Audio files: read, decoded block by block, resampled, and refused where they are damaged."""

import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr

from utils.common.digests import read_digested
from utils.common.errors import UserError
from utils.dataset.audio_span import open_span

UNCOUNTED = 2**63 - 1  # libsndfile's frames of a .flac that was written into a pipe
BLOCK = 4_000_000  # samples decoded at a time, over all channels
LOUDEST = 1e12  # full scale is 1; far beyond, energies overflow
HEARD = 0.01  # a mean of channels that gets so loud is not silence; the rest of it need not be taken
REWRITE = "convert it: ffmpeg -i OLD NEW.wav"
# What libsndfile notes of a file that ends early, and then reads on as if it were whole: the bytes that a header
# promises, and those that are there. A .wav written into a pipe has no size, which is 0xFFFFFFFF (ffmpeg) or
# 0x7FFFF000 (SoX), and an .aiff 0: those end where they end.
PROMISED = re.compile(
    r"^(?:data : (?!4294967295 |2147479552 )| SSND : (?=[1-9])|  Data Size   : |riff : )"
    r"(\d+) \(should be (\d+)\)",
    re.MULTILINE,
)
CUT_SHORT = re.compile(
    r"^\*\*\* Calculated frame count \d+ does not match value from 'ds64' chunk of [1-9]"
    r"|^Ogg ?: (Last page lacks an end-of-stream bit|Junk after the last page)",
    re.MULTILINE,
)
CONTAINER = re.compile(r"^Length : (\d+)\n(?:RIFF|FORM) : (\d+)$", re.MULTILINE)  # sizes: the file's, and noted in it
# What follows samples of size 0 and is no chunk, but samples: of a recording that was never closed.
UNCLOSED = re.compile(r"^\*\*\* Unknown chunk marker|^Have 0 marker at position", re.MULTILINE)
# An .mp3 without a count of its frames: libsndfile guesses its length, and reads a variable bit rate up to there alone.
GUESSED = re.compile(r"^  bitrate mode +: constant", re.MULTILINE)


class Clip(NamedTuple):
    """An audio file."""

    file_name: str  # in the split's folder
    seconds: float
    sample_rate: int  # Hz
    channels: int
    sha256: str  # of its content

    @property
    def samples(self) -> int:
        """The samples of a channel."""
        return round(self.seconds * self.sample_rate)


class Level(NamedTuple):
    """How loud a clip gets; full scale is 1."""

    peak: float  # over its channels
    mono_peak: float  # of their mean, or what it reaches first beyond HEARD


class Probe(NamedTuple):
    """What decoding an audio file tells."""

    clip: Clip
    level: Level


def probe_clip(path: Path) -> Probe:
    """Decode an audio file to its end, block by block.

    Raises UserError where it cannot be decoded, is cut short, holds no samples, or some that are not finite or absurd.
    """
    content, sha256 = read_audio(path)
    samples, peak, mono_peak = 0, 0.0, 0.0
    with open_audio(path, content) as stream:
        for block in _blocks(path, stream):
            samples += len(block)
            peak = max(peak, _peak(block))
            if mono_peak <= HEARD:
                mono_peak = max(mono_peak, _mono_peak(block))
        clip = Clip(path.name, round(samples / stream.samplerate, 6), stream.samplerate, stream.channels, sha256)
        return Probe(clip, Level(peak, mono_peak))


def _peak(block: np.ndarray) -> float:
    return float(max(block.max(), -block.min()))


def _mono_peak(block: np.ndarray) -> float:
    """The peak of the channels' mean, up to where it is heard."""
    peak = 0.0
    for start in range(0, len(block), 2**14):
        piece = block[start : start + 2**14]
        peak = max(peak, _peak(piece if piece.ndim == 1 else piece.mean(axis=1)))
        if peak > HEARD:
            break
    return peak


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
        with _source(path, content) as file, _opened(open_span(file)) as stream:
            _refuse_in_part(path, stream)
            yield stream
    except soundfile.LibsndfileError as error:
        raise _unreadable(path, error.error_string.rstrip(".")) from None


def _source(path: Path | str, content: bytes | None) -> BinaryIO:
    """The bytes of an audio file; libsndfile itself would read some files otherwise from a path than from memory."""
    try:
        return Path(path).open("rb") if content is None else io.BytesIO(content)
    except OSError as error:
        raise _unreadable(path, error.strerror) from None


def _opened(file: BinaryIO) -> soundfile.SoundFile:
    with _hushed():
        return soundfile.SoundFile(file)


def _refuse_in_part(path: Path | str, stream: soundfile.SoundFile) -> None:
    """Raise UserError for what is cut short, or may be."""
    log = stream.extra_info
    if CUT_SHORT.search(log):
        raise UserError(f"{path}: cut short: the file ends before its samples do; get the clip anew")
    container = CONTAINER.search(log)
    is_whole = container is not None and int(container[1]) == int(container[2]) + 8  # the size of its samples is wrong
    if (sizes := PROMISED.search(log)) and not is_whole:
        wrong = f"its header promises {sizes[1]} bytes, and {sizes[2]} are there"
        raise UserError(f"{path}: cut short, or the header is wrong: {wrong}; get the clip anew, or {REWRITE}")
    if stream.frames == UNCOUNTED or ("MPEG" in stream.subtype and GUESSED.search(log)):
        what = "it has no count of its frames, which would tell whether it is whole"
        raise UserError(f"{path}: {what}; convert it to a .wav or .flac file (not into a pipe): ffmpeg -i OLD NEW.wav")


def _unreadable(path: Path | str, why: str) -> UserError:
    return UserError(f"{path}: unreadable audio ({why}); if it plays elsewhere, convert it to .wav or .flac")


def highest_frequency(path: Path | str) -> float:
    """The highest frequency (Hz) that an audio file can hold."""
    with open_audio(path) as stream:
        return stream.samplerate / 2


@contextmanager
def _hushed() -> Iterator[None]:
    """Drop what libsndfile's MP3 decoder says on standard error, of any file that has MP3 in it, past Python's own."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
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
    read, length = 0, max(1, BLOCK // stream.channels)
    while len(block := _next_block(stream, length, "int16" if pcm_16 else "float32")):
        read += len(block)
        if pcm_16:  # the same numbers as the library's own conversion, in a quarter of the time
            block = block.astype(np.float32)
            block *= np.float32(1 / 32768)
        elif not (peak := np.abs(block).max()) < LOUDEST:
            what = f"a sample of {peak:g}; full scale is 1: scale it" if peak < np.inf else "NaN or infinite samples"
            raise UserError(f"{path}: holds {what}")
        yield block
    if read == 0 and UNCLOSED.search(stream.extra_info):
        what = "the header promises no samples, but what follows looks like some: a recording that was not closed"
        raise UserError(f"{path}: {what}; {REWRITE}")
    if read == 0:
        raise UserError(f"{path}: the clip has no samples")
    if read < stream.frames:
        what = f"cut short, or the header is wrong: {read} of {stream.frames} samples"
        raise UserError(f"{path}: {what}; get the clip anew, or {REWRITE}")


def _next_block(stream: soundfile.SoundFile, length: int, dtype: str) -> np.ndarray:
    with _hushed():
        return stream.read(length, dtype=dtype)
