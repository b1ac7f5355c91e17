"""Features by EfficientAT's MobileNets: a frame each 0.32 s, from log-mels as these networks heard them."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from models.mobilenet import BANDS, RATE
from utils.common.digests import file_digest
from utils.dataset.feature_model import FeatureModel
from utils.dataset.pretrained_weights import find_weights, load_network

SAMPLE_RATE = 32_000  # Hz
HOP = 320  # samples
N_FFT, WINDOW = 1024, 800  # samples
FMAX = 15_000  # Hz
PRE_EMPHASIS = 0.97
OFFSET = 1e-5  # added to the power
MEAN, SCALE = -4.5, 5.0  # of the logarithm: the result is (log - MEAN) / SCALE
CACHED = 128  # frames transformed at a time: their spectra fit into the processor's caches
LONG = 120 * SAMPLE_RATE  # samples in a window; a whole number of frames


class MobileNetFeatures(FeatureModel):
    """Features (L, D), L = ceil(samples / 10240) at 32 kHz.

    Squeeze-excitation averages over all that is encoded at once: over a clip of less than four minutes, or over a
    window of two minutes, the last of up to four.
    """

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        network = load_network(self.place)
        device = next(network.parameters()).device
        return network(kaldi_log_mel(waveform, device)[None])[0].cpu().numpy()


def find_mobilenet(weights: str) -> MobileNetFeatures:
    """The network of a published name, downloaded if it is missing, or that of a file.

    Raises UserError as `find_weights` and `load_network` do.
    """
    name, path = find_weights(weights)
    return MobileNetFeatures(
        name=f"efficientat {name}",
        place=path,
        files=(path,),
        sha256=file_digest(path),
        size=load_network(path).size,
        seconds_per_frame=RATE * HOP / SAMPLE_RATE,  # 0.32
        sample_rate=SAMPLE_RATE,
        fmax=FMAX,
        window=LONG,
        longest=2 * LONG - 1,
        shortest=2,
    )


def kaldi_log_mel(waveform: np.ndarray, device: torch.device) -> Tensor:
    """Log-mels with pre-emphasis, Kaldi's mel bands and a fixed scale: (BANDS, T), T = ceil(samples / HOP).

    Args:
        waveform: (samples,) float32 at SAMPLE_RATE, two samples or more.

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
