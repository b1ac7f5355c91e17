"""Words that no caption has, through the real commands: step 3 keeps them, trials score and search finds them."""

import json
import math
import shutil

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from tests.helpers import STAGES, call, only_trial, run_pipeline, tiny_conf
from utils.audio_input import audio_input
from utils.conf.load import load_conf
from utils.data_utils import load_split
from utils.dataset.paths import DatasetPaths
from utils.score_utils import score_matrix
from utils.search.clip_search import ClipSearch
from utils.trial.directory import open_trial

EMBED, SCORE, MEASURE, SEARCH = STAGES[3], STAGES[6], STAGES[7], "postprocessing/4_search.py"
SIZE = 8
# By frequency, between the vocabulary's words. A query can contain five: text cleaning changes or splits the others.
FURTHER = ["Poodle", "poodle", "new_york", "it's", "–", "thunder-storm", "birdz", "été", "###", "infant", "drizzle"]
TYPED = ["poodle", "thunder-storm", "été", "infant", "drizzle"]


def extra(count):
    return f"word2vec_embeddings.extra_words={count}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished trial with idf word weights and word vectors from a file. Read-only."""
    folder = tmp_path_factory.mktemp("extra")
    conf = tiny_conf(folder)
    settings = yaml.safe_load(conf.read_text()) | {
        "text_cleaning": {"corrections": {"birdz": "birds"}},
        "word2vec_embeddings": {"source": "file", "file": str(folder / "vectors.txt")},
        "param_conf": {"num_epoch": 1, "batch_size": 8},
        "score": {"words": "idf"},
    }
    conf.write_text(yaml.safe_dump(settings))
    run_pipeline(conf, stages=STAGES[:3])
    words = json.loads((folder / "data" / "vocab_info.json").read_text())["vocabulary"]
    words = [word for pair in zip(words, FURTHER, strict=False) for word in pair] + words[len(FURTHER) :]
    rows = np.random.default_rng(0).normal(size=(len(words), SIZE)).round(3)
    lines = [" ".join(map(str, [word, *row])) for word, row in zip(words, rows, strict=True)]
    (folder / "vectors.txt").write_text("\n".join([f"{len(words)} {SIZE}", *lines]) + "\n")
    run_pipeline(conf, stages=STAGES[3:8])
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run, whose trial uses the copied data. It still reads the original word vectors."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for conf in (tmp_path / "conf.yaml", only_trial(tmp_path) / "conf.yaml"):
        text = conf.read_text()
        for name in ("data", "output"):
            text = text.replace(str(finished / name), str(tmp_path / name))
        conf.write_text(text)
    return tmp_path


def refused(script, *arguments):
    """Run a command that fails. Returns its error line."""
    message = call(script, *arguments, status=2)
    assert message.startswith("error: "), message
    # word vectors trained on so few captions are all alike, which is a warning
    (line,) = [line for line in message.splitlines() if not line.startswith("no unknown-word vector")]
    return line


def keep(folder, count):
    return call(EMBED, "--conf", folder / "conf.yaml", extra(count))


def word_scores(trial):
    with h5py.File(trial / "evaluation_word_scores.hdf5") as store:
        return store["words"].asstr()[()].tolist(), store["fids"].asstr()[()].tolist(), store["scores"][()]


def kept_vectors(folder):
    with np.load(folder / "data" / "word2vec_extra.npz", allow_pickle=False) as arrays:
        return arrays["words"].tolist(), arrays["vectors"]


def test_step_3_keeps_the_most_frequent_words_that_a_query_can_contain(folder):
    before = (folder / "data" / "word2vec_embeds.npz").read_bytes()
    assert "3 words that no caption has -> " in keep(folder, 3)
    words, vectors = kept_vectors(folder)
    assert words == TYPED[:3] and vectors.dtype == np.float32
    lines = [line.split(" ") for line in (folder / "vectors.txt").read_text().splitlines()[1:]]
    of_file = {word: np.array(row, np.float32) for word, *row in lines}
    np.testing.assert_array_equal(vectors, [of_file[word] for word in words])
    assert (folder / "data" / "word2vec_embeds.npz").read_bytes() == before


def test_scoring_with_extra_words_changes_no_other_number(folder):
    trial = only_trial(folder)
    vocabulary, fids, before = word_scores(trial)
    files = ["evaluation_xmodal_scores.hdf5", "checkpoint_best.pt", "retrieval_metrics.json"]
    contents = [(trial / name).read_bytes() for name in files]
    keep(folder, 5)
    assert f"4 clips x {len(vocabulary) + 4} words" in call(SCORE, "--trial", trial, extra(4))
    call(MEASURE, "--trial", trial)
    words, after_fids, after = word_scores(trial)
    assert words == [*vocabulary, *TYPED[:4]] and after_fids == fids
    np.testing.assert_array_equal(after[: len(vocabulary)], before)
    assert [(trial / name).read_bytes() for name in files] == contents
    best, conf = open_trial(trial, []).best, load_conf(trial / "conf.yaml")
    split = load_split(DatasetPaths(conf.data_conf.dataset), "evaluation", best.words, audio_input(conf))
    vectors = F.normalize(torch.from_numpy(kept_vectors(folder)[1][:4]), dim=1)
    for clip, log_mel in enumerate(split.audio):
        with torch.no_grad():
            expected = score_matrix(best.model.audio_branch(log_mel[None]), vectors.unsqueeze(1))[0]
        np.testing.assert_allclose(after[len(vocabulary) :, clip], expected, atol=1e-6)
    call(SCORE, "--trial", trial)
    assert word_scores(trial)[0] == vocabulary  # by the trial's saved configuration


def test_search_finds_extra_words_and_weights_them_as_unseen(folder):
    trial = only_trial(folder)
    message = refused(SEARCH, "--trial", trial, "Poodle!")
    assert "no word of the query is known (poodle)" in message and "word2vec_embeddings.extra_words adds" in message
    keep(folder, 2)
    call(SCORE, "--trial", trial, extra(2))
    words, fids, scores = word_scores(trial)
    search, known = ClipSearch.open(trial), words[5]
    query = f"Poodle, {known} thunder-storm infant poodle"
    assert search.unknown_words(query) == ["infant"]
    idf = open_trial(trial, []).best.score.idf
    unseen = math.log(1 + 8 * 5) + 1  # of 8 clips with 5 captions each
    assert idf.max() <= unseen
    weights = {known: idf[5].item(), "poodle": 2 * unseen, "thunder-storm": unseen}
    expected = sum(weight * scores[words.index(word)] for word, weight in weights.items()) / sum(weights.values())
    assert {hit.fid: hit.score for hit in search.by_text(query)} == pytest.approx(
        dict(zip(fids, expected.tolist(), strict=True)), abs=1e-6
    )
    hits = json.loads(call(SEARCH, "--trial", trial, "poodle", "--json"))
    expected = sorted(scores[words.index("poodle")], reverse=True)
    assert [hit["score"] for hit in hits] == pytest.approx(expected, abs=1e-6)


def test_scoring_refuses_extra_words_that_step_3_did_not_keep(folder):
    trial = only_trial(folder)
    path, before = folder / "data" / "word2vec_extra.npz", word_scores(trial)
    message = refused(SCORE, "--trial", trial, extra(2))
    assert f"{path}: no extra words that {EMBED} recorded, but word2vec_embeddings.extra_words is 2; run it" in message
    keep(folder, 2)
    message = refused(SCORE, "--trial", trial, extra(3))
    assert f"{path}: holds 2 words, but word2vec_embeddings.extra_words is 3; run {EMBED} with that setting" in message
    content = path.read_bytes()
    keep(folder, 0)
    assert not path.exists()
    path.write_bytes(content)  # left over from an earlier run: no record says which vectors it belongs to
    assert "no extra words that" in refused(SCORE, "--trial", trial, extra(2))
    keep(folder, 2)
    call(SCORE, "--trial", trial, extra(2))
    path.write_bytes(content[:-1])
    assert f"{path}: is not as {EMBED} wrote it" in refused(SCORE, "--trial", trial, extra(2))
    keep(folder, 1)
    assert f"{path}: has changed since {SCORE} read it" in refused(SEARCH, "--trial", trial, "poodle")
    call(SCORE, "--trial", trial)
    np.testing.assert_array_equal(word_scores(trial)[2], before[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([extra(-1)], "'word2vec_embeddings.extra_words=-1': word2vec_embeddings.extra_words: is -1;"),
        ([extra(6)], "word2vec_embeddings.extra_words: is 6, but the word vectors have only 5"),
        (
            [extra(1), "word2vec_embeddings.source=train", "word2vec_embeddings.file=null"],
            "word2vec_embeddings.extra_words: is 1, but the word vectors have only 0",
        ),
        (
            ["CRNNWordModel.text_enc.trainable=true", extra(1)],
            "word2vec_embeddings.extra_words is 1 but CRNNWordModel.text_enc.trainable is true",
        ),
    ],
)
def test_impossible_numbers_of_extra_words_are_refused(folder, settings, message):
    keep(folder, 3)
    before = {path: path.read_bytes() for path in (folder / "data").glob("*.npz")}
    assert message in refused(EMBED, "--conf", folder / "conf.yaml", *settings)
    assert {path: path.read_bytes() for path in (folder / "data").glob("*.npz")} == before


def test_trained_word_vectors_take_no_extra_words(folder):
    conf, frozen, trained = folder / "conf.yaml", only_trial(folder), "CRNNWordModel.text_enc.trainable=true"
    call("main.py", "--conf", conf, trained, "param_conf.num_epoch=0")
    keep(folder, 1)
    (trial,) = set((folder / "output" / "demo").iterdir()) - {frozen}
    message = refused(SCORE, "--trial", trial, extra(1))
    assert "text_enc.trainable is true, which trains only the words of captions; set extra_words to 0" in message
    call(SCORE, "--trial", trial)
