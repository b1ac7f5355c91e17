"""A pretrained network that makes features of sounds: what step 5 and search know of it, and how they read a file."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils.common.errors import UserError
from utils.common.steps import INDEXING
from utils.dataset.audio import mono_blocks, open_audio, resampled
from utils.dataset.log_mel_config import LOWEST_RATE

SKIP_IT = f"remove it and its row of captions, and run {INDEXING} again"


@dataclass(frozen=True)
class FeatureModel(ABC):
    """A network of features. Small to pickle: each process loads the network when it first encodes a sound."""

    name: str  # the attribute `model` of files of features
    place: Path  # the network's file or directory, for messages
    files: tuple[Path, ...]  # all that decide its features
    sha256: str  # of their content
    size: int  # D, of its features
    seconds_per_frame: float  # between frames
    sample_rate: int  # of what it hears, Hz
    fmax: float  # the highest frequency that it hears, Hz
    window: int  # samples; longer sounds are cut into windows of this length
    longest: int  # samples; a sound of at most this length, or the rest of a longer one, is encoded whole
    shortest: int  # samples; the least that it takes

    @abstractmethod
    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """Encode `shortest` to `longest` samples at `sample_rate`: (samples,) -> (L, D) float32, L >= 1."""


@torch.inference_mode()
def read_features(path: Path | str, model: FeatureModel, content: bytes | None = None) -> np.ndarray:
    """Encode an audio file, or its content: (L, D) float32.

    A long clip is cut into windows, each encoded as a clip of its own, so that memory is bounded. A frame near a cut
    does not hear beyond it. Where the last window is shorter than a frame, it is left out.

    Raises UserError if the file is damaged or too short, its sample rate is too low, or features are not finite.
    """
    with open_audio(path, content) as stream:
        if stream.samplerate < LOWEST_RATE:
            raise UserError(f"{path}: a sample rate of {stream.samplerate} Hz is too low to be resampled; {SKIP_IT}")
        waveform = resampled(mono_blocks(path, stream), stream.samplerate, model.sample_rate)
        features = []
        for window in _windows(waveform, model.window, model.longest):
            if features and len(window) < model.seconds_per_frame * model.sample_rate:
                break
            if len(window) < model.shortest:
                raise UserError(f"{path}: too short; {SKIP_IT}")
            with _full_precision():
                features.append(model.encode(window))
    joined = np.concatenate(features)
    if not np.isfinite(joined).all():
        raise UserError(f"{path}: its features by {model.name} are not finite; name another model, or {SKIP_IT}")
    return joined


@contextmanager
def _full_precision() -> Iterator[None]:
    """Compute in full float32 on a GPU, even where the trial that these features score allows TF32."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = False
    try:
        yield
    finally:
        for flag, allowed in zip(flags, before, strict=True):
            flag.allow_tf32 = allowed


def _windows(blocks: Iterable[np.ndarray], window: int, longest: int) -> Iterator[np.ndarray]:
    """Cut a waveform in blocks (samples,) into windows of `window` samples; the last has at most `longest`."""
    pending = np.zeros(0, np.float32)
    for block in blocks:
        pending = np.concatenate([pending, block])
        while len(pending) > longest:
            yield pending[:window]
            pending = pending[window:]
    yield pending
