"""A page and the files beside it, for reports, comparisons and live pages."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from utils.audio_input import audio_input
from utils.common.errors import UserError
from utils.common.hdf5 import get_dataset, open_hdf5
from utils.common.steps import INDEXING, LOG_MELS
from utils.conf.schema import Conf
from utils.data_utils import load_split
from utils.dataset.audio import highest_frequency
from utils.dataset.index import TEXT_COLUMNS, read_clips, read_table
from utils.dataset.log_mel import read_log_mel
from utils.dataset.paths import DatasetPaths
from utils.report import figures
from utils.report.figures import Picture
from utils.report.numbers import plain, shown, signed

TEMPLATES = Path(__file__).with_name("templates")
DIRECTIONS = {"text_to_audio": "Text-to-audio", "audio_to_text": "Audio-to-text"}


class Page:
    """A page and the files beside it.

    Args:
        folder: a new folder for them.
        templates: where the page's own templates are; it may extend those of reports.
    """

    def __init__(self, folder: Path, templates: Path = TEMPLATES):
        self.folder, self.templates = folder, templates
        self.pictures = 0

    def picture(self, picture: Picture) -> dict[str, object]:
        """Write a figure. Returns the attributes of its <img>."""
        self.pictures += 1
        source = f"figures/{self.pictures:03d}.svg"
        (self.folder / "figures").mkdir(exist_ok=True)
        (self.folder / source).write_text(picture.svg, encoding="utf-8")
        return {"src": source, "alt": picture.alt, "width": picture.width, "height": picture.height}

    def render(self, template: str, name: str, **content: object) -> None:
        """Fill a template with content, all of it escaped, and write it as the page `name`."""
        environment = Environment(
            loader=FileSystemLoader([self.templates, TEMPLATES]), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        environment.filters |= {"plain": plain}
        environment.globals |= {"shown": shown, "signed": signed, "colours": figures.colour_variables(":root")}
        (self.folder / name).write_text(environment.get_template(template).render(content), encoding="utf-8")


class PlayableSplit:
    """A split's data, caption texts and audio files; `player` copies a clip beside the page."""

    def __init__(self, name: str, conf: Conf, words: list[str], page: Page):
        paths = DatasetPaths(conf.data_conf.dataset)
        self.name, self.conf, self.folder, self.text_file = name, conf, page.folder, paths.text(name)
        self.data = load_split(paths, name, words, audio_input(conf), cache="disk")
        self.captions = read_table(self.text_file, TEXT_COLUMNS, INDEXING)["raw_text"]
        self.files = clip_files(paths, name, self.data.fids)

    def player(self, clip: int) -> dict[str, str]:
        """Copy a clip under a name that needs no quoting. Returns its file name and the copy's path from the page."""
        path = self.files[clip]
        source = f"clips/{self.data.fids[clip]}{path.suffix.lower()}"
        if not path.is_file():
            raise UserError(f"{path}: no such audio file; put it back")
        if not (self.folder / source).exists():
            (self.folder / "clips").mkdir(exist_ok=True)
            shutil.copyfile(path, self.folder / source)
        return {"name": path.name, "source": source}

    def log_mel(self, clip: int) -> np.ndarray:
        """`drawn_log_mel` of a clip."""
        return drawn_log_mel(self.conf, self.name, self.data.fids[clip], self.files[clip])


def drawn_log_mel(conf: Conf, split: str, fid: str, sound: Path) -> np.ndarray:
    """The log-mel (T, n_mels) of a clip, for a picture: from its file, or computed where training reads features."""
    if conf.data_conf.audio == "features":  # step 4 is then not needed
        return computed_log_mel(conf, sound)
    with open_hdf5(DatasetPaths(conf.data_conf.dataset).log_mels(split), LOG_MELS) as store:
        return get_dataset(store, fid, LOG_MELS)[()]


def computed_log_mel(conf: Conf, sound: Path) -> np.ndarray:
    """The log-mel (T, n_mels) of a sound at its own sample rate, as far as its frequencies go, for a picture."""
    config = conf.audio_logmel.config
    return read_log_mel(sound, replace(config, fmax=min(config.fmax, highest_frequency(sound))))


def clip_files(paths: DatasetPaths, split: str, fids: list[str]) -> list[Path]:
    """The audio files of a split's clips. UserError where one is not listed, or lies outside the data set."""
    clips = read_clips(paths, split)
    for fid in fids:
        if fid not in clips:
            raise UserError(f"{paths.audio_info}: does not list clip {fid} of {split}, which was scored; score again")
    return [paths.clip(split, clips[fid].file_name) for fid in fids]
