"""Files of word vectors from outside: read in either form, and refused where they are not what they promise."""

import bz2
import gzip
import lzma
import pickle

import numpy as np
import pytest
from gensim.models import KeyedVectors

from utils.common.errors import UserError
from utils.dataset.vector_file import vector_rows

WORDS = ["axe", "Axe", "walkie", "talkie", "dog", "été", "New_York"]


def read(path):
    return dict(vector_rows(path))


@pytest.fixture
def vectors():
    keyed = KeyedVectors(5)
    rows = np.random.default_rng(0).normal(size=(len(WORDS), 5)).astype(np.float32)
    rows[0] *= 1e-40  # numbers at float32's edge
    rows[1] *= 1e37
    keyed.add_vectors(WORDS, rows)
    return keyed


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("block", [1, 40, 10_000_000])
def test_either_form_is_read_as_gensim_reads_it(tmp_path, monkeypatch, vectors, binary, compress, block):
    monkeypatch.setattr("utils.dataset.vector_file.BLOCK", block)
    path = tmp_path / "vectors"  # told by its content, not by its name
    vectors.save_word2vec_format(str(path), binary=binary)
    expected = KeyedVectors.load_word2vec_format(str(path), binary=binary)
    path.write_bytes(compress(path.read_bytes()))
    rows = read(path)
    assert list(rows) == WORDS == expected.index_to_key
    for word in WORDS:
        assert rows[word].dtype == np.float32
        np.testing.assert_array_equal(rows[word], expected[word])


def test_numbers_are_rounded_as_gensim_rounds_them(tmp_path):
    rng, path = np.random.default_rng(1), tmp_path / "v"
    numbers = rng.normal(size=(200, 50)) * 10.0 ** rng.integers(-44, 38, (200, 1))
    rows = [[f"{x:.{rng.integers(1, 18)}g}" for x in row] for row in numbers]
    path.write_text("200 50\n" + "".join(f"w{i} {' '.join(row)}\n" for i, row in enumerate(rows)))
    expected = KeyedVectors.load_word2vec_format(str(path)).vectors
    np.testing.assert_array_equal(np.array(list(read(path).values())), expected)


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_the_binary_form_may_have_a_line_feed_behind_each_vector(tmp_path, end):
    rows = [b"a " + np.float32([1, 2]).tobytes(), b"b " + np.float32([3, 4]).tobytes()]
    (tmp_path / "v").write_bytes(b"2 2\n" + end.join(rows) + end)
    read_rows = read(tmp_path / "v")
    assert {word: row.tolist() for word, row in read_rows.items()} == {"a": [1, 2], "b": [3, 4]}


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "v").write_bytes(b"\xef\xbb\xbf1 2\na 1 2\n")
    assert read(tmp_path / "v")["a"].tolist() == [1, 2]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["vectors.gz", "vectors"])
def test_a_cut_archive_is_refused(tmp_path, vectors, compress, name):
    vectors.save_word2vec_format(str(tmp_path / "plain"), binary=True)
    content = compress(np.random.default_rng(0).bytes(2000).join([(tmp_path / "plain").read_bytes()] * 2))
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"{name}: "):
        read(tmp_path / name)


def rows_of(count, size):
    return b"".join(b"w%d %s\n" % (i, b" ".join([b"0.125"] * size)) for i in range(count))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the first line must give"),
        (b"just some text\n", "the first line must give their count and dimensions"),
        (b"1_0 3\na 1 2 3\n", "the first line must give"),
        ("1 2\na 1 2\n".encode("utf-16"), "text in UTF-16"),
        (pickle.dumps(KeyedVectors(5)), "gensim's own format, which can run code when it is read; if"),
        (b"\xba\x16\x4f\x2f\x0c\0\0\0", "fastText's own format; use the .vec file"),
        (b"the 0.1 -0.2 3e-4\nof 1 2 3\nto 1 2 3\n", "put the line '3 3' before it"),  # as GloVe's
        (b"5 3\na 1 2 3\n", "promises 5 vectors of 3 dimensions, but it holds 1"),
        (b"2 3\na 1 2 3\n" + b" " * 9, "promises 2 vectors of 3 dimensions, but it holds 1"),
        (b"1 3\na 1 2\n", "promises 1 vector of 3 dimensions, but row 1 has 2: 'a 1 2'"),
        (b"2 3\na 1 2 3\nb 1 2\n", "row 2 has 2: 'b 1 2'"),
        (b"2 3\na 1 2 3\nb 1 2 x\n", "row 2 is not a word and its numbers: 'b 1 2 x'"),
        (b"1 3\na 1 2 3\nb 1 2 3\n", "holds more than 1;"),
        (b"2 1\na 1\n\nb 1\nb 1\n", "holds more than 2;"),
        (b"1 1\na " + b"\0" * 4 + b"b " + b"\0" * 4, "holds more than 1;"),
        (b"2 1\na " + b"\0" * 4 + b"a " + b"\0" * 4 + b"a " + b"\0" * 4, "holds more than 2;"),
        (b"2 1\na " + b"\0" * 4 + b"b \0\0", "'b \0\0' follows vector 1".replace("\0", "\\x00")),
        (b"120 100\n" + rows_of(120, 300), "promises 120 vectors of 100 dimensions, but row 1 has 300: 'w0 0.125"),
        (b"120 300\n" + rows_of(120, 100), "promises 120 vectors of 300 dimensions, but row 1 has 100: 'w0 0.125"),
        (b"2 4\nsome page of text\nand more of it\n" * 9, "fits neither text nor binary form: 'some page of text'"),
        (b"2 4\n" + b"\0" * 20_000, "neither text nor binary form"),
        (b"9999999999999 300\na" + b" 1" * 300, "promises 9999999999999 vectors of 300 dimensions, but it holds 1"),
        (b"1 9999999999999\na \0\0\0", "promises 1 vector of 9999999999999 dimensions; correct"),
        (b"-1 3\na 1 2 3\n", "promises -1 vectors"),
        (b"1 0\na\n", "of 0 dimensions"),
        (b"1 3\na 1 2 1e39\n", "the vector of 'a' is not finite"),
        (b"1 3\n\xff\xfe 1 2 3\n", "words in UTF-8: the word of row 1 is"),
    ],
)
def test_unfit_vector_files_are_refused(tmp_path, content, message):
    for name, written in (("v", content), ("v.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(written)
        with pytest.raises(UserError) as error:
            read(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(error.value)
        assert message in str(error.value)


@pytest.mark.parametrize(
    "content", [b"1 2\na 1 2", b"1 2\na 1 2\n\n", b"2 2\r\na 1 2\r\nb 3 4\r\n\r\n", b"1 1\na ABCD\n"]
)
def test_white_space_at_the_end_is_no_vector(tmp_path, monkeypatch, content):
    (tmp_path / "v").write_bytes(content)
    for block in (1, 1000):
        monkeypatch.setattr("utils.dataset.vector_file.BLOCK", block)
        assert len(read(tmp_path / "v")) == int(content[:1])


def test_missing_vector_file(tmp_path):
    with pytest.raises(UserError, match=r"absent\.txt: no such file; set word2vec_embeddings\.file"):
        read(tmp_path / "absent.txt")
