"""Further right pairs of the split for the results, as data_conf.relevance names them."""

from collections.abc import Container
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from utils.common.csv_rows import csv_rows, refuse_repeated, shown_header
from utils.common.digests import digests, file_digest
from utils.common.errors import UserError
from utils.common.steps import INDEXING, MEASURING, SCORING
from utils.conf.schema import Conf
from utils.dataset.index import read_table
from utils.dataset.paths import DatasetPaths
from utils.trial.provenance import PROVENANCE, read_provenance
from utils.trial.score_files import StoredScores
from utils.trial.trial import Trial

COLUMNS = ("file_name", "caption")
SETTING, SPLIT = "data_conf.relevance", "data_conf.eval_data"
ABSENT = f"name a CSV file of {','.join(COLUMNS)}, or set {SETTING} to null"
RELEVANT_PAIRS = "right pairs"  # in the sources of what was measured by them
SHOWN = 20  # unknown names on the terminal


def extra_relevant_pairs(conf: Conf, split: str, stored: StoredScores) -> np.ndarray | None:
    """(P, 2) clips and captions, by their places in a split's scores, that are right for one another as well.

    The names and captions are those of the split's captions file, to the character; a caption that stands there
    several times is meant wherever it stands. None where data_conf.relevance says nothing of this split.

    Raises UserError where the file cannot be read, or names what the split does not have.
    """
    if conf.data_conf.relevance is None or split != conf.data_conf.eval_data:
        return None
    index, table = _captions(conf)
    clips = {fid: i for i, fid in enumerate(stored.fids)}
    captions = {tid: i for i, tid in enumerate(stored.tids)}
    if not set(table["fid"]) <= clips.keys() or not set(table["tid"]) <= captions.keys():
        raise UserError(f"{index}: not the captions that were scored; run {SCORING} again")
    of_name = dict(zip(table["file_name"], table["fid"].map(clips), strict=True))
    of_text = table["tid"].map(captions).groupby(table["raw_text"]).agg(list).to_dict()
    named = _named_pairs(conf.data_conf.relevance, index, of_name, of_text)
    pairs = [(of_name[name], caption) for name, text in named for caption in of_text[text]]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def require_pairs(conf: Conf) -> None:
    """Raise UserError where data_conf.relevance is set, and metrics could not be computed by it."""
    if conf.data_conf.relevance is not None:
        index, table = _captions(conf)
        _named_pairs(conf.data_conf.relevance, index, set(table["file_name"]), set(table["raw_text"]))


def _captions(conf: Conf) -> tuple[Path, pd.DataFrame]:
    """The captions file of the split for the results, and its rows."""
    index = DatasetPaths(conf.data_conf.dataset).text(conf.data_conf.eval_data)
    return index, read_table(index, ["tid", "fid", "file_name", "raw_text"], INDEXING)


def _named_pairs(path: str, index: Path, names: Container[str], texts: Container[str]) -> list[tuple[str, str]]:
    """The pairs of a file, all of whose names and captions stand in an index."""
    pairs, unknown = [], []
    for line, name, text in _read_pairs(path):
        if name not in names:
            unknown.append(f"{path}: line {line}: {index} has no clip {name!r}; write file_name as there")
        if text not in texts:
            unknown.append(f"{path}: line {line}: {index} has no caption {text[:200]!r}; write it as raw_text is there")
        pairs.append((name, text))
    if len(unknown) > SHOWN:
        unknown[SHOWN:] = [f"{path}: {len(unknown) - SHOWN} more names and captions are unknown"]
    if unknown:
        raise UserError("\n".join(unknown))
    return pairs


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
    settings = {SETTING: path, SPLIT: conf.data_conf.eval_data}
    return {"settings": settings, "sources": {RELEVANT_PAIRS: file_digest(path)}}


def as_measured(trial: Trial, given: bool = False) -> Trial:
    """A trial, its configuration with the data_conf.relevance that its split was measured by; unchanged if it was not.

    Args:
        given: whether the command line has that setting: then it has to be the one that was measured by.

    Raises UserError where the right pairs are others now.
    """
    measuring = read_provenance(trial.path).get(MEASURING)
    if measuring is None:
        return trial
    conf = trial.conf
    of_split = measuring.settings.get(SPLIT) == conf.data_conf.eval_data
    before = measuring.settings.get(SETTING) if of_split else None
    digest = measuring.sources.get(RELEVANT_PAIRS) if of_split else None
    if not isinstance(before, str | None):
        raise UserError(f"{trial.path / PROVENANCE}: not as {MEASURING} writes it; run that again")
    wanted = conf.data_conf.relevance if given else before
    files = {path: _digest(trial.path, path) for path in (before, wanted) if path is not None}
    for path, found in files.items():
        if found is None:
            raise UserError(f"{path}: no such file; put it back, or run {MEASURING} again for {trial}")
    if files.get(before) != digest:
        raise UserError(f"{before}: has changed since {MEASURING} read it for {trial}; run that again")
    if files.get(wanted) != digest:
        what = f"measured with {SETTING} {before or 'null'}, but it is now {wanted or 'null'}"
        raise UserError(f"{trial}: {what}; leave the setting out, or run {MEASURING} again with it")
    data_conf = conf.data_conf.model_copy(update={"relevance": wanted})
    return replace(trial, conf=conf.model_copy(update={"data_conf": data_conf}))


def _digest(trial: Path, path: str) -> str | None:
    """A file's SHA-256, which the trial keeps; None where it is none."""
    return next(iter(digests(trial, [Path.cwd() / path]).values()), None)
