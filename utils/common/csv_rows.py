"""CSV files that people write; an error names the line."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from utils.common.errors import UserError

Rows = Iterator[tuple[int, dict[str, str]]]  # the line that a row ends on, and its cells, "" where absent


def csv_rows(path: Path | str, advice: str) -> tuple[list[str], Rows]:
    """The header and the rows of a CSV file in UTF-8, with or without BOM.

    Raises UserError for a missing file (with the advice), text that is not UTF-8 or not CSV, a row with surplus cells,
    and a cell with a NUL character or beyond the csv module's limit of 131,072 characters.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; {advice}")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: not UTF-8 text; save the file as UTF-8") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="", strict=True)
    with _csv_errors(path, reader):
        header = list(reader.fieldnames or [])
    return header, _rows(path, reader)


def _rows(path: Path | str, reader: csv.DictReader) -> Rows:
    with _csv_errors(path, reader):
        for row in reader:
            line = reader.line_num
            if None in row:
                raise UserError(f"{path}: line {line}: more cells than columns; put captions with commas in quotes")
            if any("\0" in cell for cell in row.values()):
                raise UserError(f"{path}: line {line}: holds a NUL character; the file is damaged, or not text")
            yield line, row


@contextmanager
def _csv_errors(path: Path | str, reader: csv.DictReader) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        advice = "; is a closing quote missing?" if "field limit" in str(error) else ""
        raise UserError(f"{path}: the row at line {reader.line_num + 1}: not valid CSV ({error}){advice}") from None


def shown_header(header: Sequence[str]) -> str:
    """A header as an error message shows it."""
    return ",".join(header).encode("unicode_escape").decode()[:200] or "absent"


def refuse_repeated(path: Path | str, header: Sequence[str], columns: Iterable[str]) -> None:
    """Raise UserError where a header holds one of the columns twice."""
    for column in columns:
        if header.count(column) > 1:
            raise UserError(f"{path}: line 1: the column {column} stands twice; remove one")
