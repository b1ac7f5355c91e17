"""The log-mels of a split's clips."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from utils.common.steps import LOG_MELS
from utils.dataset.clip_store import ClipStore
from utils.dataset.log_mel import read_log_mel
from utils.dataset.log_mel_config import LogMelConfig


class LogMelStore(ClipStore):
    """A split's log-mels, (T, n_mels) each; log-mels by another config do not count as finished."""

    made_by, noun, unit = LOG_MELS, "log-mels", "bands"

    def __init__(self, path: Path, config: LogMelConfig):
        super().__init__(path, asdict(config))
        self.config = config

    @property
    def columns(self) -> int:
        return self.config.n_mels

    def compute(self, path: Path, content: bytes | None) -> np.ndarray:
        return read_log_mel(path, self.config, content)
