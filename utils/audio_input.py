"""The audio input of training: a clip's log-mels, or features that a pretrained network made of it."""

from dataclasses import dataclass, replace
from pathlib import Path

from models.audio_encoders import AUDIO_ENCODERS
from utils.common.errors import UserError
from utils.common.hdf5 import open_hdf5
from utils.common.steps import FEATURES, LOG_MELS, Stage, stage_files
from utils.conf.schema import Conf
from utils.dataset.paths import DatasetPaths


@dataclass(frozen=True)
class AudioInput:
    """The audio input: a (T, D) data set of each clip under its fid, in an HDF5 file for each split."""

    noun: str  # "log-mels" or "features"
    stage: Stage  # makes the files
    encoder: type  # a model's audio encoder, which reads T frames
    width: int | None  # D; None: that of the first clip
    width_source: str  # in messages: what asks for that width
    hop: float | None  # seconds between frames; None: the files say

    def path(self, paths: DatasetPaths, split: str) -> Path:
        """The file of a split."""
        (path,) = stage_files(paths.root, self.stage.outputs, [split])
        return path

    def of_width(self, width: int, source: str) -> "AudioInput":
        """The same with D = `width`, which `source` asks for."""
        return replace(self, width=width, width_source=source)

    def seconds_per_frame(self, paths: DatasetPaths, split: str) -> float:
        """Seconds between frames; raises UserError where a split's file of features does not say."""
        if self.hop is not None:
            return self.hop
        path = self.path(paths, split)
        with open_hdf5(path, self.stage) as store:
            seconds = float(store.attrs.get("seconds_per_frame", 0))
        if not 0 < seconds < 1e6:  # false of NaN
            raise UserError(
                f"{path}: its attribute seconds_per_frame is missing or not a duration; run {self.stage} again"
            )
        return seconds


def encoder_class(conf: Conf) -> type:
    """The class of the configured audio encoder."""
    return AUDIO_ENCODERS[conf.CRNNWordModel.audio_enc.name]


def audio_input(conf: Conf) -> AudioInput:
    """The audio input of a configuration."""
    encoder, in_dim = encoder_class(conf), conf.CRNNWordModel.audio_enc.in_dim
    if conf.data_conf.audio == "features":
        source = "features have" if in_dim is None else "CRNNWordModel.audio_enc.in_dim (null: any size) asks for"
        return AudioInput("features", FEATURES, encoder, in_dim, source, None)
    settings = conf.audio_logmel
    source = "audio_logmel.n_mels asks for"
    return AudioInput("log-mels", LOG_MELS, encoder, settings.n_mels, source, settings.hop)
