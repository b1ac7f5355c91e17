"""Files of word vectors from outside: read in either form, and refused where they are not what they promise."""

import gzip

import numpy as np
import pytest
from gensim.models import KeyedVectors

from utils.common.errors import UserError
from utils.dataset.vector_file import read_vector_file

WORDS = ["axe", "Axe", "walkie", "talkie", "dog", "été"]


@pytest.fixture
def vectors():
    keyed = KeyedVectors(5)
    keyed.add_vectors(WORDS, np.random.default_rng(0).normal(size=(len(WORDS), 5)).astype(np.float32))
    return keyed


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_word2vec_files_are_read_in_either_form(tmp_path, vectors, binary, zipped):
    path = tmp_path / "vectors.bin"
    vectors.save_word2vec_format(str(path), binary=binary)
    if zipped:
        path = path.with_name("vectors.gz")
        path.write_bytes(gzip.compress((tmp_path / "vectors.bin").read_bytes()))
    read = read_vector_file(path)
    for word in WORDS:
        np.testing.assert_allclose(read[word], vectors[word], rtol=1e-6)


def test_what_would_have_to_be_unpickled_is_refused_unread(tmp_path, vectors):
    vectors.save(str(tmp_path / "vectors.kv"))
    with pytest.raises(UserError, match=r"vectors\.kv: .*save_word2vec_format"):
        read_vector_file(tmp_path / "vectors.kv")


def test_a_cut_archive_is_refused(tmp_path, vectors):
    vectors.save_word2vec_format(str(tmp_path / "vectors"), binary=False)
    content = gzip.compress((tmp_path / "vectors").read_bytes() * 50)
    (tmp_path / "vectors.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"vectors\.gz: not word vectors"):
        read_vector_file(tmp_path / "vectors.gz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not word vectors"),
        (b"just some text\n", "not word vectors"),
        (b"5 3\na 1 2 3\n", "promises 5 vectors of 3 dimensions"),
        (b"2 3\na 1 2 3\n" + b" " * 9, "not word vectors"),
        (b"1 3\na 1 2\n", "promises 1 vectors of 3 dimensions"),
        (b"2 3\na 1 2 3\nb 1 2\n", "not word vectors"),
        (b"1 3\na 1 2 3\nb 1 2 3\n", "holds more than the 1 vectors"),
        (b"1 1\na " + b"\0" * 4 + b"b " + b"\0" * 4, "holds more than the 1 vectors"),
        (b"9999999999999 300\na " + b"1 " * 300, "promises 9999999999999 vectors"),
        (b"-1 3\na 1 2 3\n", "promises -1 vectors"),
        (b"1 0\na\n", "of 0 dimensions"),
        (b"1 3\na 1 2 nan\n", "the vector of 'a' is not finite"),
        (b"1 3\n\xff\xfe 1 2 3\n", "not word vectors"),
    ],
)
def test_unfit_vector_files_are_refused(tmp_path, content, message):
    (tmp_path / "v.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"v\.txt") as error:
        read_vector_file(tmp_path / "v.txt")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "content", [b"1 2\na 1 2", b"1 2\na 1 2\n\n", b"2 2\r\na 1 2\r\nb 3 4\r\n\r\n", b"1 1\na ABCD\n"]
)
def test_white_space_at_the_end_is_no_vector(tmp_path, monkeypatch, content):
    (tmp_path / "v").write_bytes(content)
    for block in (1, 1000):
        monkeypatch.setattr("utils.dataset.vector_file.BLOCK", block)
        assert len(read_vector_file(tmp_path / "v")) == int(content[:1])


def test_missing_vector_file(tmp_path):
    with pytest.raises(UserError, match=r"absent\.txt: no such file; set word2vec_embeddings\.file"):
        read_vector_file(tmp_path / "absent.txt")
