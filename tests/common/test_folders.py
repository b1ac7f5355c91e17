import json
import os

import pytest

from utils.common.digests import file_digest
from utils.common.errors import UserError
from utils.common.folders import WRITTEN, atomic_folder, own_file


def write(path, **texts):
    with atomic_folder(path, "deep/page") as temporary:
        for name, text in texts.items():
            (temporary / "deep").mkdir(exist_ok=True)
            (temporary / "deep" / name).write_text(text)


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def texts(path):
    return {file.name: file.read_text() for file in path.rglob("*") if file.is_file() and file.name != WRITTEN}


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "above" / "pages"
    write(path, page="old", old="")
    write(path, page="new", new="")
    assert texts(path) == {"page": "new", "new": ""}
    with pytest.raises(RuntimeError), atomic_folder(path, "deep/page") as temporary:
        (temporary / "page").write_text("half")
        raise RuntimeError
    assert texts(path) == {"page": "new", "new": ""} and list(path.parent.iterdir()) == [path]


def test_an_empty_folder_may_be_replaced(tmp_path):
    (tmp_path / "pages").mkdir()
    write(tmp_path / "pages", page="new")
    (tmp_path / "pages" / ".DS_Store").touch()  # somebody has looked into it
    write(tmp_path / "pages", page="newer")
    assert texts(tmp_path / "pages") == {"page": "newer"}


def link_to_folder(path):
    path.rename(path.with_name("target"))
    path.symlink_to(path.with_name("target"))


def file_for_folder(path):
    path.rename(path.with_name("target"))
    path.write_text("mine")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda path: (path / "notes.txt").write_text("mine"), "notes.txt: is not what an earlier run wrote"),
        (lambda path: (path / "deep" / "page").write_text("mine"), "deep/page: is not what an earlier run wrote"),
        (lambda path: (path / "deep" / "link").symlink_to("page"), "deep/link: is not what an earlier run wrote"),
        (lambda path: (path / "folder").symlink_to("deep"), "folder: is not what an earlier run wrote"),
        (lambda path: (path / "empty").mkdir(), "empty: is not what an earlier run wrote"),
        (lambda path: (path / WRITTEN).unlink(), "deep/page: is not what an earlier run wrote"),
        (lambda path: (path / WRITTEN).write_text("{"), "deep/page: is not what an earlier run wrote"),
        (link_to_folder, "pages: is a link"),
        (file_for_folder, "pages: is a file"),
    ],
)
def test_what_no_earlier_run_wrote_is_left_alone(tmp_path, spoil, named):
    path = tmp_path / "pages"
    write(path, page="old")
    spoil(path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=named), atomic_folder(path, "deep/page"):
        raise AssertionError("not to be entered")
    assert contents(tmp_path) == before


def test_a_file_that_appears_meanwhile_keeps_its_folder(tmp_path):
    path = tmp_path / "pages"
    write(path, page="old")
    with pytest.raises(UserError, match=r"notes\.txt: is not what"), atomic_folder(path, "deep/page") as temporary:
        (temporary / "page").write_text("new")
        (path / "notes.txt").write_text("mine")
    assert texts(path) == {"page": "old", "notes.txt": "mine"}


def test_the_folder_of_another_command_is_left_alone(tmp_path):
    write(tmp_path / "pages", page="old")
    with pytest.raises(UserError, match="deep/page: is not what"), atomic_folder(tmp_path / "pages", "other.html"):
        raise AssertionError("not to be entered")


# --- files -----------------------------------------------------------------------------------------------


def write_own(path, text, what="list"):
    with own_file(path, what) as temporary:
        temporary.write_text(text)


def test_a_file_replaces_that_of_an_earlier_run(tmp_path):
    path = tmp_path / "above" / "mine.txt"
    for text in ("one", "two", "two", "three"):
        write_own(path, text)
        assert path.read_text() == text
    with pytest.raises(KeyError), own_file(path, "list") as temporary:
        temporary.write_text("half")
        raise KeyError
    write_own(path, "four")
    assert path.read_text() == "four" and len(list(path.parent.iterdir())) == 2


def test_a_file_can_be_replaced_after_a_kill_between_record_and_file(tmp_path, monkeypatch):
    """The record is written first, and holds the digests of both files."""
    path = tmp_path / "mine.txt"
    write_own(path, "old")

    def killed(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        original = type(path).replace
        patch.setattr(type(path), "replace", lambda self, to: (killed if to == path else original)(self, to))
        with pytest.raises(KeyboardInterrupt):
            write_own(path, "new")
    assert path.read_text() == "old"
    write_own(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda path: path.write_text("edited"), "is not a list of an earlier run, or has changed since"),
        (lambda path: record_of(path).unlink(), "is not a list of"),
        (lambda path: record_of(path).write_text("{"), "is not a list of"),
        (lambda path: record_of(path).write_text(json.dumps({"table": [file_digest(path)]})), "is not a list of"),
        (lambda path: (record_of(path).unlink(), os.mkfifo(record_of(path))), "is not a list of"),
        (link_to_folder, "is not a plain file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "not a plain file"),
        (lambda path: (path.unlink(), path.mkdir()), "not a plain file"),
    ],
)
def test_a_file_that_no_earlier_run_wrote_is_left_alone(tmp_path, spoil, named):
    path = tmp_path / "mine.txt"
    write_own(path, "old")
    spoil(path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=named), own_file(path, "list"):
        raise AssertionError("not to be entered")
    assert contents(tmp_path) == before


def test_a_file_that_appears_meanwhile_is_left_alone(tmp_path):
    path = tmp_path / "mine.txt"
    with pytest.raises(UserError, match="is not a list of"), own_file(path, "list") as temporary:
        temporary.write_text("new")
        path.write_text("mine")
    assert path.read_text() == "mine"


def record_of(path):
    return path.with_name(f".{path.name}{WRITTEN}")
