"""Log-mel energies of a clip."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from librosa.filters import mel  # here, not where it is called: a second's import, once for all worker processes

from utils.io_utils import UserError, file_digest

BLOCK = 4_000_000  # samples decoded at a time
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

    Raises UserError where the file cannot be decoded, holds no samples, or holds NaN or infinite ones.
    """
    with _open_audio(path) as stream:
        blocks = list(_blocks(path, stream))
        samples = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        return samples if samples.ndim == 1 else samples.mean(axis=1), stream.samplerate


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
            yield stream
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: unreadable audio ({error.error_string.rstrip('.')})") from None


def _blocks(path: Path | str, stream: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """The samples in blocks, float32: (samples,) or (samples, channels)."""
    pcm_16 = stream.subtype == "PCM_16"
    read = 0
    while len(block := stream.read(BLOCK, dtype="int16" if pcm_16 else "float32")):
        read += len(block)
        if pcm_16:  # the same numbers as the library's own conversion, in a quarter of the time
            block = block * np.float32(1 / 32768)
        elif not np.isfinite(block).all():
            raise UserError(f"{path}: holds NaN or infinite samples")
        yield block
    if read == 0:
        raise UserError(f"{path}: the clip has no samples")


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
    if fmax > sample_rate / 2:
        raise ValueError(f"fmax {fmax:g} Hz is above half the sample rate of {sample_rate} Hz")
    win_length, hop_length = round(sample_rate * window), round(sample_rate * hop)
    if win_length < 2 or hop_length < 1:
        raise ValueError(f"a window of {window:g} s or a hop of {hop:g} s is too short at {sample_rate} Hz")
    n_fft = 2 ** int(np.ceil(np.log2(win_length)))
    y = np.asarray(y, dtype=np.float32)
    power = BACKENDS[backend](y, sample_rate, n_fft, win_length, hop_length, n_mels, fmin, fmax)  # (n_mels, T)
    return np.log(power + LOG_OFFSET, dtype=np.float32).T


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
        center=True,
        pad_mode="constant",
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
        pad_mode="constant",
        norm="slaney",
        mel_scale="slaney",
    )
    return transform(torch.from_numpy(y)).numpy()


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
