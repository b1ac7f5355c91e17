"""Log-mel energies of a clip, by a config."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
from librosa.filters import mel  # here, not where it is called: a second's import, once for all worker processes

from utils.common.errors import UserError
from utils.common.steps import INDEXING
from utils.dataset.audio import mono_blocks, open_audio, resampled
from utils.dataset.log_mel_config import PUBLISHED, LogMelConfig, MelTransform

TRANSFORMED = 2**24  # values of the spectra made at a time: 8192 frames of a 2048-point FFT
CACHED = 128  # frames whose spectra are made at a time: with these, they stay in the processor's caches
LOG_OFFSET = float(np.spacing(1))  # 2.220446e-16: silence becomes -36.04, not -inf


def read_log_mel(path: Path | str, config: LogMelConfig, content: bytes | None = None) -> np.ndarray:
    """`log_mel_spectrogram` of an audio file, decoded (and resampled, where the config asks for it) block by block.

    Beside the result (T, n_mels) float32, and the file's content where the caller has that in memory already, memory
    does not grow with the clip's length.

    Raises UserError where the file is damaged, or the config does not fit it.
    """
    with open_audio(path, content) as stream:
        try:
            return _log_mel(mono_blocks(path, stream), stream.samplerate, config)
        except ValueError as error:
            advice = f"change the audio_logmel settings, or leave it out: {INDEXING} clotho_dataset.on_bad_data=skip"
            raise UserError(f"{path}: {error}; {advice}") from None


def log_mel_spectrogram(y: np.ndarray, sample_rate: int, config: LogMelConfig = PUBLISHED) -> np.ndarray:
    """Natural logarithm of the mel power spectrogram: Hann window, centred frames, Slaney mel filters.

    Args:
        y: (samples,) float waveform.
        sample_rate: Hz.
        config: window, hop and bands.

    Returns:
        (T, n_mels) float32 with T = 1 + samples // hop, samples counted once they are resampled, where they are.

    Raises:
        ValueError: the config does not fit the sample rate.

    Source: the published preprocessing (librosa's melspectrogram), method kept to float32.
    """
    return _log_mel([np.asarray(y, dtype=np.float32)], sample_rate, config)


def _log_mel(blocks: Iterable[np.ndarray], sample_rate: int, config: LogMelConfig) -> np.ndarray:
    """`log_mel_spectrogram` of a waveform in blocks (samples,) float32."""
    transform, mel_power = config.at(sample_rate), BACKENDS[config.backend]
    blocks = resampled(blocks, sample_rate, transform.sample_rate)
    powers = (mel_power(piece, transform) for piece in _pieces(blocks, transform))  # (n_mels, frames) each
    return np.concatenate([np.log(power + LOG_OFFSET, dtype=np.float32).T for power in powers])


def _pieces(blocks: Iterable[np.ndarray], transform: MelTransform) -> Iterator[np.ndarray]:
    """The waveform, zero-padded so that frames of n_fft samples are centred, in pieces that hold whole frames each.

    A clip of ordinary length is one piece; its neighbours overlap by what two frames share.
    """
    n_fft, hop_length = transform.n_fft, transform.hop_length
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


# --- back ends: a piece (samples,), already padded -> the mel power (n_mels, frames) of its frames --------


def _librosa_mel_power(y: np.ndarray, transform: MelTransform) -> np.ndarray:
    import librosa

    settings = transform._asdict()
    return librosa.feature.melspectrogram(y=y, sr=settings.pop("sample_rate"), center=False, **settings)


def _torch_mel_power(y: np.ndarray, transform: MelTransform) -> np.ndarray:
    import torch

    window, filters = _torch_window_and_filters(transform)
    frames = torch.from_numpy(y).unfold(0, transform.n_fft, transform.hop_length)  # (T, n_fft), a view
    squares = torch.empty(len(frames), len(filters))  # (T, 2 bins up to fmax): re^2, im^2
    for some, their_squares in zip(frames.split(CACHED), squares.split(CACHED), strict=True):
        spectrum = torch.fft.rfft(some * window)[:, : len(filters) // 2]
        torch.square(torch.view_as_real(spectrum).flatten(1), out=their_squares)
    return (squares @ filters).T.numpy()


def _torchaudio_mel_power(y: np.ndarray, transform: MelTransform) -> np.ndarray:
    import torch

    try:
        from torchaudio.transforms import MelSpectrogram
    except (ImportError, OSError) as error:
        raise UserError(
            f"audio_logmel.backend: torchaudio cannot be imported here ({error}); use torch or librosa instead"
        ) from None
    mel_power = MelSpectrogram(
        transform.sample_rate,
        transform.n_fft,
        transform.win_length,
        transform.hop_length,
        f_min=transform.fmin,
        f_max=transform.fmax,
        n_mels=transform.n_mels,
        center=False,
        norm="slaney",
        mel_scale="slaney",
    )
    return mel_power(torch.from_numpy(y)).numpy()


BACKENDS: dict[str, Callable[[np.ndarray, MelTransform], np.ndarray]] = {
    "torch": _torch_mel_power,
    "librosa": _librosa_mel_power,
    "torchaudio": _torchaudio_mel_power,
}


@lru_cache(maxsize=8)
def _torch_window_and_filters(transform: MelTransform) -> tuple:
    """The Hann window (n_fft,), zero around its win_length, and the filters (2 bins, n_mels) of squares as above."""
    import torch

    before = (transform.n_fft - transform.win_length) // 2
    window = torch.zeros(transform.n_fft)
    window[before : before + transform.win_length] = torch.hann_window(transform.win_length)
    return window, torch.from_numpy(_mel_filters(transform)).T.repeat_interleave(2, dim=0)


def _mel_filters(transform: MelTransform) -> np.ndarray:
    """librosa's Slaney filters (n_mels, bins), without the bins above fmax, where all are zero."""
    fmin, fmax = transform.fmin, transform.fmax
    filters = mel(sr=transform.sample_rate, n_fft=transform.n_fft, n_mels=transform.n_mels, fmin=fmin, fmax=fmax)
    return np.ascontiguousarray(filters[:, : int(np.flatnonzero(filters.any(axis=0))[-1]) + 1])
