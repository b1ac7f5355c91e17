"""Log-mels as the pretrained networks heard them: pre-emphasis, Kaldi's mel bands, a fixed scale."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from models.mobilenet import BANDS

SAMPLE_RATE = 32_000  # Hz
HOP = 320  # samples
N_FFT, WINDOW = 1024, 800  # samples
FMAX = 15_000  # Hz
PRE_EMPHASIS = 0.97
OFFSET = 1e-5  # added to the power
MEAN, SCALE = -4.5, 5.0  # of the logarithm: the result is (log - MEAN) / SCALE
CACHED = 128  # frames transformed at a time: their spectra fit into the processor's caches


def kaldi_log_mel(waveform: np.ndarray, device: torch.device) -> Tensor:
    """(samples,) float32 at SAMPLE_RATE, two samples or more -> (BANDS, T) on the device, T = ceil(samples / HOP).

    Source: EfficientAT's preprocessing in evaluation mode, with the filters of torchaudio.compliance.kaldi.
    """
    y = waveform[1:] - PRE_EMPHASIS * waveform[:-1]
    y = torch.from_numpy(np.pad(y, N_FFT // 2, mode="reflect")).to(device)
    window, filters = _window_and_filters(device)
    frames = y.unfold(0, N_FFT, HOP)  # (T, N_FFT), a view
    log_mel = torch.empty(BANDS, len(frames), device=device)
    for chunk, out in zip(frames.split(CACHED), log_mel.split(CACHED, dim=1), strict=True):
        spectrum = torch.fft.rfft(chunk * window)[:, : len(filters) // 2]
        squares = torch.view_as_real(spectrum).flatten(1).square()  # (frames, 2 bins): re^2, im^2
        out.copy_((squares @ filters).add_(OFFSET).log_().sub_(MEAN).div_(SCALE).T)
    return log_mel


@cache
def _window_and_filters(device: torch.device) -> tuple[Tensor, Tensor]:
    """The symmetric Hann window, zero-padded to (N_FFT,), and Kaldi's triangles (2 bins, BANDS) of re^2 and im^2."""
    window = np.pad(np.hanning(WINDOW), (N_FFT - WINDOW) // 2)
    mel = 1127 * np.log1p(np.arange(0, FMAX, SAMPLE_RATE / N_FFT) / 700)  # of the bins; at FMAX all filters are 0
    edges = np.linspace(0, 1127 * np.log1p(FMAX / 700), BANDS + 2)
    rising = (mel[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - mel[:, None]) / np.diff(edges)[1:]
    filters = np.minimum(rising, falling).clip(0).repeat(2, axis=0)
    return tuple(torch.from_numpy(array.astype(np.float32)).to(device) for array in (window, filters))
