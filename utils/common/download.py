"""Download a file over HTTP, past broken connections and kills; it appears under its name once its MD5 is right."""

import hashlib
import time
from collections.abc import Iterable
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

from utils.common.errors import UserError, reason_of
from utils.common.io import progress, written

CHUNK = 2**20  # bytes
TIMEOUT = 60  # s without an answer or a byte
TRIES = 5  # in a row that bring nothing new
PAUSE = 1  # s after the first of them, doubled after each


def download(url: str, path: Path, md5: str, size: int) -> None:
    """Download a file to `path`. An interrupted download stays in {path}.part, and a later call continues it.

    Args:
        md5: of the whole file, hexadecimal.
        size: bytes, for the progress bar.

    Raises UserError where the server refuses, the connection keeps breaking, or the MD5 differs.
    """
    furthest, failures = 0, 0
    advice = f"run this again later, or download {url} by other means and put it at {path}"
    while problem := _fetch(url, path, size):
        reached = downloaded_bytes(path)
        failures = 1 if reached > furthest else failures + 1
        furthest = max(furthest, reached)
        if failures == TRIES or not problem.may_pass:
            raise UserError(f"{url}: could not be downloaded ({problem.reason:.200}); {advice}")
        time.sleep(PAUSE * 2 ** (failures - 1))
    part = _part(path)
    if (found := file_md5(part)) != md5:
        part.unlink()
        raise UserError(f"{url}: its MD5 is {found}, not {md5} as published, and the download was removed; {advice}")
    part.replace(path)


def downloaded_bytes(path: Path) -> int:
    """How much of an interrupted download to `path` is there."""
    part = _part(path)
    return part.stat().st_size if part.exists() else 0


def file_md5(path: Path) -> str:
    """MD5 of a file, hexadecimal; against damage, not against forgery."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


class _Problem(NamedTuple):
    """Why a request brought no complete file."""

    reason: str
    may_pass: bool = True  # false: trying again is useless


def _fetch(url: str, path: Path, size: int) -> _Problem | None:
    """Add to the part what it lacks of a file, or all of it where the server has no ranges. Returns the problem."""
    import requests

    part, start = _part(path), downloaded_bytes(path)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            status, sent = response.status_code, response.headers.get("Content-Range", "")
            if start and status == 416 and sent == f"bytes */{start}":
                return None  # the part is complete
            if status == 416 or (status == 206 and not sent.startswith(f"bytes {start}-")):
                part.unlink(missing_ok=True)
                return _Problem("the server's file does not continue the part of it that was there")
            length = response.headers.get("Content-Length", "")
            if start and status == 200 and length.isdecimal() and int(length) < start:  # such as a proxy's page
                return _Problem(f"the server sends {length} bytes, fewer than were there")
            if status not in (200, 206):
                return _Problem(f"the server answers {status} {response.reason}", status == 429 or status >= 500)
            _write(response.iter_content(CHUNK), part, start if status == 206 else 0, size)
    except requests.RequestException as error:
        return _Problem(reason_of(error))
    return None


def _write(chunks: Iterable[bytes], part: Path, start: int, size: int) -> None:
    """Write chunks behind the first `start` bytes of `part`; the progress bar counts MiB of the whole file."""
    items = chain(repeat(b"", start // CHUNK), chunks)
    with part.open("ab" if start else "wb") as stream:
        for chunk in progress(items, f"{part.stem} (MiB)", total=-(-size // CHUNK)):
            with written(part):
                stream.write(chunk)
                stream.flush()
