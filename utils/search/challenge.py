"""Rank the sounds of a folder for each caption of a file, in the form that challenges ask for."""

import warnings
from pathlib import Path
from typing import NamedTuple

from utils.common.counts import counted
from utils.common.csv_rows import csv_rows, refuse_repeated, shown_header
from utils.common.errors import UserError
from utils.common.folders import own_file, require_own_file
from utils.common.io import write_rows
from utils.dataset.captions import clean_caption, has_words
from utils.search.folder_search import SHOWN, FolderSearch, shown_words
from utils.search.scorer import Scorer
from utils.search.text_search import best

CAPTIONS = ("caption", "caption_query")  # column names of a challenge's file, and of a submission
RANKING = "ranking"  # the kind of the output file


class Query(NamedTuple):
    """A caption to rank sounds for."""

    line: int  # on which its row ends in the file
    text: str  # raw


def rank_folder(scorer: Scorer, queries: Path, folder: Path, out: Path, cache: Path, top: int = 10) -> None:
    """Rank a folder's sounds for each caption of a CSV file by a model, and write a CSV file.

    Its columns are caption_query, file_name_1, ..., file_name_{top} (fewer for fewer sounds), its rows those of the
    input. Ties are sorted by name; so are all sounds for a caption without known words, with a warning.

    Args:
        cache: the folder that keeps the scores of encoded sounds.

    Raises UserError if a row of the file or (unless clotho_dataset.on_bad_data is skip) a sound cannot be used.
    """
    if top < 1:
        raise UserError(f"top: is {top}, but must be at least 1")
    captions = read_queries(queries)
    require_own_file(out, RANKING, [queries])
    search = FolderSearch(scorer, folder, cache, [query.text for query in captions])
    names = search.names
    _warn_unknown(search, captions, queries)
    rows = [[query.text, *(names[i] for i in best(search.scores(query.text), top))] for query in captions]
    header = ["caption_query", *(f"file_name_{k}" for k in range(1, min(top, len(names)) + 1))]
    with own_file(out, RANKING) as temporary:
        write_rows(temporary, header, rows)
    print(f"{counted(len(rows), 'caption')}, {counted(len(names), 'sound')} -> {out}")


def _warn_unknown(search: FolderSearch, queries: list[Query], source: Path) -> None:
    """Warn of the queries' unknown words, and of queries that have no others."""
    unknown = list(dict.fromkeys(word for query in queries for word in search.unknown_words(query.text)))
    if unknown:
        warnings.warn(f"unknown words, left out: {shown_words(unknown)}", stacklevel=2)
    lost = [query for query in queries if not search.known_tokens(query.text)]
    for line, text in lost[:SHOWN]:
        reason = f"no word of {text[:200]!r} is known: the sounds are sorted by name"
        warnings.warn(f"{source}: line {line}: {reason}", stacklevel=2)
    if more := len(lost[SHOWN:]):
        warnings.warn(f"{source}: {counted(more, 'more caption')} without any known word", stacklevel=2)


def read_queries(path: Path) -> list[Query]:
    """Read the captions in the column `caption` (or `caption_query`) of a CSV file.

    Raises UserError for an invalid CSV file (see `csv_rows`), no such column or both, no rows, or a caption without
    words.
    """
    header, rows = csv_rows(path, "name a CSV file with a column caption")
    columns = [column for column in CAPTIONS if column in header]
    if len(columns) != 1:
        raise UserError(f"{path}: line 1: needs one column, {' or '.join(CAPTIONS)}, but has {shown_header(header)}")
    refuse_repeated(path, header, columns)
    queries = [Query(line, row[columns[0]]) for line, row in rows]
    for query in queries:
        if not has_words(clean_caption(query.text)):
            raise UserError(f"{path}: line {query.line}: the caption {query.text[:200]!r} holds no words; correct it")
    if not queries:
        raise UserError(f"{path}: holds no captions")
    return queries
