"""The clips and captions of a split, to be played and quoted on a page."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.audio_input import audio_input
from utils.common.errors import UserError
from utils.common.hdf5 import get_dataset, open_hdf5
from utils.common.steps import INDEXING, LOG_MELS
from utils.conf.schema import Conf
from utils.data_utils import Split, load_split
from utils.dataset.index import TEXT_COLUMNS, read_clips, read_table
from utils.dataset.log_mel import read_log_mel
from utils.dataset.paths import DatasetPaths
from utils.report.page import Page


class Player(NamedTuple):
    """A clip that the page plays."""

    name: str  # the data set's file name: text, not a path
    source: str  # the copy's path from the page


class PlayableSplit:
    """A split's data, caption texts and audio files; `player` copies a clip beside the page."""

    def __init__(self, name: str, conf: Conf, words: list[str], page: Page):
        paths = DatasetPaths(conf.data_conf.dataset)
        self.name, self.conf, self.page, self.text_file = name, conf, page, paths.text(name)
        self.data: Split = load_split(paths, name, words, audio_input(conf), cache="disk")
        self.captions = read_table(self.text_file, TEXT_COLUMNS, INDEXING)["raw_text"]
        self.files = clip_files(paths, name, self.data.fids)

    def player(self, clip: int) -> Player:
        """Copy a clip beside the page."""
        path = self.files[clip]
        return Player(path.name, self.page.clip(path, self.data.fids[clip]))

    def log_mel(self, clip: int) -> np.ndarray:
        """`drawn_log_mel` of a clip."""
        return drawn_log_mel(self.conf, self.name, self.data.fids[clip], self.files[clip])


def drawn_log_mel(conf: Conf, split: str, fid: str, sound: Path) -> np.ndarray:
    """The log-mel (T, n_mels) of a clip, for a picture: from its file, or computed where training reads features."""
    if conf.data_conf.audio == "features":  # step 4 is then not needed
        return read_log_mel(sound, conf.audio_logmel.config)
    with open_hdf5(DatasetPaths(conf.data_conf.dataset).log_mels(split), LOG_MELS) as store:
        return get_dataset(store, fid, LOG_MELS)[()]


def clip_files(paths: DatasetPaths, split: str, fids: list[str]) -> list[Path]:
    """The audio files of a split's clips. UserError where one is not listed, or lies outside the data set."""
    clips = read_clips(paths, split)
    for fid in fids:
        if fid not in clips:
            raise UserError(f"{paths.audio_info}: does not list clip {fid} of {split}, which was scored; score again")
    return [paths.clip(split, clips[fid].file_name) for fid in fids]
