"""Captions: read them from CSV files in wide or long form, clean and correct them."""

import html
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple
from unicodedata import category, name, normalize

from utils.common.csv_rows import csv_rows, refuse_repeated, shown_header
from utils.common.errors import UserError
from utils.dataset.paths import CLOTHO_ADVICE

HTML_ENTITY = re.compile("&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
FORMS = "file_name,caption_1,...,caption_n or file_name,caption"  # the wide and the long form


class RawCaption(NamedTuple):
    """A caption as the data set has it."""

    line: int  # on which its row ends in the CSV file
    file_name: str
    column: str  # caption_k: in the wide form its column, in the long form for the k-th row of this file name
    raw_text: str


def read_captions(path: Path | str) -> list[RawCaption]:
    """Read clotho_captions_{split}.csv: UTF-8, with or without BOM.

    The wide form has a row per clip and the columns file_name, caption_1, ..., caption_n; numbers may be left out. The
    long form has a row per caption and the columns file_name, caption; the rows of a clip need not be adjacent.
    Other columns are ignored. Missing cells become empty captions.

    Raises UserError for an invalid CSV file (see `csv_rows`), and if the columns are of neither form, of both, repeated
    or numbered below 1.
    """
    header, rows = csv_rows(path, f"put the data set's captions there ({CLOTHO_ADVICE})")
    numbered, is_long = _numbered_columns(path, header), "caption" in header
    if "file_name" not in header or not (numbered or is_long):
        raise UserError(f"{path}: line 1: the columns must be {FORMS}, but are {shown_header(header)}")
    if numbered and is_long:
        raise UserError(f"{path}: line 1: has the columns caption and {numbered[0]}; keep the captions of one of them")
    refuse_repeated(path, header, ["file_name", *(["caption"] if is_long else numbered)])
    if not is_long:
        return [RawCaption(line, row["file_name"], column, row[column]) for line, row in rows for column in numbered]
    captions, counts = [], Counter()
    for line, row in rows:
        counts[row["file_name"]] += 1
        column = f"caption_{counts[row['file_name']]}"
        captions.append(RawCaption(line, row["file_name"], column, row["caption"]))
    return captions


def _numbered_columns(path: Path | str, header: Sequence[str]) -> list[str]:
    """The columns caption_k of a header by their numbers k; UserError for a k that is no number from 1 on."""
    numbers = {}
    for column in header:
        if match := re.fullmatch("caption_([+-]?[0-9]+)", column):
            if not re.fullmatch("[1-9][0-9]{0,5}", match[1]):
                raise UserError(
                    f"{path}: line 1: the column {column}: captions are numbered 1, 2, 3; rename or remove it"
                )
            numbers[column] = int(match[1])
    return sorted(numbers, key=numbers.get)


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
