"""Bad input: each case spoils one thing in a good data set or trial, and runs the first command that reads it.

The command either ends with status 2 and one `error:` line for each fault, which names file, key and advice, and leaves
all files unchanged; or it handles the case, and the test checks the outcome.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from models.mobilenet import MobileNetV3
from tests.helpers import ON_FEATURES, ROOT, SEARCH, STAGES, STEP_5, call, record_step, run_here, write_features
from utils.common.digests import KEPT
from utils.common.steps import DOWNLOAD, FEATURES
from utils.conf.load import load_conf
from utils.dataset.log_mel import log_mel_spectrogram
from utils.dataset.log_mel_config import LogMelConfig
from utils.search.model_file import KEY, digest
from utils.trial.checkpoint import sealed

STEP_0, STEP_1, STEP_2, STEP_3, STEP_4, TRAIN, SCORE, MEASURE, REPORT = STAGES
STEP_SPLIT = "preprocessing/0_split_dataset.py"
EXPLORE, EXPORT = "postprocessing/5_explore.py", "postprocessing/6_export.py"
SIZE = 8  # of the word vectors
HEADER = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5"
LONG = "file_name,caption"
CLEAN_HEADER = "line,file_name,column,raw_text"
ELSEWHERE = h5py.ExternalLink("elsewhere.hdf5", "x")


# --- the finished run ------------------------------------------------------------------------------------


class Folder:
    """A configuration, a data set and a trial, by the names of their files, which are also the table's braces."""

    def __init__(self, root: Path):
        self.root, self.data, self.conf = root, root / "data", root / "conf.yaml"
        self.captions, self.info = self.data / "clotho_captions_development.csv", self.data / "audio_info.json"
        self.log_mels = self.data / "development_audio_logmels.hdf5"
        self.weights, self.features = root / "weights.pt", self.data / "development_audio_features.hdf5"
        self.word_vectors, self.embeds = root / "vectors", self.data / "word2vec_embeds.npz"
        self.clips, self.evaluation = self.data / "development", self.data / "evaluation"
        self.wavs = sorted(self.clips.iterdir())
        self.wav = self.wavs[0]
        self.fid = hashlib.sha256(f"development/{self.wav.name}".encode()).hexdigest()[:16]  # of that clip
        (self.trial,) = (root / "output" / "demo").iterdir()
        self.best, self.last = self.trial / "checkpoint_best.pt", self.trial / "checkpoint_last.pt"
        self.scores, self.matrix = (self.trial / f"development_{kind}_scores.hdf5" for kind in ("word", "xmodal"))
        self.model, self.card = root / "model.safetensors", root / "model.md"
        self.metrics, self.record = self.trial / "metrics.jsonl", self.trial / "provenance.json"
        self.settings = self.trial / "conf.yaml"
        tables = ("own", "pairs", "queries", "out")
        self.own, self.pairs, self.queries, self.out = (root / f"{name}.csv" for name in tables)
        self.sounds, self.sound = self.data / "sounds", self.data / "sounds" / "x.wav"
        self.out_scores = root / "out_word_scores"

    def files(self) -> dict[Path, bytes]:
        files = (path for path in self.root.rglob("*") if path.is_file() and path.name != KEPT)
        return {path: path.read_bytes() for path in files}

    def sign(self) -> None:
        """Bring the digests of provenance.json in line with the files, as a stranger's would be."""
        for path in self.root.rglob("provenance.json"):
            steps = json.loads(path.read_text())
            for named in (step.get(part, {}) for step in steps.values() for part in ("inputs", "outputs", "data")):
                for name in named:
                    for file in (path.parent / name, self.data / name):
                        if file.is_file():
                            named[name] = hashlib.sha256(file.read_bytes()).hexdigest()
                            break
            path.write_text(json.dumps(steps))
        for path in self.root.rglob("checkpoint_*.pt"):
            content = path.read_bytes()
            if b"sha256 " not in content[-71:]:
                path.write_bytes(sealed(content if content[-22:-18] == b"PK\5\6" else content + b"\0\0"))


def write_conf(root: Path) -> None:
    """Write the configuration, good.yaml, and conf.yaml over it, which a case replaces."""
    settings = {
        "base": str(ROOT / "conf_demo.yaml"),
        "trial_base": str(root / "output"),
        "data_conf": {"dataset": str(root / "data")},
        "demo_dataset": {"num_clips": {"development": 3, "validation": 2, "evaluation": 2}},
        "word2vec_embeddings": {"train": {"epochs": 1, "vector_size": SIZE}},
        "audio_logmel": {"workers": 1},
        "param_conf": {"num_epoch": 1, "batch_size": 4},
    }
    (root / "good.yaml").write_text(yaml.safe_dump(settings))
    (root / "conf.yaml").write_text("base: good.yaml\n")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The directory of a finished run, with a folder of sounds to rank for captions. Read-only."""
    root = tmp_path_factory.mktemp("good")
    write_conf(root)
    (root / "vectors").write_text(f"1 {SIZE}\na{' 0.5' * SIZE}\n")
    torch.save(MobileNetV3(0.1).state_dict(), root / "weights.pt")
    for script in (STEP_0, STEP_1, STEP_2, STEP_3, STEP_4, TRAIN, SCORE, MEASURE):
        call(script, "--conf", root / "conf.yaml")
    call(EXPORT, root / "model.safetensors", "--conf", root / "conf.yaml")
    call(STEP_5, "--conf", root / "conf.yaml", f"audio_features.weights={root / 'weights.pt'}")
    shutil.copytree(root / "data" / "evaluation", root / "data" / "sounds")
    (root / "queries.csv").write_text("caption\nrain\n")
    return root


@pytest.fixture
def folder(good, tmp_path):
    """A copy of the finished run, free to be spoiled."""
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    write_conf(tmp_path)
    copy = Folder(tmp_path)
    copy.settings.write_text(copy.settings.read_text().replace(str(good), str(tmp_path)))
    return copy


# --- ways to spoil ---------------------------------------------------------------------------------------

Spoil = Callable[[Folder], object]


def spoiler(spoil: Callable[..., object]) -> Callable[..., Spoil]:
    """Turn a function of a folder and other arguments into one of the others, which returns a Spoil."""
    return lambda *arguments, **options: lambda folder: spoil(folder, *arguments, **options)


def file_spoiler(spoil: Callable[..., object]) -> Callable[..., Spoil]:
    """Turn a function of a path and other arguments into one of the path's name in Folder and the others."""
    return lambda file, *arguments: lambda folder: spoil(getattr(folder, file), *arguments)


written, removed, removed_folder = map(file_spoiler, (Path.write_text, Path.unlink, shutil.rmtree))


@file_spoiler
def rewritten(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


@file_spoiler
def in_place_of(path: Path, put: Callable[[Path], object]) -> None:
    """A folder, a link, or a pipe (which would block a reader for ever) in a file's place."""
    path.unlink(missing_ok=True)
    put(path)


def dangling(path: Path) -> None:
    path.symlink_to(".git/annex/objects/x.wav")


@file_spoiler
def emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def cut(file: str) -> Spoil:
    return rewritten(file, lambda content: content[: len(content) // 2])


@file_spoiler
def flip_bit(path: Path) -> None:
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edited_text(file: str, old: str, new: str) -> Spoil:
    return rewritten(file, lambda content: content.replace(old.encode(), new.encode()))


@spoiler
def resized(folder: Folder, change: Callable[[int], int]) -> None:
    """A .wav file whose header states other sizes."""
    content = bytearray(folder.wav.read_bytes())
    for at in (4, 40):
        content[at : at + 4] = change(int.from_bytes(content[at : at + 4], "little")).to_bytes(4, "little")
    folder.wav.write_bytes(content)


@spoiler
def conf(folder: Folder, text: str | bytes) -> None:
    """The good configuration with this text added."""
    folder.conf.write_bytes(b"base: good.yaml\n" + (text.encode() if isinstance(text, str) else text))


AS_IS = conf("")


@spoiler
def table(folder: Folder, file: str, *rows: str, encoding: str = "utf-8", line_feed: str = "\n") -> None:
    """A CSV file. {0}, {1}, {2} stand for the development split's clips, {name} and {text} for one of evaluation."""
    first = pd.read_csv(folder.data / "evaluation_text.csv", dtype=str, na_filter=False).iloc[0]
    names = [path.name for path in folder.wavs]
    lines = [row.format(*names, name=first["file_name"], text=first["raw_text"]) + line_feed for row in rows]
    getattr(folder, file).write_bytes("".join(lines).encode(encoding))


own, pairs, queries = (partial(table, file) for file in ("own", "pairs", "queries"))


def captions(*rows: str, header: str = HEADER, **options: str) -> Spoil:
    """The development split's caption file."""
    return table("captions", header, *rows, **options)


ROWS = [f"{{{i}}},a dog barks,a dog,dogs bark,rain falls,it rains" for i in range(3)]
ABSENT = "absent.wav,a,b,c,d,e"


def with_column(name: str) -> Spoil:
    """The good captions with one column more."""
    return captions(*(f"{row},rain" for row in ROWS), header=f"{HEADER},{name}")


@spoiler
def audio(folder: Folder, samples: np.ndarray, sample_rate: int = 16000, subtype: str = "PCM_16") -> None:
    soundfile.write(folder.wav, samples, sample_rate, subtype=subtype)


def noise(seconds: float = 2.0, sample_rate: int = 16000) -> np.ndarray:
    return np.random.default_rng(0).normal(scale=0.1, size=round(seconds * sample_rate))


def many_bad_clips(folder: Folder) -> None:
    for wav in folder.wavs[:2]:
        soundfile.write(wav, noise(2, 8000), 8000)
    (folder.clips / "unnamed.m4a").write_bytes(b"\0")
    shutil.copy(folder.wav, os.fsencode(folder.clips) + b"/caf\xe9.wav")


def odd_data(folder: Folder) -> None:
    """A silent clip, one whose channels cancel, one out of scale, one after a tag, and one name in two splits."""
    first, second, third = folder.wavs
    other = sorted((folder.data / "validation").iterdir())
    soundfile.write(first, np.zeros(32000), 16000)
    soundfile.write(second, np.stack([noise(), -noise()], axis=1), 16000)
    soundfile.write(third, noise() * 32768, 16000, subtype="FLOAT")
    other[1].write_bytes(b"ID3\4\0\0\0\0\2\x2c" + bytes(300) + other[1].read_bytes())
    captions = folder.data / "clotho_captions_validation.csv"
    captions.write_text(captions.read_text().replace(other[0].name, first.name))
    other[0].rename(other[0].with_name(first.name))


def mixed_data(folder: Folder) -> None:
    """A clip at 22.05 kHz, a sound in two splits, and a file name whose accent is a separate character."""
    first, second, third = folder.wavs
    soundfile.write(first, noise(2, 22050), 22050)
    shutil.copy(second, min((folder.data / "validation").iterdir()))
    third.rename(third.with_name("cafe\u0301.wav"))
    folder.captions.write_text(folder.captions.read_text().replace(third.name, "caf\u00e9.wav"))


def link_split(folder: Folder) -> None:
    folder.clips.rename(folder.root / "elsewhere")
    folder.clips.symlink_to(folder.root / "elsewhere")


@spoiler
def store(folder: Folder, file: str, change: Callable[[h5py.File, str], object]) -> None:
    """An HDF5 file, changed by `change(file, fid of the first clip)`."""
    with h5py.File(getattr(folder, file), "a") as opened:
        change(opened, folder.fid)


@spoiler
def array(folder: Folder, file: str, name: str, content: object) -> None:
    """Other content for one of an HDF5 file's arrays, or a change of it; {fid} stands for the first clip."""
    with h5py.File(getattr(folder, file), "a") as opened:
        key = name.format(fid=folder.fid)
        new = content(opened[key][()]) if callable(content) else content
        del opened[key]
        opened[key] = new


log_mels, features = (partial(array, file, "{fid}") for file in ("log_mels", "features"))
scores = partial(array, "scores")


@spoiler
def number(folder: Folder, file: str, value: float) -> None:
    """One number of the first clip's log-mels or features, or of the scores."""
    with h5py.File(getattr(folder, file), "a") as opened:
        opened[folder.fid if folder.fid in opened else "scores"][0, 0] = value


def raw(opened: h5py.File, fid: str) -> None:
    del opened[fid]
    opened.create_dataset(fid, (9, 64), "f4", external=[(str(ROOT / "README.md"), 0, 9 * 64 * 4)])


def rename(opened: h5py.File, _: str) -> None:
    """Features of another model."""
    opened.attrs["model"] = "PANNs"
    del opened.attrs["weights_sha256"]


def other_network(path: Path) -> None:
    torch.save(torch.nn.Linear(3, 3).state_dict(), path)


def on_features(spoil: Spoil) -> Spoil:
    """A data set with features of four dimensions, one frame a clip, in place of log-mels; then spoiled."""

    def prepare(folder: Folder) -> None:
        for split, clips in json.loads(folder.info.read_text()).items():
            (folder.data / f"{split}_audio_logmels.hdf5").unlink()
            frames = {fid: np.zeros((1, 4), np.float32) for fid in clips["clips"]}
            write_features(folder.data / f"{split}_audio_features.hdf5", frames)
        record_step(load_conf(folder.conf), FEATURES)
        spoil(folder)

    return prepare


def trained_on(content: object) -> Spoil:
    return on_features(features(content))


def unrecorded(folder: Folder) -> None:
    """A data set without a record of step 5."""
    path = folder.data / "provenance.json"
    path.write_text(json.dumps({step: made for step, made in json.loads(path.read_text()).items() if step != FEATURES}))


def vectors(content: bytes) -> Spoil:
    return rewritten("word_vectors", lambda _: content)


@spoiler
def embeds(folder: Folder, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    """word2vec_embeds.npz with changed words and vectors."""
    with np.load(folder.embeds) as before:
        words, vectors = change(before["words"], before["vectors"])
    np.savez(folder.embeds, words=words, vectors=vectors)


@spoiler
def checkpoint(folder: Folder, key: str, change: Callable[[object], object], file: str = "best") -> None:
    """A checkpoint with one changed value."""
    path = getattr(folder, file)
    before = torch.load(path, weights_only=True)
    torch.save(before | {key: change(before[key])}, path)


def weights(name: str, content: torch.Tensor) -> Spoil:
    return checkpoint("model", lambda model: model | {name: content})


class Malicious:
    """Runs code when it is unpickled: it makes a directory."""

    def __init__(self, owned: Path):
        self.owned = str(owned)

    def __reduce__(self):
        return (os.mkdir, (self.owned,))


@spoiler
def malicious(folder: Folder, file: str, dump: Callable[[object, Path], object]) -> None:
    dump({"model": Malicious(folder.root / "owned")}, getattr(folder, file))


def pickled(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def pickled_embeds(content: object, path: Path) -> None:
    np.savez(path, words=np.array([content], dtype=object), vectors=np.zeros((1, SIZE)))


def malicious_conf(folder: Folder) -> None:
    folder.conf.write_text(f"base: good.yaml\ntrial_series: !!python/object/apply:os.mkdir ['{folder.root}/owned']\n")


@spoiler
def exported(folder: Folder, change: Callable[[dict, dict], object], text: str | None = None) -> None:
    """Another content of the exported model: of its metadata and its tensors, with the digest of these."""
    with safe_open(folder.model, "pt") as file:
        content = json.loads(file.metadata()[KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(content, tensors)
    content["sha256"] = digest(tensors)
    save_file(tensors, folder.model, {KEY: json.dumps(content) if text is None else text})


def on_other_features(folder: Folder) -> None:
    """An exported model on features of weights.pt, with the digest of other weights."""

    def change(content: dict, tensors: dict) -> None:
        settings = content["conf"]
        settings["data_conf"]["audio"] = settings["CRNNWordModel"]["audio_enc"]["name"] = "features"
        settings["audio_features"]["weights"], content["weights_sha256"] = str(folder.weights), "0" * 64
        for name in [name for name in tensors if "audio_enc" in name]:
            del tensors[name]
        tensors["model.audio_projection.weight"] = torch.zeros(SIZE, 96)
        tensors["model.audio_projection.bias"] = torch.zeros(SIZE)

    exported(change)(folder)


@spoiler
def index(folder: Folder, name: str, content: str | tuple[str, str] | None) -> None:
    """A file of the data set removed, with this text, or with one cell in a whole column: (column, cell)."""
    path = folder.data / name
    if content is None:
        path.unlink()
    elif isinstance(content, str):
        path.write_text(content)
    else:
        pd.read_csv(path, dtype=str, na_filter=False).assign(**dict([content])).to_csv(path, index=False)


def rename_captions(folder: Folder) -> None:
    folder.captions.rename(folder.own)


def file_for_folder(folder: Folder) -> None:
    shutil.rmtree(folder.root / "output")
    (folder.root / "output").write_text("")


def lose_best(folder: Folder) -> None:
    """Remove the best checkpoint, of epoch 0; the last one cannot replace it."""
    checkpoint("history", lambda epochs: [epochs[0] | {"val_obj": -9.0}, *epochs[1:]], "last")(folder)
    folder.best.unlink()


def link_log(folder: Folder) -> None:
    (folder.root / "mine.txt").write_text("mine")
    (folder.trial / "train.log").unlink()
    (folder.trial / "train.log").symlink_to(folder.root / "mine.txt")


# --- the table: refused ----------------------------------------------------------------------------------

OF_CONF, TRIAL, SPLIT = ["--conf", "{conf}"], ["--trial", "{trial}"], ["--split", "development"]
SKIP = [*OF_CONF, "clotho_dataset.on_bad_data=skip"]
RESUME = ["--resume", "{trial}", "param_conf.num_epoch=2"]
FROM_FILE = [*OF_CONF, "word2vec_embeddings.source=file", "word2vec_embeddings.file={word_vectors}"]
TRAIN_ON_FEATURES = [TRAIN, *OF_CONF, *ON_FEATURES]
ENCODE = [STEP_5, *OF_CONF, "audio_features.weights={weights}"]
CHECK_OWN = [STEP_5, *OF_CONF, "audio_features.model=own"]
RANK = [SEARCH, *TRIAL, "--queries", "{queries}", "--clips", "{sounds}", "--csv", "{out}"]
USE = ["--model", "{model}", "--clips", "{evaluation}"]
OWN_PAGE = [EXPLORE, "--model", "{model}", "--folder", "{evaluation}"]
SPLITTING = [STEP_SPLIT, "{own}", "{evaluation}", "data_conf.dataset={root}/own"]
THIRDS = ["{clips}", *OF_CONF, "--fractions", "0.34", "0.33", "0.33"]

# The ends of several error lines
ADVICE = "{data}/bad_data.csv … clotho_dataset.on_bad_data=skip"
INDEXED, EMBEDDED, MADE, ENCODED, SCORED = (f" … {script}" for script in (STEP_2, STEP_3, STEP_4, FEATURES, SCORE))
DOWNLOADS = f"(python {DOWNLOAD} downloads Clotho's)"
NOT_REPLACED = " of an earlier run … and is not replaced"
EXISTS = "exists, and is not what this command writes"
MISSPELT = "'param_conf.batchsize=3': param_conf.batchsize: unknown key; did you mean param_conf.batch_size?"

# Content of several files
ALIASES = "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
FEATURES_CONF = "data_conf: {audio: features}\nCRNNWordModel: {audio_enc: {name: features}}\n"
LISTS = "query,audio_filenames"
LARGER, UNSET = resized(lambda size: size + 8), resized(lambda size: 0)
BIAS, NAN_BIAS = "audio_enc.cnn.0.bias", torch.full((1,), np.nan)
PLATEAU = {"num_bad_epochs": "many"}
OTHER_SEED, RUN_WITH_0 = edited_text("settings", "seed: 0", "seed: 77"), "seed is 77 but the trial was run with 0"

# Title, (the command, or what it adds to that of the group,) how to spoil, and the error line after the file's name:
# parts of it in order, separated by …
# The tests of each reader, in tests/common, conf, dataset and trial, cover more faults.
CONFIGURATION = [  # of conf.yaml, when captions are cleaned
    ("typo in a key", conf("param_conf: {batchsize: 3}"), "param_conf.batchsize … batch_size?"),
    ("key of another section", conf("audio_logmel: {batch_size: 3}"), "batch_size … mean param_conf.batch_size?"),
    ("all dropped", conf("CRNNWordModel: {audio_enc: {dropout: 1}}"), "audio_enc.dropout: is 1 … less than 1"),
    ("key of an unknown section", conf("parm_conf: {seed: 3}"), "parm_conf.seed … did you mean param_conf.seed?"),
    ("a word for yes or no", conf("AdamOptimizer: {decoupled_weight_decay: adamw}"), "decay: is 'adamw' … boolean"),
    ("empty", written("conf", ""), "no `key: value` settings"),
    ("not UTF-8", conf(b"trial_series: caf\xe9"), "not UTF-8"),
    ("python/object", malicious_conf, "not valid YAML: line 2"),
    ("aliases of aliases", conf(f"a0: &a0 [x]\n{ALIASES}metrics: *a9\n"), "not valid YAML: line 3 … aliases"),
    ("NUL in a path", conf('trial_base: "a\\0b"'), "not valid YAML: line 2 … control characters"),
    ("an average from epoch 0", conf("param_conf: {average_from: 0}"), "param_conf.average_from: is 0 … equal to 1"),
    ("an average of no epoch", conf("param_conf: {average_from: 9}"), "average_from is 9 but num_epoch is 1; lower it"),
    ("features for the CRNN", conf("data_conf: {audio: features}"), "audio is features but … name is crnn"),
    ("features without them", conf("CRNNWordModel: {audio_enc: {name: features}}"), "audio is logmels … features"),
    ("compiled features", conf(FEATURES_CONF + "param_conf: {compile: true}"), "compile is true … no CNN"),
    ("no such encoder", conf("CRNNWordModel: {audio_enc: {name: panns}}"), "audio_enc.name: is 'panns' … 'features'"),
    ("a pool of clips", conf("score: {level: clip, frames: max}"), "frames is max but level is clip … to mean"),
    ("a sharpness of clips", conf("score: {level: clip, sharpness: 3}"), "sharpness is 3 … level is clip … to 10"),
    ("a learnt one", conf("score: {level: clip, learn_sharpness: true}"), "learn_sharpness is True … level is clip"),
    ("missing file", removed("conf"), "no such configuration file"),
]
COMMANDS = [  # of a script's configuration and command line
    (
        "two things wrong",
        [STEP_1],
        conf("param_conf: {seed: -1}\nAdamOptimizer: {lr: 0}"),
        ["{conf}: param_conf.seed: is -1", "{conf}: AdamOptimizer.lr: is 0"],
    ),
    ("typo of ours", [STEP_1, "param_conf.batchsize=3"], AS_IS, MISSPELT),
    ("a device", [STEP_1], written("conf", "base: /dev/zero\n"), "/dev/zero: … a folder, pipe or device"),
    ("misspelt option", [STEP_1, "--cnof", "{conf}"], AS_IS, "--cnof … did you mean --conf?"),
    ("override", [STEP_1, *OF_CONF, "x"], AS_IS, "'x': … section.key=value"),
    *[(f"typo of ours, {stage}", [stage, *OF_CONF, "param_conf.batchsize=3"], AS_IS, MISSPELT) for stage in STAGES[5:]],
]
CLEANED_CAPTIONS = [  # of captions, when they are cleaned
    ("missing file", removed("captions"), "no such file … captions there " + DOWNLOADS),
    ("a pipe", in_place_of("captions", os.mkfifo), "no such file … captions"),
    ("UTF-16", captions(*ROWS, encoding="utf-16"), "line 1: not UTF-8"),
    ("unbalanced quote", captions(ROWS[0], '{1},"a dog,b,c,d,e', ROWS[2]), "line 3: not valid CSV"),
    ("caption 0", with_column("caption_0"), "line 1 … caption_0: … 1, 2"),
    ("both forms", with_column("caption"), "line 1 … caption and caption_1"),
    ("neither form", captions("{0},a", header="file_name,text"), "line 1 … file_name,caption, but are file_name,text"),
    ("surplus cells", captions(ROWS[0], "{1},a,b,c,d,e,f"), "line 3 … quotes"),
]
PAIRED_CAPTIONS = [  # of captions, when they are paired with clips: the line, and what is wrong
    ("no caption", captions("{0},, ,,", *ROWS[1:]), "2 ('{wav.name}'): the clip has no captions: its cells are empty"),
    ("no words", captions("{0},?!", "{1},a", "{2},a", "{0},b", header=LONG), "2 ('{wav.name}') … caption_1 holds"),
    ("only punctuation", captions('{0},"?!, ...",b,c,d,e', *ROWS[1:]), "2 ('{wav.name}') … caption_1"),
    ("only dashes", captions("{0},a,– —,c,d,e", *ROWS[1:]), "2 ('{wav.name}') … caption_2 holds no words"),
    ("row twice", captions(*ROWS, ROWS[0]), "5 ('{wav.name}') … line 2"),
    ("no such clip", captions(*ROWS, ABSENT), "5 ('absent.wav') … no such audio file"),
    ("empty rows", captions(*ROWS, *[",,,,,"] * 9), "5: the row is empty, and 8 more are; remove empty rows"),
    ("no name", captions(*ROWS, ",a,b,c,d,e"), "5: the row names no file"),
]
AUDIO = [  # of a clip, when captions are paired with clips
    ("text named .wav", written("wav", "no sound\n" * 99), "unreadable audio"),
    ("truncated", cut("wav"), "cut short"),
    ("a size that is too large", LARGER, "the header is wrong … the file has … ffmpeg -i OLD NEW.wav"),
    ("sizes of zero", UNSET, "promises no samples … was not closed; convert it: ffmpeg -i OLD NEW.wav"),
    ("a dangling link", in_place_of("wav", dangling), "is a broken link … git annex get"),
    ("a folder", in_place_of("wav", Path.mkdir), "is a folder, not a file"),
    ("a pipe", in_place_of("wav", os.mkfifo), "is a pipe"),
    ("3 frames", audio(noise(962 / 16030, 16030), 16030), "0.060012 s are too short; the model needs 4 frames"),
    ("NaN", audio(np.r_[noise(), np.nan], subtype="FLOAT"), "NaN"),
    ("too loud", audio(noise() * 1e30, subtype="FLOAT"), "e+29; full scale is 1: scale it"),
    ("8 kHz", audio(noise(2, 8000), 8000), "fmax 8000 Hz … 8000 Hz; audio_logmel.sample_rate"),
    ("0.01 s", audio(noise(0.01)), "0.01 s are too short"),
]
LOG_MELS = [  # of log-mels, in training
    ("truncated", cut("log_mels"), "not a readable HDF5 file" + MADE),
    ("integers", log_mels(np.zeros((9, 64), int)), "{fid} … int64" + MADE),
    ("other width", log_mels(np.zeros((9, 40), "f4")), "{fid} … (9, 40) … audio_logmel.n_mels … (frames, 64)" + MADE),
    ("too few frames", log_mels(np.zeros((3, 64), "f4")), "{fid} … 3 frames"),
    ("missing clip", store("log_mels", lambda opened, fid: opened.pop(fid)), "{fid}" + MADE),
    ("NaN", number("log_mels", np.nan), "{fid} … not finite" + MADE),
    ("infinite", number("log_mels", -np.inf), "{fid} … not finite" + MADE),
    ("beyond float32", log_mels(np.full((9, 64), 1e300)), "{fid} … not finite" + MADE),
    ("external link", log_mels(ELSEWHERE), "{fid} … not a data set of this file" + MADE),
    ("storage in another file", store("log_mels", raw), "{fid} … not stored in this file" + MADE),
]
WEIGHTS = [  # of the weights of a pretrained network, when clips are encoded
    ("missing", removed("weights"), "audio_features.weights: no such file: {weights}; name a file, or one of mn01_as"),
    ("cut short", cut("weights"), "{weights}: damaged, or not a file of weights … download it again"),
    ("text", written("weights", "none"), "{weights}: damaged, or not a file of weights alone"),
    ("malicious", malicious("weights", torch.save), "{weights}: damaged, or not a file of weights alone"),
    ("malicious plain pickle", malicious("weights", pickled), "{weights}: damaged, or not a file of weights alone"),
    ("of another network", in_place_of("weights", other_network), "{weights}: weights of another network"),
    ("a sound that changed", audio(noise()), f"{{wav}}: … {STEP_2} read it; run that again"),
    ("features of another model", store("features", rename), "{features}: holds features of another model … to own"),
]
OWN_FEATURES = [  # of features that the user wrote, when they are checked
    ("missing", removed("features"), "no such file; write it"),
    ("cut short", cut("features"), "not a readable HDF5 file … the program that wrote it again"),
    ("no model", store("features", lambda opened, _: opened.attrs.pop("model")), "the attribute model is missing"),
    ("a clip is missing", store("features", lambda opened, fid: opened.pop(fid)), "lacks 1 clip … {fid}"),
    ("of another size", features(np.zeros((3, 40), "f4")), "has 96 dimensions, but {fid} has 40"),
    ("one-dimensional", features(np.zeros(96, "f4")), "{fid} … has the shape (96,)"),
    ("without frames", features(np.zeros((0, 96), "f4")), "{fid} … has no frames"),
    ("integers", features(np.zeros((3, 96), int)), "{fid} holds int64"),
    ("NaN", features(np.full((3, 96), np.nan, "f4")), "{fid} … not finite"),
    ("external link", features(ELSEWHERE), "{fid} … not a data set of this file"),
]
UNFIT_FEATURES = [  # of features, in training
    ("missing", on_features(removed("features")), f"no such file … {FEATURES} makes it"),
    ("truncated", on_features(cut("features")), "not a readable HDF5 file" + ENCODED),
    ("other size", trained_on(np.zeros((2, 3), "f4")), "has the shape … but clip … has (frames," + ENCODED),
    ("one axis", trained_on(np.zeros(4, "f4")), "{fid} … (4,)" + ENCODED),
    ("no frames", trained_on(np.zeros((0, 4), "f4")), "{fid} … 0 frames; the model needs at least 1"),
    ("missing clip", on_features(store("features", lambda opened, fid: opened.pop(fid))), "{fid}" + ENCODED),
    ("NaN", on_features(number("features", np.nan)), "{fid} … not finite" + ENCODED),
    ("external link", trained_on(ELSEWHERE), "{fid} … not a data set of this file" + ENCODED),
    (
        "not of the size asked for",
        ["CRNNWordModel.audio_enc.in_dim=5"],
        on_features(AS_IS),
        "(1, 4), but CRNNWordModel.audio_enc.in_dim … (frames, 5)" + ENCODED,
    ),
]
WORD_VECTORS = [  # of a file of word vectors, when the vocabulary gets its vectors
    ("missing", removed("word_vectors"), "no such file … word2vec_embeddings.file"),
    ("header of terabytes", vectors(b"3000000000 300\na 1 2\n"), "3000000000 vectors of 300"),
    ("NaN", vectors(b"2 2\na 1 2\nthe nan 2\n"), "'the' is not finite"),
    ("too few dimensions promised", vectors(b"1 2\na 1 2 3\n"), "promises 1 vector of 2 … row 1 has 3: 'a 1 2 3'"),
    ("as of GloVe", vectors(b"a 1 2\nthe 1 2\n"), "no first line … put the line '2 2' before it"),
    ("zip archive", vectors(b"PK\3\4"), "a zip archive; unpack it"),
    ("web page", vectors(b"<!DOCTYPE html>\n<html></html>\n"), "a web page … download"),
    ("text that is neither form", vectors(b"2 4\n" + b"all kinds of text\n" * 9), "'all kinds of text'"),
    ("malicious pickle", malicious("word_vectors", pickled), "can run code"),
]
EMBEDS = [  # of word2vec_embeds.npz, in training
    ("truncated", cut("embeds"), "not the vectors of" + EMBEDDED),
    ("malicious pickle", malicious("embeds", pickled_embeds), "not the vectors of" + EMBEDDED),
    ("fewer words", embeds(lambda words, vectors: (words[:-1], vectors)), "do not belong together" + EMBEDDED),
    ("NaN", embeds(lambda words, vectors: (words, vectors * np.nan)), "'<pad>' is not finite" + EMBEDDED),
    ("odd dimension", embeds(lambda words, vectors: (words, vectors[:, :5])), "5 dimensions"),
]
CHECKPOINTS = [  # of a checkpoint, in scoring
    ("truncated", cut("best"), "not a loadable checkpoint"),
    ("empty", written("best", ""), "not a loadable checkpoint"),
    ("malicious", malicious("best", torch.save), "not a loadable checkpoint"),
    ("malicious plain pickle", malicious("best", pickled), "not a loadable checkpoint"),
    ("not a dictionary", lambda folder: torch.save([1], folder.best), "not a checkpoint that main.py wrote"),
    ("other architecture", checkpoint("model", lambda _: torch.nn.Linear(3, 3).state_dict()), "CRNNWordModel"),
    ("other sizes", weights("audio_enc.gru.weight_hh_l0", torch.zeros(6, 2)), "CRNNWordModel"),
    ("NaN weights", weights(BIAS, NAN_BIAS), "not finite … new trial"),
    ("history is text", checkpoint("history", lambda _: "epochs"), "main.py … history"),
    ("history of NaN", checkpoint("history", lambda history: [history[0] | {"val_obj": np.nan}]), "main.py … history"),
    ("epoch is a fraction", checkpoint("epoch", lambda _: 1.5), "main.py … epoch is 1.5"),
    ("words are no list", checkpoint("words", lambda _: {"a": 1}), "main.py … words"),
    ("fewer words than vectors", checkpoint("words", lambda words: words[:-1]), "words … word vectors"),
]
SCORES = [  # of scores, when metrics are computed
    ("missing", removed("scores"), "no such file" + SCORED),
    ("truncated", cut("scores"), "not a readable HDF5 file" + SCORED),
    ("NaN", number("scores", np.nan), "NaN … train.log"),
    ("infinite", number("scores", np.inf), "NaN … train.log"),
    ("one name alone", scores("tids", np.bytes_("x")), "do not belong together" + SCORED),
    ("other shape", scores("scores", np.zeros((2, 3), "f4")), "do not belong together" + SCORED),
    ("one-dimensional", scores("scores", np.zeros(45, "f4")), "do not belong together" + SCORED),
    ("captions of an unknown clip", scores("caption_fids", np.array([b"x"] * 15)), "do not belong together" + SCORED),
    ("without captions", store("scores", lambda opened, _: opened.pop("tids")), "holds no captions" + SCORED),
    ("captions of no words", scores("caption_starts", np.zeros(16, "i4")), "do not belong together" + SCORED),
    ("words that are none", scores("caption_words", lambda words: words + 10**6), "do not belong together" + SCORED),
    ("words below none", scores("caption_words", lambda words: words - 10**6), "do not belong together" + SCORED),
    ("fewer shares", scores("caption_shares", lambda shares: shares[1:]), "do not belong together" + SCORED),
    ("NaN shares", scores("caption_shares", lambda shares: shares * np.nan), "do not belong together" + SCORED),
    ("shares for words", scores("caption_words", lambda words: words / 2), "caption_words … whole numbers" + SCORED),
    ("numbers for names", scores("fids", np.arange(3)), "fids … int64" + SCORED),
    ("without an epoch", store("scores", lambda opened, _: opened.attrs.pop("epoch")), "not a readable" + SCORED),
    ("of another epoch", store("scores", lambda opened, _: opened.attrs.modify("epoch", 7)), "epoch 7" + SCORED),
    ("external link", scores("scores", ELSEWHERE), "not a data set of this file" + SCORED),
]
INDEX = [  # of the index's files: the command that reads one, its name, its new content, and what is wrong
    (STEP_3, "vocab_info.json", "{", "not valid JSON" + INDEXED),
    (STEP_3, "vocab_info.json", "[]", INDEXED),
    (STEP_3, "vocab_info.json", '{"vocabulary": [1, 2]}', "not a list of words" + INDEXED),
    (STEP_4, "audio_info.json", '{"development": 3}', INDEXED),
    (STEP_2, "development_clean_captions.csv", f"{CLEAN_HEADER}\n", "column text … 1_text_cleaning"),
    (STEP_2, "development_clean_captions.csv", ("line", "x"), "without a number … 1_text_cleaning"),
    (TRAIN, "development_text.csv", "", "not a readable CSV file" + INDEXED),
    (TRAIN, "development_text.csv", ("tokens", "dog"), "tokens 'dog'" + INDEXED),
    (TRAIN, "development_text.csv", ("tokens", "[[1]]"), "tokens '[[1]]'" + INDEXED),
    (TRAIN, "development_text.csv", ("tokens", '["zebra"]'), "'zebra' has no vector" + EMBEDDED),
    (TRAIN, "development_text.csv", ("tid", "x"), "twice" + INDEXED),
    (STEP_2, "validation_clean_captions.csv", None, f"no such file; {STEP_1} makes it"),
    (STEP_3, "vocab_info.json", None, f"no such file; {STEP_2} makes it"),
    (STEP_4, "audio_info.json", None, f"no such file; {STEP_2} makes it"),
    (TRAIN, "word2vec_embeds.npz", None, f"no such file; {STEP_3} makes it"),
    (TRAIN, "validation_audio_logmels.hdf5", None, f"no such file; {STEP_4} makes it"),
    (TRAIN, "audio_info.json", None, f"no such file; {STEP_2} makes it"),
    (SCORE, "audio_info.json", None, f"no such file; {STEP_2} makes it"),
]
TRIALS = [  # of a trial, in scoring
    ("no checkpoint", removed("best"), "/checkpoint_best.pt: no such file; main.py"),
    ("no configuration", removed("settings"), ": not a trial directory … conf.yaml"),
    ("garbled", written("settings", "{{{"), "/conf.yaml: not valid YAML: line 1"),
]
PAIRS = [  # of data_conf.relevance, when metrics are computed
    ("missing", AS_IS, "no such file … file_name,caption or query,audio_filenames, or set … to null"),
    ("other columns", pairs("fname,caption", "a,b"), "line 1: … file_name,caption or … but are fname,caption"),
    ("a column twice", pairs("file_name,caption,caption", "a,b,c"), "line 1: … caption stands twice"),
    ("UTF-16", pairs(LONG, encoding="utf-16"), "line 1: not UTF-8"),
    ("surplus cells", pairs(LONG, '{name},"{text}",x'), "line 2: more cells"),
    ("unknown clip", pairs(LONG, '{name},"{text}"', 'x.wav,"{text}"'), "line 3: … has no clip 'x.wav'"),
    ("unknown caption", pairs(LONG, "{name},a zebra"), "line 2: … has no caption 'a zebra' … raw_text"),
    ("a missing cell", pairs(LONG, "{name}"), "line 2: … has no caption ''"),
    ("no list", pairs(LISTS, '"{text}",[]', '"{text}",{name}'), "line 3: audio_filenames is … a list of names"),
    ("a list of numbers", pairs(LISTS, '"{text}","[1, 2]"'), "line 2: audio_filenames is '[1, 2]'; … ['a.wav',"),
    ("code", pairs(LISTS, '"{text}","[open(\'x\').read()]"'), "line 2: audio_filenames is … a list of names"),
    ("deep lists", pairs(LISTS, '"{text}",' + "[" * 9**5), "line 2: audio_filenames is '[[["),
    ("lists of an unknown clip", pairs(LISTS, '"{text}","[\'x.wav\']"'), "line 2: … has no clip 'x.wav'"),
    ("a query that is no caption", pairs(LISTS, "rain,\"['{name}']\""), "line 2: … has no caption 'rain'"),
    ("empty lists", pairs(LISTS, '"{text}",[]'), "holds no pairs; name a CSV file"),
]
DIVIDED = [  # of a captions file and a folder of sounds that are to be divided: the file, and what is wrong
    ("no captions file", AS_IS, "{own}: no such file"),
    ("neither form", own("file_name,text", "{name},a"), "{own}: line 1: the columns must be"),
    ("no name", own(LONG, "{name},a", " ,b"), "{own}: line 3: the row names no file"),
    ("a column twice", own("file_name,caption,x,x", "{name},a,b,c"), "{own}: line 1: … x stands"),
    ("one clip", own(LONG, "{name},a"), "validation: gets none of 1 clip; a larger part in --fractions"),
    (
        "a sound is missing",
        own(LONG, "{name},a", "x.wav,b"),
        ["{own}: line 3 ('x.wav'): no such audio file", "clips without a sound: 1; … on_bad_data=skip"],
    ),
    ("parts beyond the whole", ["--fractions", "1", "1", "1"], AS_IS, "--fractions 1 1 1: … 1"),
    ("no number", ["--fractions", "nan", "1", "0"], AS_IS, "--fractions nan 1 0: must be"),
    ("a seed below 0", ["--seed", "-1"], AS_IS, "--seed -1: must be 0"),
    (
        "two roles of one split",
        ["data_conf.eval_data=validation"],
        AS_IS,
        "data_conf: … must name three splits; two are the same",
    ),
]
NOT_DIVIDED = [  # of the place of the division
    ("no folder", ["{captions}", "{root}/sounds"], AS_IS, "{root}/sounds: no such folder"),
    ("splits that exist", ["{captions}", *THIRDS], AS_IS, f"{{captions}}: {EXISTS} … data_conf.dataset"),
    ("folders that exist", ["{own}", *THIRDS], rename_captions, f"{{clips}}: {EXISTS}"),
]
QUERIES = [  # of a file of captions, when a folder is ranked for it
    ("missing", removed("queries"), "no such file … column caption"),
    ("a pipe", in_place_of("queries", os.mkfifo), "no such file"),
    ("no column", queries("file_name,text", "x.wav,a dog"), "line 1: … caption or caption_query … ,text"),
    ("two columns", queries("caption,caption_query", "a,b"), "line 1: needs one column"),
    ("a column twice", queries("caption,caption", "a,b"), "line 1: the column caption stands twice"),
    ("no rows", queries("caption"), "holds no captions"),
    ("no words", queries("caption", "a dog", '"?!, ..."'), "line 3: the caption '?!, ...' holds no words"),
    ("an empty cell", queries(LONG, "x.wav,"), "line 2: the caption '' holds no words"),
    ("not quoted", queries("caption", "a dog, barking"), "line 2: more cells … quotes"),
    ("NUL", queries("caption", "a\0dog"), "line 2: holds a NUL"),
    ("UTF-16", queries("caption", "a", encoding="utf-16"), "line 1: not UTF-8"),
]
RANKED = [  # of a folder that is to be ranked, or of the place of the ranking: the file, and what is wrong
    ("no folder", removed_folder("sounds"), "{sounds}: no such folder"),
    ("no sounds", emptied("sounds"), "{sounds}: holds no .wav"),
    ("another table", table("out", "my,table"), "{out}: is not a ranking … and is not replaced"),
    ("another's ranking", table("out", "caption_query,file_name_1", "rain,x.wav"), "{out}: is not a ranking … move it"),
    ("a folder", in_place_of("out", Path.mkdir), "{out}: is not a plain file"),
    ("scores are a file", written("out_scores", "x"), "{out_scores}: is a link or not a folder"),
    ("scores are a pipe", in_place_of("out_scores", os.mkfifo), "{out_scores}: is a"),
]
UNRANKED = [  # of a sound that is to be ranked
    ("a dangling link", in_place_of("sound", dangling), "is a broken link"),
    ("a folder in its place", in_place_of("sound", Path.mkdir), "is a folder"),
    ("a pipe", in_place_of("sound", os.mkfifo), "is a pipe"),
]
MODELS = [  # of an exported model, in a search
    ("missing", removed("model"), "no such file … postprocessing/6_export.py makes it"),
    ("a pipe", in_place_of("model", os.mkfifo), "no such file"),
    ("truncated", cut("model"), "not a safetensors file, or damaged"),
    ("a checkpoint", lambda folder: shutil.copy(folder.best, folder.model), "not a safetensors file"),
    ("a flipped bit", flip_bit("model"), "its tensors … digest … damaged"),
    ("of another program", lambda folder: save_file({"x": torch.zeros(2)}, folder.model), "not a model that … wrote"),
    ("of another format", exported(lambda content, _: content.update(format=2)), "of format 2 … reads format 1"),
    ("damaged JSON", exported(lambda *_: None, text='{"format": 1'), "not as … 6_export.py writes it … JSON"),
    ("deep JSON", exported(lambda *_: None, text="[" * 10**5), "not as … 6_export.py writes it … JSON"),
    ("without words", exported(lambda content, _: content.pop("words")), "writes it ('words': Field required)"),
    ("other settings", exported(lambda content, _: content["conf"].update(score=1)), "score: is 1"),
    ("fewer words", exported(lambda content, _: content["words"].pop()), "words … word vectors"),
    ("a word twice", exported(lambda content, _: content["words"].__setitem__(2, content["words"][1])), "one twice"),
    ("other sizes", exported(lambda _, tensors: tensors.pop("model.audio_enc.gru.weight_hh_l0")), "CRNNWordModel"),
    (
        "other bands",
        exported(lambda content, _: content["conf"]["audio_logmel"].update(n_mels=128)),
        "not of the encoders",
    ),
    ("NaN", exported(lambda _, tensors: tensors.update({f"model.{BIAS}": NAN_BIAS})), "weights that are not finite"),
]
FIND = [SEARCH, *USE, "rain"]
OF_MODELS = [  # commands with an exported model, or that export one
    ("a trial beside it", [SEARCH, *USE, *TRIAL, "rain"], AS_IS, "--model {model}: … leave out --trial"),
    ("no folder", [SEARCH, "--model", "{model}", "rain"], AS_IS, "--model: … add --clips DIR"),
    ("no text", [SEARCH, *USE], AS_IS, "--clips {evaluation}: needs one QUERY"),
    ("a split", [SEARCH, *USE, *SPLIT, "rain"], AS_IS, "--split: plays no part beside --clips"),
    ("another score", [SEARCH, *USE, "score.frames=max", "rain"], AS_IS, "score.frames: decides what {model} was"),
    ("a typo", [SEARCH, *USE, "score.frame=max", "rain"], AS_IS, "score.frame: unknown key … score.frames?"),
    ("captions of a sound", [SEARCH, *USE, "--audio", "x.wav"], AS_IS, "--audio: finds captions of a data set … trial"),
    ("no sounds", FIND, emptied("evaluation"), "{evaluation}: holds no"),
    ("other weights", FIND, on_other_features, "{weights}: not the weights that {model} … SHA-256 000"),
    (
        "no weights",
        [SEARCH, *USE, "audio_features.weights=none.pt", "rain"],
        on_other_features,
        "audio_features.weights: no such file: none.pt … {model} needs the weights of SHA-256 000",
    ),
    ("a page of a split", [*OWN_PAGE, *SPLIT], AS_IS, "--split: plays no part beside --model"),
    ("a page without a folder", OWN_PAGE[:3], AS_IS, "--folder is missing: --model FILE and --folder DIR"),
    ("export: no ending", [EXPORT, *TRIAL, "{root}/model"], AS_IS, "{root}/model: not the name of a .safetensors file"),
]
EXPORTS = [  # of an export in place of the exported model
    ("over another file", written("model", "mine"), "{model}: is not a model" + NOT_REPLACED),
    ("over an edited card", written("card", "mine"), "{card}: is not a model card" + NOT_REPLACED),
    (
        "more extra words than there are",
        ["--extra-words", "9"],
        AS_IS,
        f"{{data}}/word2vec_extra.npz: no extra words … {STEP_3} recorded … is 9",
    ),
]
PAGES = [  # of what the live page is made from: what is spoiled, how, and the error line
    ("no scores", removed("scores"), "{scores}: no such file" + SCORED),
    ("scores cut short", cut("scores"), "{scores}: not a readable HDF5 file" + SCORED),
    ("NaN scores", number("scores", np.nan), "{trial}: scores are NaN"),
    ("no log-mels", removed("log_mels"), "{log_mels}: no such file" + MADE),
    ("no clip", removed("wav"), "/development/{wav.name}: no such audio file … put it back"),
    ("a broken clip", cut("wav"), "/development/{wav.name}: … run that again"),
    ("a file in its place", lambda folder: (folder.trial / "explore").write_text(""), "{trial}/explore: is a file"),
]
LAST = [  # of the checkpoint that training goes on from
    ("the best one is gone", lose_best, "/checkpoint_best.pt: is gone … epoch 1, not of the best, 0; put it back"),
    ("malicious", malicious("last", torch.save), "/checkpoint_last.pt: not a loadable checkpoint"),
    ("other vocabulary", checkpoint("words", lambda words: words[::-1], "last"), ": … vocabulary … new trial"),
    ("other optimizer", checkpoint("optimizer", lambda _: {}, "last"), "/checkpoint_last.pt: does not fit"),
    (
        "other schedule",
        checkpoint("scheduler", lambda state: state | PLATEAU, "last"),
        "/checkpoint_last.pt: does not fit",
    ),
]
OTHERS = [
    ("captions: no folder of sounds", [STEP_2], removed_folder("clips"), "{clips}: no such folder … " + DOWNLOADS),
    (
        "captions: header only",
        [STEP_1, STEP_2],
        captions(),
        ["{captions.name} line 1", *[f"development ('{{wavs[{i}].name}}')" for i in range(3)], "all 4 … " + ADVICE],
    ),
    ("audio: a split is a link", [STEP_2], link_split, "{clips}: is a link out of the data set directory"),
    (
        "audio: settings that came after the index",
        [STEP_4, *OF_CONF, "audio_logmel.fmax=9000"],
        AS_IS,
        "/development/ … .wav: fmax 9000 Hz … audio_logmel settings … 2_clotho_dataset.py … on_bad_data=skip",
    ),
    (
        "audio: two clips at 8 kHz, one that is not read, and one with a name that is not UTF-8",
        [STEP_2],
        many_bad_clips,
        [
            r"development ('caf\\xe9.wav'): … not UTF-8",
            "development ('unnamed.m4a'): … convert it to .wav",
            "development ('{wavs[0].name}'): fmax 8000 Hz",
            "development ('{wavs[1].name}'): fmax 8000 Hz",
            "all 4 … " + ADVICE,
        ],
    ),
    (
        "word vectors: next to none of the words",
        [STEP_3, *FROM_FILE],
        vectors(b"2 2\na 1 2\nzebra 1 2\n"),
        "word2vec_embeddings: the word vectors know 1 of the vocabulary's … another language",
    ),
    (
        "checkpoint: words of another data set",
        [SCORE, *TRIAL],
        checkpoint("words", lambda words: [f"{word}s" for word in words]),
        "{data}/development_text.csv: … has no vector … main.py",
    ),
    (
        "embeds: not of the dimension asked for",
        [TRAIN, *OF_CONF, "CRNNWordModel.audio_enc.out_dim=6"],
        AS_IS,
        "CRNNWordModel.audio_enc.out_dim: is 6 … {embeds} … 8 dimensions … null",
    ),
    (
        "ranking: in the place of its captions",
        [*RANK[:-1], "{root}/../{root.name}/queries.csv"],
        AS_IS,
        "{root}/../{root.name}/queries.csv: is the input {queries}; write the ranking elsewhere",
    ),
    (
        "relevance: missing before training",
        [TRAIN, *OF_CONF, "data_conf.relevance={pairs}"],
        AS_IS,
        "{pairs}: no such file … or set data_conf.relevance to null",
    ),
    ("features: none", TRAIN_ON_FEATURES, unrecorded, f"{{data}}/provenance.json: no record of {FEATURES}; run it"),
    ("page: no such split", [EXPLORE, *TRIAL, "--split", "test"], AS_IS, "'test': not a split of {trial}"),
    ("trial: no place", [TRAIN], file_for_folder, "{root}/output/demo: Not a directory"),
    ("trial: none", [SCORE], removed_folder("trial"), "{root}/output/demo: … main.py"),
    ("trial: --conf", [SCORE, *OF_CONF, *TRIAL], AS_IS, "--trial {trial}: … leave out --conf"),
]
IDENTITY = [  # of files that differ from their record
    ("captions edited after training", [SCORE, *TRIAL], flip_bit("captions"), f"{{captions}}: … {STEP_1} read it"),
    ("a sound replaced after training", [MEASURE, *TRIAL], audio(np.zeros(32000)), f"{{wav}}: … {STEP_2} read it"),
    ("word vectors replaced", [TRAIN], embeds(lambda words, rows: (words, -rows)), f"{{embeds}}: … {STEP_3} wrote it"),
    ("a bit of a checkpoint", [SCORE, *TRIAL], flip_bit("best"), "{best}: … digest … damaged"),
    ("a bit of the last checkpoint", [TRAIN, *RESUME], flip_bit("last"), "/checkpoint_last.pt: … digest … damaged"),
    ("a bit of the scores", [MEASURE, *TRIAL], flip_bit("scores"), f"{{scores}}: … {SCORE} wrote it"),
    ("a bit of the score matrix", [MEASURE, *TRIAL], flip_bit("matrix"), f"{{matrix}}: … {SCORE} wrote it"),
    ("a sound replaced before step 4", [STEP_4], audio(np.zeros(32000)), f"{{wav}}: … {STEP_2} read it"),
    ("a cut checkpoint", [SCORE, *TRIAL], cut("best"), "{best}: … digest … damaged"),
    (
        "metrics of another trial",
        [REPORT, "--compare", "{trial}"],
        edited_text("metrics", '"lr": 0.001', '"lr": 0.002'),
        "/metrics.jsonl: line 1 … checkpoint_last.pt … resume",
    ),
    (
        "a strange format",
        [SCORE, *TRIAL],
        edited_text("record", '"format": 2', '"format": "two"'),
        "/provenance.json: … 'main.py.format': … or put a copy back",
    ),
    ("train.log is a link", [TRAIN, *RESUME], link_log, "{trial}/train.log: is a link … remove it"),
    ("a checkpoint is a pipe", [SCORE, *TRIAL], in_place_of("best", os.mkfifo), "{best}: no such file … main.py"),
    ("scores are a pipe", [MEASURE, *TRIAL], in_place_of("scores", os.mkfifo), f"{{scores}}: no such file … {SCORE}"),
    ("no record of the training", [SCORE, *TRIAL], removed("record"), "{trial}: not a trial … record of main.py"),
    ("an older checkpoint", [MEASURE, *TRIAL], checkpoint("epoch", lambda _: 7), f"{{best}}: … {SCORE} read it"),
    ("another hop", [TRAIN, *OF_CONF, "audio_logmel.hop=0.01"], AS_IS, "audio_logmel.hop 0.02, but it is now 0.01"),
    *[(f"another seed, {script}", [script, *TRIAL], OTHER_SEED, RUN_WITH_0) for script in (SCORE, MEASURE, REPORT)],
    ("fewer epochs", [TRAIN, *RESUME[:2], "param_conf.num_epoch=0"], AS_IS, "num_epoch is 0, but 1 are trained"),
    ("resumed with another setting", [TRAIN, *RESUME, "AdamOptimizer.lr=0.1"], AS_IS, "AdamOptimizer.lr is 0.1"),
    ("resumed with --conf", [TRAIN, *RESUME, *OF_CONF], AS_IS, "leave out --conf"),
]


def group(title: str, command: list[str], prefix: str, rows: list[tuple], *more: str) -> list[tuple]:
    """Complete rows: title, command (with what a row adds), how to spoil, error lines."""
    cases = []
    for what, *arguments, spoil, words in rows:
        lines = [words] if isinstance(words, str) else words
        cases.append((title + what, sum(arguments, command), spoil, [*(prefix + line for line in lines), *more]))
    return cases


REFUSED = [
    *group("conf: ", [STEP_1], "{conf}: … ", CONFIGURATION),
    *group("conf: ", [], "", COMMANDS),
    *group("captions: ", [STEP_1], "{captions}: … ", CLEANED_CAPTIONS),
    *group("captions: ", [STEP_1, STEP_2], "{captions.name} line ", PAIRED_CAPTIONS, "all 1 … " + ADVICE),
    *group("audio: ", [STEP_2], "development ('{wav.name}'): … ", AUDIO, "all 1 … " + ADVICE),
    *group("log-mels: ", [TRAIN], "{log_mels}: … ", LOG_MELS),
    *group("weights: ", ENCODE, "", WEIGHTS),
    *group("own features: ", CHECK_OWN, "{features}: … ", OWN_FEATURES),
    *group("features: ", TRAIN_ON_FEATURES, "{features}: … ", UNFIT_FEATURES),
    *group("word vectors: ", [STEP_3, *FROM_FILE], "{word_vectors}: … ", WORD_VECTORS),
    *group("embeds: ", [TRAIN], "{embeds}: … ", EMBEDS),
    *group("checkpoint: ", [SCORE, *TRIAL], "{best}: … ", CHECKPOINTS),
    *group("scores: ", [MEASURE, *TRIAL], "{scores}: … ", SCORES),
    *group("relevance: ", [MEASURE, *TRIAL, "data_conf.relevance={pairs}"], "{pairs}: … ", PAIRS),
    *group("division: ", SPLITTING, "", DIVIDED),
    *group("division: ", [STEP_SPLIT], "", NOT_DIVIDED),
    *group("queries: ", RANK, "{queries}: … ", QUERIES),
    *group("ranking: ", RANK, "", RANKED),
    *group("ranking: a sound: ", RANK, "{sound}: ", UNRANKED, "{sounds}: 1 sound cannot be ranked: … " + SKIP[-1]),
    *group("model: ", FIND, "{model}: … ", MODELS),
    *group("model: ", [], "", OF_MODELS),
    *group("model: export: ", [EXPORT, *TRIAL, "{model}"], "", EXPORTS),
    *group("trial: ", [SCORE, *TRIAL], "{trial}", TRIALS),
    *group("page: ", [EXPLORE, *TRIAL, *SPLIT], "", PAGES),
    *group("resumed: ", [TRAIN, *RESUME], "{trial}", LAST),
    *[
        (f"index: {number}", [command], index(name, content), [f"{{data}}/{name}: … {words}"])
        for number, (command, name, content, words) in enumerate(INDEX)
    ],
    *group("", [], "", OTHERS),
]


def play(folder: Folder, capfd: pytest.CaptureFixture, command: list[str]) -> tuple[int, str, str]:
    """Run a case's scripts with its settings; all but the last succeed.

    Returns the last script's exit status, standard output, and standard error including that of C libraries.
    """
    arguments = [part.format(**vars(folder)) for part in command]
    scripts = [part for part in command if part.endswith(".py")]
    settings = arguments[len(scripts) :] or ["--conf", str(folder.conf)]
    for script in scripts[:-1]:
        call(script, *settings)
    before = folder.files()
    capfd.readouterr()
    done = run_here([scripts[-1], *settings])
    if done.returncode:
        after = folder.files()
        assert {path: after.get(path) for path in before} == before
    assert not list(folder.root.rglob("*.tmp")) and not (folder.root / "owned").exists()
    return done.returncode, done.stdout, done.stderr + capfd.readouterr().err


def check_lines(complained: str, expected: list[str], folder: Folder) -> None:
    """Assert that each expected line has an error line with the same parts in order."""
    lines = complained.splitlines()
    assert len(lines) == len(expected), complained
    for line, words in zip(lines, expected, strict=True):
        parts = [re.escape(part.format(**vars(folder))) for part in words.split(" … ")]
        assert re.match("error: .*" + ".*".join(parts), line), f"{line}\nhas not {parts}"


CASES = [(*case, True) for case in REFUSED] + [(*case, False) for case in group("record: ", [], "", IDENTITY)]


@pytest.mark.parametrize(("command", "spoil", "expected", "signed"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_bad_input_is_refused(folder, capfd, command, spoil, expected, signed):
    spoil(folder)
    if signed:
        folder.sign()
    status, _, complained = play(folder, capfd, command)
    assert status == 2, complained
    check_lines(complained, expected, folder)


# --- the table: handled ----------------------------------------------------------------------------------


def captions_are_cleaned(folder: Folder, printed: str) -> None:
    table = pd.read_csv(folder.data / "development_text.csv", dtype=str, na_filter=False)
    assert table["text"][0] == "a dog barking barks" and json.loads(table["tokens"][0]) == table["text"][0].split()
    assert table["text"][1].split() == ["dog"] * 25_000


def bad_caption_is_left_out(folder: Folder, printed: str) -> None:
    assert "left out: 1 problem, listed in" in printed
    assert f"{folder.captions.name},5,absent.wav," in (folder.data / "bad_data.csv").read_text()
    assert "absent.wav" not in (folder.data / "development_text.csv").read_text()


def bad_clips_are_left_out(folder: Folder, printed: str) -> None:
    assert "development: 1 clip (" in printed
    listed = (folder.data / "bad_data.csv").read_text()
    assert listed.count("fmax 8000 Hz") == 2 and r"caf\xe9.wav" in listed and "unnamed.m4a" in listed


def mixed_data_is_reported(folder: Folder, printed: str) -> None:
    lines = printed.splitlines()
    assert "clips at 16000 Hz: 2 of development, 2 of validation" in lines
    assert "clips at 22050 Hz: 1 of development" in lines
    assert any("audio_logmel.sample_rate=16000" in line for line in lines)
    assert any(line.startswith("the same sounds in development and in validation: 1, e.g. ") for line in lines)
    assert any("data_conf.val_data and .eval_data are one split, validation" in line for line in lines)
    assert not (folder.data / "bad_data.csv").exists()


def odd_data_is_reported(folder: Folder, printed: str) -> None:
    first, second, third = (path.name for path in folder.wavs)
    lines = [line.partition(";")[0] for line in printed.splitlines()]
    assert f"clips that are silent: 1 of development, e.g. {first!r}" in lines
    assert f"clips whose channels cancel out when averaged: 1 of development, e.g. {second!r}" in lines
    assert f"clips with samples beyond 10 (full scale is 1): 1 of development, e.g. {third!r}" in lines
    assert f"the same file names in development and in validation: 1, e.g. {first!r}" in lines
    assert "development: 3 clips" in printed and "validation: 2 clips" in printed
    assert not (folder.data / "bad_data.csv").exists()


def clips_are_resampled(folder: Folder, printed: str) -> None:
    clips = json.loads(folder.info.read_text())["development"]["clips"]
    assert {clip["sample_rate"] for clip in clips.values()} == {16000, 22050}
    with h5py.File(folder.log_mels) as opened:
        assert {fid: len(log_mel) for fid, log_mel in opened.items()} == {
            fid: 1 + round(clip["seconds"] * 8000) // 160 for fid, clip in clips.items()
        }
        for fid, clip in clips.items():
            samples, rate = soundfile.read(folder.clips / clip["file_name"])
            resampled = soxr.resample(samples.astype("f4"), rate, 8000, quality="HQ")
            expected = log_mel_spectrogram(resampled, 8000, LogMelConfig(fmax=4000))
            np.testing.assert_allclose(opened[fid][()], expected, atol=1e-4)


def log_mels_have_the_new_hop(folder: Folder, printed: str) -> None:
    info = json.loads(folder.info.read_text())
    for split in ("development", "validation", "evaluation"):
        with h5py.File(folder.data / f"{split}_audio_logmels.hdf5") as opened:
            assert {fid: len(log_mel) for fid, log_mel in opened.items()} == {
                fid: 1 + round(clip["seconds"] * clip["sample_rate"]) // round(0.01 * clip["sample_rate"])
                for fid, clip in info[split]["clips"].items()
            }


ODD_ROW = '{0},"A\u00a0dog, ""barking"",\n🐕\u2003barks!\u3000",' + "dog " * 25_000 + ",c,d,e"
HANDLED = [
    (
        "captions: byte-order mark, CRLF, quotes, commas, emoji, odd spaces, a cell of 100 kB",
        [STEP_1, STEP_2],
        captions(ODD_ROW, *ROWS[1:], encoding="utf-8-sig", line_feed="\r\n"),
        captions_are_cleaned,
    ),
    ("captions: skipped where told to", [STEP_1, STEP_2, *SKIP], captions(*ROWS, ABSENT), bad_caption_is_left_out),
    (
        "audio: clips that no log-mel can be made of are skipped where told to",
        [STEP_2, STEP_4, *SKIP],
        many_bad_clips,
        bad_clips_are_left_out,
    ),
    (
        "audio: sample rates that differ, a sound in two splits, an accent, one split for two roles",
        [STEP_1, STEP_2, *OF_CONF, "data_conf.eval_data=validation"],
        mixed_data,
        mixed_data_is_reported,
    ),
    (
        "audio: silent, cancelling, out of scale, behind a tag, a name twice",
        [STEP_1, STEP_2],
        odd_data,
        odd_data_is_reported,
    ),
    (
        "audio: resampled",
        [STEP_1, STEP_2, STEP_4, *OF_CONF, "audio_logmel.sample_rate=8000", "audio_logmel.fmax=4000"],
        mixed_data,
        clips_are_resampled,
    ),
    ("log-mels: other settings", [STEP_4], conf("audio_logmel: {hop: 0.01}"), log_mels_have_the_new_hop),
    (
        "log-mels: another back end",
        [STEP_4],
        conf("audio_logmel: {backend: librosa}"),
        lambda folder, printed: printed.count(" clips, as they are in ") == 3,
    ),
    ("log-mels: float64", [TRAIN], log_mels(np.zeros((9, 64))), lambda _, printed: "best epoch by val_obj" in printed),
    (
        "trial: garbled metrics.jsonl",
        [TRAIN, *RESUME],
        written("metrics", "{{"),
        lambda folder, printed: [epoch["epoch"] for epoch in map(json.loads, folder.metrics.open())] == [0, 1, 2],
    ),
    (
        "trial: half-finished",
        [SCORE],
        lambda folder: folder.trial.with_name("9999-12-31").mkdir(),
        lambda folder, printed: f"-> {folder.scores}" in printed,
    ),
]


@pytest.mark.parametrize(("command", "spoil", "check"), [case[1:] for case in HANDLED], ids=[c[0] for c in HANDLED])
def test_bad_input_is_handled(folder, capfd, command, spoil, check):
    spoil(folder)
    folder.sign()
    status, printed, complained = play(folder, capfd, command)
    assert status == 0 and "Traceback" not in complained, complained
    assert check(folder, printed) is not False


# --- outside of this process, and outside of the table ---------------------------------------------------


def test_a_child_process_refuses_a_malicious_checkpoint(folder):
    malicious("best", torch.save)(folder)
    folder.sign()
    message = call(SCORE, "--trial", folder.trial, status=2, apart=True)
    check_lines(message, ["{best}: not a loadable checkpoint"], folder)
    assert not (folder.root / "owned").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to every directory")
def test_a_read_only_trial_directory_is_refused(folder):
    folder.trial.chmod(0o500)
    try:
        message = call(SCORE, "--trial", folder.trial, status=2)
    finally:
        folder.trial.chmod(0o700)
    assert len(message.splitlines()) == 1 and "ermission denied" in message
