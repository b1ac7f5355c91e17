"""Additional relevant pairs of clips and captions, from the file data_conf.relevance."""

import ast
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

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

if TYPE_CHECKING:
    import pandas as pd

PAIRS, QUERIES = ("file_name", "caption"), ("query", "audio_filenames")  # the columns of either form
FORMS = f"{','.join(PAIRS)} or {','.join(QUERIES)}"
SETTING, SPLIT = "data_conf.relevance", "data_conf.eval_data"
ABSENT = f"name a CSV file of {FORMS}, or set {SETTING} to null"
RELEVANT_PAIRS = "right pairs"  # their name in provenance.json
SHOWN = 20  # unknown names on the terminal


def extra_relevant_pairs(conf: Conf, split: str, stored: StoredScores) -> np.ndarray | None:
    """(P, 2) indices of clips and captions in a split's scores that are relevant as well.

    None where data_conf.relevance is null, or the split is not data_conf.eval_data.

    Raises UserError where the file cannot be read, or names what the split does not have.
    """
    if conf.data_conf.relevance is None or split != conf.data_conf.eval_data:
        return None
    index, captions, pairs = _read_relevance(conf)
    clip_numbers, caption_numbers = ({name: i for i, name in enumerate(names)} for names in (stored.fids, stored.tids))
    if not set(captions["fid"]) <= clip_numbers.keys() or not set(captions["tid"]) <= caption_numbers.keys():
        raise UserError(f"{index}: not the captions that were scored; run {SCORING} again")
    clips = dict(zip(captions["file_name"], captions["fid"].map(clip_numbers), strict=True))
    of_text = captions["tid"].map(caption_numbers).groupby(captions["raw_text"]).agg(list)
    found = [(clips[name], caption) for name, text in pairs for caption in of_text[text]]
    return np.array(found, dtype=np.int64)


def require_pairs(conf: Conf) -> None:
    """Raise UserError where data_conf.relevance is set, but metrics could not use it."""
    if conf.data_conf.relevance is not None:
        _read_relevance(conf)


def _read_relevance(conf: Conf) -> "tuple[Path, pd.DataFrame, list[tuple[str, str]]]":
    """The captions file of data_conf.eval_data, its rows, and the pairs (file_name, caption) of data_conf.relevance.

    A name or caption is found where it is the same to the character; a caption may have several rows.
    """
    path = conf.data_conf.relevance
    index = DatasetPaths(conf.data_conf.dataset).text(conf.data_conf.eval_data)
    captions = read_table(index, ["tid", "fid", "file_name", "raw_text"], INDEXING)
    header, rows = csv_rows(path, ABSENT)
    form = next((form for form in (PAIRS, QUERIES) if set(form) <= set(header)), None)
    if form is None:
        raise UserError(f"{path}: line 1: the columns must be {FORMS}, but are {shown_header(header)}")
    refuse_repeated(path, header, form)
    known, texts, pairs, unknown = set(captions["file_name"]), set(captions["raw_text"]), [], []
    for line, row in rows:
        if form == PAIRS:
            names, text = [row["file_name"]], row["caption"]
        else:
            names, text = _listed(row["audio_filenames"], f"{path}: line {line}"), row["query"]
        for name in names:
            if name not in known:
                unknown.append(f"{path}: line {line}: {index} has no clip {name[:200]!r}; write file_name as there")
        if text not in texts:
            unknown.append(f"{path}: line {line}: {index} has no caption {text[:200]!r}; write it as raw_text is there")
        pairs += [(name, text) for name in names]
    if not pairs:
        raise UserError(f"{path}: holds no pairs; {ABSENT}")
    if len(unknown) > SHOWN:
        unknown[SHOWN:] = [f"{path}: {len(unknown) - SHOWN} more names and captions are unknown"]
    if unknown:
        raise UserError("\n".join(unknown))
    return index, captions, pairs


def _listed(cell: str, place: str) -> list[str]:
    """The clips of a row of QUERIES, as DCASE 2025 has it: a list of names as Python writes it."""
    with warnings.catch_warnings(action="ignore"):  # of the parser, about numbers and escapes in other text
        try:
            names = ast.literal_eval(cell)  # runs nothing
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        what = f"audio_filenames is {cell[:200]!r}"
        raise UserError(f"{place}: {what}; it must be a list of names, such as ['a.wav', 'b.wav']")
    return names


def measured_by(conf: Conf) -> dict[str, dict]:
    """What provenance.json records of data_conf.relevance; nothing where it is null."""
    path = conf.data_conf.relevance
    if path is None:
        return {}
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; {ABSENT}")
    settings = {SETTING: path, SPLIT: conf.data_conf.eval_data}
    return {"settings": settings, "sources": {RELEVANT_PAIRS: file_digest(path)}}


def as_measured(trial: Trial, given: bool = False) -> Trial:
    """A trial with the data_conf.relevance that its split was measured by; unchanged if the split was not measured.

    `given`: the command line sets data_conf.relevance; the content of that file must be the same.

    Raises UserError where a file is missing, has changed since, or has other content.
    """
    measuring = read_provenance(trial.path).get(MEASURING)
    if measuring is None:
        return trial
    conf, before, digest = trial.conf, None, None
    if measuring.settings.get(SPLIT) == conf.data_conf.eval_data:
        before, digest = measuring.settings.get(SETTING), measuring.sources.get(RELEVANT_PAIRS)
    if not isinstance(before, str | None):
        raise UserError(f"{trial.path / PROVENANCE}: not as {MEASURING} writes it; run that again")
    wanted, found = conf.data_conf.relevance if given else before, {None: None}
    for path in filter(None, (before, wanted)):
        found[path] = next(iter(digests(trial.path, [Path.cwd() / path]).values()), None)
        if found[path] is None:
            raise UserError(f"{path}: no such file; put it back, or run {MEASURING} again for {trial}")
    if found[before] != digest:
        raise UserError(f"{before}: has changed since {MEASURING} read it for {trial}; run that again")
    if found[wanted] != digest:
        what = f"measured with {SETTING} {before or 'null'}, but it is now {wanted or 'null'}"
        raise UserError(f"{trial}: {what}; leave the setting out, or run {MEASURING} again with it")
    data_conf = conf.data_conf.model_copy(update={"relevance": wanted})
    return replace(trial, conf=conf.model_copy(update={"data_conf": data_conf}))
