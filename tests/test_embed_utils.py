import gzip

import numpy as np
import pytest
from gensim.models import KeyedVectors

from utils.embed_utils import (
    PAD,
    embed_vocabulary,
    load_embeddings,
    load_vectors,
    read_vector_file,
    save_embeddings,
    train_vectors,
    unknown_vector,
)
from utils.io_utils import UserError

WORDS = ["axe", "Axe", "walkie", "talkie", "dog", "été"]


@pytest.fixture
def vectors():
    keyed = KeyedVectors(5)
    keyed.add_vectors(WORDS, np.random.default_rng(0).normal(size=(len(WORDS), 5)).astype(np.float32))
    return keyed


def embed(vocabulary, vectors, variants=None, max_dot=0.25, draws=10_000):
    return embed_vocabulary(vocabulary, vectors, variants or {}, max_dot, draws, seed=0)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_word2vec_files_are_read_in_either_form(tmp_path, vectors, binary, zipped):
    path = tmp_path / "vectors.bin"
    vectors.save_word2vec_format(str(path), binary=binary)
    if zipped:
        path = path.with_name("vectors.gz")
        path.write_bytes(gzip.compress((tmp_path / "vectors.bin").read_bytes()))
    read = load_vectors("file", str(path))
    for word in WORDS:
        np.testing.assert_allclose(read[word], vectors[word], rtol=1e-6)


def test_gensims_own_form_is_refused_unread(tmp_path, vectors):
    vectors.save(str(tmp_path / "vectors.kv"))
    with pytest.raises(UserError, match="save_word2vec_format"):
        read_vector_file(tmp_path / "vectors.kv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not word vectors"),
        (b"just some text\n", "not word vectors"),
        (b"5 3\na 1 2 3\n", "promises 5 vectors of 3 dimensions, which the file does not hold"),
        (b"2 3\na 1 2 3\n" + b" " * 9, "not word vectors"),
        (b"1 3\na 1 2\n", "promises 1 vectors of 3 dimensions, which the file does not hold"),
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
        monkeypatch.setattr("utils.embed_utils.BLOCK", block)
        assert len(read_vector_file(tmp_path / "v")) == int(content[:1])


def test_missing_vector_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_vectors("file", str(tmp_path / "absent.txt"))


def test_failed_download_says_what_to_do(monkeypatch):
    import gensim.downloader

    def fail(name):
        raise OSError("no internet")

    monkeypatch.setattr(gensim.downloader, "load", fail)
    with pytest.raises(UserError, match=r"word2vec-google-news-300\.gz.*word2vec_embeddings\.source=file"):
        load_vectors("word2vec-google-news-300", None)


def test_every_word_gets_its_own_the_variants_or_the_unknown_vector(vectors):
    variants = {"axe": ["Axe"], "walkie-talkie": ["walkie", "talkie"], "ribbiting": ["ribbit"]}
    vocabulary = ["zzz", "dog", "walkie-talkie", "axe", "ribbiting"]
    embeddings, coverage = embed(vocabulary, vectors, variants, max_dot=1)
    rows = dict(zip(embeddings.words, embeddings.vectors, strict=True))
    assert embeddings.words == [PAD, "axe", "dog", "ribbiting", "walkie-talkie", "zzz"]
    assert embeddings.vectors.dtype == np.float32 and not rows[PAD].any()
    np.testing.assert_allclose(rows["axe"], vectors["axe"])  # its own vector comes before its variants
    np.testing.assert_allclose(rows["walkie-talkie"], (vectors["walkie"] + vectors["talkie"]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(rows["zzz"], rows["ribbiting"])
    assert coverage == (["axe", "dog"], ["walkie-talkie"], ["zzz", "ribbiting"])


def test_unknown_vector_resembles_no_word_and_follows_the_seed():
    known = np.random.default_rng(1).normal(size=(500, 300))
    vector = unknown_vector(known, 0.25, 10_000, seed=3)
    normalised = known / np.linalg.norm(known, axis=1, keepdims=True)
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert np.abs(normalised @ vector).max() <= 0.25
    np.testing.assert_array_equal(vector, unknown_vector(known, 0.25, 10_000, seed=3))
    assert not np.array_equal(vector, unknown_vector(known, 0.25, 10_000, seed=4))


def test_unknown_vector_is_bounded_where_no_draw_can_do():
    known = np.ones((5, 20)) + np.random.default_rng(0).normal(scale=0.01, size=(5, 20))
    with pytest.warns(UserWarning, match="kept the best"):
        assert np.isfinite(unknown_vector(known, 0.25, 50, seed=0)).all()


def test_no_unknown_vector_is_drawn_where_no_word_needs_it(vectors, monkeypatch):
    monkeypatch.setattr("utils.embed_utils.unknown_vector", None)
    assert embed(["dog"], vectors)[1].unknown == []


def test_not_one_known_word_is_an_error(vectors):
    with pytest.raises(UserError, match="none of the vocabulary's words"):
        embed(["zzz"], vectors)


def test_training_follows_the_seed():
    captions = [["a", "dog", "barks"], ["rain", "falls"]] * 20
    first, again = (train_vectors(captions, 8, 2, 2, seed=0) for _ in range(2))
    for word in ("a", "dog", "rain"):
        np.testing.assert_array_equal(first[word], again[word])
    assert not np.array_equal(first["dog"], train_vectors(captions, 8, 2, 2, seed=1)["dog"])


def test_embeddings_round_trip(tmp_path, vectors):
    embeddings, _ = embed(["dog", "été"], vectors)
    save_embeddings(tmp_path / "e.npz", embeddings)
    words, read = load_embeddings(tmp_path / "e.npz", out_dim=5)
    assert words == [PAD, "dog", "été"]
    np.testing.assert_array_equal(read, embeddings.vectors)


def test_unfit_embeddings_are_refused(tmp_path, vectors):
    embeddings, _ = embed(["dog"], vectors)
    path = tmp_path / "e.npz"
    save_embeddings(path, embeddings)
    with pytest.raises(UserError, match=r"CRNNWordModel.audio_enc.out_dim: is 300, but .* have 5 dimensions"):
        load_embeddings(path, out_dim=300)
    save_embeddings(path, embeddings._replace(words=["<pad>"]))
    with pytest.raises(UserError, match="do not belong together"):
        load_embeddings(path, out_dim=5)
    save_embeddings(path, embeddings._replace(vectors=embeddings.vectors * np.nan))
    with pytest.raises(UserError, match="not finite"):
        load_embeddings(path, out_dim=5)
    np.savez(path, words=np.array([{}], dtype=object), vectors=embeddings.vectors)
    with pytest.raises(UserError, match="not the word vectors"):
        load_embeddings(path, out_dim=5)
    np.savez(path, words=np.array([PAD, "a", "a"]), vectors=np.zeros((3, 5)))
    with pytest.raises(UserError, match="do not belong together"):
        load_embeddings(path, out_dim=5)
    np.savez(path, words=np.array([PAD, "a"]), vectors=np.zeros((2, 5), int))
    with pytest.raises(UserError, match="of other types"):
        load_embeddings(path, out_dim=5)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="not the word vectors"):
        load_embeddings(path, out_dim=5)
