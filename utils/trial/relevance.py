"""Further right pairs of the split for the results, as data_conf.relevance names them."""

from pathlib import Path

import numpy as np

from utils.common.csv_rows import csv_rows, refuse_repeated, shown_header
from utils.common.digests import file_digest
from utils.common.errors import UserError
from utils.common.steps import INDEXING, SCORING
from utils.conf.schema import Conf
from utils.dataset.index import read_table
from utils.dataset.paths import DatasetPaths
from utils.trial.provenance import Entry
from utils.trial.score_files import StoredScores

COLUMNS = ("file_name", "caption")
SETTING, SPLIT = "data_conf.relevance", "data_conf.eval_data"
ABSENT = f"name a CSV file of {','.join(COLUMNS)}, or set {SETTING} to null"
RIGHT_PAIRS = "right pairs"  # in the sources of what was measured by them
SHOWN = 20  # unknown names on the terminal


def further_pairs(conf: Conf, split: str, stored: StoredScores) -> np.ndarray | None:
    """(P, 2) clips and captions, by their places in a split's scores, that are right for one another as well.

    The names and captions are those of the split's captions file, to the character; a caption that stands there
    several times is meant wherever it stands. None where data_conf.relevance says nothing of this split.

    Raises UserError where the file cannot be read, or names what the split does not have.
    """
    if conf.data_conf.relevance is None or split != conf.data_conf.eval_data:
        return None
    paths = DatasetPaths(conf.data_conf.dataset)
    table = read_table(paths.text(split), ["tid", "fid", "file_name", "raw_text"], INDEXING)
    clips = {fid: i for i, fid in enumerate(stored.fids)}
    captions = {tid: i for i, tid in enumerate(stored.tids)}
    if not set(table["fid"]) <= clips.keys() or not set(table["tid"]) <= captions.keys():
        raise UserError(f"{paths.text(split)}: not the captions that were scored; run {SCORING} again")
    of_name = dict(zip(table["file_name"], table["fid"].map(clips), strict=True))
    of_text = table["tid"].map(captions).groupby(table["raw_text"]).agg(list).to_dict()
    path, index = conf.data_conf.relevance, paths.text(split)
    pairs, unknown = [], []
    for line, name, text in _read_pairs(path):
        if name not in of_name:
            unknown.append(f"{path}: line {line}: {index} has no clip {name!r}; write file_name as there")
        if text not in of_text:
            unknown.append(f"{path}: line {line}: {index} has no caption {text[:200]!r}; write it as raw_text is there")
        pairs += [(of_name.get(name), caption) for caption in of_text.get(text, ())]
    if len(unknown) > SHOWN:
        unknown[SHOWN:] = [f"{path}: {len(unknown) - SHOWN} more names and captions are unknown"]
    if unknown:
        raise UserError("\n".join(unknown))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _read_pairs(path: str) -> list[tuple[int, str, str]]:
    """The line, the file name and the caption of each row."""
    header, rows = csv_rows(path, ABSENT)
    if not set(COLUMNS) <= set(header):
        raise UserError(f"{path}: line 1: the columns must be {','.join(COLUMNS)}, but are {shown_header(header)}")
    refuse_repeated(path, header, COLUMNS)
    pairs = [(line, *(row[column] for column in COLUMNS)) for line, row in rows]
    if not pairs:
        raise UserError(f"{path}: holds no pairs; {ABSENT}")
    return pairs


# --- what the record of measuring says of it -------------------------------------------------------------


def measured_by(conf: Conf) -> dict[str, dict]:
    """The settings and the sources that metrics by a configuration have in their record; none where it is null."""
    path = conf.data_conf.relevance
    if path is None:
        return {}
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; {ABSENT}")
    return {"settings": {SETTING: path, SPLIT: conf.data_conf.eval_data}, "sources": {RIGHT_PAIRS: file_digest(path)}}


def as_measured(conf: Conf, measuring: Entry) -> Conf:
    """A trial's configuration with the data_conf.relevance that its split was measured by, however given."""
    of_split = measuring.settings.get(SPLIT) == conf.data_conf.eval_data
    data = conf.data_conf.model_copy(update={"relevance": measuring.settings.get(SETTING) if of_split else None})
    return conf.model_copy(update={"data_conf": data})
