"""Captions: read them from Clotho's CSV files, clean and correct them."""

import html
import re
from functools import cache
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple
from unicodedata import category, name, normalize

from utils.common.csv_rows import csv_rows, refuse_repeated, shown_header
from utils.common.errors import UserError
from utils.dataset.paths import CLOTHO_ADVICE

HTML_ENTITY = re.compile("&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
CAPTION_COLUMNS = [f"caption_{k}" for k in range(1, 6)]


class RawCaption(NamedTuple):
    """A caption as the data set has it."""

    line: int  # on which its row ends in the CSV file
    file_name: str
    column: str
    raw_text: str


def read_captions(path: Path | str) -> list[RawCaption]:
    """Read clotho_captions_{split}.csv: columns file_name, caption_1, ..., caption_5; UTF-8, with or without BOM.

    Missing cells become empty captions; a missing caption column is skipped.

    Raises UserError for an invalid CSV file (see `csv_rows`), and if a required column is missing, repeated, or beyond
    caption_5.
    """
    header, rows = csv_rows(path, f"put the data set's captions there ({CLOTHO_ADVICE})")
    columns = [column for column in CAPTION_COLUMNS if column in header]
    if "file_name" not in header or not columns:
        required = f"file_name,{','.join(CAPTION_COLUMNS)}"
        raise UserError(f"{path}: line 1: the columns must be {required}, but are {shown_header(header)}")
    for column in header:
        if re.fullmatch(r"caption_\d+", column) and column not in CAPTION_COLUMNS:
            raise UserError(f"{path}: line 1: the column {column} is not read (five at most); remove or rename it")
    refuse_repeated(path, header, ["file_name", *columns])
    return [RawCaption(line, row["file_name"], column, row[column]) for line, row in rows for column in columns]


def clean_caption(raw: str) -> str:
    """Lower-case words separated by single spaces; HTML entities are decoded, accents composed (NFC).

    `wordsOf` in utils/explore/templates/ranking.js does the same.
    """
    text = raw
    for _ in range(2):  # some data sets escape twice: &amp;#39;
        text = HTML_ENTITY.sub(lambda entity: html.unescape(entity[0]) or " ", text)
    text = normalize("NFC", "".join(map(_clean_character, text.lower())))
    # a mark belongs to the letter before it
    words = ("".join(dropwhile(lambda character: category(character)[0] == "M", word)) for word in text.split())
    return " ".join(filter(None, words))


@cache
def _clean_character(character: str) -> str:
    """Keep letters, marks, numbers and dashes ("walkie-talkie" is one word), by Unicode category; drop invisible
    characters (direction marks, soft hyphens, variation selectors); turn all others into spaces.
    """
    if category(character) == "Cf" or "VARIATION SELECTOR" in name(character, ""):
        return ""
    return character if category(character)[0] in "LMN" or category(character) == "Pd" else " "


def has_words(text: str) -> bool:
    """Whether a cleaned caption holds anything but dashes."""
    return any(character.isalnum() for character in text)


def correct_words(text: str, corrections: dict[str, str]) -> str:
    """Replace the words of a cleaned caption that the table lists."""
    return " ".join(corrections.get(word, word) for word in text.split())


def is_typed(word: str, corrections: dict[str, str]) -> bool:
    """Whether a query can hold a word: cleaning and correction leave it unchanged, as one word."""
    return has_words(word) and correct_words(clean_caption(word), corrections).split() == [word]


def hyphenated_words(text: str) -> list[str]:
    """The words of a cleaned caption that hold a hyphen or dash."""
    return [word for word in text.split() if any(category(character) == "Pd" for character in word)]
