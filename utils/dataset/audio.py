"""Audio files: decode them block by block, resample them, and refuse damaged ones."""

import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from utils.common.digests import read_digested
from utils.common.errors import UserError
from utils.dataset.audio_span import open_span

UNCOUNTED = 2**63 - 1  # libsndfile's frame count for a .flac that was written into a pipe
BLOCK = 4_000_000  # samples decoded at a time, over all channels
LOUDEST = 1e12  # full scale is 1; energies of far larger samples overflow
CONVERT = "convert it: ffmpeg -i OLD NEW.wav"
# libsndfile reads a truncated file as if it were whole, but logs both sizes: the bytes that the header promises, and
# those that are there. A .wav written into a pipe has the size 0xFFFFFFFF (ffmpeg) or 0x7FFFF000 (SoX), an .aiff 0:
# these are whole.
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
CONTAINER = re.compile(r"^Length : (\d+)\n(?:RIFF|FORM) : (\d+)$", re.MULTILINE)  # file size, and size in its header
# A recording that was never closed: its header says 0 bytes of samples, and libsndfile takes the samples for chunks.
UNCLOSED = re.compile(r"^\*\*\* Unknown chunk marker|^Have 0 marker at position", re.MULTILINE)
# An .mp3 without a frame count: libsndfile guesses its length, and stops there if the bit rate varies.
GUESSED = re.compile(r"^  bitrate mode +: constant", re.MULTILINE)


class Clip(NamedTuple):
    """An audio file."""

    file_name: str  # in the split's folder
    seconds: float
    sample_rate: int  # Hz
    channels: int
    sha256: str  # of the file's content

    @property
    def samples(self) -> int:
        """Samples in each channel."""
        return round(self.seconds * self.sample_rate)


class Probe(NamedTuple):
    """A decoded audio file and its peak levels; full scale is 1."""

    clip: Clip
    peak: float  # over all channels
    mono_peak: float  # of the channels' mean


def probe_clip(path: Path) -> Probe:
    """Decode an audio file to its end.

    Raises UserError if it cannot be decoded, is cut short, or holds no samples, or samples that are not finite or
    absurdly large.
    """
    content, sha256 = read_audio(path)
    samples, peak, mono_peak = 0, 0.0, 0.0
    with open_audio(path, content) as stream:
        weights = np.full(stream.channels, 1 / stream.channels, np.float32)
        for block in _blocks(path, stream):
            samples += len(block)
            mono = block if block.ndim == 1 else block @ weights  # faster than mean()
            peak = max(peak, float(block.max()), -float(block.min()))
            mono_peak = max(mono_peak, float(mono.max()), -float(mono.min()))
        clip = Clip(path.name, round(samples / stream.samplerate, 6), stream.samplerate, stream.channels, sha256)
    return Probe(clip, peak, mono_peak)


def read_audio(path: Path) -> tuple[bytes | None, str]:
    """`read_digested` of an audio file, for `open_audio`; raises UserError if it cannot be read."""
    try:
        return read_digested(path)
    except OSError as error:
        raise _unreadable(path, error.strerror) from None


@contextmanager
def open_audio(path: Path | str, content: bytes | None = None) -> Iterator[soundfile.SoundFile]:
    """Open an audio file, or its content if that is in memory.

    Raises UserError if it cannot be decoded, or is cut short.
    """
    try:
        # libsndfile reads some files differently by path
        with Path(path).open("rb") if content is None else io.BytesIO(content) as file:
            with _silenced_decoder():
                stream = soundfile.SoundFile(open_span(file))
            with stream:
                _refuse_incomplete(path, stream)
                yield stream
    except OSError as error:
        raise _unreadable(path, error.strerror) from None
    except soundfile.LibsndfileError as error:
        raise _unreadable(path, error.error_string.rstrip(".")) from None


def _refuse_incomplete(path: Path | str, stream: soundfile.SoundFile) -> None:
    """Raise UserError if a file is cut short, or if its header does not tell whether it is."""
    log = stream.extra_info
    if CUT_SHORT.search(log):
        raise UserError(f"{path}: cut short: the file ends before its samples do; download it again")
    container = CONTAINER.search(log)
    is_whole = container is not None and int(container[1]) == int(container[2]) + 8  # only the sample size is wrong
    if (sizes := PROMISED.search(log)) and not is_whole:
        mismatch = f"the header promises {sizes[1]} bytes, the file has {sizes[2]}"
        raise UserError(f"{path}: cut short, or the header is wrong: {mismatch}; download it again, or {CONVERT}")
    if stream.frames == UNCOUNTED or ("MPEG" in stream.subtype and GUESSED.search(log)):
        reason = "it has no frame count, so it may be cut short"
        raise UserError(f"{path}: {reason}; {CONVERT}, or NEW.flac (not into a pipe)")


def _unreadable(path: Path | str, reason: str) -> UserError:
    return UserError(f"{path}: unreadable audio ({reason}); if it plays elsewhere, convert it to .wav or .flac")


def highest_frequency(path: Path | str) -> float:
    """The highest frequency (Hz) that an audio file can hold."""
    with open_audio(path) as stream:
        return stream.samplerate / 2


@contextmanager
def _silenced_decoder() -> Iterator[None]:
    """Drop what libsndfile's MP3 decoder writes to file descriptor 2, past Python's standard error."""
    try:
        standard_error = os.dup(2)
    except OSError:  # closed
        yield
        return
    try:
        with Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)


def mono_blocks(path: Path | str, stream: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """Read an open file in blocks (samples,) float32, channels averaged.

    Raises UserError if there are no samples, fewer than the header says, or samples that are not finite or absurdly
    large.
    """
    for block in _blocks(path, stream):
        yield block if block.ndim == 1 else block.mean(axis=1)


def resampled(blocks: Iterable[np.ndarray], sample_rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Resample a waveform in blocks (samples,) float32 to another rate (Hz), bit for bit as soxr resamples it whole.

    Memory does not grow with the waveform: no block of the result is much longer than BLOCK.
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
    """Read blocks of float32 samples: (samples,) or (samples, channels)."""
    pcm_16 = stream.subtype == "PCM_16"
    length, read = max(1, BLOCK // stream.channels), 0
    while True:
        with _silenced_decoder():
            block = stream.read(length, dtype="int16" if pcm_16 else "float32")
        if not len(block):
            break
        read += len(block)
        if pcm_16:  # the same numbers as soundfile's own conversion, in a quarter of the time
            block = block.astype(np.float32)
            block *= np.float32(1 / 32768)
        elif not (peak := np.abs(block).max()) < LOUDEST:
            reason = f"a sample of {peak:g}; full scale is 1: scale it" if peak < np.inf else "NaN or infinite samples"
            raise UserError(f"{path}: holds {reason}")
        yield block
    if read == 0 and UNCLOSED.search(stream.extra_info):
        reason = "the header promises no samples, but data follow: the recording was not closed"
        raise UserError(f"{path}: {reason}; {CONVERT}")
    if read == 0:
        raise UserError(f"{path}: the clip has no samples")
    if read < stream.frames:
        mismatch = f"{read} of {stream.frames} samples"
        raise UserError(f"{path}: cut short, or the header is wrong: {mismatch}; download it again, or {CONVERT}")
