"""Exported models, without their trials and data sets, against the scores of these trials."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors import safe_open

from models.audio_encoders import CRNNEncoder, FeatureEncoder
from models.core import CRNNWordModel
from models.mobilenet import MobileNetV3
from models.text_encoders import WordEncoder
from tests.helpers import (
    ON_FEATURES,
    SEARCH,
    STEP_5,
    call,
    call_both,
    record_preprocessing,
    record_step,
    write_history,
    write_trial,
)
from tests.search.conftest import encoded_sounds, files_of
from tests.test_sentences import SENTENCES, write_encoder
from utils.common.errors import UserError
from utils.common.steps import EMBEDDING
from utils.conf.load import load_conf, save_conf
from utils.dataset.index import read_clips
from utils.dataset.log_mel import read_log_mel
from utils.dataset.paths import DatasetPaths
from utils.dataset.word_vectors import WordEmbeddings, load_embeddings, save_embeddings
from utils.score_utils import configured_score
from utils.search.retrieval_model import RetrievalModel
from utils.trial.checkpoint import checkpoint_bytes
from utils.trial.identity import begin, data_digests, identity
from utils.trial.names import BEST

EXPORT, EXPLORE = "postprocessing/6_export.py", "postprocessing/5_explore.py"
SCORE, MEASURE = "postprocessing/1_xmodal_scores.py", "postprocessing/2_xmodal_retrieval.py"
NAMES = [f"{name}.wav" for name in ("one", "two", "three & more", "räin", "<b>")]
WORDS = ["<pad>", "a", "dog", "barks", "rain", "über", "walkie-talkie", "low"]
PROJECTED = [f"CRNNWordModel.{side}_enc.projection=6" for side in ("audio", "text")]
SENTENCE = [*ON_FEATURES, *PROJECTED, "CRNNWordModel.text_enc.level=sentence"]
VARIANTS = {
    "log-mels": [],
    "best frame": ["score.frames=max", "score.mask_words=true"],
    "softmax, idf": ["score.frames=softmax", "score.sharpness=7", "score.words=idf"],
    "log-mels, clips": ["score.level=clip", "score.words=idf"],
    "features": [*ON_FEATURES, *PROJECTED],
    "features, clips": [*ON_FEATURES, *PROJECTED, "score.level=clip"],
    "sentences": SENTENCE,
    "sentences, clips": [*SENTENCE, "score.level=clip"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set with log-mels, features, word vectors and sentences, and the settings that use it."""
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.helpers.WORDS", WORDS)
        _, conf = write_trial(folder, NAMES)
    paths = DatasetPaths(folder / "data")
    for split in conf.data_conf.splits:  # of the files, which are rounded to 16 bits
        with h5py.File(paths.log_mels(split), "r+") as store:
            for fid, clip in read_clips(paths, split).items():
                del store[fid]
                store[fid] = read_log_mel(paths.clip(split, clip.file_name), conf.audio_logmel.config)
    torch.manual_seed(0)
    torch.save(MobileNetV3(0.1).state_dict(), folder / "mn01.pt")
    encoder = write_encoder(folder)
    settings = [f"audio_features.weights={folder / 'mn01.pt'}", f"sentence_embeddings.model={encoder}"]
    settings += ["data_conf.val_data=development", "param_conf.num_epoch=1", "trial_series=x"]
    record_preprocessing(conf)
    for step in (STEP_5, SENTENCES):
        call(step, "--conf", _conf(folder, settings))
    shutil.copytree(paths.audio("evaluation"), folder / "sounds")
    return SimpleNamespace(folder=folder, paths=paths, settings=settings)


def _conf(folder, settings):
    where = [f"data_conf.dataset={folder / 'data'}", f"trial_base={folder}"]
    save_conf(load_conf("conf_demo.yaml", [*where, *settings]), folder / "conf.yaml")
    return folder / "conf.yaml"


def write_random(data, name, settings, seed=0, epochs=2):
    """Write a trial of random weights, scored and measured by the commands. Returns its directory."""
    conf = load_conf(_conf(data.folder, [*data.settings, *settings]))
    trial = data.folder / name
    trial.mkdir()
    torch.manual_seed(seed)
    features, sentences = conf.data_conf.audio == "features", conf.CRNNWordModel.text_enc.level == "sentence"
    vectors, words = torch.randn(len(WORDS), 20), WORDS
    if sentences:
        words, vectors = load_embeddings(data.paths.sentence_embeds)
        vectors = torch.from_numpy(vectors)
    vectors[0] = 0
    record_preprocessing(conf)
    model = CRNNWordModel(FeatureEncoder(96), WordEncoder(vectors), 6, 6) if features else CRNNWordModel(
        CRNNEncoder(64, 20), WordEncoder(vectors))  # fmt: skip
    score = configured_score(conf.score.model_dump(), len(words))
    score.count_words([torch.arange(1, 1 + n) for n in range(1, len(words))])
    begin(trial, conf, data_digests(conf, [conf.data_conf.train_data]))
    save_conf(conf, trial / "conf.yaml")
    content = {"model": model.eval().state_dict(), "words": words, "conf": conf.model_dump(), "history": []}
    content |= {"epoch": 1, "score": score.state_dict(), "trial": identity(trial)}
    (trial / BEST).write_bytes(checkpoint_bytes(content))
    write_history(trial, epochs)
    for command in (SCORE, MEASURE):
        call(command, "--trial", trial)
    return trial


@pytest.fixture(scope="module", params=VARIANTS)
def exported(data, request):
    """An exported model, and what its trial scored. Read-only."""
    trial = write_random(data, f"trial of {request.param}", VARIANTS[request.param])
    path = data.folder / "exported" / f"{request.param}.safetensors"
    call(EXPORT, "--trial", trial, path)
    table = pd.read_csv(data.paths.text("evaluation")).set_index("tid")
    with h5py.File(trial / "evaluation_xmodal_scores.hdf5") as store:
        scores, tids, fids = store["scores"][()], store["tids"].asstr()[()], store["fids"].asstr()[()]
    names = [read_clips(data.paths, "evaluation")[fid].file_name for fid in fids]
    return SimpleNamespace(
        name=request.param, path=path, scores=scores, names=names, texts=table.loc[tids, "text"].tolist(),
        sounds=data.folder / "sounds",
    )  # fmt: skip


@pytest.fixture
def alone(data, exported):
    """The same, while there is no data set."""
    (data.folder / "data").rename(data.folder / "gone")
    yield exported
    (data.folder / "gone").rename(data.folder / "data")


def test_scores_are_those_of_the_trial(alone):
    model = RetrievalModel.load(alone.path, device="cpu")
    found = model.score([alone.sounds / name for name in alone.names], alone.texts)
    assert found.dtype == np.float32 and found.shape == alone.scores.shape and np.ptp(found) > 1e-3
    np.testing.assert_allclose(found, alone.scores, rtol=0, atol=1e-5)


def test_the_file_is_as_large_as_its_weights(alone):
    with safe_open(alone.path, "pt") as file:
        keys, text = list(file.keys()), file.metadata()["retrieval_model"]
        size = sum(file.get_tensor(key).nbytes for key in keys)
    assert alone.path.stat().st_size < size + len(text.encode()) * 1.1 + 200 * len(keys)
    assert {key.partition(".")[0] for key in keys} <= {"model", "score"}
    words = json.loads(text)["words"]
    assert len(words) == 2 if "sentences" in alone.name else words == WORDS


def test_a_folder_is_searched_and_each_sound_encoded_once(alone, tmp_path, monkeypatch):
    encoded = encoded_sounds(monkeypatch)
    model, text, cache = RetrievalModel.load(alone.path), alone.texts[4], tmp_path / "cache"
    expected = sorted(zip(alone.scores[:, 4], alone.names, strict=True), key=lambda pair: (-pair[0], pair[1]))
    hits = model.rank(text, alone.sounds, top=3, cache=cache)
    assert [hit.path.name for hit in hits] == [name for _, name in expected[:3]]
    assert [hit.score for hit in hits] == pytest.approx([score for score, _ in expected[:3]], abs=1e-5)
    assert [hit.seconds for hit in hits] == [0.5] * 3 and len(encoded) == len(NAMES)
    command = [SEARCH, "--model", alone.path, "--clips", alone.sounds, "--cache", cache, "--top", 3, "--json"]
    found = json.loads(call(*command, text))
    assert [(hit["path"], hit["score"]) for hit in found] == [(str(hit.path), hit.score) for hit in hits]
    assert len(encoded) == len(NAMES)
    model.rank(alone.texts[7], alone.sounds, cache=cache)
    assert len(encoded) == len(NAMES) * (2 if alone.name == "sentences" else 1)


def test_vectors_of_sounds_and_texts_give_the_score_at_the_clip_level(alone):
    model, sounds = RetrievalModel.load(alone.path), [alone.sounds / name for name in alone.names]
    if "clips" not in alone.name:
        with pytest.raises(UserError, match=r"compares frames with words .* use score\(\) or rank\(\)"):
            model.encode_sounds(sounds)
        return
    audio, text = model.encode_sounds(sounds), model.encode_texts(alone.texts)
    np.testing.assert_allclose(np.linalg.norm(audio, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(audio @ text.T, alone.scores, rtol=0, atol=1e-5)


def test_sentences_need_their_encoder(alone, tmp_path):
    if "sentences" not in alone.name:
        return
    command = [SEARCH, "--model", alone.path, "--clips", alone.sounds, "--cache", tmp_path / "cache", "rain"]
    message = call(*command, "sentence_embeddings.model=absent/of/all", status=2)
    assert "absent/of/all is no directory" in message and "download the model elsewhere" in message
    message = call(*command, f"sentence_embeddings.model={write_encoder(tmp_path, seed=1)}", status=2)
    assert f"gives other vectors than those that {alone.path} was trained with" in message
    assert len(message.splitlines()) == 1
    page = call(EXPLORE, "--model", alone.path, "--folder", alone.sounds, status=2)
    assert f"{alone.path}: CRNNWordModel.text_enc.level is sentence" in page and len(page.splitlines()) == 1


# --- one model -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trial(data):
    """A trial on log-mels. Read-only."""
    return write_random(data, "idf", ["score.words=idf"])


@pytest.fixture
def model(trial, tmp_path):
    """Its exported model, to be spoiled."""
    call(EXPORT, "--trial", trial, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_unknown_words_are_left_out(data, model):
    loaded, sounds = RetrievalModel.load(model), sorted((data.folder / "sounds").iterdir())
    with pytest.warns(UserWarning, match="unknown words, left out: zork"):
        scores = loaded.score(sounds, ["Rain!", "zork rain", "zork"])
    np.testing.assert_array_equal(scores[:, 0], scores[:, 1])
    assert not scores[:, 2].any()
    with pytest.raises(UserError, match=r"no word of the query is known \(zork\)"):
        loaded.rank("zork", data.folder / "sounds", cache=model.parent / "cache")
    with pytest.raises(UserError, match="holds no words"):
        loaded.score(sounds, ["?!"])
    for one_sound, one_text in ((sounds, "rain"), (sounds[0], ["rain"])):
        with pytest.raises(UserError, match="give a list of"):
            loaded.score(one_sound, one_text)


def test_sounds_of_any_length_and_rate_are_scored_as_alone(model, tmp_path):
    sounds, rng = [], np.random.default_rng(0)
    for i, (rate, seconds) in enumerate([(8000, 1), (44100, 0.2), (16000, 3)] * 6):
        sounds.append(tmp_path / f"{i}.wav")
        soundfile.write(sounds[-1], rng.normal(0, 0.1, int(rate * seconds)), rate)
    loaded = RetrievalModel.load(model)
    together, alone = loaded.score(sounds, WORDS[1:3]), [loaded.score([sound], WORDS[1:3])[0] for sound in sounds]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)
    assert loaded.score([], ["rain"]).shape == (0, 1) and loaded.score(sounds[:1], []).shape == (1, 0)


def test_the_card_has_the_metrics_with_intervals_and_is_kept_once_edited(trial, model):
    card = model.with_suffix(".md")
    text, metrics = card.read_text(), json.loads((trial / "retrieval_metrics.json").read_text())["evaluation"]
    assert f"| Text-to-audio | {metrics['text_to_audio']['mAP']:.3f} [" in text and "95 % intervals" in text
    assert "| evaluation | 5 | 15 |" in text and "## Licence" in text and "Caveat" not in text
    before = model.read_bytes()
    call(EXPORT, "--trial", trial, model)  # its own files
    assert model.read_bytes() == before and card.read_text() == text
    card.write_text(text + "MIT\n")
    message = call(EXPORT, "--trial", trial, model, status=2)
    assert f"{card}: is not a model card of an earlier run, or has changed since" in message
    assert card.read_text() == text + "MIT\n" and model.read_bytes() == before


def test_a_full_disk_leaves_nothing_half_written(trial, tmp_path):
    with files_of(100_000):
        message = call(EXPORT, "--trial", trial, tmp_path / "model.safetensors", status=2)
    assert "model.safetensors: could not be written" in message and len(message.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_unfinished_trial_is_marked(data, tmp_path):
    trial, path = write_random(data, "unfinished", [], epochs=1), tmp_path / "model.safetensors"
    caveat = "unfinished: epoch 0 of 1 is its last"
    assert caveat in call_both(EXPORT, "--trial", trial, path)[1]
    assert f"**Caveat:** {caveat}" in path.with_suffix(".md").read_text()
    with pytest.warns(UserWarning, match=f"{path}: {caveat}"):
        RetrievalModel.load(path)


def test_other_models_drop_what_was_kept(data, model, tmp_path):
    other = write_random(data, "other", ["score.words=idf"], seed=1)
    call(EXPORT, "--trial", other, tmp_path / "other.safetensors")
    command = ["--clips", data.folder / "sounds", "--cache", tmp_path / "cache", "rain"]
    for path, said in ((model, "5 sounds x 8"), (model, "5 kept"), (tmp_path / "other.safetensors", "are dropped")):
        assert said in call_both(SEARCH, "--model", path, *command)[1]


def test_captions_are_ranked_with_a_model_as_with_its_trial(data, trial, model, tmp_path):
    (tmp_path / "queries.csv").write_text("caption\na dog barks\nzork\nüber rain\n")
    files = ["--queries", tmp_path / "queries.csv", "--clips", data.folder / "sounds"]
    call(SEARCH, "--trial", trial, *files, "--csv", tmp_path / "trial.csv")
    call(SEARCH, "--model", model, *files, "--csv", tmp_path / "model.csv", "--cache", tmp_path / "cache")
    assert (tmp_path / "model.csv").read_bytes() == (tmp_path / "trial.csv").read_bytes()
    assert not list(data.folder.glob("sounds_*"))


def test_a_play_list_and_a_page_of_a_folder(data, model, tmp_path):
    shutil.copytree(data.folder / "sounds", tmp_path / "mine")
    call(SEARCH, "--model", model, "--clips", tmp_path / "mine", "rain", "--play-list", tmp_path / "rain.m3u8")
    assert len((tmp_path / "rain.m3u8").read_text().splitlines()) == 1 + 2 * len(NAMES)
    said = call(EXPLORE, "--model", model, "--folder", tmp_path / "mine", "--clips", "link")
    assert "5 kept from an earlier run" in said and said.endswith(f"-> {tmp_path}/mine_explore/index.html\n")
    page = (tmp_path / "mine_explore" / "index.html").read_text()
    assert "<h1>Explore mine</h1>" in page and "Model model.safetensors, epoch 1." in page
    assert "three \\u0026 more.wav" in page
    assert len(list((tmp_path / "mine_explore" / "logmels").iterdir())) == len(NAMES)


def test_extra_words_are_words_of_the_model(data, trial, tmp_path):
    paths = data.paths
    vectors = np.random.default_rng(5).normal(size=(3, 20)).astype(np.float32)
    save_embeddings(paths.word_extra, WordEmbeddings(["poodle", "siren", "drizzle"], vectors))
    conf = load_conf(trial / "conf.yaml")
    record_step(conf, EMBEDDING)
    try:
        call(EXPORT, "--trial", trial, tmp_path / "m.safetensors", "--extra-words", 2)
        call(SCORE, "--trial", trial, "word2vec_embeddings.extra_words=2")
        with h5py.File(trial / "evaluation_word_scores.hdf5") as store:
            row = store["scores"][store["words"].asstr()[()].tolist().index("siren")]
            fids = store["fids"].asstr()[()]
        names = [read_clips(paths, "evaluation")[fid].file_name for fid in fids]
        found = json.loads(call(SEARCH, "--trial", trial, "--json", "siren rain rain", "--top", 9))
    finally:
        paths.word_extra.unlink()
        record_step(conf, EMBEDDING)
    model, sounds = RetrievalModel.load(tmp_path / "m.safetensors"), [data.folder / "sounds" / name for name in names]
    scores = model.score(sounds, ["siren", "siren rain rain"])
    np.testing.assert_allclose(scores[:, 0], row, rtol=0, atol=1e-5)
    weighed = {Path(hit["path"]).name: hit["score"] for hit in found}
    np.testing.assert_allclose(scores[:, 1], [weighed[name] for name in names], rtol=0, atol=1e-5)
