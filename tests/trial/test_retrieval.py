"""Scores of a split are written part by part, the matrix of clips and captions where it is wanted alone."""

import shutil
from itertools import pairwise

import h5py
import numpy as np
import pytest

from tests.helpers import call, write_trial
from utils.common.errors import UserError
from utils.trial import retrieval
from utils.trial.score_files import Captions, load_scores, new_word_scores, scores_path, word_scores_path

SCORE, MEASURE = "postprocessing/1_xmodal_scores.py", "postprocessing/2_xmodal_retrieval.py"
NAMES = [f"{i}.wav" for i in range(6)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trial that is trained, its scores, as `call` writes them. Not to be changed."""
    trial, _ = write_trial(tmp_path_factory.mktemp("retrieval"), NAMES)
    call(SCORE, "--trial", trial)
    return trial


@pytest.fixture
def trial(made, tmp_path):
    shutil.copytree(made, tmp_path / "trial")
    return tmp_path / "trial"


def content(path):
    with h5py.File(path) as store:
        return {name: store[name][()] for name in store} | dict(store.attrs)


def test_clip_caption_scores_are_weighted_sums_of_word_scores(made):
    words, matrix = content(word_scores_path(made, "evaluation")), content(scores_path(made, "evaluation"))
    starts, ids, shares = (words[f"caption_{name}"] for name in ("starts", "words", "shares"))
    expected = [shares[first:end] @ words["scores"][ids[first:end]] for first, end in pairwise(starts)]
    np.testing.assert_allclose(matrix["scores"], np.array(expected).T, atol=1e-6)
    assert matrix["scores"].dtype == np.float32 and matrix["scores"].shape == (6, len(starts) - 1)
    for name in ("fids", "tids", "caption_fids"):
        assert (matrix[name] == words[name]).all()


def test_scoring_in_chunks_equals_scoring_at_once(made, trial, monkeypatch):
    monkeypatch.setattr(retrieval, "CLIPS_AT_ONCE", 4)
    monkeypatch.setattr("utils.trial.score_files.CLIPS_AT_ONCE", 4)
    call(SCORE, "--trial", trial)
    for path in (word_scores_path, scores_path):
        ours, whole = (content(path(each, "evaluation")) for each in (trial, made))
        np.testing.assert_allclose(ours.pop("scores"), whole.pop("scores"), atol=1e-6)
        assert {name: np.array(part).tolist() for name, part in ours.items()} == {
            name: np.array(part).tolist() for name, part in whole.items()
        }


def test_clip_caption_scores_are_optional_and_xmodal_scores_forces_them(made, trial, monkeypatch):
    with_matrix = call(MEASURE, "--trial", trial)
    path, before = scores_path(trial, "evaluation"), content(scores_path(made, "evaluation"))
    said = call(SCORE, "--trial", trial, "xmodal_scores=never")
    assert "evaluation: 6 clips x 18 captions, 4.32e-07 GB, are not written (xmodal_scores is never)" in said
    assert not path.exists() and call(MEASURE, "--trial", trial) == with_matrix
    monkeypatch.setattr(retrieval, "LARGEST_MATRIX", 431)
    said = call(SCORE, "--trial", trial)
    assert "are not written (over 4.31e-07 GB); no command needs them, xmodal_scores=always writes them" in said
    assert not path.exists() and f"development: 2 clips x 6 captions -> {scores_path(trial, 'development')}" in said
    call(SCORE, "--trial", trial, "xmodal_scores=always")
    assert (content(path)["scores"] == before["scores"]).all()
    call("postprocessing/3_report.py", "--trial", trial)


def test_an_error_while_scoring_keeps_the_earlier_scores(made, tmp_path):
    path = tmp_path / "scores.hdf5"
    stored = load_scores(word_scores_path(made, "evaluation"), 1)
    captions = Captions(stored.tids, stored.caption_fids, stored.scores.weights)

    def begin():
        return new_word_scores(path, ["a", "b"], stored.fids, captions, epoch=1)

    with begin() as write:
        write(slice(0, 6), np.ones((2, 6), np.float32))
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="out of memory"), begin() as write:  # it is no fault of the disk
        write(slice(0, 3), np.zeros((2, 3), np.float32))
        raise RuntimeError("out of memory")
    with pytest.raises(UserError, match="could not be written"), begin() as write:
        for left in tmp_path.glob(".*"):
            left.unlink()
        write(slice(0, 3), np.zeros((2, 3), np.float32))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
