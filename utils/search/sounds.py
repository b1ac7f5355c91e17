"""Sounds from outside the data set, read as training read those of the data set.

A reader has `noun`, what it reads; `fmax`, the highest frequency (Hz) that counts; and `settings`, which decide what is
read of a sound.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.audio_input import encoder_class
from utils.common.counts import counted
from utils.common.errors import UserError
from utils.conf.schema import Conf
from utils.dataset.feature_model import read_features
from utils.dataset.paths import AUDIO_FILES


class Heard(NamedTuple):
    """How the sounds of a model's data set were read, beyond its configuration."""

    source: str  # a file or a trial, in messages: what was made of them
    sample_rate: int | None  # Hz, of most clips
    weights_sha256: str | None = None  # of the network of features


class LogMels:
    """Log-mels by a model's settings; a sound at another sample rate is resampled to that of most clips."""

    noun = "log-mels"

    def __init__(self, conf: Conf, heard: Heard):
        self.encoder, config = encoder_class(conf), conf.audio_logmel.config
        if config.sample_rate is None:
            config = replace(config, sample_rate=heard.sample_rate)
        self.config, self.fmax, self.settings = config, config.fmax, asdict(config)

    def read(self, path: Path) -> np.ndarray:
        """(T, n_mels) float32; raises UserError where a sound cannot be read, or is too short for the model."""
        from utils.dataset.log_mel import read_log_mel  # here, as a search by text does without librosa

        require_sound(path)
        log_mel = read_log_mel(path, self.config)
        if not self.encoder.frames_out(len(log_mel)):
            shortest = (self.encoder.rate - 1) * self.config.hop
            needed = f"the model needs {self.encoder.rate}, about {shortest:g} s"
            raise UserError(f"{path}: too short: {counted(len(log_mel), 'frame')}; {needed}")
        return log_mel


class Features:
    """Features by the weights that the data set's were made by.

    Raises UserError where there are no such weights, or the user made the features.
    """

    noun = "features"

    def __init__(self, conf: Conf, heard: Heard):
        from utils.dataset.audio_features import find_model  # likewise

        if conf.audio_features.model == "own":
            advice = "no features can be made of another sound; search for the data set's clips by a text"
            raise UserError(f"audio_features.model: is own: {advice}")
        model = find_model(conf.audio_features.model, conf.audio_features.weights)
        if heard.weights_sha256 != model.sha256:
            raise UserError(f"{model.place}: not the weights that {heard.source} was made by; put those back")
        self.fmax = model.fmax if heard.sample_rate is None else min(model.fmax, heard.sample_rate / 2)
        self.model, self.settings = model, {"weights": model.sha256}

    def read(self, path: Path) -> np.ndarray:
        """(L, D) float32; raises UserError where a sound cannot be read."""
        require_sound(path)
        return read_features(path, self.model)


def require_sound(path: Path) -> None:
    """Raise UserError where there is no such file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a {AUDIO_FILES} file")
