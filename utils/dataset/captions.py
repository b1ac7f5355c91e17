"""Captions: read in Clotho's form, clean and correct."""

import html
import re
from collections.abc import Sequence
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple
from unicodedata import category, name, normalize

from utils.common.csv_rows import csv_rows, refuse_repeated, shown_header
from utils.common.errors import UserError

HTML_ENTITY = re.compile("&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
CAPTION_COLUMNS = [f"caption_{k}" for k in range(1, 6)]


class RawCaption(NamedTuple):
    """A caption as the data set has it; `line` is where its row ends in the CSV file."""

    line: int
    file_name: str
    column: str
    raw_text: str


def read_captions(path: Path | str) -> list[RawCaption]:
    """Read clotho_captions_{split}.csv: columns file_name, caption_1, ..., caption_5; UTF-8, with or without BOM.

    Absent cells come out as empty captions, absent caption columns not at all.

    Raises UserError for what `csv_rows` refuses, and where there is no file_name or caption column, or one of them
    twice or beyond the fifth.
    """
    header, rows = csv_rows(path, "put the data set's captions there")
    columns = _caption_columns(path, header)
    return [RawCaption(line, row["file_name"], name, row[name]) for line, row in rows for name in columns]


def _caption_columns(path: Path | str, header: Sequence[str]) -> list[str]:
    """Those of the caption columns that a header has, in their order."""
    columns = [column for column in CAPTION_COLUMNS if column in header]
    if "file_name" not in header or not columns:
        wanted = f"file_name,{','.join(CAPTION_COLUMNS)}"
        raise UserError(f"{path}: line 1: the columns must be {wanted}, but are {shown_header(header)}")
    for column in header:
        if re.fullmatch(r"caption_\d+", column) and column not in CAPTION_COLUMNS:
            raise UserError(
                f"{path}: line 1: the column {column} is not read, five captions a clip are; remove it, or rename it"
            )
    refuse_repeated(path, header, ["file_name", *columns])
    return columns


class _Cleaning(dict[int, str]):
    """What `str.translate` makes of a lower-case character, by its Unicode category.

    Letters, marks, numbers and dashes stay ("walkie-talkie" is one word). What cannot be seen goes: direction marks,
    soft hyphens, variation selectors. All else, from punctuation to emoji, is a space.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if category(character) == "Cf" or "VARIATION SELECTOR" in name(character, ""):
            self[code] = ""
        else:
            self[code] = character if category(character)[0] in "LMN" or category(character) == "Pd" else " "
        return self[code]


_CLEANING = _Cleaning()


def clean_caption(raw: str) -> str:
    """Lower-case words, separated by one space; HTML entities are read first, and accents composed (NFC).

    `wordsOf` in utils/explore/templates/ranking.js does the same.
    """
    text = HTML_ENTITY.sub(lambda entity: html.unescape(entity[0]) or " ", raw)
    text = normalize("NFC", text.lower().translate(_CLEANING))
    words = ("".join(dropwhile(_is_mark, word)) for word in text.split())  # a mark without its letter is no word
    return " ".join(filter(None, words))


def _is_mark(character: str) -> bool:
    return category(character)[0] == "M"


def has_words(text: str) -> bool:
    """Whether anything but dashes is in a cleaned caption."""
    return any(character.isalnum() for character in text)


def correct_words(text: str, corrections: dict[str, str]) -> str:
    """Replace each word of a cleaned caption that the table lists."""
    return " ".join(corrections.get(word, word) for word in text.split())


def is_typed(word: str, corrections: dict[str, str]) -> bool:
    """Whether a query can hold a word: cleaning and correcting leave it one word, as it is."""
    return has_words(word) and correct_words(clean_caption(word), corrections).split() == [word]


def hyphenated_words(text: str) -> list[str]:
    """The words with a hyphen or a dash in them, for the user to look at."""
    return [word for word in text.split() if any(category(character) == "Pd" for character in word)]
