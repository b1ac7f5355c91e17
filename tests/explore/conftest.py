"""Trials whose clips and words have odd names, with scores as if a model had given them, and their pages."""

import shutil

import numpy as np
import pytest
import torch

from tests.helpers import ODD_NAMES, WORDS, call, record_files, write_trial
from utils.audio_input import audio_input
from utils.common.steps import SCORING
from utils.data_utils import load_split
from utils.dataset.paths import DatasetPaths
from utils.explore.page import write_explore
from utils.score_utils import Score
from utils.search.clip_search import ClipSearch
from utils.trial.checkpoint import checkpoint_bytes
from utils.trial.identity import data_digests
from utils.trial.names import BEST
from utils.trial.score_files import WordScores, save_word_scores, word_scores_path
from utils.trial.trial import Trial

NAMES = [*ODD_NAMES, *(f"clip {i}.wav" for i in range(25))]
ODD_WORDS = [
    *("walkie-talkie", "naïve", "barking", "straße", "οδός", "i̇stanbul", "雨"),
    *("ﬁre", "raining", "rainy", "train"),
]
VOCABULARY = [*WORDS, *ODD_WORDS, *(f"{a}{b}{c}" for a in "bdgkm" for b in "aeiou" for c in "lnrst")]
TWINS = (7, 3)  # clips that score the same


def write_word_scores(trial, conf, score):
    """Word scores of the evaluation split: most low, some high, two clips alike; signed as the step's own."""
    split, rng = conf.data_conf.eval_data, np.random.default_rng(0)
    fids = load_split(DatasetPaths(conf.data_conf.dataset), split, VOCABULARY, audio_input(conf)).fids
    scores = (rng.random((len(VOCABULARY), len(fids))) ** 3 * rng.random((len(VOCABULARY), 1))).astype(np.float32)
    scores[0], scores[5] = 0, 0.25  # the padding, and a word that tells nothing
    scores[:, TWINS[0]] = scores[:, TWINS[1]]
    path = word_scores_path(trial, split)
    save_word_scores(path, WordScores(scores, VOCABULARY, fids, 1, str(score)))
    record_files(trial, SCORING, [trial / BEST], [path], data=data_digests(conf, [split]))


@pytest.fixture(scope="session")
def trials(tmp_path_factory):
    """{words: (trial, configuration)} of a score that is the words' mean, and of one that weighs them."""
    folder = tmp_path_factory.mktemp("explore")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.helpers.WORDS", VOCABULARY)
        trial, conf = write_trial(folder, NAMES)
    weighted = folder / "weighted"
    shutil.copytree(trial, weighted)
    score = Score(words="idf", vocabulary=len(VOCABULARY))
    score.count_words([torch.arange(1, 1 + n) for n in range(1, len(VOCABULARY))])
    content = torch.load(weighted / BEST, weights_only=True)
    content["conf"] = content["conf"] | {"score": {"words": "idf"}}
    (weighted / BEST).write_bytes(checkpoint_bytes(content | {"score": score.state_dict()}))
    write_word_scores(trial, conf, Score())
    write_word_scores(weighted, conf, score)
    return {"mean": (trial, conf), "idf": (weighted, conf)}


@pytest.fixture(scope="session")
def pages(trials):
    """{words: path of the page}; the first was written by the command, with copies of the clips."""
    printed = call("postprocessing/5_explore.py", "--trial", trials["mean"][0])
    page = trials["mean"][0] / "explore" / "index.html"
    assert printed == f"-> {page}\n"
    return {"mean": page, "idf": write_explore(Trial(*trials["idf"]), copy=False)}


@pytest.fixture(scope="session")
def searches(trials):
    """{words: ClipSearch}."""
    return {words: ClipSearch(Trial(*trial)) for words, trial in trials.items()}
