"""Sounds from outside the data set, as a trial's model reads them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from utils.audio_input import encoder_class
from utils.common.counts import counted
from utils.common.errors import UserError
from utils.conf.schema import Conf
from utils.dataset.audio import Clip
from utils.dataset.log_mel import read_log_mel
from utils.dataset.paths import AUDIO_FILES


class SoundReader(Protocol):
    """Reads sounds as training read those of the data set."""

    noun: str  # "log-mels" or "features"
    fmax: float  # Hz, the highest frequency that counts
    settings: dict[str, Any]  # all that decides what is read of a sound

    def read(self, path: Path) -> np.ndarray:
        """(T, D) float32; raises UserError where the sound cannot be read, or is too short for the model."""


class LogMels:
    """Log-mels by a trial's settings; a sound at another sample rate is resampled to that of most of these clips."""

    noun = "log-mels"

    def __init__(self, conf: Conf, clips: Iterable[Clip]):
        self.encoder, config = encoder_class(conf), conf.audio_logmel.config
        rates = Counter(clip.sample_rate for clip in clips)
        if config.sample_rate is None and rates:
            config = replace(config, sample_rate=rates.most_common(1)[0][0])
        self.config, self.fmax, self.settings = config, config.fmax, asdict(config)

    def read(self, path: Path) -> np.ndarray:
        require_sound(path)
        log_mel = read_log_mel(path, self.config)
        if not self.encoder.frames_out(len(log_mel)):
            shortest = (self.encoder.rate - 1) * self.config.hop
            needed = f"the model needs {self.encoder.rate}, about {shortest:g} s"
            raise UserError(f"{path}: too short: {counted(len(log_mel), 'frame')}; {needed}")
        return log_mel


def require_sound(path: Path) -> None:
    """Raise UserError where there is no such file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a {AUDIO_FILES} file")
