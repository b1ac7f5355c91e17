"""Features by EfficientAT's MobileNets: a frame each 0.32 s."""

from functools import cache
from pathlib import Path

import numpy as np

from models.mobilenet import RATE, MobileNetV3
from utils.common.processes import pick_device
from utils.dataset.feature_model import FeatureModel
from utils.dataset.kaldi_log_mel import FMAX, HOP, SAMPLE_RATE, kaldi_log_mel
from utils.dataset.pretrained_weights import find_weights, load_network

SECONDS_PER_FRAME = RATE * HOP / SAMPLE_RATE  # 0.32
WINDOW = 120 * SAMPLE_RATE  # samples; a whole number of frames


class MobileNetFeatures(FeatureModel):
    """Features (L, D), L = ceil(samples / 10240) at 32 kHz.

    Squeeze-excitation averages over all that is encoded at once: over a clip of less than four minutes, or over a
    window of two minutes, the last of up to four.
    """

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        network = network_of(self.place)
        device = next(network.parameters()).device
        return network(kaldi_log_mel(waveform, device)[None])[0].cpu().numpy()


def find_mobilenet(weights: str) -> MobileNetFeatures:
    """The network of a published name or of a file. Raises UserError as `find_weights` does."""
    name, path, sha256, size = find_weights(weights)
    return MobileNetFeatures(
        name=f"efficientat {name}",
        place=path,
        files=(path,),
        sha256=sha256,
        size=size,
        seconds_per_frame=SECONDS_PER_FRAME,
        sample_rate=SAMPLE_RATE,
        fmax=FMAX,
        window=WINDOW,
        longest=2 * WINDOW - 1,
        shortest=2,
    )


@cache
def network_of(path: Path) -> MobileNetV3:
    """The network of a file of weights, on this process's GPU if it has one."""
    return load_network(path).to(pick_device())
