"""Log-mel energies of a clip."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from librosa.filters import mel  # here, not where it is called: a second's import, once for all worker processes

from utils.io_utils import UserError, file_digest

BLOCK = 4_000_000  # samples decoded at a time, over all channels
TRANSFORMED = 2**24  # values of the spectra made at a time: 8192 frames of a 2048-point FFT
LONGEST_WINDOW = 2**20  # samples
# What libsndfile notes of a .wav or .ogg file that ends early, and then reads on as if it were whole.
CUT_SHORT = re.compile(r"^data : \d+ \(should be \d+\)|^Ogg: Last page lacks an end-of-stream bit", re.MULTILINE)
LOG_OFFSET = float(np.spacing(1))  # 2.220446e-16: silence becomes -36.04, not -inf


class Clip(NamedTuple):
    """An audio file."""

    file: str  # its name in the split's folder
    seconds: float
    sample_rate: int  # Hz
    channels: int
    sha256: str  # of its content


def read_audio(path: Path | str) -> tuple[np.ndarray, int]:
    """Read a .wav, .flac or .ogg file at its own sample rate: mono (samples,) float32 (channels averaged), Hz.

    Raises UserError where the file cannot be decoded, is cut short, holds no samples, or holds NaN or infinite ones.
    """
    with _open_audio(path) as stream:
        blocks = list(_mono_blocks(path, stream))
        return np.concatenate(blocks) if len(blocks) > 1 else blocks[0], stream.samplerate


def read_log_mel(path: Path | str, **settings: object) -> np.ndarray:
    """`log_mel_spectrogram` of an audio file by all its settings (`LogMelConf.recipe`), decoded block by block.

    Beside the result (T, n_mels) float32, memory does not grow with the clip's length.

    Raises UserError as `read_audio` does, and where the settings do not fit the file, or its energies overflow.
    """
    with _open_audio(path) as stream:
        try:
            log_mel = _log_mel(_mono_blocks(path, stream), stream.samplerate, **settings)
        except ValueError as error:
            raise UserError(f"{path}: {error}; change the audio_logmel settings or remove the clip") from None
    if not np.isfinite(log_mel).all():
        raise UserError(f"{path}: samples so large that their energy is not finite; scale the clip or remove it")
    return log_mel


def probe_clip(path: Path) -> Clip:
    """Decode an audio file to its end, block by block.

    Raises UserError as `read_audio` does.
    """
    with _open_audio(path) as stream:
        samples = sum(len(block) for block in _blocks(path, stream))
        seconds = round(samples / stream.samplerate, 6)
        return Clip(path.name, seconds, stream.samplerate, stream.channels, file_digest(path))


@contextmanager
def _open_audio(path: Path | str) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(path) as stream:
            if CUT_SHORT.search(stream.extra_info):
                raise UserError(f"{path}: cut short: the file ends before its samples do; get the clip anew")
            yield stream
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: unreadable audio ({error.error_string.rstrip('.')})") from None


def _mono_blocks(path: Path | str, stream: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """The samples in blocks, channels averaged: (samples,) float32."""
    for block in _blocks(path, stream):
        yield block if block.ndim == 1 else block.mean(axis=1)


def _blocks(path: Path | str, stream: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """The samples in blocks, float32: (samples,) or (samples, channels)."""
    pcm_16 = stream.subtype == "PCM_16"
    read = 0
    while len(block := stream.read(max(1, BLOCK // stream.channels), dtype="int16" if pcm_16 else "float32")):
        read += len(block)
        if pcm_16:  # the same numbers as the library's own conversion, in a quarter of the time
            block = block * np.float32(1 / 32768)
        elif not np.isfinite(block).all():
            raise UserError(f"{path}: holds NaN or infinite samples")
        yield block
    if read == 0:
        raise UserError(f"{path}: the clip has no samples")
    if read < stream.frames:
        raise UserError(f"{path}: cut short: {read} of {stream.frames} samples; get the clip anew")


def log_mel_spectrogram(
    y: np.ndarray,
    sample_rate: int,
    *,
    backend: str = "torch",
    window: float = 0.04,
    hop: float = 0.02,
    n_mels: int = 64,
    fmin: float = 12.0,
    fmax: float = 8000.0,
) -> np.ndarray:
    """Natural logarithm of the mel power spectrogram: Hann window, centred frames, Slaney mel filters.

    Args:
        y: (samples,) float waveform.
        sample_rate: Hz.
        backend: a name in BACKENDS; all give the same numbers.
        window, hop: seconds; the FFT is the next power of two of the window.
        n_mels: bands, from fmin to fmax (Hz).

    Returns:
        (T, n_mels) float32 with T = 1 + samples // hop.

    Source: the published preprocessing (librosa's melspectrogram), method kept to float32.
    """
    blocks = [np.asarray(y, dtype=np.float32)]
    return _log_mel(blocks, sample_rate, backend, window, hop, n_mels, fmin, fmax)


def _log_mel(
    blocks: Iterable[np.ndarray],
    sample_rate: int,
    backend: str,
    window: float,
    hop: float,
    n_mels: int,
    fmin: float,
    fmax: float,
) -> np.ndarray:
    """`log_mel_spectrogram` of a waveform in blocks (samples,) float32."""
    if fmax > sample_rate / 2:
        raise ValueError(f"fmax {fmax:g} Hz is above half the sample rate of {sample_rate} Hz")
    win_length, hop_length = round(sample_rate * window), round(sample_rate * hop)
    if win_length < 2 or hop_length < 1:
        raise ValueError(f"a window of {window:g} s or a hop of {hop:g} s is too short at {sample_rate} Hz")
    if win_length > LONGEST_WINDOW:
        raise ValueError(f"a window of {window:g} s is too long at {sample_rate} Hz ({LONGEST_WINDOW} samples at most)")
    n_fft = 2 ** int(np.ceil(np.log2(win_length)))
    powers = (
        BACKENDS[backend](piece, sample_rate, n_fft, win_length, hop_length, n_mels, fmin, fmax)  # (n_mels, frames)
        for piece in _pieces(blocks, n_fft, hop_length)
    )
    return np.concatenate([np.log(power + LOG_OFFSET, dtype=np.float32).T for power in powers])


def _pieces(blocks: Iterable[np.ndarray], n_fft: int, hop_length: int) -> Iterator[np.ndarray]:
    """The waveform, zero-padded so that frames of n_fft samples are centred, in pieces that hold whole frames each.

    A clip of ordinary length is one piece; its neighbours overlap by what two frames share.
    """
    at_once = max(1, TRANSFORMED // n_fft)  # frames
    blocks, padding = iter(blocks), np.zeros(n_fft // 2, np.float32)
    held, block = padding, next(blocks)
    for following in chain(blocks, [None]):
        held = np.concatenate([held, block, padding] if following is None else [held, block])
        # The last frame waits for the next block, so that a hop longer than the window skips none of its samples.
        frames = max(0, (len(held) - n_fft) // hop_length + (following is None))
        for first in range(0, frames, at_once):
            last = min(first + at_once, frames) - 1
            yield held[first * hop_length : last * hop_length + n_fft]
        held, block = held[frames * hop_length :], following


def _librosa_mel_power(
    y: np.ndarray, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int, fmin: float, fmax: float
) -> np.ndarray:
    import librosa

    return librosa.feature.melspectrogram(
        y=y,
        sr=sample_rate,
        n_fft=n_fft,
        hop_length=hop_length,
        win_length=win_length,
        center=False,
        n_mels=n_mels,
        fmin=fmin,
        fmax=fmax,
    )


def _torch_mel_power(
    y: np.ndarray, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int, fmin: float, fmax: float
) -> np.ndarray:
    import torch

    spectrum = torch.stft(
        torch.from_numpy(y),
        n_fft,
        hop_length,
        win_length,
        window=torch.hann_window(win_length),
        center=False,
        return_complex=True,
    )  # (n_fft/2 + 1, T)
    filters = torch.from_numpy(_mel_filters(sample_rate, n_fft, n_mels, fmin, fmax))  # (n_mels, bins up to fmax)
    squares = torch.view_as_real(spectrum.T[:, : filters.shape[1]]).square().flatten(1)  # (T, 2 bins): re^2, im^2
    return (squares @ filters.T.repeat_interleave(2, dim=0)).T.numpy()


def _torchaudio_mel_power(
    y: np.ndarray, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int, fmin: float, fmax: float
) -> np.ndarray:
    import torch

    try:
        from torchaudio.transforms import MelSpectrogram
    except (ImportError, OSError) as error:
        raise UserError(
            f"audio_logmel.backend: torchaudio cannot be imported here ({error}); use torch or librosa instead"
        ) from None
    transform = MelSpectrogram(
        sample_rate,
        n_fft,
        win_length,
        hop_length,
        f_min=fmin,
        f_max=fmax,
        n_mels=n_mels,
        center=False,
        norm="slaney",
        mel_scale="slaney",
    )
    return transform(torch.from_numpy(y)).numpy()


# Each takes a piece (samples,), already padded, and gives the mel power (n_mels, frames) of the frames that it holds.
Backend = Callable[[np.ndarray, int, int, int, int, int, float, float], np.ndarray]
BACKENDS: dict[str, Backend] = {
    "torch": _torch_mel_power,
    "librosa": _librosa_mel_power,
    "torchaudio": _torchaudio_mel_power,
}


@lru_cache(maxsize=8)
def _mel_filters(sample_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float) -> np.ndarray:
    """librosa's Slaney filters (n_mels, bins), without the bins above fmax, where all are zero."""
    filters = mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)
    if not filters.any():
        raise ValueError(f"no FFT bin lies between fmin {fmin:g} Hz and fmax {fmax:g} Hz; widen the band or the window")
    return np.ascontiguousarray(filters[:, : int(np.flatnonzero(filters.any(axis=0))[-1]) + 1])
