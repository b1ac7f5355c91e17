"""Every word of the vocabulary gets a vector; damaged embeddings are refused."""

import gzip
import warnings
from functools import partial

import gensim.downloader
import numpy as np
import pytest

from utils.common.errors import UserError
from utils.dataset.word_vectors import (
    PAD,
    choose_vectors,
    embed_vocabulary,
    load_embeddings,
    load_further_words,
    save_embeddings,
    source_rows,
    train_vectors,
    unknown_vector,
)

SIZE = 6
NEWS = "word2vec-google-news-300"


@pytest.fixture
def vectors():
    words = ["axe", "Axe", "walkie", "talkie", "dog", "été"]
    rows = np.random.default_rng(0).normal(size=(len(words), SIZE)).astype(np.float32)
    return dict(zip(words, rows, strict=True))


def embed(vocabulary, vectors, variants=None, max_dot=0.25, draws=1000):
    unknown = partial(unknown_vector, max_dot=max_dot, max_draws=draws, seed=0)
    return embed_vocabulary(vocabulary, vectors, variants or {}, unknown)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """gensim's folder of downloads, empty."""
    monkeypatch.setattr(gensim.downloader, "BASE_DIR", str(tmp_path / "gensim-data"))
    return tmp_path / "gensim-data" / NEWS


@pytest.mark.parametrize(
    "error", [OSError("no internet"), ValueError("<html>"), Exception("Checksum comparison failed")]
)
def test_failed_download_says_what_to_do(cache, monkeypatch, error):
    def fail(name, return_path):
        raise error

    monkeypatch.setattr(gensim.downloader, "load", fail)
    with pytest.raises(UserError, match=r"word2vec-google-news-300\.gz.*word2vec_embeddings\.source=file"):
        list(source_rows(NEWS, None))


def test_a_finished_download_is_read_and_a_damaged_one_is_refused(cache):
    cache.mkdir(parents=True)
    whole = gzip.compress(b"2 2\naxe 1 2\n\xc3\xa9t\xc3\xa9 3 4\n")
    (cache / f"{NEWS}.gz").write_bytes(whole)
    assert {word: row.tolist() for word, row in source_rows(NEWS, None)} == {"axe": [1, 2], "été": [3, 4]}
    for damaged in (b"", b"<!DOCTYPE html>\n<html></html>\n", whole[:-20], whole[:40]):
        (cache / f"{NEWS}.gz").write_bytes(damaged)
        with pytest.raises(UserError) as error:
            list(source_rows(NEWS, None))
        message = str(error.value)
        assert message.startswith(f"{cache / NEWS}.gz: ") and f"remove {cache}" in message and "\n" not in message


def test_a_download_folder_without_its_file_is_refused(cache):
    cache.mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{cache}: damaged, {NEWS}\.gz is missing; remove it"):
        list(source_rows(NEWS, None))


def test_wanted_words_and_the_first_extra_words_are_chosen():
    rows = [(word, np.float32([i])) for i, word in enumerate(["b", "New_York", "x", "b", "a", "y", "x", "z"])]
    vectors, extra = choose_vectors(rows, {"z", "b", "absent"}, lambda word: word.islower() and word != "b", 3)
    assert {word: row.tolist() for word, row in vectors.items()} == {"b": [0], "z": [7]}
    assert extra.words == ["x", "a", "y"] and extra.vectors.tolist() == [[2], [4], [5]]
    assert choose_vectors(rows, {"x"}, str.islower, 2)[1].words == ["b", "x"]  # a variant may be an extra word
    assert choose_vectors(rows, {"z"}, str.islower, 0)[1].words == []
    with pytest.raises(UserError, match=r"extra_words: is 6, .* have only 5 words outside the vocabulary"):
        choose_vectors(rows, {"z"}, str.islower, 6)


def test_each_word_gets_its_own_vector_or_its_variants_or_the_unknown_one(vectors):
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


def test_unknown_vector_keeps_the_best_draw_if_none_suits():
    known = np.ones((5, 20)) + np.random.default_rng(0).normal(scale=0.01, size=(5, 20))
    with pytest.warns(UserWarning, match="kept the best"):
        assert np.isfinite(unknown_vector(known, 0.25, 50, seed=0)).all()


def test_no_unknown_vector_is_drawn_if_all_words_are_known(vectors):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no draw can do
        assert embed(["dog"], vectors, max_dot=1e-9, draws=1)[1].unknown == []


def test_vectors_that_know_hardly_any_word_are_refused(vectors):
    vocabulary = ["dog", *(f"z{i}" for i in range(10))]
    assert embed(vocabulary[:-1], vectors, max_dot=1)[1].found == ["dog"]
    with pytest.raises(UserError, match="the word vectors know 1 of the vocabulary's 11 words"):
        embed(vocabulary, vectors)
    with pytest.raises(UserError, match="know 0 of the vocabulary's 1 words"):
        embed(["zzz"], vectors)


def test_training_follows_the_seed():
    captions = [["a", "dog", "barks"], ["rain", "falls"]] * 20
    first, again = (train_vectors(captions, 8, 2, 2, seed=0) for _ in range(2))
    for word in ("a", "dog", "rain"):
        np.testing.assert_array_equal(first[word], again[word])
    assert not np.array_equal(first["dog"], train_vectors(captions, 8, 2, 2, seed=1)["dog"])


def test_embeddings_round_trip_and_other_or_odd_dimensions_are_refused(tmp_path, vectors):
    embeddings, _ = embed(["été", "dog"], vectors)
    save_embeddings(tmp_path / "e.npz", embeddings)
    for out_dim in (None, SIZE):
        words, read = load_embeddings(tmp_path / "e.npz", out_dim)
        assert words == [PAD, "dog", "été"]
        np.testing.assert_array_equal(read, embeddings.vectors)
    with pytest.raises(UserError, match=rf"CRNNWordModel\.audio_enc\.out_dim: is 300, but .* {SIZE} dimensions.*null"):
        load_embeddings(tmp_path / "e.npz", out_dim=300)
    save_embeddings(tmp_path / "e.npz", embeddings._replace(vectors=embeddings.vectors[:, :5]))
    with pytest.raises(UserError, match=r"e\.npz: vectors of 5 dimensions.*even"):
        load_embeddings(tmp_path / "e.npz")


WORDS, VECTORS = np.array([PAD, "a", "b"]), np.zeros((3, SIZE), np.float32)


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"words": np.array([PAD, "a", "a"]), "vectors": VECTORS}, "do not belong together"),
        ({"words": WORDS[::-1], "vectors": VECTORS}, "do not belong together"),
        ({"words": np.arange(3), "vectors": VECTORS}, "not the vectors of"),
        ({"words": WORDS, "vectors": VECTORS.astype(int)}, "not the vectors of"),
        ({"word": WORDS, "vectors": VECTORS}, "not the vectors of"),
    ],
)
def test_unfit_embeddings_are_refused(tmp_path, arrays, what):
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(UserError, match=rf"e\.npz: .*{what}.*; run .*again"):
        load_embeddings(tmp_path / "e.npz")


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"words": np.array(["c"]), "vectors": VECTORS[:1]}, "holds 1 word, but .*extra_words is 2"),
        ({"words": np.array(["b", "c"]), "vectors": VECTORS[:2]}, "does not belong to the vocabulary"),
        ({"words": np.array(["c", "d"]), "vectors": VECTORS[:2, 1:]}, "does not belong to the vocabulary"),
        ({"words": np.array(["c", "d"]), "vectors": VECTORS[:2] + np.inf}, "'c' is not finite"),
    ],
)
def test_unfit_further_words_are_refused(tmp_path, arrays, what):
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(UserError, match=rf"e\.npz: .*{what}"):
        load_further_words(tmp_path / "e.npz", 2, WORDS.tolist(), SIZE)
