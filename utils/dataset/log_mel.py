"""Log-mel energies of a clip."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

import librosa
import numpy as np
import torch
from librosa.filters import mel  # at the top: a second, spent once for all worker processes
from torch import Tensor

from utils.common.errors import UserError
from utils.common.steps import INDEXING, LOG_MELS
from utils.dataset.audio import mono_blocks, open_audio, resampled
from utils.dataset.clip_store import ClipStore
from utils.dataset.log_mel_config import PUBLISHED, LogMelConfig, MelTransform

TRANSFORMED = 2**24  # spectral values computed at a time: 8192 frames of a 2048-point FFT
CACHED = 128  # frames transformed at a time: their spectra fit into the processor's caches
LOG_OFFSET = float(np.spacing(1))  # 2.220446e-16: silence becomes -36.04, not -inf


def read_log_mel(path: Path | str, config: LogMelConfig, content: bytes | None = None) -> np.ndarray:
    """Compute `log_mel_spectrogram` of an audio file, or of its content, decoded and resampled block by block.

    Apart from the result (T, n_mels) float32, memory does not grow with the clip's length.

    Raises UserError if the file is damaged, or the config does not fit it.
    """
    with open_audio(path, content) as stream:
        try:
            return _log_mel(mono_blocks(path, stream), stream.samplerate, config)
        except ValueError as error:
            advice = f"change the audio_logmel settings, or skip it: {INDEXING} clotho_dataset.on_bad_data=skip"
            raise UserError(f"{path}: {error}; {advice}") from None


def log_mel_store(path: Path, config: LogMelConfig) -> ClipStore:
    """A split's log-mels, (T, n_mels) each; log-mels by another config do not count as finished."""
    compute = partial(read_log_mel, config=config)
    return ClipStore(path, LOG_MELS, "log-mels", config.n_mels, "bands", compute, asdict(config))


def log_mel_spectrogram(y: np.ndarray, sample_rate: int, config: LogMelConfig = PUBLISHED) -> np.ndarray:
    """Natural logarithm of the mel power spectrogram: Hann window, centred frames, Slaney mel filters.

    Args:
        y: (samples,) float waveform.
        sample_rate: Hz.
        config: window, hop and bands.

    Returns:
        (T, n_mels) float32 with T = 1 + samples // hop, counting samples after any resampling.

    Raises:
        ValueError: the config does not fit the sample rate.

    Source: the published preprocessing (librosa's melspectrogram), equal to float32 precision.
    """
    return _log_mel([np.asarray(y, dtype=np.float32)], sample_rate, config)


def _log_mel(blocks: Iterable[np.ndarray], sample_rate: int, config: LogMelConfig) -> np.ndarray:
    """Compute `log_mel_spectrogram` of a waveform in blocks (samples,) float32."""
    transform, mel_power = config.at(sample_rate), BACKENDS[config.backend]
    blocks = resampled(blocks, sample_rate, transform.sample_rate)
    powers = (mel_power(piece, transform) for piece in _pieces(blocks, transform))  # (n_mels, frames) each
    return np.concatenate([np.log(power + LOG_OFFSET, dtype=np.float32).T for power in powers])


def _pieces(blocks: Iterable[np.ndarray], transform: MelTransform) -> Iterator[np.ndarray]:
    """Zero-pad a waveform, so that frames of n_fft samples are centred, and cut it into pieces of whole frames.

    A clip of ordinary length is one piece; neighbouring pieces overlap as frames do.
    """
    n_fft, hop_length = transform.n_fft, transform.hop_length
    most_frames = max(1, TRANSFORMED // n_fft)  # in a piece
    blocks, padding = iter(blocks), np.zeros(n_fft // 2, np.float32)
    pending, block = padding, next(blocks)
    for following in chain(blocks, [None]):
        pending = np.concatenate([pending, block, padding] if following is None else [pending, block])
        # Keep the last frame for the next block: a hop longer than the window reaches into it
        frames = max(0, (len(pending) - n_fft) // hop_length + (following is None))
        for first in range(0, frames, most_frames):
            last = min(first + most_frames, frames) - 1
            yield pending[first * hop_length : last * hop_length + n_fft]
        pending, block = pending[frames * hop_length :], following


# --- back ends: padded piece (samples,) -> mel power (n_mels, frames) -------------------------------------


def _librosa_mel_power(y: np.ndarray, transform: MelTransform) -> np.ndarray:
    settings = transform._asdict()
    return librosa.feature.melspectrogram(y=y, sr=settings.pop("sample_rate"), center=False, **settings)


def _torch_mel_power(y: np.ndarray, transform: MelTransform) -> np.ndarray:
    window, filters = _torch_window_and_filters(transform)
    frames = torch.from_numpy(y).unfold(0, transform.n_fft, transform.hop_length)  # (T, n_fft), a view
    squares = torch.empty(len(frames), len(filters))  # (T, 2 bins up to fmax): re^2, im^2
    for chunk, chunk_squares in zip(frames.split(CACHED), squares.split(CACHED), strict=True):
        spectrum = torch.fft.rfft(chunk * window)[:, : len(filters) // 2]
        torch.square(torch.view_as_real(spectrum).flatten(1), out=chunk_squares)
    return (squares @ filters).T.numpy()


def _torchaudio_mel_power(y: np.ndarray, transform: MelTransform) -> np.ndarray:
    try:
        from torchaudio.transforms import MelSpectrogram
    except (ImportError, OSError) as error:
        raise UserError(
            f"audio_logmel.backend: torchaudio cannot be imported here ({error}); use torch or librosa instead"
        ) from None
    settings = transform._asdict()
    band = {"f_min": settings.pop("fmin"), "f_max": settings.pop("fmax")}
    mel_power = MelSpectrogram(**settings, **band, center=False, norm="slaney", mel_scale="slaney")
    return mel_power(torch.from_numpy(y)).numpy()


BACKENDS: dict[str, Callable[[np.ndarray, MelTransform], np.ndarray]] = {
    "torch": _torch_mel_power,
    "librosa": _librosa_mel_power,
    "torchaudio": _torchaudio_mel_power,
}


@lru_cache(maxsize=8)
def _torch_window_and_filters(transform: MelTransform) -> tuple[Tensor, Tensor]:
    """The Hann window, zero-padded to (n_fft,), and filters (2 bins, n_mels) of squared real and imaginary parts."""
    sample_rate, n_fft, win_length, _, n_mels, fmin, fmax = transform
    before = (n_fft - win_length) // 2
    window = torch.zeros(n_fft)
    window[before : before + win_length] = torch.hann_window(win_length)
    filters = mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)  # (n_mels, bins), Slaney's
    last_bin = np.flatnonzero(filters.any(axis=0))[-1]  # that is not zero in all
    filters = np.ascontiguousarray(filters[:, : last_bin + 1])
    return window, torch.from_numpy(filters).T.repeat_interleave(2, dim=0)
