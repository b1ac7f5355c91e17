"""The download of Clotho, from a local server with faults: broken connections, wrong sizes, hostile archives, kills."""

import hashlib
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import py7zr
import pytest

from tests.helpers import ROOT, call
from utils.common import download
from utils.common.lock import held
from utils.dataset import clotho_download
from utils.dataset.clotho_download import CLOTHO

SCRIPT = "preprocessing/0_download_clotho.py"
CLIPS = {"development": ["a dog.wav", "rain – 雨.wav"], "validation": ["wind.wav"], "evaluation": ["bird #1.wav"]}
ARCHIVE = "clotho_audio_development.7z"
CHUNK = 1000  # bytes


class Handler(BaseHTTPRequestHandler):
    """Serves the server's files, with ranges; `server.fault` may change an answer about ARCHIVE."""

    def do_GET(self):
        name, asked = self.path.removeprefix("/"), self.headers["Range"]
        self.server.asked.append((name, asked))
        content = self.server.files[name]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start and start >= len(content):
            status, headers, body = 416, {"Content-Range": f"bytes */{len(content)}"}, b""
        elif start:
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status, headers, body = 206, {"Content-Range": span}, content[start:]
        else:
            status, headers, body = 200, {}, content
        headers |= {"Content-Length": len(body)}
        if name == ARCHIVE and self.server.fault:
            status, headers, body = self.server.fault(status, headers, body, content)
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def pack(path, entries, folder="development/"):
    """Write a .7z archive of {name: content}, names as they are."""
    with pytest.MonkeyPatch.context() as patch, py7zr.SevenZipFile(path, "w") as archive:
        patch.setattr(py7zr.SevenZipFile, "_sanitize_archive_arcname", staticmethod(lambda name: name))
        patch.setattr(py7zr.py7zr, "check_archive_path", lambda name: True)
        for name, content in entries.items():
            archive.writestr(content, f"{folder}{name}")


@pytest.fixture(scope="module")
def sounds():
    """{split: {name: content}}; the content is not decoded, and hardly compresses."""
    rng = np.random.default_rng(0)
    return {split: {name: rng.bytes(4000) for name in names} for split, names in CLIPS.items()}


@pytest.fixture(scope="module")
def published(tmp_path_factory, sounds):
    """{name: content} of the files that the server has."""
    files, folder = {}, tmp_path_factory.mktemp("zenodo")
    for split, clips in sounds.items():
        pack(folder / "x.7z", clips, f"{split}/")
        files[f"clotho_audio_{split}.7z"] = (folder / "x.7z").read_bytes()
        files[f"clotho_captions_{split}.csv"] = f"file_name,caption_1\n{split}.wav,a dog\n".encode()
    return files


def table_of(files):
    """The table CLOTHO of these files."""

    def row(split):
        archive = files[f"clotho_audio_{split}.7z"]
        digests = [hashlib.md5(content).hexdigest() for content in (files[f"clotho_captions_{split}.csv"], archive)]
        return clotho_download.Published(len(CLIPS[split]), *digests, len(archive), 10000)

    return {split: row(split) for split in CLIPS}


@pytest.fixture
def server(published, monkeypatch):
    """A server of the published files, from which the command downloads."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked, server.fault = dict(published), [], None
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(clotho_download, "ADDRESS", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(clotho_download, "CLOTHO", table_of(published))
        monkeypatch.setattr(download, "CHUNK", CHUNK)
        monkeypatch.setattr(download, "PAUSE", 0)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(data, *options, status=0):
    return call(SCRIPT, *options, f"data_conf.dataset={data}", status=status)


def refused(data, *options):
    """The one line of a refusal."""
    (line,) = fetch(data, *options, status=2).splitlines()
    return line.removeprefix("error: ")


def contents(data):
    """{name: content} of all files below a folder, without the lock."""
    files = (path for path in data.rglob("*") if path.is_file() and path.name != ".download.lock")
    return {path.relative_to(data).as_posix(): path.read_bytes() for path in files}


def data_set(sounds, published):
    """What `contents` is after a complete download."""
    clips = {f"{split}/{name}": content for split, clips in sounds.items() for name, content in clips.items()}
    return clips | {name: content for name, content in published.items() if name.endswith(".csv")}


def ranges(server):
    return [asked for name, asked in server.asked if name == ARCHIVE]


def test_the_table_names_clotho_as_published():
    clips = {"development": 3839, "validation": 1045, "evaluation": 1045}
    assert {split: row.clips for split, row in CLOTHO.items()} == clips
    digests = [digest for row in CLOTHO.values() for digest in (row.captions_md5, row.archive_md5)]
    assert len(set(digests)) == 6 and all(len(digest) == 32 and int(digest, 16) for digest in digests)


def test_a_data_set_is_downloaded_once(tmp_path, server, sounds, published):
    data = tmp_path / "new" / "data"
    printed = fetch(data)
    assert "development, validation, evaluation: 0.0 GB to download; 0.0 GB are needed at most, " in printed
    assert f"development: 2 clips -> {data / 'development'}\n" in printed
    assert contents(data) == data_set(sounds, published) and len(server.asked) == 6
    shutil.rmtree(data / "validation")
    fetch(data)
    assert contents(data) == data_set(sounds, published) and len(server.asked) == 7
    assert "GB" not in fetch(data) and len(server.asked) == 7


def test_captions_alone_and_archives_kept(tmp_path, server, sounds, published):
    fetch(tmp_path, "--captions")
    assert contents(tmp_path) == {name: content for name, content in published.items() if name.endswith(".csv")}
    fetch(tmp_path, "--keep-archives")
    assert contents(tmp_path) == data_set(sounds, published) | published
    for split in CLIPS:
        shutil.rmtree(tmp_path / split)
    fetch(tmp_path)  # from the archives that are there
    assert contents(tmp_path) == data_set(sounds, published) and len(server.asked) == 6


def test_the_splits_are_those_of_the_configuration(tmp_path, server):
    only = ("data_conf.train_data=validation", "data_conf.eval_data=validation")
    fetch(tmp_path, *only)
    assert {path.split("/")[0] for path in contents(tmp_path)} == {"validation", "clotho_captions_validation.csv"}
    assert refused(tmp_path, *only, "data_conf.val_data=test") == (
        "data_conf: 'test' is not a split of Clotho; set train_data, val_data and eval_data to development, "
        "validation, evaluation"
    )


# --- a server with faults ---------------------------------------------------------------------------------


def breaking(status, headers, body, _):
    """At most 2.5 chunks, then the connection breaks."""
    return status, headers, body[: 2 * CHUNK + CHUNK // 2]


def no_ranges(*answer):
    """No ranges; the first answer breaks off."""
    no_ranges.answers += 1
    return 200, {"Content-Length": len(answer[3])}, answer[3][: CHUNK + 1 if no_ranges.answers == 1 else None]


def another_range(status, headers, body, content):
    """Rests of files from their start, and a connection that breaks in a whole one that begins anew."""
    another_range.answers += 1
    headers = headers | ({"Content-Range": f"bytes 0-{len(content) - 1}/{len(content)}"} if status == 206 else {})
    return status, headers, body[: CHUNK + 1] if another_range.answers == 1 else body


@pytest.mark.parametrize("fault", [breaking, no_ranges, another_range])
def test_a_download_survives(tmp_path, server, sounds, published, fault):
    fault.answers, server.fault = 0, fault
    fetch(tmp_path)
    assert contents(tmp_path) == data_set(sounds, published)
    asked = ranges(server)
    if fault is breaking:
        assert asked == [None, *(f"bytes={2 * CHUNK * i}-" for i in range(1, len(asked)))] and len(asked) > 3
    else:
        assert asked[0] is None and asked[1].startswith("bytes=")


@pytest.mark.parametrize("surplus", [0, 100])
def test_a_part_that_is_complete_or_longer_than_the_file(tmp_path, server, sounds, published, surplus):
    (tmp_path / f"{ARCHIVE}.part").write_bytes(published[ARCHIVE] + bytes(surplus))
    fetch(tmp_path)
    assert contents(tmp_path) == data_set(sounds, published)
    assert ranges(server) == [f"bytes={len(published[ARCHIVE]) + surplus}-", *([None] if surplus else [])]


def answer(status):
    return lambda *_: (status, {"Content-Length": 0}, b"")


def nothing(status, headers, body, _):
    return status, headers, b""


def too_long_a_size(status, headers, body, _):
    return status, headers | ({"Content-Length": len(body) + 100} if body else {}), body


def too_short_a_size(status, headers, body, _):
    return status, headers | {"Content-Length": CHUNK}, body[:CHUNK]


def another_file(*_):
    return 200, {"Content-Length": 9}, b"<p>Log in"


@pytest.mark.parametrize(
    ("fault", "problem", "requests"),
    [
        (answer(404), "could not be downloaded (the server answers 404 Not Found); run this again later, or ", 1),
        (answer(500), "could not be downloaded (the server answers 500 Internal Server Error); run this again", 5),
        (nothing, "could not be downloaded (", 5),
        (too_long_a_size, "could not be downloaded (", 5),
        (too_short_a_size, "its MD5 is ", 1),
        (another_file, "as published, and the download was removed; run this again later, or download http", 1),
    ],
)
def test_a_download_fails_in_one_line(tmp_path, server, fault, problem, requests):
    server.fault = fault
    line, url = refused(tmp_path), f"{clotho_download.ADDRESS}/{ARCHIVE}"
    assert line.startswith(f"{url}: ") and problem in line
    assert line.endswith(f"download {url} by other means and put it at {tmp_path / ARCHIVE}")
    assert len(ranges(server)) == requests
    assert all(name.endswith(".csv") for name in contents(tmp_path) if "MD5" in line)
    server.fault = None
    fetch(tmp_path)


# --- archives, disks and data that were there -------------------------------------------------------------


def packed_link(path):
    link = path.with_name("link.wav")
    link.symlink_to("/etc/hostname")
    with py7zr.SevenZipFile(path, "w") as archive:
        archive.write(link, "development/link.wav")


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda path: pack(path, {"../evil.wav": b"x"}, ""), "its entry '../evil.wav' leads out of the folder"),
        (lambda path: pack(path, {"x/../../evil.wav": b"x"}), "its entry 'development/x/../../evil.wav' leads out"),
        (lambda path: pack(path, {"/tmp/evil.wav": b"x"}, ""), "its entry '/tmp/evil.wav' leads out of the folder"),
        (packed_link, "its entry 'development/link.wav' leads out of the folder"),
        (lambda path: pack(path, {"a/x.wav": b"x", "b/x.wav": b"y"}), "holds 'x.wav' twice"),
        (lambda path: pack(path, {"x.wav": b"x"}), "holds 1 sounds, not Clotho's 2; remove it, and run this again"),
        (lambda path: path.write_bytes(b"7z"), "could not be unpacked (not a 7z file); remove it"),
    ],
)
def test_an_archive_that_is_not_clothos_leaves_nothing(tmp_path, server, monkeypatch, write, problem):
    write(tmp_path / "x.7z")
    server.files[ARCHIVE] = (tmp_path / "x.7z").read_bytes()
    monkeypatch.setattr(clotho_download, "CLOTHO", table_of(server.files))
    data = tmp_path / "data"
    assert f"{data / ARCHIVE}: {problem}" in refused(data)
    assert {name for name in contents(data) if not name.endswith(".csv")} == {ARCHIVE}
    assert not list(tmp_path.rglob("evil*")) and not (data / "development").exists()


def test_a_top_folder_of_any_name_or_none(tmp_path, server, sounds, published, monkeypatch):
    for split, folder in (("development", "clotho/dev/"), ("validation", "")):
        pack(tmp_path / "x.7z", sounds[split] | {"notes.txt": b"x"}, folder)
        server.files[f"clotho_audio_{split}.7z"] = (tmp_path / "x.7z").read_bytes()
    monkeypatch.setattr(clotho_download, "CLOTHO", table_of(server.files))
    fetch(tmp_path / "data")
    assert contents(tmp_path / "data") == data_set(sounds, published)


def test_a_full_disk_is_reported_before_the_download(tmp_path, server, monkeypatch):
    monkeypatch.setattr(clotho_download, "CLOTHO", CLOTHO)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(20e9, 8e9, 12e9))
    advice = "make room, or set data_conf.dataset to a folder on another disk"
    assert refused(tmp_path) == f"{tmp_path}: 12.4 GB are needed but 12.0 GB are free; {advice}"
    assert refused(tmp_path, "--keep-archives").startswith(f"{tmp_path}: 18.2 GB are needed")
    assert not server.asked and not contents(tmp_path)


def test_a_disk_that_fills_up_leaves_no_half_split(tmp_path, server, sounds, published, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(clotho_download._Clips, "create", lambda *_: Path("/dev/full").open("wb"))  # noqa: SIM115
        assert refused(tmp_path).startswith(f"{tmp_path / 'development'}: could not be written (No space left on dev")
    assert not (tmp_path / "development").exists()
    fetch(tmp_path)
    assert contents(tmp_path) == data_set(sounds, published)


def test_data_that_are_not_clothos_are_kept(tmp_path, server):
    for name in ("clotho_captions_evaluation.csv", "development/mine.wav", ARCHIVE):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
        where = path if path.parent == tmp_path else path.parent
        line = refused(tmp_path)
        assert line.startswith(f"{where}: ") and "and is not replaced; move or remove it, or set data_conf" in line
        assert path.read_bytes() == b"mine"
        path.unlink()


def test_two_downloads_at_once_are_refused(tmp_path, server):
    lock = tmp_path / ".download.lock"
    code = f"from utils.common.lock import held\nwith held({str(lock)!r}, 'x'): print('held', flush=True); input()"
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **streams) as other:
        assert other.stdout.readline() == "held\n"
        assert refused(tmp_path) == f"{tmp_path}: another command downloads Clotho to it; wait for its end"
        other.communicate("\n")
    with held(lock, "still held"):
        assert not server.asked


KILLED = """
import runpy, sys
from utils.common import download
from utils.dataset import clotho_download
from utils.dataset.clotho_download import Published

def stopping(items, title, total):
    for number, item in enumerate(items):
        if title.startswith({stop!r}) and number == {after}:
            print("stopped", flush=True)
            sys.stdin.read()
        yield item

clotho_download.ADDRESS, clotho_download.CLOTHO, download.CHUNK = {address!r}, {table!r}, {chunk}
clotho_download.progress = download.progress = stopping
sys.argv = [{script!r}, {setting!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


def test_a_download_that_is_killed_goes_on_where_it_was(tmp_path, server, sounds, published):
    values = {"address": clotho_download.ADDRESS, "table": clotho_download.CLOTHO, "chunk": CHUNK, "script": SCRIPT}
    values |= {"setting": f"data_conf.dataset={tmp_path}"}
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    for stop, after in ((ARCHIVE, 3), ("unpacking", 1)):  # three chunks of the archive are written; one clip is
        code = KILLED.format(stop=stop, after=after, **values)
        with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **streams) as process:
            assert "stopped\n" in iter(process.stdout.readline, "")
            process.kill()
    assert not (tmp_path / "development").exists()
    assert ranges(server) == [None, f"bytes={3 * CHUNK}-"]
    assert list(tmp_path.glob(".development.*"))  # the half split
    fetch(tmp_path)
    assert contents(tmp_path) == data_set(sounds, published) and len(ranges(server)) == 2
