"""Named entities in captions, found by NLTK in data of our own; damaged data are refused by the file's name."""

import shutil
from pathlib import Path

import nltk
import pytest

from tests.helpers import unread_nltk_words, write_nltk_data
from utils.common.errors import UserError
from utils.dataset.named_entities import CHUNKER, PLACES, TAGGER, WORDS, replace_named_entities

TEXTS = ["a dog barks in paris", "", "paris", "rain"]
MODEL = f"{PLACES[CHUNKER]}/english_ace_binary"
HTML = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"


@pytest.fixture
def nltk_data(tmp_path, monkeypatch):
    """NLTK's folder of data; nothing is downloaded."""
    write_nltk_data(tmp_path)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk.corpus, "words", unread_nltk_words())
    monkeypatch.setattr(nltk, "download", lambda *_, **__: False)
    return tmp_path


def archive(root, package):
    """Put an archive in a package's place."""
    folder = root / PLACES[package]
    path = shutil.make_archive(str(folder), "zip", folder.parent, package)
    shutil.rmtree(folder)
    return Path(path)


@pytest.mark.parametrize("archived", [None, *PLACES])
def test_named_entities_become_ne(nltk_data, archived):
    if archived:
        archive(nltk_data, archived)
    assert replace_named_entities(TEXTS) == ["a dog barks in NE", "", "NE", "rain"]


def broken(*_, **__):
    raise SyntaxError("mismatched tag")  # as of XML, where a network answers with its log-in page


@pytest.mark.parametrize("download", [lambda *_, **__: False, broken])
def test_missing_nltk_data_says_what_to_download(nltk_data, monkeypatch, download):
    shutil.rmtree(nltk_data / "corpora")
    monkeypatch.setattr(nltk, "download", download)
    with pytest.raises(UserError) as error:
        replace_named_entities(["a dog"])
    message = str(error.value)
    assert "could not be downloaded" in message
    assert "averaged_perceptron_tagger_eng maxent_ne_chunker_tab words" in message
    assert "nltk_data" in message and "named_entities=keep" in message and "\n" not in message


def refused(named):
    with pytest.raises(UserError) as error:
        replace_named_entities(TEXTS)
    message = str(error.value)
    assert message.startswith(f"{named}: damaged") and "remove it" in message and "\n" not in message


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: HTML, lambda content: content[:-4]])
@pytest.mark.parametrize(
    "name",
    [
        *(f"{PLACES[TAGGER]}/{TAGGER}.{part}.json" for part in ("weights", "tagdict", "classes")),
        *(f"{MODEL}/{part}" for part in ("mapping.tab", "weights.txt", "labels.txt")),
    ],
)
def test_a_damaged_file_of_a_package_is_named(nltk_data, name, damage):
    path = nltk_data / name
    path.write_bytes(damage(path.read_bytes()))
    refused(nltk_data / "/".join(name.split("/")[:2]))


@pytest.mark.parametrize("content", [b"", HTML])
def test_a_list_of_words_that_is_none_is_named(nltk_data, content):
    (nltk_data / PLACES[WORDS] / "en-basic").write_bytes(content)
    refused(nltk_data / PLACES[WORDS])


@pytest.mark.parametrize("package", PLACES)
def test_an_empty_folder_and_a_file_in_its_place_are_named(nltk_data, package):
    folder = nltk_data / PLACES[package]
    shutil.rmtree(folder)
    folder.mkdir()
    refused(folder)
    folder.rmdir()
    folder.write_bytes(HTML)
    refused(folder)


@pytest.mark.parametrize("package", PLACES)
@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: HTML, lambda content: content[:-30]])
def test_a_damaged_archive_is_named(nltk_data, package, damage):
    path = archive(nltk_data, package)
    path.write_bytes(damage(path.read_bytes()))
    refused(path)
