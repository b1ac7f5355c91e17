"""Captions as sentences: against the definition, with gradients, and through the real commands."""

import csv
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from models.audio_encoders import FeatureEncoder
from models.core import CRNNWordModel
from models.text_encoders import WordEncoder
from tests.helpers import ON_FEATURES, STAGES, call, only_trial, random_split, run_pipeline, tiny_conf, write_features
from utils.common.hub import sentence_transformers_library, transformers_library
from utils.criterion_utils import InfoNCE
from utils.data_utils import collate
from utils.dataset.index import read_clips
from utils.dataset.paths import DatasetPaths
from utils.dataset.sentence_encoder import SentenceEncoder
from utils.score_utils import BatchScores, ClipScore, Score
from utils.search.clip_search import ClipSearch
from utils.trial.checkpoint import load_checkpoint

SCORE, MEASURE, REPORT = STAGES[-3:]
SENTENCES, SEARCH = "preprocessing/3_sentence_embeddings.py", "postprocessing/4_search.py"
LEVELS = {
    "frame": ["CRNNWordModel.audio_enc.projection=16"],
    "clip": [f"CRNNWordModel.{side}_enc.projection=6" for side in ("audio", "text")] + ["score.level=clip"],
}
SPLITS = ("development", "validation", "evaluation")
SIZE = 16  # of a sentence's vector
WORDS = ["a", "the", "dog", "cat", "bird", "rain", "siren", "engine", "tone", "noise", "low", "high", "and", "then"]


# --- against the definition ------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["frame", "clip"])
def test_scores_and_gradients_are_the_plain_loops(level):
    split = random_split(longest=24)
    for caption in range(18):
        split.captions[caption] = torch.tensor([1 + caption])  # each caption has a vector
    split.audio[:] = [clip.double() for clip in split.audio]
    score = (ClipScore(mask_frames=True) if level == "clip" else Score(mask_frames=True)).double()
    captions, results, gradients = [0, 1, 4, 7, 8, 12, 17], [], []
    for plain in (False, True):
        torch.manual_seed(0)
        vectors = torch.cat([torch.zeros(1, 10), torch.randn(18, 10)])
        model = CRNNWordModel(FeatureEncoder(64), WordEncoder(vectors), 6, 6).double().train()
        batch = collate(split, captions)
        if plain:
            scores = torch.stack([
                torch.stack([_plain_score(model, level, split.audio[clip], vectors[1 + j].double()) for j in captions])
                for clip in batch.clips
            ])  # fmt: skip
        else:
            encoded = score.encode_audio(model, batch.audio, score.training_lengths(batch))
            scores = score(encoded, score.encode_text(model, batch), batch).audio_text
        results.append(scores)
        within = BatchScores(scores, None, None)  # which InfoNCE does not ask for
        InfoNCE(0.1).double()(within, ~torch.eye(7, dtype=torch.bool)).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    torch.testing.assert_close(*results)
    assert gradients[0].keys() == {"audio_projection.weight", "audio_projection.bias", "text_projection.weight"}
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)
        assert gradient.norm() > 0


def _plain_score(model, level, audio, vector):
    """S of a clip (T, D) and a sentence's vector, frame by frame."""
    frames = [model.audio_projection(model.audio_norm(frame)) for frame in audio]
    sentence = F.normalize(model.text_projection(vector), dim=0)
    if level == "clip":
        return F.normalize(sum(frames), dim=0) @ sentence
    return sum((F.normalize(frame, dim=0) @ sentence).clamp(min=0) for frame in frames) / len(frames)


# --- the real commands -----------------------------------------------------------------------------------


def write_encoder(folder, seed=0):
    """Write a tiny sentence encoder with random weights, in the library's form. Returns its directory."""
    library, transformers = sentence_transformers_library("tests"), transformers_library("tests")
    torch.manual_seed(seed)
    bert, words = folder / "bert", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    settings = transformers.BertConfig(
        vocab_size=len(words), hidden_size=SIZE, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(settings).save_pretrained(bert)
    tokenizer = transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    tokenizer.save_pretrained(bert)
    modules = library.sentence_transformer.modules
    model = library.SentenceTransformer(modules=[modules.Transformer(str(bert)), modules.Pooling(SIZE)], device="cpu")
    model.save(str(folder / "encoder"))
    return folder / "encoder"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set with sentences and features, and the settings that use them. Read-only."""
    folder = tmp_path_factory.mktemp("sentences")
    conf, encoder = tiny_conf(folder), write_encoder(folder)
    settings = [f"sentence_embeddings.model={encoder}", "CRNNWordModel.text_enc.level=sentence", *ON_FEATURES]
    run_pipeline(conf, stages=STAGES[:3])
    said = call(SENTENCES, "--conf", conf, *settings)
    assert said.endswith(f"16 dimensions -> {folder / 'data' / 'sentence_embeds.npz'}\n")
    rng = np.random.default_rng(0)
    for split in SPLITS:
        features = {fid: rng.normal(size=(9, 8)).astype(np.float32) for fid in read_clips(_paths(folder), split)}
        write_features(_paths(folder).audio_features(split), features)
    settings.append("audio_features.model=own")
    call("preprocessing/5_audio_features.py", "--conf", conf, *settings)
    return folder, settings


def _paths(folder):
    return DatasetPaths(folder / "data")


def trained(prepared, folder, *settings, command=("main.py",)):
    arguments = ["--conf", prepared[0] / "conf.yaml", *prepared[1], f"trial_base={folder / 'output'}"]
    call(*command, *arguments, "trial_series=demo", *settings)
    return only_trial(folder)


@pytest.fixture(scope="module", params=LEVELS)
def trial(prepared, tmp_path_factory, request):
    """A finished trial at each level, scored, measured and reported. Read-only."""
    path = trained(prepared, tmp_path_factory.mktemp(request.param), *LEVELS[request.param])
    for stage in (SCORE, MEASURE, REPORT):
        call(stage, "--trial", path)
    return path


def test_each_distinct_caption_has_its_vector(prepared):
    folder, settings = prepared
    captions = pd.concat(pd.read_csv(_paths(folder).text(split)) for split in SPLITS)
    with np.load(_paths(folder).sentence_embeds, allow_pickle=False) as arrays:
        words, vectors = arrays["words"].tolist(), arrays["vectors"]
    assert words == ["<pad>", *sorted(set(captions["text"]))] and not vectors[0].any()
    expected = SentenceEncoder(settings[0].partition("=")[2])._model.encode(words[3])
    np.testing.assert_allclose(vectors[3], expected, rtol=0, atol=1e-6)


def scores_of(trial):
    with h5py.File(trial / "evaluation_xmodal_scores.hdf5") as store:
        return store["scores"][()], store["fids"].asstr()[()].tolist(), store["tids"].asstr()[()].tolist()


def test_evaluation_is_the_plain_loop(prepared, trial):
    scores, fids, tids = scores_of(trial)
    model = ClipSearch.open(trial).model
    table = pd.read_csv(_paths(prepared[0]).text("evaluation")).set_index("tid")
    with np.load(_paths(prepared[0]).sentence_embeds) as arrays:
        vectors = dict(zip(arrays["words"].tolist(), torch.from_numpy(arrays["vectors"]), strict=True))
    level = "clip" if "text_projection.weight" in model.state_dict() else "frame"
    with h5py.File(_paths(prepared[0]).audio_features("evaluation")) as store, torch.no_grad():
        for clip, caption in np.ndindex(3, 4):
            audio, vector = torch.from_numpy(store[fids[clip]][()]), vectors[table.loc[tids[caption], "text"]]
            expected = _plain_score(model, level, audio, vector).item()
            assert scores[clip, caption] == pytest.approx(expected, abs=1e-5)


def test_a_text_is_ranked_by_the_scores_of_its_sentence(prepared, trial):
    scores, fids, tids = scores_of(trial)
    table = pd.read_csv(_paths(prepared[0]).text("evaluation")).set_index("tid")
    hits = ClipSearch.open(trial).by_text(table.loc[tids[5], "raw_text"].upper(), top=len(fids))
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores[:, 5], reverse=True), abs=1e-5)
    assert hits[0].fid == fids[scores[:, 5].argmax()]
    said = call(SEARCH, "--trial", trial, "--json", "words that no caption has")
    assert said.startswith("[\n") and said.count('"rank"') == 4


def test_a_resumed_trial_equals_an_uninterrupted_one(prepared, trial, tmp_path):
    level = "clip" if "text_projection.weight" in load_checkpoint(trial / "checkpoint_best.pt")["model"] else "frame"
    resumed = trained(prepared, tmp_path, *LEVELS[level], "param_conf.num_epoch=1")
    call("main.py", "--resume", resumed, "param_conf.num_epoch=2")
    assert (resumed / "metrics.jsonl").read_bytes() == (trial / "metrics.jsonl").read_bytes()
    ours, theirs = (load_checkpoint(path / "checkpoint_last.pt")["model"] for path in (resumed, trial))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_processes_train_as_one(prepared, tmp_path):
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "main.py")
    settings = [*LEVELS["clip"], "param_conf.num_epoch=1"]
    alone = trained(prepared, tmp_path / "one", *settings, "CRNNWordModel.audio_enc.dropout=0")
    both = trained(prepared, tmp_path / "two", *settings, "CRNNWordModel.audio_enc.dropout=0", command=launch)
    ours, theirs = (load_checkpoint(path / "checkpoint_last.pt")["model"] for path in (both, alone))
    for name, weights in ours.items():
        torch.testing.assert_close(weights, theirs[name], rtol=0, atol=1e-4)


def test_a_folder_is_ranked_for_each_sentence(prepared, tmp_path):
    folder, settings = prepared
    crnn = [setting for setting in settings if setting not in [*ON_FEATURES, "audio_features.model=own"]]
    call(STAGES[4], "--conf", folder / "conf.yaml")
    arguments = ["--conf", folder / "conf.yaml", *crnn, f"trial_base={tmp_path / 'output'}", "trial_series=demo"]
    call("main.py", *arguments, "param_conf.num_epoch=1")
    path, clips = only_trial(tmp_path), folder / "data" / "evaluation"
    call(SCORE, "--trial", path)
    scores, fids, tids = scores_of(path)
    table = pd.read_csv(_paths(folder).text("evaluation")).set_index("tid").loc[tids]
    table["raw_text"].iloc[[0, 7]].to_csv(tmp_path / "queries.csv", header=["caption"], index=False)
    said = call(SEARCH, "--trial", path, "--queries", tmp_path / "queries.csv", "--clips", clips, "--csv",
                tmp_path / "out.csv")  # fmt: skip
    assert "4 sounds x 2 distinct captions" in said
    with (tmp_path / "out.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    names = [read_clips(_paths(folder), "evaluation")[fid].file_name for fid in fids]
    for row, caption in zip(rows, (0, 7), strict=True):
        ranked = scores[[names.index(name) for name in row[1:]], caption]
        assert sorted(row[1:]) == sorted(names) and (np.diff(ranked) < 1e-5).all()
    clip = names.index(rows[0][1])
    for hit in ClipSearch.open(path).by_audio(clips / rows[0][1], top=3):
        assert hit.score == pytest.approx(scores[clip, tids.index(hit.tid)], abs=1e-4)


def test_the_report_compares_sentences(trial):
    assert "with a caption of the anchor's clip, as sentences" in (trial / "report" / "report.html").read_text()


# --- refusals --------------------------------------------------------------------------------------------


def test_another_encoder_is_refused_in_a_search(prepared, trial, tmp_path):
    model = write_encoder(tmp_path, seed=1)
    (prepared[0] / "encoder").rename(tmp_path / "kept")
    try:
        model.rename(prepared[0] / "encoder")
        said = call(SEARCH, "--trial", trial, "a dog", status=2)
        assert f"has changed since {SENTENCES} read it" in said
    finally:
        (prepared[0] / "encoder").rename(tmp_path / "other")
        (tmp_path / "kept").rename(prepared[0] / "encoder")


def test_the_live_page_is_refused(trial):
    message = call("postprocessing/5_explore.py", "--trial", trial, status=2)
    assert "CRNNWordModel.text_enc.level is sentence" in message and "search with 4_search.py" in message


@pytest.mark.parametrize(("settings", "message"), [
    (["score.words=idf"], "set score.words to mean"),
    (["word2vec_embeddings.extra_words=5"], "set word2vec_embeddings.extra_words to 0"),
    (["CRNNWordModel.text_enc.trainable=true"], "set CRNNWordModel.text_enc.trainable to false"),
    (["sentence_embeddings.model=other"], "made with sentence_embeddings.model"),
])  # fmt: skip
def test_settings_of_words_are_refused(prepared, settings, message):
    assert message in call("main.py", "--conf", prepared[0] / "conf.yaml", *prepared[1], *settings, status=2)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("absent/of/all", None, "absent/of/all is no directory, and could not be downloaded"),
    ("modules.json", '[{"idx": 0, "name": "0", "path": "", "type": "os.path"}]', "not part of Sentence Transformers"),
    ("modules.json", "<html>", "modules.json: damaged; get a new copy"),
    ("modules.json", None, "lacks weights, or modules.json of sentence-transformers"),
    ("model.safetensors", None, "lacks weights, or modules.json"),
    ("1_Pooling/config.json", None, "1_Pooling/config.json: no such file; get a new copy"),
    ("model.safetensors", "<html>", "not a model that sentence-transformers can load"),
])  # fmt: skip
def test_an_encoder_that_cannot_be_used_is_one_line(prepared, tmp_path, name, content, message):
    model = name
    if name != "absent/of/all":
        model = tmp_path / "model"
        shutil.copytree(prepared[0] / "encoder", model)
        (model / name).unlink()
        if content:
            (model / name).write_text(content)
    said = call(SENTENCES, "--conf", prepared[0] / "conf.yaml", f"sentence_embeddings.model={model}", status=2)
    assert message in said and len(said.splitlines()) == 1
