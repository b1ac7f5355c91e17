"""Audio encoders of the library transformers: small random models, whose frames are held against plain calls of them.

The library takes seconds to import, so all tests that need it are in this file.
"""

import json
import pickle
import shutil
import sys
from dataclasses import replace
from functools import partial

import h5py
import huggingface_hub
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import ON_FEATURES, STAGES, STEP_5, call, call_both, run_pipeline, tiny_conf
from utils.common.errors import UserError
from utils.common.hub import transformers_library
from utils.conf.load import load_conf
from utils.dataset import transformers_features
from utils.dataset.audio_features import feature_store, find_model
from utils.dataset.feature_model import read_features
from utils.trial.dataset_provenance import OWN_FEATURES, sources

library = transformers_library("tests")
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
CONVOLUTIONS = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
SPLITS = ("development", "validation", "evaluation")


def ast():
    """AST with a classifier, over 64 log-mel frames: 2 bands of patches, 5 time steps."""
    config = library.ASTConfig(**SIZES, max_length=64, num_mel_bins=32)
    model = library.ASTForAudioClassification(config)
    return model, model.audio_spectrogram_transformer, library.ASTFeatureExtractor(max_length=64, num_mel_bins=32)


def clap(is_fused=False):
    """CLAP with its text tower, over 1 s: 32 frames."""
    audio = {"spec_size": 64, "num_mel_bins": 16, "patch_embeds_hidden_size": 4, "depths": [1, 1], "window_size": 4}
    audio |= {"num_attention_heads": [1, 1], "hidden_size": 8, "enable_fusion": is_fused, "aff_block_r": 1}
    text = SIZES | {"vocab_size": 9}
    model = library.ClapModel(library.ClapConfig(audio_config=audio, text_config=text, projection_dim=4))
    truncation = "fusion" if is_fused else "rand_trunc"
    return model, model.audio_model, library.ClapFeatureExtractor(16, max_length_s=1, truncation=truncation)


def wav2vec2():
    model = library.Wav2Vec2ForCTC(library.Wav2Vec2Config(**SIZES, **CONVOLUTIONS, vocab_size=9))
    return model, model.wav2vec2, library.Wav2Vec2FeatureExtractor()


def hubert():
    model = library.HubertModel(library.HubertConfig(**SIZES, **CONVOLUTIONS))
    return model, model, library.Wav2Vec2FeatureExtractor()


def whisper():
    """Whisper with its decoder, over 1 s: 50 frames."""
    layers = {f"{side}_{name}": 1 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    tokens = {"vocab_size": 9, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = library.WhisperConfig(
        d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, num_mel_bins=16, max_source_positions=50, **layers, **tokens
    )
    model = library.WhisperForConditionalGeneration(config)
    return model, model.model.encoder, library.WhisperFeatureExtractor(16, chunk_length=1)


MAKERS = {"ast": ast, "clap": clap, "fused": partial(clap, True), "wav2vec2": wav2vec2, "hubert": hubert,
          "whisper": whisper}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """{name: (directory, audio encoder, feature extractor)} of small random models. Read-only."""
    made = {}
    for seed, (name, make) in enumerate(MAKERS.items()):
        torch.manual_seed(seed)
        model, encoder, extractor = make()
        folder = tmp_path_factory.mktemp("models") / name
        for part in (model, extractor):
            part.save_pretrained(folder)
        made[name] = folder, encoder.eval(), extractor
    return made


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of AST's directory, free to be spoiled."""
    return shutil.copytree(saved["ast"][0], tmp_path / "ast")


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


@torch.inference_mode()
def hidden_of(encoder, extractor, waveform):
    inputs = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    return encoder(**inputs).last_hidden_state[0].numpy()


def plain_frames(name, hidden):
    """All frames of a model's last hidden state, by a plain loop."""
    if name == "ast":  # two special tokens, then 5 patches of the lower band, and 5 of the upper one
        return np.stack([(hidden[2 + step] + hidden[7 + step]) / 2 for step in range(5)])
    if name in ("clap", "fused"):  # (D, F, L)
        return np.stack([hidden[:, :, step].mean(axis=1) for step in range(32)])
    return hidden


# --- frames ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "samples", "frames", "seconds_per_frame"), [
    ("ast", 5000, 4, 0.1), ("ast", 10_000, 5, 0.1), ("ast", 400, 1, 0.1),
    ("clap", 20_000, 14, 1 / 32), ("clap", 48_000, 32, 1 / 32), ("clap", 1, 1, 1 / 32), ("fused", 1501, 2, 1 / 32),
    ("wav2vec2", 400, 1, 0.02), ("wav2vec2", 5000, 15, 0.02), ("hubert", 720, 2, 0.02),
    ("whisper", 5000, 16, 0.02), ("whisper", 16_000, 50, 0.02), ("whisper", 1, 1, 0.02),
])  # fmt: skip
def test_frames_are_those_of_a_plain_call_without_those_of_the_padding(saved, name, samples, frames, seconds_per_frame):
    path, encoder, extractor = saved[name]
    model, waveform = find_model("transformers", str(path)), noise(samples)
    assert (model.name, model.size, model.sample_rate) == (f"transformers {name}", 8, extractor.sampling_rate)
    assert model.seconds_per_frame == pytest.approx(seconds_per_frame)
    features = model.encode(waveform)
    assert features.shape == (frames, 8) and features.dtype == np.float32
    expected = plain_frames(name, hidden_of(encoder, extractor, waveform))[:frames]
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    np.random.seed(samples)
    np.testing.assert_array_equal(model.encode(waveform), features)


@pytest.mark.parametrize(("name", "seconds", "cuts"), [
    ("ast", 1.55, [0.5, 1.0]), ("ast", 1.7, [0.5, 1.0, 1.5]), ("clap", 2.5, [1, 2]), ("whisper", 2.02, [1, 2]),
    ("wav2vec2", 59, [15, 30]), ("wav2vec2", 30, []),
])  # fmt: skip
def test_a_longer_clip_is_encoded_in_windows(saved, tmp_path, name, seconds, cuts):
    model = find_model("transformers", str(saved[name][0]))
    waveform = noise(round(seconds * model.sample_rate))
    soundfile.write(tmp_path / "x.wav", waveform, model.sample_rate, subtype="FLOAT")
    windows = np.split(waveform, [round(cut * model.sample_rate) for cut in cuts])
    expected = [model.encode(window) for window in windows]
    features = read_features(tmp_path / "x.wav", model)
    np.testing.assert_allclose(features, np.concatenate(expected), rtol=1e-4, atol=1e-5)
    assert len(features) * model.seconds_per_frame == pytest.approx(seconds, abs=0.12)


def test_the_rest_of_a_clip_that_is_shorter_than_a_frame_is_left_out(saved, tmp_path):
    model = find_model("transformers", str(saved["ast"][0]))
    soundfile.write(tmp_path / "x.wav", noise(model.longest + model.window + 1), model.sample_rate)
    assert len(read_features(tmp_path / "x.wav", replace(model, window=model.longest))) == 5 + 5
    soundfile.write(tmp_path / "x.wav", noise(399), model.sample_rate)
    with pytest.raises(UserError, match=r"x\.wav: too short; remove it"):
        read_features(tmp_path / "x.wav", model)


def test_the_form_of_the_weights_makes_no_difference(saved, tmp_path):
    folder = saved["whisper"][0]
    expected = find_model("transformers", str(folder)).encode(noise(5000))
    state = load_file(folder / "model.safetensors")
    for form in ("shards", "pytorch"):
        copy = shutil.copytree(folder, tmp_path / form, ignore=shutil.ignore_patterns("*.safetensors"))
        if form == "shards":
            library.WhisperModel.from_pretrained(folder).save_pretrained(copy, max_shard_size=3000)
            assert len(list(copy.glob("model-*.safetensors"))) > 1
        else:
            torch.save({key: values.half() for key, values in state.items()}, copy / "pytorch_model.bin")
            nested = {"feature_extractor": json.loads((copy / EXTRACTOR).read_text())}  # as processors are saved
            (copy / EXTRACTOR).unlink()
            (copy / "processor_config.json").write_text(json.dumps(nested))
        model = find_model("transformers", str(copy))
        np.testing.assert_allclose(model.encode(noise(5000)), expected, atol=1e-6 if form == "shards" else 0.05)
        assert len(model.files) == len([*copy.glob("p*r_config.json"), *copy.glob("*model*")]) + 1


# --- through the commands --------------------------------------------------------------------------------


def test_step_5_writes_features_keeps_them_and_makes_them_anew_by_other_weights(folder, tmp_path):
    conf = tiny_conf(tmp_path)
    run_pipeline(conf, stages=STAGES[:3])
    settings = ["audio_features.model=transformers", f"audio_features.weights={folder}"]
    step_5 = [STEP_5, "--conf", conf, *settings]
    printed, errors = call_both(*step_5, "audio_features.workers=2")
    assert printed.startswith("development: 8 clips, ") and " frames of 8 dimensions -> " in printed
    assert all(line.startswith("features ") for line in errors.splitlines())  # progress, on a slow machine
    model = find_model("transformers", str(folder))
    paths = [tmp_path / "data" / f"{split}_audio_features.hdf5" for split in SPLITS]
    clips = json.loads((tmp_path / "data" / "audio_info.json").read_text())
    for split, path in zip(SPLITS, paths, strict=True):
        with h5py.File(path) as store:
            names = {"model": "transformers ast", "seconds_per_frame": 0.1, "weights_sha256": model.sha256}
            assert dict(store.attrs) == names and store.keys() == clips[split]["clips"].keys()
            for fid, clip in clips[split]["clips"].items():
                expected = read_features(tmp_path / "data" / split / clip["file_name"], model)
                np.testing.assert_allclose(store[fid][()], expected, rtol=1e-4, atol=1e-5)
    entry = json.loads((tmp_path / "data" / "provenance.json").read_text())[STEP_5]
    assert entry["inputs"].keys() == {"audio_info.json", *map(str, model.files)} and len(model.files) == 3

    made = [path.read_bytes() for path in paths]
    printed, errors = call_both(*step_5)
    assert printed.count(" clips, as they are in ") == 3 and not errors
    assert [path.read_bytes() for path in paths] == made
    before = sources(load_conf(conf, [*ON_FEATURES, *settings]))[OWN_FEATURES]
    state = load_file(folder / "model.safetensors")
    save_file({key: values * 1.5 for key, values in state.items()}, folder / "model.safetensors")
    assert "as they are in" not in call(*step_5) and paths[0].read_bytes() != made[0]
    assert sources(load_conf(conf, [*ON_FEATURES, *settings]))[OWN_FEATURES] != before


def test_workers_are_sent_no_weights(saved, tmp_path):
    model = find_model("transformers", str(saved["whisper"][0]))
    model.encode(noise(400))
    assert len(pickle.dumps(feature_store(tmp_path / "x.hdf5", model))) < 2000


# --- refusals --------------------------------------------------------------------------------------------


def refusal(weights):
    with pytest.raises(UserError) as error:
        find_model("transformers", str(weights))
    assert "\n" not in str(error.value)
    return str(error.value)


def settings_of(file, **values):
    """Change values of a JSON file."""

    def spoil(folder):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | values))

    return spoil


def weights_with(**values):
    """Other tensors; None drops one."""

    def spoil(folder):
        state = load_file(folder / "model.safetensors") | values
        save_file({key: value for key, value in state.items() if value is not None}, folder / "model.safetensors")

    return spoil


def cut(file):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-100])


class Malicious:
    def __reduce__(self):
        return (print, ("owned",))


def malicious(folder):
    (folder / "model.safetensors").unlink()
    torch.save(Malicious(), folder / "pytorch_model.bin")


def outside(folder):
    (folder / "model.safetensors").rename(folder.parent / "x.safetensors")
    index = {"weight_map": {"a": "../x.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


BIAS, EXTRACTOR = "audio_spectrogram_transformer.layernorm.bias", "preprocessor_config.json"
REFUSED = {
    "no model": (lambda folder: (folder / "config.json").unlink(), "not a model of transformers: it lacks config.json"),
    "damaged configuration": (cut("config.json"), "config.json: not a JSON object; download"),
    "BERT": (settings_of("config.json", model_type="bert"), "'bert' is no audio encoder that can be used; name"),
    "a list": (settings_of("config.json", model_type=["whisper"]), "['whisper'] is no audio encoder"),
    "other sizes": (settings_of("config.json", hidden_size=16), "no model of its configuration can be made"),
    "odd sizes": (settings_of("config.json", patch_size="x"), "no model of its configuration can be made"),
    "no extractor": (lambda folder: (folder / EXTRACTOR).unlink(), "lacks the model's feature extractor"),
    "damaged extractor": (cut(EXTRACTOR), "its feature extractor cannot be read"),
    "another extractor": (
        settings_of(EXTRACTOR, feature_extractor_type="WhisperFeatureExtractor"),
        "its feature extractor is WhisperFeatureExtractor, not ASTFeatureExtractor",
    ),
    "code of its own": (
        settings_of(EXTRACTOR, feature_extractor_type=None, auto_map={"AutoFeatureExtractor": "x.X"}),
        "its feature extractor",
    ),
    "a low sample rate": (settings_of(EXTRACTOR, sampling_rate=500), "do not fit each other (sampling_rate is 500)"),
    "another length": (settings_of(EXTRACTOR, max_length=80), "do not fit each other"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "lacks the model's weights"),
    "damaged weights": (cut("model.safetensors"), "model.safetensors: damaged, or not a file of weights"),
    "malicious weights": (malicious, "pytorch_model.bin: damaged, or not a file of weights alone"),
    "weights elsewhere": (outside, "index.json: names 'x.safetensors', which is not beside it"),
    "a missing tensor": (weights_with(**{BIAS: None}), "lacks weights of the audio encoder, such as layernorm.bias"),
    "NaN": (weights_with(**{BIAS: torch.full((8,), torch.nan)}), "holds weights that are not finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_cannot_be_used_are_refused(folder, capsys, case):
    spoil, words = REFUSED[case]
    spoil(folder)
    message = refusal(folder)
    assert message.startswith(str(folder)) and words in message
    assert capsys.readouterr() == ("", "")


def test_features_that_are_not_finite_are_refused(folder, tmp_path):
    weights_with(**{BIAS: torch.full((8,), 3e38), BIAS.replace("bias", "weight"): torch.full((8,), 3e38)})(folder)
    soundfile.write(tmp_path / "x.wav", noise(5000), 16000)
    with pytest.raises(UserError, match=r"x\.wav: its features by transformers ast are not finite; name another model"):
        read_features(tmp_path / "x.wav", find_model("transformers", str(folder)))


def test_a_library_that_is_not_installed(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    transformers_library.cache_clear()
    message = refusal(folder)
    transformers_library.cache_clear()
    assert message.startswith("audio_features.model: is transformers, which needs the package transformers")
    assert message.endswith("pip install -r requirements-pretrained.txt")


# --- the hub ---------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's cache, empty; the hub itself cannot be reached."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_name_in_the_cache_needs_no_internet(hub, folder, capsys):
    repository = hub / "models--someone--ast"
    shutil.copytree(folder, repository / "snapshots" / "1a2b")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1a2b")
    listed = {name: {"size": 1, "blob_id": "0"} for name in ("model.safetensors", "README.md", "pytorch_model.bin")}
    (repository / "trees").mkdir()  # what the hub's library notes of a download: two of these were not asked for
    (repository / "trees" / "1a2b.json").write_text(json.dumps({"format_version": 1, "files": listed}))
    model, same = find_model("transformers", "someone/ast"), find_model("transformers", str(folder))
    assert model.name == "transformers someone/ast" and model.sha256 == same.sha256
    assert capsys.readouterr() == ("", "")
    (repository / "snapshots" / "1a2b" / "model.safetensors").unlink()  # the download was cut short
    assert refusal("someone/ast").startswith(("audio_features.weights: someone/ast is no directory", str(repository)))


@pytest.mark.parametrize("name", ["someone/ast", "no/such/folder", "mn04_as"])
def test_a_name_that_cannot_be_downloaded(hub, name):
    message = refusal(name)
    assert message.startswith(f"audio_features.weights: {name} is ")
    if name != "mn04_as":
        assert "could not be downloaded (" in message and message.endswith("elsewhere, and give its directory")


def test_a_name_is_downloaded_without_its_other_files(hub, folder, monkeypatch, capsys):
    asked = []

    def download(name, local_files_only=False, allow_patterns=None):
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("absent")
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_model("transformers", "someone/ast").name == "transformers someone/ast"
    [patterns] = asked  # the first choice brings all
    settings = list(transformers_features.SETTINGS)
    assert patterns == [*settings, "model.safetensors", "model.safetensors.index.json", "model-*.safetensors"]
    assert capsys.readouterr() == ("", "someone/ast: downloading it from the hub\n")
