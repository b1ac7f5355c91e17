"""Features of a clip by a pretrained network: a clip is encoded alone and whole, or in windows if it is long."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import torch

from models.mobilenet import RATE, MobileNetV3
from utils.common.errors import UserError
from utils.common.processes import pick_device
from utils.common.steps import FEATURES, INDEXING
from utils.dataset.audio import mono_blocks, open_audio, resampled
from utils.dataset.clip_store import ClipStore
from utils.dataset.kaldi_log_mel import HOP, SAMPLE_RATE, kaldi_log_mel
from utils.dataset.log_mel_config import LOWEST_RATE
from utils.dataset.pretrained_weights import Weights, load_network

SECONDS_PER_FRAME = RATE * HOP / SAMPLE_RATE  # 0.32
MODEL = "efficientat"  # the beginning of the attribute `model`
WINDOW = 120 * SAMPLE_RATE  # samples; a whole number of frames


class FeatureStore(ClipStore):
    """A split's features by a pretrained network, (L, C) each; features by other weights do not count as finished."""

    made_by, noun, unit = FEATURES, "features", "dimensions"

    def __init__(self, path: Path, weights: Weights):
        attributes = {
            "model": f"{MODEL} {weights.name}",
            "seconds_per_frame": SECONDS_PER_FRAME,
            "weights_sha256": weights.sha256,
        }
        super().__init__(path, attributes | {"window": WINDOW}, attributes)
        self.weights = weights

    @property
    def columns(self) -> int:
        return self.weights.size

    def compute(self, path: Path, content: bytes | None) -> np.ndarray:
        return read_features(path, network_of(self.weights.path), content)


def refuse_to_replace(path: Path) -> None:
    """Raise UserError where a file holds features that step 5 did not write."""
    try:
        with h5py.File(path, "r") as store:
            is_foreign = len(store) > 0 and "weights_sha256" not in store.attrs
    except (OSError, RuntimeError, ValueError):  # absent or damaged
        return
    if is_foreign:
        raise UserError(
            f"{path}: holds features of another model and is not replaced; set audio_features.model to own to use "
            "them, or move the file"
        )


@cache
def network_of(path: Path) -> MobileNetV3:
    """The network of a file of weights, on this process's GPU if it has one, in full float32 precision."""
    torch.backends.cudnn.allow_tf32 = False
    return load_network(path).to(pick_device())


@torch.inference_mode()
def read_features(path: Path | str, network: MobileNetV3, content: bytes | None = None) -> np.ndarray:
    """Encode an audio file, or its content: (L, C) float32, L = ceil(samples / 10240) at 32 kHz.

    A clip of less than four minutes is encoded whole. A longer one is cut into windows of two minutes, the last of up
    to four, each encoded as a clip of its own, so that memory is bounded. Squeeze-excitation then averages over the
    window, not over the clip, and a frame near a cut does not hear beyond it.

    Raises UserError if the file is damaged, or too short, or its sample rate is too low.
    """
    device = next(network.parameters()).device
    with open_audio(path, content) as stream:
        if stream.samplerate < LOWEST_RATE:
            raise UserError(f"{path}: a sample rate of {stream.samplerate} Hz is too low to be resampled; {_skipped()}")
        waveform = resampled(mono_blocks(path, stream), stream.samplerate, SAMPLE_RATE)
        features = []
        for window in _windows(waveform):
            if len(window) < 2:
                raise UserError(f"{path}: too short; {_skipped()}")
            features.append(network(kaldi_log_mel(window, device)[None])[0].cpu().numpy())
    return np.concatenate(features)


def _skipped() -> str:
    return f"remove it and its row of captions, and run {INDEXING} again"


def _windows(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Cut a waveform in blocks (samples,) into windows of WINDOW samples; the last has less than twice as many."""
    pending = np.zeros(0, np.float32)
    for block in blocks:
        pending = np.concatenate([pending, block])
        while len(pending) >= 2 * WINDOW:
            yield pending[:WINDOW]
            pending = pending[WINDOW:]
    yield pending
