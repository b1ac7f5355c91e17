"""Features by EfficientAT's MobileNets, which were trained on AudioSet: a frame each 0.32 s.

Weights are given by a path, or by a published name and then downloaded once. Log-mels are those of that training.
"""

import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.mobilenet import BANDS, RATE, MobileNetV3
from utils.common.digests import file_digest
from utils.common.errors import UserError, reason_of
from utils.common.io import is_plain_file, replaced
from utils.common.processes import pick_device
from utils.dataset.feature_model import FeatureModel

SAMPLE_RATE = 32_000  # Hz
HOP = 320  # samples
N_FFT, WINDOW = 1024, 800  # samples
FMAX = 15_000  # Hz
PRE_EMPHASIS = 0.97
OFFSET = 1e-5  # added to the power
MEAN, SCALE = -4.5, 5.0  # of the logarithm: the result is (log - MEAN) / SCALE
CACHED = 128  # frames transformed at a time: their spectra fit into the processor's caches
LONG = 120 * SAMPLE_RATE  # samples in a window; a whole number of frames

KEY = "audio_features.weights"
RELEASE = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1"
PUBLISHED = {  # name: file; mn04 has width 0.4, and mAP 0.432 on AudioSet
    "mn01_as": "mn01_as_mAP_298.pt",
    "mn02_as": "mn02_as_mAP_378.pt",
    "mn04_as": "mn04_as_mAP_432.pt",
    "mn05_as": "mn05_as_mAP_443.pt",
    "mn10_as": "mn10_as_mAP_471.pt",
    "mn20_as": "mn20_as_mAP_478.pt",
    "mn30_as": "mn30_as_mAP_482.pt",
    "mn40_as": "mn40_as_mAP_484.pt",
}
SHA256 = {"mn04_as": "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c"}  # those that are known


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


# --- log-mels --------------------------------------------------------------------------------------------


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


# --- weights ---------------------------------------------------------------------------------------------


def find_weights(weights: str) -> tuple[str, Path]:
    """The name and the file of published weights, downloaded if they are missing, or of those at a path.

    Raises UserError where there are none, or they cannot be downloaded.
    """
    name, path = (weights, _published(weights)) if weights in PUBLISHED else (Path(weights).stem, Path(weights))
    if not path.is_file():
        names = ", ".join(PUBLISHED)
        raise UserError(f"{KEY}: no such file: {weights}; name a file, or one of {names}, which are downloaded")
    return name, path


@cache
def load_network(path: Path) -> MobileNetV3:
    """A process's one copy of the network of a file, for inference on its GPU if it has one.

    Raises UserError where the file holds no such network.
    """
    again = f"download it again, or name another in {KEY} (such as {RELEASE}/{PUBLISHED['mn04_as']})"
    try:
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many types for damaged files, and advises to allow code
        raise UserError(f"{path}: damaged, or not a file of weights alone; {again}") from None
    try:
        network = MobileNetV3.from_state_dict(state)
    except (KeyError, RuntimeError, TypeError, AttributeError, IndexError, ValueError):
        raise UserError(f"{path}: weights of another network than EfficientAT's MobileNets; {again}") from None
    if not all(values.isfinite().all() for values in network.state_dict().values()):
        raise UserError(f"{path}: holds weights that are not finite; {again}")
    return network.folded().to(pick_device())


def _published(name: str) -> Path:
    """The file of a published name in torch's cache, downloaded if it is missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / PUBLISHED[name]
    if not path.exists():
        _download(name, path)
    if name in SHA256 and (not is_plain_file(path) or file_digest(path) != SHA256[name]):
        raise UserError(f"{path}: not {name} as published (by its SHA-256); remove it, and run this again")
    return path


def _download(name: str, path: Path) -> None:
    url = f"{RELEASE}/{PUBLISHED[name]}"
    print(f"{name}: downloading {url} -> {path}")
    try:
        with replaced(path) as temporary:
            torch.hub.download_url_to_file(url, temporary, SHA256.get(name), progress=sys.stderr.isatty())
            load_network(temporary)  # a download that was cut short is not kept
    except (OSError, RuntimeError, UserError) as error:
        reason = reason_of(error)
        raise UserError(
            f"{KEY}: {name} could not be downloaded ({reason:.200}); download {url} elsewhere, and name the file in "
            f"{KEY}, or put it at {path}"
        ) from None
    finally:
        load_network.cache_clear()
