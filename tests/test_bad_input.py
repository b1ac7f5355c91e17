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
from tests.helpers import ON_FEATURES, ROOT, SEARCH, STAGES, call, record_step, run_here, write_features
from utils.common.digests import KEPT
from utils.common.steps import DOWNLOAD, FEATURES
from utils.conf.load import load_conf
from utils.dataset.log_mel import log_mel_spectrogram
from utils.dataset.log_mel_config import LogMelConfig
from utils.search.model_file import KEY, digest
from utils.trial.checkpoint import sealed

STEP_0, STEP_1, STEP_2, STEP_3, STEP_4, TRAIN, SCORE, MEASURE, REPORT = STAGES
STEP_SPLIT = "preprocessing/0_split_dataset.py"
STEP_5, EXPLORE = "preprocessing/5_audio_features.py", "postprocessing/5_explore.py"
EXPORT = "postprocessing/6_export.py"
SIZE = 8  # of the word vectors
HEADER = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5"
LONG = "file_name,caption"
CLEAN_HEADER = "line,file_name,column,raw_text"
ELSEWHERE = h5py.ExternalLink("elsewhere.hdf5", "x")


# --- the finished run ------------------------------------------------------------------------------------


class Folder:
    """A configuration, a data set and a trial, by the names of their files."""

    def __init__(self, root: Path):
        self.root, self.data, self.conf = root, root / "data", root / "conf.yaml"
        self.captions = self.data / "clotho_captions_development.csv"
        self.log_mels = self.data / "development_audio_logmels.hdf5"
        self.weights, self.features = root / "weights.pt", self.data / "development_audio_features.hdf5"
        self.word_vectors, self.embeds = root / "vectors", self.data / "word2vec_embeds.npz"
        self.wav = min((self.data / "development").iterdir())
        self.fid = hashlib.sha256(f"development/{self.wav.name}".encode()).hexdigest()[:16]  # of that clip
        (self.trial,) = (root / "output" / "demo").iterdir()
        self.best, self.last = self.trial / "checkpoint_best.pt", self.trial / "checkpoint_last.pt"
        self.scores, self.matrix = (self.trial / f"development_{kind}_scores.hdf5" for kind in ("word", "xmodal"))
        self.model, self.card = root / "model.safetensors", root / "model.md"
        self.metrics, self.record = self.trial / "metrics.jsonl", self.trial / "provenance.json"

    def names(self) -> dict[str, object]:
        """The values of the table's braces."""
        return vars(self) | {"wavs": sorted(path.name for path in self.wav.parent.iterdir())}

    def files(self) -> dict[Path, bytes]:
        files = (path for path in self.root.rglob("*") if path.is_file() and path.name != KEPT)
        return {path: path.read_bytes() for path in files}

    def sign(self) -> None:
        """Bring the digests of provenance.json in line with the files, as a stranger's would be."""
        for path in self.root.rglob("provenance.json"):
            steps = json.loads(path.read_text())
            for step in steps.values():
                for named in (step.get(part, {}) for part in ("inputs", "outputs", "data")):
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
    """The directory of a finished run. Read-only."""
    root = tmp_path_factory.mktemp("good")
    write_conf(root)
    (root / "vectors").write_text(f"1 {SIZE}\na{' 0.5' * SIZE}\n")
    torch.save(MobileNetV3(0.1).state_dict(), root / "weights.pt")
    for script in (STEP_0, STEP_1, STEP_2, STEP_3, STEP_4, TRAIN, SCORE, MEASURE):
        call(script, "--conf", root / "conf.yaml")
    call(EXPORT, root / "model.safetensors", "--conf", root / "conf.yaml")
    call(STEP_5, "--conf", root / "conf.yaml", f"audio_features.weights={root / 'weights.pt'}")
    return root


@pytest.fixture
def folder(good, tmp_path):
    """A copy of the finished run, free to be spoiled."""
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    write_conf(tmp_path)
    copy = Folder(tmp_path)
    conf = copy.trial / "conf.yaml"
    conf.write_text(conf.read_text().replace(str(good), str(tmp_path)))
    return copy


# --- ways to spoil ---------------------------------------------------------------------------------------

Spoil = Callable[[Folder], object]


def conf(text: str | bytes) -> Spoil:
    """The good configuration with this text added."""
    text = text.encode() if isinstance(text, str) else text
    return lambda folder: folder.conf.write_bytes(b"base: good.yaml\n" + text)


def captions(*rows: str, header: str = HEADER, encoding: str = "utf-8", line_feed: str = "\n") -> Spoil:
    """The development split's caption file; {0}, {1}, {2} stand for its clips' names."""

    def spoil(folder: Folder) -> None:
        names = sorted(path.name for path in folder.wav.parent.iterdir())
        lines = [header, *(row.format(*names) for row in rows)]
        folder.captions.write_bytes("".join(line + line_feed for line in lines).encode(encoding))

    return spoil


ROWS = [f"{{{i}}},a dog barks,a dog,dogs bark,rain falls,it rains" for i in range(3)]


def audio(samples: np.ndarray, sample_rate: int = 16000, subtype: str = "PCM_16") -> Spoil:
    return lambda folder: soundfile.write(folder.wav, samples, sample_rate, subtype=subtype)


def noise(seconds: float = 2.0, sample_rate: int = 16000) -> np.ndarray:
    return np.random.default_rng(0).normal(scale=0.1, size=round(seconds * sample_rate))


def many_bad_clips(folder: Folder) -> None:
    for wav in sorted(folder.wav.parent.iterdir())[:2]:
        soundfile.write(wav, noise(2, 8000), 8000)
    (folder.wav.parent / "unnamed.m4a").write_bytes(b"\0")
    shutil.copy(folder.wav, os.fsencode(folder.wav.parent) + b"/caf\xe9.wav")


def odd_data(folder: Folder) -> None:
    """A silent clip, one whose channels cancel, one out of scale, one after a tag, and one name in two splits."""
    first, second, third = sorted(folder.wav.parent.iterdir())
    other = sorted((folder.data / "validation").iterdir())
    soundfile.write(first, np.zeros(32000), 16000)
    soundfile.write(second, np.stack([noise(), -noise()], axis=1), 16000)
    soundfile.write(third, noise() * 32768, 16000, subtype="FLOAT")
    other[1].write_bytes(b"ID3\4\0\0\0\0\2\x2c" + bytes(300) + other[1].read_bytes())
    captions = folder.data / "clotho_captions_validation.csv"
    captions.write_text(captions.read_text().replace(other[0].name, first.name))
    other[0].rename(other[0].with_name(first.name))


def rewritten(file: str, change: Callable[[bytes], bytes]) -> Spoil:
    """One of the folder's files, by its name in Folder, with changed content."""
    return lambda folder: getattr(folder, file).write_bytes(change(getattr(folder, file).read_bytes()))


def cut(file: str) -> Spoil:
    return rewritten(file, lambda content: content[: len(content) // 2])


def flip_bit(file: str) -> Spoil:
    """One bit in the middle of a file."""

    def flip(content: bytes) -> bytes:
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]

    return rewritten(file, flip)


def add_line(file: str) -> Spoil:
    return rewritten(file, lambda content: content + b"\n")


def edited_text(file: str, old: str, new: str) -> Spoil:
    return rewritten(file, lambda content: content.replace(old.encode(), new.encode()))


def resized(change: Callable[[int], int]) -> Spoil:
    """A .wav file whose header states other sizes."""

    def with_sizes(content: bytes) -> bytes:
        sizes = [change(int.from_bytes(content[at : at + 4], "little")).to_bytes(4, "little") for at in (4, 40)]
        return content[:4] + sizes[0] + content[8:40] + sizes[1] + content[44:]

    return rewritten("wav", with_sizes)


def removed(file: str) -> Spoil:
    return lambda folder: getattr(folder, file).unlink()


def in_place_of(file: str, put: Callable[[Path], object]) -> Spoil:
    """A folder, a link, or a pipe (which would block a reader for ever) in a file's place."""

    def spoil(folder: Folder) -> None:
        getattr(folder, file).unlink()
        put(getattr(folder, file))

    return spoil


def sound_in_place(put: Callable[[Path], object]) -> Spoil:
    """A folder, a link or a pipe in a sound's place, in the folder to rank."""
    return lambda folder: put(folder.data / "sounds" / "x.wav")


def dangling(path: Path) -> None:
    path.symlink_to(".git/annex/objects/x.wav")


def link_split(folder: Folder) -> None:
    (folder.data / "development").rename(folder.root / "elsewhere")
    (folder.data / "development").symlink_to(folder.root / "elsewhere")


def mixed_data(folder: Folder) -> None:
    """A clip at 22.05 kHz, a sound in two splits, and a file name whose accent is a separate character."""
    first, second, third = sorted(folder.wav.parent.iterdir())
    soundfile.write(first, noise(2, 22050), 22050)
    shutil.copy(second, min((folder.data / "validation").iterdir()))
    third.rename(third.with_name("cafe\u0301.wav"))
    folder.captions.write_text(folder.captions.read_text().replace(third.name, "caf\u00e9.wav"))


def store(file: str, change: Callable[[h5py.File, str], object]) -> Spoil:
    """An HDF5 file, changed by `change(file, fid of the first clip)`."""

    def spoil(folder: Folder) -> None:
        with h5py.File(getattr(folder, file), "a") as opened:
            change(opened, folder.fid)

    return spoil


def log_mels(content: object) -> Spoil:
    """Other content for the first clip's log-mels."""
    return store("log_mels", lambda opened, fid: replace(opened, fid, content))


def features(content: object) -> Spoil:
    """Other content for the first clip's features."""
    return store("features", lambda opened, fid: replace(opened, fid, content))


def named_model(name: str | None) -> Spoil:
    """Features of a model of this name."""

    def rename(opened: h5py.File, _: str) -> None:
        for attribute in {"model", "weights_sha256"} & opened.attrs.keys():
            del opened.attrs[attribute]
        if name:
            opened.attrs["model"] = name

    return store("features", rename)


def other_network(path: Path) -> None:
    torch.save(torch.nn.Linear(3, 3).state_dict(), path)


def on_features(spoil: Spoil) -> Spoil:
    """A data set with features of four dimensions, one frame a clip, in place of log-mels; then spoiled."""

    def prepare(folder: Folder) -> None:
        for split, clips in json.loads((folder.data / "audio_info.json").read_text()).items():
            (folder.data / f"{split}_audio_logmels.hdf5").unlink()
            frames = {fid: np.zeros((1, 4), np.float32) for fid in clips["clips"]}
            write_features(folder.data / f"{split}_audio_features.hdf5", frames)
        record_step(load_conf(folder.conf), FEATURES)
        spoil(folder)

    return prepare


def without_features(folder: Folder) -> None:
    """A data set without a record of step 5."""
    path = folder.data / "provenance.json"
    path.write_text(json.dumps({step: made for step, made in json.loads(path.read_text()).items() if step != FEATURES}))


def trained_on(content: object) -> Spoil:
    """Other content for the first clip's features."""
    return on_features(store("features", lambda opened, fid: replace(opened, fid, content)))


def scores(name: str, content: object) -> Spoil:
    """Other content for one of the scores' data sets."""
    return store("scores", lambda opened, _: replace(opened, name, content))


def edited(name: str, edit: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """One of the scores' data sets, changed."""
    return store("scores", lambda opened, _: replace(opened, name, edit(opened[name][()])))


def replace(opened: h5py.File, name: str, content: object) -> None:
    del opened[name]
    opened[name] = content


def table(name: str, *rows: str, encoding: str = "utf-8") -> Spoil:
    """A CSV file beside the data set; {name} and {text} stand for a clip of the evaluation split and its caption."""

    def spoil(folder: Folder) -> None:
        first = pd.read_csv(folder.data / "evaluation_text.csv", dtype=str, na_filter=False).iloc[0]
        lines = [row.format(name=first["file_name"], text=first["raw_text"]) for row in rows]
        (folder.root / name).write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))

    return spoil


def number(file: str, value: float) -> Spoil:
    """One number of the first clip's log-mels, or of the scores."""

    def change(opened: h5py.File, fid: str) -> None:
        opened[fid if fid in opened else "scores"][0, 0] = value

    return store(file, change)


def raw(opened: h5py.File, fid: str) -> None:
    del opened[fid]
    opened.create_dataset(fid, (9, 64), "f4", external=[(str(ROOT / "README.md"), 0, 9 * 64 * 4)])


def vectors(content: bytes) -> Spoil:
    return lambda folder: folder.word_vectors.write_bytes(content)


def embeds(change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Spoil:
    """word2vec_embeds.npz with changed words and vectors."""

    def spoil(folder: Folder) -> None:
        with np.load(folder.embeds) as before:
            words, vectors = change(before["words"], before["vectors"])
        np.savez(folder.embeds, words=words, vectors=vectors)

    return spoil


def checkpoint(key: str, change: Callable[[object], object], file: str = "best") -> Spoil:
    """A checkpoint with one changed value."""

    def spoil(folder: Folder) -> None:
        before = torch.load(getattr(folder, file), weights_only=True)
        torch.save(before | {key: change(before[key])}, getattr(folder, file))

    return spoil


def weights(name: str, content: torch.Tensor) -> Spoil:
    return checkpoint("model", lambda model: model | {name: content})


class Malicious:
    """Runs code when it is unpickled: it makes a directory."""

    def __init__(self, owned: Path):
        self.owned = str(owned)

    def __reduce__(self):
        return (os.mkdir, (self.owned,))


def exported(change: Callable[[dict, dict], object], text: str | None = None) -> Spoil:
    """Another content of the exported model: of its metadata and its tensors, with the digest of these."""

    def spoil(folder: Folder) -> None:
        with safe_open(folder.model, "pt") as file:
            content = json.loads(file.metadata()[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        change(content, tensors)
        content["sha256"] = digest(tensors)
        save_file(tensors, folder.model, {KEY: json.dumps(content) if text is None else text})

    return spoil


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


def malicious(file: str, dump: Callable[[object, Path], object]) -> Spoil:
    return lambda folder: dump({"model": Malicious(folder.root / "owned")}, getattr(folder, file))


def pickled(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def pickled_embeds(content: object, path: Path) -> None:
    np.savez(path, words=np.array([content], dtype=object), vectors=np.zeros((1, SIZE)))


def malicious_conf(folder: Folder) -> None:
    folder.conf.write_text(f"base: good.yaml\ntrial_series: !!python/object/apply:os.mkdir ['{folder.root}/owned']\n")


def file_for_folder(folder: Folder) -> None:
    shutil.rmtree(folder.root / "output")
    (folder.root / "output").write_text("")


def index(name: str, content: str | tuple[str, str]) -> Spoil:
    """A file of the data set with this text, or with the same cell in a whole column: (column, cell)."""

    def spoil(folder: Folder) -> None:
        path = folder.data / name
        if isinstance(content, str):
            path.write_text(content)
        else:
            table = pd.read_csv(path, dtype=str, na_filter=False)
            table.assign(**dict([content])).to_csv(path, index=False)

    return spoil


def lose_best(folder: Folder) -> None:
    """Remove the best checkpoint, of epoch 0; the last one cannot replace it."""
    checkpoint("history", lambda epochs: [epochs[0] | {"val_obj": -9.0}, *epochs[1:]], "last")(folder)
    folder.best.unlink()


def link_log(folder: Folder) -> None:
    (folder.root / "mine.txt").write_text("mine")
    (folder.trial / "train.log").unlink()
    (folder.trial / "train.log").symlink_to(folder.root / "mine.txt")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def to_rank(spoil: Spoil) -> Spoil:
    """A folder of sounds to rank and captions to rank them for, then spoiled."""

    def prepare(folder: Folder) -> None:
        shutil.copytree(folder.data / "evaluation", folder.data / "sounds")
        table("queries.csv", "caption", "rain")(folder)
        spoil(folder)

    return prepare


# --- the table: refused ----------------------------------------------------------------------------------

ALIASES = "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
ADVICE = "{data}/bad_data.csv … clotho_dataset.on_bad_data=skip"
TRIAL = ["--trial", "{trial}"]
MEASURE_PAIRS = [MEASURE, *TRIAL, "data_conf.relevance={root}/pairs.csv"]
RANK = [SEARCH, *TRIAL, "--queries", "{root}/queries.csv", "--clips", "{data}/sounds", "--csv", "{root}/out.csv"]
PAIR, RANKING, LISTS = LONG, "caption_query,file_name_1", "query,audio_filenames"
COMPARE = [REPORT, "--compare", "{trial}"]
RESUME = ["--resume", "{trial}", "param_conf.num_epoch=2"]
FROM_FILE = ["--conf", "{conf}", "word2vec_embeddings.source=file", "word2vec_embeddings.file={word_vectors}"]
INDEXED, EMBEDDED, MADE, ENCODED, SCORED = (f" … {script}" for script in (STEP_2, STEP_3, STEP_4, FEATURES, SCORE))
TRAIN_ON_FEATURES = [TRAIN, "--conf", "{conf}", *ON_FEATURES]

FEATURES_CONF = "data_conf: {audio: features}\nCRNNWordModel: {audio_enc: {name: features}}\n"

LARGER, UNSET = resized(lambda size: size + 8), resized(lambda size: 0)
STRANGE_FORMAT = edited_text("record", '"format": 2', '"format": "two"')

# Title, how to spoil, and the error line after the file's name: parts of it in order, separated by …
# The tests of each reader, in tests/common, conf, dataset and trial, cover more faults.
CONFIGURATION = [  # of conf.yaml, when captions are cleaned
    ("typo in a key", conf("param_conf: {batchsize: 3}"), "param_conf.batchsize … batch_size?"),
    ("key of another section", conf("audio_logmel: {batch_size: 3}"), "batch_size … mean param_conf.batch_size?"),
    ("all dropped", conf("CRNNWordModel: {audio_enc: {dropout: 1}}"), "audio_enc.dropout: is 1 … less than 1"),
    ("key of an unknown section", conf("parm_conf: {seed: 3}"), "parm_conf.seed … did you mean param_conf.seed?"),
    ("a word for yes or no", conf("AdamOptimizer: {decoupled_weight_decay: adamw}"), "decay: is 'adamw' … boolean"),
    ("empty", lambda folder: folder.conf.write_text(""), "no `key: value` settings"),
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
CLEANED_CAPTIONS = [  # of captions, when they are cleaned
    ("missing file", removed("captions"), f"no such file … captions there (python {DOWNLOAD} downloads Clotho's)"),
    ("a pipe", in_place_of("captions", os.mkfifo), "no such file … captions"),
    ("UTF-16", captions(*ROWS, encoding="utf-16"), "line 1: not UTF-8"),
    ("unbalanced quote", captions(ROWS[0], '{1},"a dog,b,c,d,e', ROWS[2]), "line 3: not valid CSV"),
    (
        "caption 0",
        captions(*(f"{row},rain" for row in ROWS), header=f"{HEADER},caption_0"),
        "line 1 … caption_0: … 1, 2",
    ),
    (
        "both forms",
        captions(*(f"{row},a" for row in ROWS), header=f"{HEADER},caption"),
        "line 1 … caption and caption_1",
    ),
    (
        "neither form",
        captions("{0},rain", header="file_name,text"),
        "line 1 … file_name,caption, but are file_name,text",
    ),
    ("surplus cells", captions(ROWS[0], "{1},a,b,c,d,e,f"), "line 3 … quotes"),
]
PAIRED_CAPTIONS = [  # of captions, when they are paired with clips: the line, and what is wrong
    ("no caption", captions("{0},, ,,", *ROWS[1:]), "2 ('{wav.name}'): the clip has no captions: its cells are empty"),
    (
        "no words in a row",
        captions("{0},?!", "{1},a", "{2},a", "{0},b", header=LONG),
        "2 ('{wav.name}') … caption_1 holds",
    ),
    ("only punctuation", captions('{0},"?!, ...",b,c,d,e', *ROWS[1:]), "2 ('{wav.name}') … caption_1"),
    ("only dashes", captions("{0},a,– —,c,d,e", *ROWS[1:]), "2 ('{wav.name}') … caption_2 holds no words"),
    ("row twice", captions(*ROWS, ROWS[0]), "5 ('{wav.name}') … line 2"),
    ("no such clip", captions(*ROWS, "absent.wav,a,b,c,d,e"), "5 ('absent.wav') … no such audio file"),
    ("empty rows", captions(*ROWS, *[",,,,,"] * 9), "5: the row is empty, and 8 more are; remove empty rows"),
    ("no name", captions(*ROWS, ",a,b,c,d,e"), "5: the row names no file"),
]
AUDIO = [  # of a clip, when captions are paired with clips
    ("text named .wav", lambda folder: folder.wav.write_text("no sound\n" * 99), "unreadable audio"),
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
ENCODE = [STEP_5, "--conf", "{conf}", "audio_features.weights={weights}"]
CHECK_OWN = [STEP_5, "--conf", "{conf}", "audio_features.model=own"]
WEIGHTS = [  # of the weights of a pretrained network, when clips are encoded
    ("missing", removed("weights"), "audio_features.weights: no such file: {weights}; name a file, or one of mn01_as"),
    ("cut short", cut("weights"), "{weights}: damaged, or not a file of weights … download it again"),
    ("text", lambda folder: folder.weights.write_text("none"), "{weights}: damaged, or not a file of weights alone"),
    ("malicious", malicious("weights", torch.save), "{weights}: damaged, or not a file of weights alone"),
    ("malicious plain pickle", malicious("weights", pickled), "{weights}: damaged, or not a file of weights alone"),
    ("of another network", in_place_of("weights", other_network), "{weights}: weights of another network"),
    ("a sound that changed", audio(noise()), f"{{wav}}: … {STEP_2} read it; run that again"),
    ("features of another model", named_model("PANNs"), "{features}: holds features of another model … model to own"),
]
OWN_FEATURES = [  # of features that the user wrote, when they are checked
    ("missing", removed("features"), "no such file; write it"),
    ("cut short", cut("features"), "not a readable HDF5 file … the program that wrote it again"),
    ("without a model", named_model(None), "the attribute model is missing"),
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
    ("empty", lambda folder: folder.best.write_bytes(b""), "not a loadable checkpoint"),
    ("malicious", malicious("best", torch.save), "not a loadable checkpoint"),
    ("malicious plain pickle", malicious("best", pickled), "not a loadable checkpoint"),
    ("not a dictionary", lambda folder: torch.save([1], folder.best), "not a checkpoint that main.py wrote"),
    ("other architecture", checkpoint("model", lambda _: torch.nn.Linear(3, 3).state_dict()), "CRNNWordModel"),
    ("other sizes", weights("audio_enc.gru.weight_hh_l0", torch.zeros(6, 2)), "CRNNWordModel"),
    ("NaN weights", weights("audio_enc.cnn.0.bias", torch.full((1,), np.nan)), "not finite … new trial"),
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
    ("words that are none", edited("caption_words", lambda words: words + 10**6), "do not belong together" + SCORED),
    ("words below none", edited("caption_words", lambda words: words - 10**6), "do not belong together" + SCORED),
    ("fewer shares", edited("caption_shares", lambda shares: shares[1:]), "do not belong together" + SCORED),
    ("NaN shares", edited("caption_shares", lambda shares: shares * np.nan), "do not belong together" + SCORED),
    ("shares for words", edited("caption_words", lambda words: words / 2), "caption_words … whole numbers" + SCORED),
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
]
TRIALS = [  # of a trial, in scoring
    ("no checkpoint", removed("best"), "/checkpoint_best.pt: no such file; main.py"),
    ("no configuration", lambda folder: (folder.trial / "conf.yaml").unlink(), ": not a trial directory … conf.yaml"),
    ("garbled", lambda folder: (folder.trial / "conf.yaml").write_text("{{{"), "/conf.yaml: not valid YAML: line 1"),
]
PAIRS = [  # of data_conf.relevance, when metrics are computed
    ("missing", lambda folder: None, "no such file … file_name,caption or query,audio_filenames, or set … to null"),
    (
        "other columns",
        table("pairs.csv", "fname,caption", "a,b"),
        "line 1: … file_name,caption or … but are fname,caption",
    ),
    ("a column twice", table("pairs.csv", "file_name,caption,caption", "a,b,c"), "line 1: … caption stands twice"),
    ("UTF-16", table("pairs.csv", "file_name,caption", encoding="utf-16"), "line 1: not UTF-8"),
    ("surplus cells", table("pairs.csv", "file_name,caption", '{name},"{text}",x'), "line 2: more cells"),
    ("unknown clip", table("pairs.csv", PAIR, '{name},"{text}"', 'x.wav,"{text}"'), "line 3: … has no clip 'x.wav'"),
    ("unknown caption", table("pairs.csv", PAIR, "{name},a zebra"), "line 2: … has no caption 'a zebra' … raw_text"),
    ("a missing cell", table("pairs.csv", PAIR, "{name}"), "line 2: … has no caption ''"),
    (
        "no list",
        table("pairs.csv", LISTS, '"{text}",[]', '"{text}",{name}'),
        "line 3: audio_filenames is … a list of names",
    ),
    (
        "a list of numbers",
        table("pairs.csv", LISTS, '"{text}","[1, 2]"'),
        "line 2: audio_filenames is '[1, 2]'; … ['a.wav',",
    ),
    (
        "code",
        table("pairs.csv", LISTS, '"{text}","[open(\'x\').read()]"'),
        "line 2: audio_filenames is … a list of names",
    ),
    ("deep lists", table("pairs.csv", LISTS, '"{text}",' + "[" * 9**5), "line 2: audio_filenames is '[[["),
    ("lists of an unknown clip", table("pairs.csv", LISTS, '"{text}","[\'x.wav\']"'), "line 2: … has no clip 'x.wav'"),
    ("a query that is no caption", table("pairs.csv", LISTS, "rain,\"['{name}']\""), "line 2: … has no caption 'rain'"),
    ("empty lists", table("pairs.csv", LISTS, '"{text}",[]'), "holds no pairs; name a CSV file"),
]
THIRDS = ["--conf", "{conf}", "--fractions", "0.34", "0.33", "0.33"]
SPLITTING = [STEP_SPLIT, "{root}/own.csv", "{data}/evaluation", "data_conf.dataset={root}/own"]
DIVIDED = [  # of a captions file and a folder of sounds that are to be divided: the file, and what is wrong
    ("no captions file", lambda folder: None, "{root}/own.csv: no such file"),
    ("neither form", table("own.csv", "file_name,text", "{name},a"), "{root}/own.csv: line 1: the columns must be"),
    ("no name", table("own.csv", LONG, "{name},a", " ,b"), "{root}/own.csv: line 3: the row names no file"),
    ("a column twice", table("own.csv", "file_name,caption,x,x", "{name},a,b,c"), "{root}/own.csv: line 1: … x stands"),
    ("one clip", table("own.csv", LONG, "{name},a"), "validation: gets none of 1 clip; a larger part in --fractions"),
]
QUERIES = [  # of a file of captions, when a folder is ranked for it
    ("missing", lambda folder: None, "no such file … column caption"),
    ("a pipe", lambda folder: os.mkfifo(folder.root / "queries.csv"), "no such file"),
    ("no column", table("queries.csv", "file_name,text", "x.wav,a dog"), "line 1: … caption or caption_query … ,text"),
    ("two columns", table("queries.csv", "caption,caption_query", "a,b"), "line 1: needs one column"),
    ("a column twice", table("queries.csv", "caption,caption", "a,b"), "line 1: the column caption stands twice"),
    ("no rows", table("queries.csv", "caption"), "holds no captions"),
    ("no words", table("queries.csv", "caption", "a dog", '"?!, ..."'), "line 3: the caption '?!, ...' holds no words"),
    ("an empty cell", table("queries.csv", "file_name,caption", "x.wav,"), "line 2: the caption '' holds no words"),
    ("not quoted", table("queries.csv", "caption", "a dog, barking"), "line 2: more cells … quotes"),
    ("NUL", table("queries.csv", "caption", "a\0dog"), "line 2: holds a NUL"),
    ("UTF-16", table("queries.csv", "caption", "a", encoding="utf-16"), "line 1: not UTF-8"),
]
RANKED = [  # of a folder that is to be ranked, or of the place of the ranking: the file, and what is wrong
    ("no folder", lambda folder: shutil.rmtree(folder.data / "sounds"), "{data}/sounds: no such folder"),
    ("no sounds", lambda folder: empty(folder.data / "sounds"), "{data}/sounds: holds no .wav"),
    ("another table", table("out.csv", "my,table"), "{root}/out.csv: is not a ranking … and is not replaced"),
    ("another's ranking", table("out.csv", RANKING, "rain,x.wav"), "{root}/out.csv: is not a ranking … move it"),
    ("a folder", lambda folder: (folder.root / "out.csv").mkdir(), "{root}/out.csv: is not a plain file"),
    ("scores are a file", table("out_word_scores", "x"), "{root}/out_word_scores: is a link or not a folder"),
    ("scores are a pipe", lambda folder: os.mkfifo(folder.root / "out_word_scores"), "{root}/out_word_scores: is a"),
]
UNRANKED = [  # of a sound that is to be ranked
    ("a dangling link", sound_in_place(dangling), "is a broken link"),
    ("a folder in its place", sound_in_place(Path.mkdir), "is a folder"),
    ("a pipe", sound_in_place(os.mkfifo), "is a pipe"),
]
SPLIT = ["--split", "development"]
USE = ["--model", "{model}", "--clips", "{data}/evaluation"]
OWN_PAGE = [EXPLORE, "--model", "{model}", "--folder", "{data}/evaluation"]
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
    (
        "NaN",
        exported(lambda _, tensors: tensors.update({"model.audio_enc.cnn.0.bias": torch.full((1,), np.nan)})),
        "weights that are not finite",
    ),
]
AS_IS = conf("")
OF_MODELS = [  # commands with an exported model, or that export one
    ("a trial beside it", [SEARCH, *USE, *TRIAL, "rain"], AS_IS, "--model {model}: … leave out --trial"),
    ("no folder", [SEARCH, "--model", "{model}", "rain"], AS_IS, "--model: … add --clips DIR"),
    ("no text", [SEARCH, *USE], AS_IS, "--clips {data}/evaluation: needs one QUERY"),
    ("a split", [SEARCH, *USE, *SPLIT, "rain"], AS_IS, "--split: plays no part beside --clips"),
    ("another score", [SEARCH, *USE, "score.frames=max", "rain"], AS_IS, "score.frames: decides what {model} was"),
    ("a typo", [SEARCH, *USE, "score.frame=max", "rain"], AS_IS, "score.frame: unknown key … score.frames?"),
    ("captions of a sound", [SEARCH, *USE, "--audio", "x.wav"], AS_IS, "--audio: finds captions of a data set … trial"),
    (
        "no sounds",
        [SEARCH, *USE, "rain"],
        lambda folder: empty(folder.data / "evaluation"),
        "{data}/evaluation: holds no",
    ),
    (
        "other weights",
        [SEARCH, *USE, "rain"],
        on_other_features,
        "{weights}: not the weights that {model} … SHA-256 000",
    ),
    (
        "no weights",
        [SEARCH, *USE, "audio_features.weights=none.pt", "rain"],
        on_other_features,
        "audio_features.weights: no such file: none.pt … {model} needs the weights of SHA-256 000",
    ),
    ("a page of a split", [*OWN_PAGE, *SPLIT], AS_IS, "--split: plays no part beside --model"),
    ("a page without a folder", OWN_PAGE[:3], AS_IS, "--folder is missing: --model FILE and --folder DIR"),
    ("export: no ending", [EXPORT, *TRIAL, "{root}/model"], AS_IS, "{root}/model: not the name of a .safetensors file"),
    (
        "export: over another file",
        [EXPORT, *TRIAL, "{model}"],
        lambda folder: folder.model.write_text("mine"),
        "{model}: is not a model of an earlier run … and is not replaced",
    ),
    (
        "export: over an edited card",
        [EXPORT, *TRIAL, "{model}"],
        lambda folder: folder.card.write_text("mine"),
        "{card}: is not a model card of an earlier run … and is not replaced",
    ),
    (
        "export: more extra words than there are",
        [EXPORT, *TRIAL, "{model}", "--extra-words", "9"],
        AS_IS,
        f"{{data}}/word2vec_extra.npz: no extra words … {STEP_3} recorded … is 9",
    ),
]
PAGES = [  # of what the live page is made from: what is spoiled, how, and the error line
    ("no scores", removed("scores"), f"{{scores}}: no such file … {SCORE}"),
    ("scores cut short", cut("scores"), f"{{scores}}: not a readable HDF5 file … {SCORE}"),
    ("NaN scores", number("scores", np.nan), "{trial}: scores are NaN"),
    ("no log-mels", removed("log_mels"), f"{{log_mels}}: no such file … {STEP_4}"),
    ("no clip", removed("wav"), "/development/{wav.name}: no such audio file … put it back"),
    ("a broken clip", cut("wav"), "/development/{wav.name}: … run that again"),
    ("a file in its place", lambda folder: (folder.trial / "explore").write_text(""), "{trial}/explore: is a file"),
]
IDENTITY = [  # of files that differ from their record: provenance.json is not signed anew
    ("captions edited after training", [SCORE, *TRIAL], add_line("captions"), f"{{captions}}: … {STEP_1} read it"),
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
        COMPARE,
        edited_text("metrics", '"lr": 0.001', '"lr": 0.002'),
        "/metrics.jsonl: line 1 … checkpoint_last.pt … resume",
    ),
    ("a strange format", [SCORE, *TRIAL], STRANGE_FORMAT, "/provenance.json: … 'main.py.format': … or put a copy back"),
    ("train.log is a link", [TRAIN, *RESUME], link_log, "{trial}/train.log: is a link … remove it"),
    ("a checkpoint is a pipe", [SCORE, *TRIAL], in_place_of("best", os.mkfifo), "{best}: no such file … main.py"),
    ("scores are a pipe", [MEASURE, *TRIAL], in_place_of("scores", os.mkfifo), f"{{scores}}: no such file … {SCORE}"),
    ("no record of the training", [SCORE, *TRIAL], removed("record"), "{trial}: not a trial … record of main.py"),
]
LAST = [  # of the checkpoint that training goes on from
    ("the best one is gone", lose_best, "/checkpoint_best.pt: is gone … epoch 1, not of the best, 0; put it back"),
    ("malicious", malicious("last", torch.save), "/checkpoint_last.pt: not a loadable checkpoint"),
    ("other vocabulary", checkpoint("words", lambda words: words[::-1], "last"), ": … vocabulary … new trial"),
    ("other optimizer", checkpoint("optimizer", lambda _: {}, "last"), "/checkpoint_last.pt: does not fit"),
    (
        "other schedule",
        checkpoint("scheduler", lambda state: state | {"num_bad_epochs": "many"}, "last"),
        "/checkpoint_last.pt: does not fit",
    ),
]
OTHERS = [
    (
        "captions: no folder of sounds",
        [STEP_2],
        lambda folder: shutil.rmtree(folder.wav.parent),
        [f"{{data}}/development: no such folder … (python {DOWNLOAD} downloads Clotho's)"],
    ),
    (
        "captions: header only",
        [STEP_1, STEP_2],
        captions(),
        ["{captions.name} line 1", *[f"development ('{{wavs[{i}]}}')" for i in range(3)], "all 4 … " + ADVICE],
    ),
    (
        "conf: two things wrong",
        [STEP_1],
        conf("param_conf: {seed: -1}\nAdamOptimizer: {lr: 0}"),
        ["{conf}: param_conf.seed: is -1", "{conf}: AdamOptimizer.lr: is 0"],
    ),
    ("conf: typo of ours", [STEP_1, "param_conf.batchsize=3"], conf(""), ["'param_conf.batchsize=3': … batch_size?"]),
    ("audio: a split is a link", [STEP_2], link_split, ["{data}/development: is a link out of the data set directory"]),
    (
        "conf: a device",
        [STEP_1],
        lambda folder: folder.conf.write_text("base: /dev/zero\n"),
        ["/dev/zero: … a folder, pipe or device"],
    ),
    (
        "division: a sound is missing",
        SPLITTING,
        table("own.csv", LONG, "{name},a", "x.wav,b"),
        ["{root}/own.csv: line 3 ('x.wav'): no such audio file", "clips without a sound: 1; … on_bad_data=skip"],
    ),
    (
        "division: no folder",
        [STEP_SPLIT, "{captions}", "{root}/sounds"],
        conf(""),
        ["{root}/sounds: no such folder"],
    ),
    (
        "division: splits that exist",
        [STEP_SPLIT, "{captions}", "{data}/development", *THIRDS],
        conf(""),
        ["{captions}: exists, and is not what this command writes … data_conf.dataset"],
    ),
    (
        "division: folders that exist",
        [STEP_SPLIT, "{root}/own.csv", "{data}/development", *THIRDS],
        lambda folder: folder.captions.rename(folder.root / "own.csv"),
        ["{data}/development: exists, and is not what this command writes"],
    ),
    (
        "division: parts beyond the whole",
        [*SPLITTING, "--fractions", "1", "1", "1"],
        conf(""),
        ["--fractions 1 1 1: … 1"],
    ),
    ("division: no number", [*SPLITTING, "--fractions", "nan", "1", "0"], conf(""), ["--fractions nan 1 0: must be"]),
    ("division: a seed below 0", [*SPLITTING, "--seed", "-1"], conf(""), ["--seed -1: must be 0"]),
    (
        "division: two roles of one split",
        [*SPLITTING, "data_conf.eval_data=validation"],
        conf(""),
        ["data_conf: … must name three splits; two are the same"],
    ),
    ("conf: misspelt option", [STEP_1, "--cnof", "{conf}"], conf(""), ["--cnof … did you mean --conf?"]),
    ("conf: override", [STEP_1, "--conf", "{conf}", "x"], conf(""), ["'x': … section.key=value"]),
    (
        "audio: settings that came after the index",
        [STEP_4, "--conf", "{conf}", "audio_logmel.fmax=9000"],
        conf(""),
        ["/development/ … .wav: fmax 9000 Hz … audio_logmel settings … 2_clotho_dataset.py … on_bad_data=skip"],
    ),
    (
        "audio: two clips at 8 kHz, one that is not read, and one with a name that is not UTF-8",
        [STEP_2],
        many_bad_clips,
        [
            r"development ('caf\\xe9.wav'): … not UTF-8",
            "development ('unnamed.m4a'): … convert it to .wav",
            "development ('{wavs[0]}'): fmax 8000 Hz",
            "development ('{wavs[1]}'): fmax 8000 Hz",
            "all 4 … " + ADVICE,
        ],
    ),
    (
        "word vectors: next to none of the words",
        [STEP_3, *FROM_FILE],
        vectors(b"2 2\na 1 2\nzebra 1 2\n"),
        ["word2vec_embeddings: the word vectors know 1 of the vocabulary's … another language"],
    ),
    (
        "checkpoint: words of another data set",
        [SCORE, *TRIAL],
        checkpoint("words", lambda words: [f"{word}s" for word in words]),
        ["{data}/development_text.csv: … has no vector … main.py"],
    ),
    (
        "embeds: not of the dimension asked for",
        [TRAIN, "--conf", "{conf}", "CRNNWordModel.audio_enc.out_dim=6"],
        conf(""),
        ["CRNNWordModel.audio_enc.out_dim: is 6 … {embeds} … 8 dimensions … null"],
    ),
    (
        "ranking: in the place of its captions",
        [*RANK[:-1], "{root}/../{root.name}/queries.csv"],
        to_rank(lambda _: None),
        ["{root}/../{root.name}/queries.csv: is the input {root}/queries.csv; write the ranking elsewhere"],
    ),
    (
        "relevance: missing before training",
        [TRAIN, "--conf", "{conf}", "data_conf.relevance={root}/pairs.csv"],
        conf(""),
        ["{root}/pairs.csv: no such file … or set data_conf.relevance to null"],
    ),
    ("trial: no place", [TRAIN], file_for_folder, ["{root}/output/demo: Not a directory"]),
    ("trial: none", [SCORE], lambda folder: shutil.rmtree(folder.trial), ["{root}/output/demo: … main.py"]),
    ("trial: --conf", [SCORE, "--conf", "{conf}", *TRIAL], conf(""), ["--trial {trial}: … leave out --conf"]),
]


def group(title: str, command: list[str], prefix: str, rows: list[tuple], *more: str) -> list[tuple]:
    """Complete the rows of one command: title, command, how to spoil, error lines."""
    return [(f"{title}: {what}", command, spoil, [prefix + words, *more]) for what, spoil, words in rows]


REFUSED = [
    *group("conf", [STEP_1], "{conf}: … ", CONFIGURATION),
    *group("captions", [STEP_1], "{captions}: … ", CLEANED_CAPTIONS),
    *group("captions", [STEP_1, STEP_2], "{captions.name} line ", PAIRED_CAPTIONS, "all 1 … " + ADVICE),
    *group("audio", [STEP_2], "development ('{wav.name}'): … ", AUDIO, "all 1 … " + ADVICE),
    *group("log-mels", [TRAIN], "{log_mels}: … ", LOG_MELS),
    *group("weights", ENCODE, "", WEIGHTS),
    *group("own features", CHECK_OWN, "{features}: … ", OWN_FEATURES),
    *group("features", TRAIN_ON_FEATURES, "{features}: … ", UNFIT_FEATURES),
    (
        "features: none",
        TRAIN_ON_FEATURES,
        without_features,
        [f"{{data}}/provenance.json: no record of {FEATURES}; run it"],
    ),
    (
        "features: not of the size asked for",
        [*TRAIN_ON_FEATURES, "CRNNWordModel.audio_enc.in_dim=5"],
        on_features(conf("")),
        ["{features}: … (1, 4), but CRNNWordModel.audio_enc.in_dim … (frames, 5)" + ENCODED],
    ),
    *group("word vectors", [STEP_3, *FROM_FILE], "{word_vectors}: … ", WORD_VECTORS),
    *group("embeds", [TRAIN], "{embeds}: … ", EMBEDS),
    *group("checkpoint", [SCORE, *TRIAL], "{best}: … ", CHECKPOINTS),
    *group("scores", [MEASURE, *TRIAL], "{scores}: … ", SCORES),
    *group("relevance", MEASURE_PAIRS, "{root}/pairs.csv: … ", PAIRS),
    *[(f"division: {what}", SPLITTING, spoil, [words]) for what, spoil, words in DIVIDED],
    *group("queries", RANK, "{root}/queries.csv: … ", QUERIES),
    *group("ranking", RANK, "", [(what, to_rank(how), words) for what, how, words in RANKED]),
    *group(
        "ranking: a sound",
        RANK,
        "{data}/sounds/x.wav: ",
        [(what, to_rank(how), words) for what, how, words in UNRANKED],
        "{data}/sounds: 1 sound cannot be ranked: … clotho_dataset.on_bad_data=skip",
    ),
    *group("model", [SEARCH, *USE, "rain"], "{model}: … ", MODELS),
    *[(f"model: {what}", command, spoil, [words]) for what, command, spoil, words in OF_MODELS],
    *group("trial", [SCORE, *TRIAL], "{trial}", TRIALS),
    *[(f"page: {what}", [EXPLORE, *TRIAL, *SPLIT], spoil, [words]) for what, spoil, words in PAGES],
    ("page: no such split", [EXPLORE, *TRIAL, "--split", "test"], lambda _: None, ["'test': not a split of {trial}"]),
    *group("resumed", [TRAIN, *RESUME], "{trial}", LAST),
    *[
        (f"index: {number}", [command], index(name, content), [f"{{data}}/{name}: … {words}"])
        for number, (command, name, content, words) in enumerate(INDEX)
    ],
    *OTHERS,
]


def play(folder: Folder, capfd: pytest.CaptureFixture, command: list[str], names: dict) -> tuple[int, str, str]:
    """Run a case's scripts with its settings; all but the last succeed.

    Returns the last script's exit status, standard output, and standard error including that of C libraries.
    """
    arguments = [part.format(**names) for part in command]
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


def check_lines(complained: str, expected: list[str], names: dict) -> None:
    """Assert that each expected line has an error line with the same parts in order."""
    lines = complained.splitlines()
    assert len(lines) == len(expected), complained
    for line, words in zip(lines, expected, strict=True):
        parts = [re.escape(part.format(**names)) for part in words.split(" … ")]
        assert re.match("error: .*" + ".*".join(parts), line), f"{line}\nhas not {parts}"


@pytest.mark.parametrize(("command", "spoil", "expected"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
def test_bad_input_is_refused(folder, capfd, command, spoil, expected):
    names = folder.names()
    spoil(folder)
    folder.sign()
    status, _, complained = play(folder, capfd, command, names)
    assert status == 2, complained
    check_lines(complained, expected, names)


@pytest.mark.parametrize("case", IDENTITY, ids=[case[0] for case in IDENTITY])
def test_files_that_differ_from_their_record_are_refused(folder, capfd, case):
    _, command, spoil, expected = case
    names = folder.names()
    spoil(folder)
    status, _, complained = play(folder, capfd, command, names)
    assert status == 2, complained
    check_lines(complained, [expected], names)


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
    first, second, third = (path.name for path in sorted(folder.wav.parent.iterdir()))
    lines = [line.partition(";")[0] for line in printed.splitlines()]
    assert f"clips that are silent: 1 of development, e.g. {first!r}" in lines
    assert f"clips whose channels cancel out when averaged: 1 of development, e.g. {second!r}" in lines
    assert f"clips with samples beyond 10 (full scale is 1): 1 of development, e.g. {third!r}" in lines
    assert f"the same file names in development and in validation: 1, e.g. {first!r}" in lines
    assert "development: 3 clips" in printed and "validation: 2 clips" in printed
    assert not (folder.data / "bad_data.csv").exists()


def clips_are_resampled(folder: Folder, printed: str) -> None:
    clips = json.loads((folder.data / "audio_info.json").read_text())["development"]["clips"]
    assert {clip["sample_rate"] for clip in clips.values()} == {16000, 22050}
    with h5py.File(folder.log_mels) as opened:
        assert {fid: len(log_mel) for fid, log_mel in opened.items()} == {
            fid: 1 + round(clip["seconds"] * 8000) // 160 for fid, clip in clips.items()
        }
        for fid, clip in clips.items():
            samples, rate = soundfile.read(folder.data / "development" / clip["file_name"])
            resampled = soxr.resample(samples.astype("f4"), rate, 8000, quality="HQ")
            expected = log_mel_spectrogram(resampled, 8000, LogMelConfig(fmax=4000))
            np.testing.assert_allclose(opened[fid][()], expected, atol=1e-4)


def log_mels_have_the_new_hop(folder: Folder, printed: str) -> None:
    info = json.loads((folder.data / "audio_info.json").read_text())
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
    (
        "captions: skipped where told to",
        [STEP_1, STEP_2, "--conf", "{conf}", "clotho_dataset.on_bad_data=skip"],
        captions(*ROWS, "absent.wav,a,b,c,d,e"),
        bad_caption_is_left_out,
    ),
    (
        "audio: clips that no log-mel can be made of are skipped where told to",
        [STEP_2, STEP_4, "--conf", "{conf}", "clotho_dataset.on_bad_data=skip"],
        many_bad_clips,
        bad_clips_are_left_out,
    ),
    (
        "audio: sample rates that differ, a sound in two splits, an accent, one split for two roles",
        [STEP_1, STEP_2, "--conf", "{conf}", "data_conf.eval_data=validation"],
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
        [STEP_1, STEP_2, STEP_4, "--conf", "{conf}", "audio_logmel.sample_rate=8000", "audio_logmel.fmax=4000"],
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
    (
        "log-mels: float64",
        [TRAIN],
        log_mels(np.zeros((99, 64))),
        lambda folder, printed: "best epoch by val_obj" in printed,
    ),
    (
        "trial: garbled metrics.jsonl",
        [TRAIN, *RESUME],
        lambda folder: folder.metrics.write_text("{{"),
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
    names = folder.names()
    spoil(folder)
    folder.sign()
    status, printed, complained = play(folder, capfd, command, names)
    assert status == 0 and "Traceback" not in complained, complained
    assert check(folder, printed) is not False


# --- outside of this process, and outside of the table ---------------------------------------------------


def test_a_child_process_refuses_a_malicious_checkpoint(folder):
    malicious("best", torch.save)(folder)
    folder.sign()
    message = call(SCORE, "--trial", folder.trial, status=2, apart=True)
    check_lines(message, ["{best}: not a loadable checkpoint"], folder.names())
    assert not (folder.root / "owned").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to every directory")
def test_a_read_only_trial_directory_is_refused(folder):
    folder.trial.chmod(0o500)
    try:
        message = call(SCORE, "--trial", folder.trial, status=2)
    finally:
        folder.trial.chmod(0o700)
    assert len(message.splitlines()) == 1 and "ermission denied" in message
