"""Bad input, case by case: one thing is spoiled in a good data set or trial, and the command that meets it first runs.

Either it ends with exit status 2 and exactly the expected `error:` lines, and what was there is as it was; or it
handles the case, and the outcome is checked.
"""

import gzip
import hashlib
import json
import os
import pickle
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import librosa
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import yaml
from gensim.models import KeyedVectors
from scipy.io import wavfile

from tests.conftest import ROOT

STEP_0, STEP_1, STEP_2, STEP_3, STEP_4 = (
    f"preprocessing/{name}.py"
    for name in ("0_demo_dataset", "1_text_cleaning", "2_clotho_dataset", "3_word2vec_embeddings", "4_audio_logmel")
)
TRAIN, SCORE, MEASURE = "main.py", "postprocessing/1_xmodal_scores.py", "postprocessing/2_xmodal_retrieval.py"
SIZE = 8  # of the word vectors
HEADER = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5"


# --- running a command -----------------------------------------------------------------------------------


class Folder:
    """A configuration, a data set and a trial, by the names of their files."""

    def __init__(self, root: Path):
        self.root, self.data, self.conf = root, root / "data", root / "conf.yaml"
        self.captions = self.data / "clotho_captions_development.csv"
        self.log_mels = self.data / "development_audio_logmels.hdf5"
        self.text = self.data / "development_text.csv"
        self.word_vectors, self.embeds = self.root / "vectors", self.data / "word2vec_embeds.npz"

    @property
    def trial(self) -> Path:
        (trial,) = (self.root / "output" / "demo").iterdir()
        return trial

    @property
    def best(self) -> Path:
        return self.trial / "checkpoint_best.pt"

    @property
    def last(self) -> Path:
        return self.trial / "checkpoint_last.pt"

    @property
    def scores(self) -> Path:
        return self.trial / "development_xmodal_scores.hdf5"

    @property
    def wav(self) -> Path:
        return min((self.data / "development").iterdir())

    @property
    def fid(self) -> str:
        """The clip that `wav` is."""
        return hashlib.sha256(f"development/{self.wav.name}".encode()).hexdigest()[:16]

    def write_conf(self) -> None:
        settings = {
            "base": str(ROOT / "conf_demo.yaml"),
            "trial_base": str(self.root / "output"),
            "data_conf": {"dataset": str(self.data)},
            "demo_dataset": {"num_clips": {"development": 3, "validation": 2, "evaluation": 2}},
            "word2vec_embeddings": {"file": str(self.word_vectors), "train": {"epochs": 1, "vector_size": SIZE}},
            "audio_logmel": {"workers": 1},
            "CRNNWordModel": {"audio_enc": {"out_dim": SIZE}},
            "param_conf": {"num_epoch": 1, "batch_size": 4},
        }
        (self.root / "good.yaml").write_text(yaml.safe_dump(settings))
        self.conf.write_text("base: good.yaml\n")

    def files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file()}

    def sign(self) -> None:
        """Bring the digests of provenance.json in line with the files, as a stranger's would be."""
        for path in self.root.rglob("provenance.json"):
            steps = json.loads(path.read_text())
            for step in steps.values():
                for named in (step.get("inputs", {}), step.get("outputs", {})):
                    for name in named:
                        for file in (path.parent / name, self.data / name):
                            if file.is_file():
                                named[name] = hashlib.sha256(file.read_bytes()).hexdigest()
                                break
            path.write_text(json.dumps(steps))


def run(capfd: pytest.CaptureFixture, command: list[str]) -> tuple[int, str, str]:
    """Run a script as Python would, in this process: its exit status, standard output and standard error."""
    capfd.readouterr()
    script, *arguments = command
    status, argv, path = 0, sys.argv, list(sys.path)
    sys.argv = [script, *arguments]
    with warnings.catch_warnings(record=True) as warned:
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        finally:
            sys.argv, sys.path[:] = argv, path
    printed, complained = capfd.readouterr()
    return status, printed, complained + "".join(f"{warning.message}\n" for warning in warned)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A finished run. Not to be changed."""
    folder = Folder(tmp_path_factory.mktemp("good"))
    folder.write_conf()
    write_vectors(folder)
    scripts, argv, path = [STEP_0, STEP_1, STEP_2, STEP_3, STEP_4, TRAIN, SCORE, MEASURE], sys.argv, list(sys.path)
    for script in scripts:
        sys.argv = [script, "--conf", str(folder.conf)]
        runpy.run_path(str(ROOT / script), run_name="__main__")
    sys.argv, sys.path[:] = argv, path
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A copy of the finished run, to be spoiled."""
    shutil.copytree(good.root, tmp_path, dirs_exist_ok=True)
    copy = Folder(tmp_path)
    copy.write_conf()
    conf = copy.trial / "conf.yaml"
    conf.write_text(conf.read_text().replace(str(good.root), str(tmp_path)))
    return copy


# --- ways to spoil ---------------------------------------------------------------------------------------

Spoil = Callable[[Folder], object]


def conf(text: str | bytes) -> Spoil:
    """A configuration that differs from the good one by this text."""
    text = text.encode() if isinstance(text, str) else text
    return lambda folder: folder.conf.write_bytes(b"base: good.yaml\n" + text)


def whole_conf(text: str) -> Spoil:
    return lambda folder: folder.conf.write_text(text)


def captions(*rows: str, header: str = HEADER, encoding: str = "utf-8", line_feed: str = "\n") -> Spoil:
    """The development split's caption file; {0}, {1}, {2} stand for its clips' names."""

    def spoil(folder: Folder) -> None:
        names = sorted(path.name for path in folder.wav.parent.iterdir())
        lines = [header, *(row.format(*names) for row in rows)]
        folder.captions.write_bytes("".join(line + line_feed for line in lines).encode(encoding))

    return spoil


ROWS = [f"{{{i}}},a dog barks,a dog,dogs bark,rain falls,it rains" for i in range(3)]


def audio(samples: Callable[[], np.ndarray], sample_rate: int = 16000, subtype: str = "PCM_16") -> Spoil:
    return lambda folder: soundfile.write(folder.wav, samples(), sample_rate, subtype=subtype)


def noise(seconds: float = 2.0, sample_rate: int = 16000, channels: int = 1) -> Callable[[], np.ndarray]:
    shape = (round(seconds * sample_rate), channels)
    return lambda: np.random.default_rng(0).normal(scale=0.1, size=shape).squeeze(1 if channels == 1 else ())


def bytes_of(file: str, change: Callable[[bytes], bytes]) -> Spoil:
    """Change the bytes of one of the folder's files, by its name in Folder."""

    def spoil(folder: Folder) -> None:
        path = getattr(folder, file)
        path.write_bytes(change(path.read_bytes()))

    return spoil


def cut(file: str, share: float = 0.5) -> Spoil:
    return bytes_of(file, lambda content: content[: int(len(content) * share)])


def data_size(size: int) -> Callable[[bytes], bytes]:
    """A wav file's content, with this size in the header of its samples."""

    def change(content: bytes) -> bytes:
        place = content.index(b"data") + 4
        return content[:place] + size.to_bytes(4, "little") + content[place + 4 :]

    return change


def as_other_format(suffix: str, share: float) -> Spoil:
    """Replace the first clip by a part of a file of another format, and name it so."""

    def spoil(folder: Folder) -> None:
        other = folder.wav.with_name(f"cut.{suffix}")
        folder.captions.write_text(folder.captions.read_text().replace(folder.wav.name, other.name))
        folder.wav.unlink()
        soundfile.write(other, noise(9)(), 16000)
        content = other.read_bytes()
        other.write_bytes(content[: int(len(content) * share)])

    return spoil


def store(file: str, change: Callable[[h5py.File, str], object]) -> Spoil:
    """Change an HDF5 file; for log-mels `change` gets the first clip's fid as well."""

    def spoil(folder: Folder) -> None:
        with h5py.File(getattr(folder, file), "a") as opened:
            change(opened, folder.fid)

    return spoil


def replaced(name: str | None, content: Callable[[], object]) -> Callable[[h5py.File, str], None]:
    """A data set of an HDF5 file (None: the first clip's) replaced by other content."""

    def change(opened: h5py.File, fid: str) -> None:
        del opened[name or fid]
        opened[name or fid] = content()

    return change


def numbers(value: float) -> Callable[[h5py.File, str], None]:
    """One number of the first clip's log-mels, or of the scores."""

    def change(opened: h5py.File, fid: str) -> None:
        opened[fid if fid in opened else "scores"][0, 0] = value

    return change


def virtual(opened: h5py.File, fid: str) -> None:
    layout = h5py.VirtualLayout(opened[fid].shape, "f4")
    layout[:] = h5py.VirtualSource("elsewhere.hdf5", fid, opened[fid].shape)
    del opened[fid]
    opened.create_virtual_dataset(fid, layout)


def raw(opened: h5py.File, fid: str) -> None:
    del opened[fid]
    opened.create_dataset(fid, (9, 64), "f4", external=[(str(ROOT / "README.md"), 0, 9 * 64 * 4)])


def unstored(opened: h5py.File, fid: str) -> None:
    del opened[fid]
    opened.create_dataset(fid, (10**10, 64), "f4", chunks=(1000, 64))


def write_vectors(folder: Folder, content: bytes | None = None) -> None:
    """A file of word vectors: of all words of the vocabulary's letters, or this content."""
    if content is None:
        rows = [f"{word} {' '.join('0.5' for _ in range(SIZE))}" for word in ("a", "the", "sound")]
        content = "\n".join([f"3 {SIZE}", *rows, ""]).encode()
    folder.word_vectors.write_bytes(content)


def vectors(content: bytes) -> Spoil:
    return lambda folder: write_vectors(folder, content)


def gensim_own(folder: Folder) -> None:
    keyed = KeyedVectors(2)
    keyed.add_vectors(["a"], np.ones((1, 2), np.float32))
    keyed.save(str(folder.word_vectors))


def zipped_vectors(folder: Folder) -> None:
    write_vectors(folder)
    content = gzip.compress(folder.word_vectors.read_bytes() * 50)
    folder.word_vectors.with_suffix(".gz").write_bytes(content[: len(content) // 2])


def embeds(**arrays: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Spoil:
    """word2vec_embeds.npz with these arrays, made from its words and vectors."""

    def spoil(folder: Folder) -> None:
        with np.load(folder.embeds) as before:
            words, vectors = before["words"], before["vectors"]
        np.savez(folder.embeds, **{name: array(words, vectors) for name, array in arrays.items()})

    return spoil


def words(words: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return words


def values(words: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return vectors


def checkpoint(**changes: Callable[[dict], object]) -> Spoil:
    """The best checkpoint with changed values; each is made from the checkpoint before."""

    def spoil(folder: Folder) -> None:
        before = torch.load(folder.best, weights_only=True)
        torch.save(before | {key: change(before) for key, change in changes.items()}, folder.best)

    return spoil


def last_checkpoint(key: str, change: Callable[[dict], object]) -> Spoil:
    def spoil(folder: Folder) -> None:
        before = torch.load(folder.last, weights_only=True)
        torch.save(before | {key: change(before[key])}, folder.last)

    return spoil


def weights(value: float) -> Callable[[dict], dict]:
    def change(before: dict) -> dict:
        return before["model"] | {"audio_enc.cnn.0.bias": torch.full((1,), value)}

    return change


class Malicious:
    """Runs code where it is unpickled: it makes a directory."""

    def __init__(self, owned: Path):
        self.owned = str(owned)

    def __reduce__(self):
        return (os.mkdir, (self.owned,))


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


def write(name: str, text: str) -> Spoil:
    """Overwrite a file of the data set or, below trial/, of the trial."""

    def spoil(folder: Folder) -> None:
        path = folder.trial / name.removeprefix("trial/") if name.startswith("trial/") else folder.data / name
        path.write_text(text)

    return spoil


def remove(name: str) -> Spoil:
    def spoil(folder: Folder) -> None:
        (folder.trial / name.removeprefix("trial/") if name.startswith("trial/") else folder.data / name).unlink()

    return spoil


def column(name: str, cell: str) -> Spoil:
    """Every cell of a column of {split}_text.csv replaced; no cell holds a quote."""

    def spoil(folder: Folder) -> None:
        table = pd.read_csv(folder.text, dtype=str, na_filter=False)
        table[name] = cell
        table.to_csv(folder.text, index=False)

    return spoil


# --- the table: refused ----------------------------------------------------------------------------------

ALIASES = "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
ADVICE = "are in {data}/bad_data.csv: mend them or set clotho_dataset.on_bad_data=skip"
TRIAL = ["--trial", "{trial}"]
RESUME = ["--resume", "{trial}", "param_conf.num_epoch=2"]
FROM_FILE = ["--conf", "{conf}", "word2vec_embeddings.source=file"]
CLIP = "development ('{wav.name}'): "

# what is spoiled, how, and what the error line says
CONFIGURATION = [  # of conf.yaml, when captions are cleaned
    (
        "typo in a key",
        conf("param_conf: {batchsize: 3}"),
        "param_conf.batchsize: unknown key; did you mean batch_size?",
    ),
    ("unknown section", conf("optimiser: {lr: 1}"), "optimiser: unknown key; did you mean AdamOptimizer?"),
    (
        "wrong type",
        conf("param_conf: {batch_size: many}"),
        "param_conf.batch_size: is 'many'; input should be a valid integer",
    ),
    ("fraction for a count", conf("param_conf: {num_epoch: 1.5}"), "param_conf.num_epoch: is 1.5"),
    ("section as value", conf("data_conf: 3"), "data_conf: is 3"),
    (
        "NaN",
        conf("criteria: {TripletLoss: {margin: .nan}}"),
        "criteria.TripletLoss.margin: is nan; input should be a finite number",
    ),
    ("infinite", conf("AdamOptimizer: {lr: .inf}"), "AdamOptimizer.lr: is inf; input should be a finite number"),
    (
        "negative margin",
        conf("criteria: {TripletLoss: {margin: -0.5}}"),
        "criteria.TripletLoss.margin: is -0.5; input should be greater than 0",
    ),
    (
        "batch of 0",
        conf("param_conf: {batch_size: 0}"),
        "param_conf.batch_size: is 0; input should be greater than or equal to 2",
    ),
    (
        "batch of 1",
        conf("param_conf: {batch_size: 1}"),
        "param_conf.batch_size: is 1; input should be greater than or equal to 2",
    ),
    (
        "unknown strategy",
        conf("criteria: {TripletLoss: {sampling: semihard}}"),
        "criteria.TripletLoss.sampling: is 'semihard'; no such strategy; it is one of random-NS, full-batch-NS",
    ),
    (
        "unknown back end",
        conf("audio_logmel: {backend: sox}"),
        "audio_logmel.backend: is 'sox'; input should be 'torch', 'librosa' or 'torchaudio'",
    ),
    (
        "unknown word vectors",
        conf("word2vec_embeddings: {source: glove}"),
        "word2vec_embeddings.source: is 'glove'; input should be 'word2vec-google-news-300'",
    ),
    ("YAML list", whole_conf("- a\n- b\n"), "holds no `key: value` settings"),
    ("empty", whole_conf(""), "holds no `key: value` settings"),
    ("invalid YAML", conf("metrics: [1\n"), "not valid YAML: line 3, column 1: expected ',' or ']'"),
    ("tab", conf("metrics:\n\ta: 1\n"), "not valid YAML: line 3, column 1: found character '\\t'"),
    ("not UTF-8", conf(b"trial_series: caf\xe9"), "not UTF-8 text"),
    ("cyclic base", whole_conf("base: conf.yaml"), "`base` leads back to this file"),
    ("python/object", malicious_conf, "not valid YAML: line 2, column 15: could not determine a constructor"),
    (
        "aliases of aliases",
        conf(f"a0: &a0 [x]\n{ALIASES}metrics: *a9\n"),
        "not valid YAML: line 3, column 10: aliases (*name) are not read here",
    ),
    (
        "alias within itself",
        conf("metrics: &a [*a]\n"),
        "not valid YAML: line 2, column 14: aliases (*name) are not read here",
    ),
    (
        "key twice",
        conf("param_conf:\n  seed: 1\n  seed: 2\n"),
        "not valid YAML: line 4, column 3: the key 'seed' stands twice",
    ),
    (
        "huge number",
        conf(f"param_conf: {{num_epoch: {'9' * 400}}}"),
        "not valid YAML: line 2, column 25: too large a number",
    ),
    ("endless number", conf(f"param_conf: {{num_epoch: {'9' * 5000}}}"), "not valid YAML: line 2, column 25: '99999"),
    (
        "no such date",
        conf("trial_series: 2022-13-45"),
        "not valid YAML: line 2, column 15: '2022-13-45' is no valid timestamp; put text into quotes",
    ),
    ("deep nesting", conf(f"metrics: {'[' * 10_000}"), "not valid YAML: nested too deeply"),
    (
        "NUL in a path",
        conf('trial_base: "a\\0b"'),
        "not valid YAML: line 2, column 13: a value with control characters",
    ),
    ("missing file", lambda folder: folder.conf.unlink(), "no such configuration file"),
]
CLEANED_CAPTIONS = [  # of captions, when they are cleaned
    ("missing file", lambda folder: folder.captions.unlink(), "no such file; put the data set's captions there"),
    (
        "Latin-1",
        captions(ROWS[0], "{1},un café,b,c,d,e", encoding="latin-1"),
        "line 3: not UTF-8 text; save the file as UTF-8",
    ),
    ("UTF-16", captions(*ROWS, encoding="utf-16"), "line 1: not UTF-8 text"),
    (
        "unbalanced quote",
        captions(ROWS[0], '{1},"a dog,b,c,d,e', ROWS[2]),
        "the row at line 3: not valid CSV (unexpected end of data)",
    ),
    (
        "text behind a quote",
        captions(ROWS[0], '{1},"a" dog,b,c,d,e'),
        "the row at line 3: not valid CSV (',' expected after '\"')",
    ),
    (
        "cell of 1 MB",
        captions(ROWS[0], "{1}," + "dog " * 250_000 + ",b,c,d,e"),
        "the row at line 3: not valid CSV (field larger than field limit (131072)); is a closing quote missing?",
    ),
    (
        "surplus cells",
        captions(ROWS[0], "{1},a,b,c,d,e,f"),
        "line 3: more cells than columns; put captions with commas in quotes",
    ),
    ("NUL byte", captions(ROWS[0], "{1},a\0b,b,c,d,e"), "line 3: holds a NUL character"),
    ("empty file", lambda folder: folder.captions.write_text(""), "line 1: the columns must be file_name,caption_1,"),
    (
        "no file names",
        captions(*ROWS, header=HEADER.replace("file_name", "name")),
        "line 1: the columns must be file_name,caption_1,",
    ),
    (
        "semicolons",
        captions(*ROWS, header=HEADER.replace(",", ";")),
        "line 1: the columns must be file_name,caption_1,",
    ),
    (
        "column twice",
        captions(*ROWS, header=HEADER.replace("caption_2", "caption_1")),
        "line 1: the column caption_1 stands twice; remove one",
    ),
]
PAIRED_CAPTIONS = [  # of captions, when they are paired with clips: the line, and what is wrong
    (
        "missing column",
        captions(*(f"{{{i}}},a,b,c,d" for i in range(3)), header=HEADER.removesuffix(",caption_5")),
        "1: column caption_5 is missing",
    ),
    ("missing cell", captions("{0},a,b,,d,e", *ROWS[1:]), "2 ('{wav.name}'): caption_3 holds no words"),
    ("short row", captions("{0},a,b,c,d", *ROWS[1:]), "2 ('{wav.name}'): caption_5 holds no words"),
    ("only punctuation", captions('{0},"?!, ...",b,c,d,e', *ROWS[1:]), "2 ('{wav.name}'): caption_1 holds no words"),
    ("row twice", captions(*ROWS, ROWS[0]), "5 ('{wav.name}'): the same file name as on line 2"),
    ("no such clip", captions(*ROWS, "absent.wav,a,b,c,d,e"), "5 ('absent.wav'): no such audio file"),
]
AUDIO = [  # of a clip, when captions are paired with clips
    ("empty file", lambda folder: folder.wav.write_bytes(b""), "unreadable audio"),
    (
        "text named .wav",
        lambda folder: folder.wav.write_text("no sound\n" * 99),
        "unreadable audio (Format not recognised)",
    ),
    ("truncated wav", cut("wav"), "cut short: the file ends before its samples do"),
    ("header promises more", bytes_of("wav", data_size(2**31 - 2)), "cut short: the file ends before its samples do"),
    ("header promises nothing", bytes_of("wav", data_size(0)), "the clip has no samples"),
    ("no samples", audio(lambda: np.zeros(0)), "the clip has no samples"),
    ("NaN", audio(lambda: np.r_[noise()(), np.nan], subtype="FLOAT"), "holds NaN or infinite samples"),
    ("infinite", audio(lambda: np.r_[noise()(), np.inf], subtype="DOUBLE"), "holds NaN or infinite samples"),
    ("0.01 s", audio(noise(0.01)), "0.01 s are too short; the model needs 0.06 s"),
]
LOG_MELS = [  # of log-mels, in training
    ("truncated", cut("log_mels"), "not a readable HDF5 file (Unable to synchronously open file (truncated file"),
    ("text", lambda folder: folder.log_mels.write_text("no HDF5"), "not a readable HDF5 file"),
    (
        "integers",
        store("log_mels", replaced(None, lambda: np.zeros((9, 64), int))),
        "{fid} holds int64, not floating-point numbers; run preprocessing/4_audio_logmel.py again",
    ),
    ("texts", store("log_mels", replaced(None, lambda: "loud")), "{fid} holds object, not floating-point numbers"),
    (
        "other width",
        store("log_mels", replaced(None, lambda: np.zeros((9, 40), "f4"))),
        "clip {fid} has the shape (9, 40), but CRNNWordModel.audio_enc.in_dim asks for (frames, 64)",
    ),
    (
        "too few frames",
        store("log_mels", replaced(None, lambda: np.zeros((3, 64), "f4"))),
        "clip {fid} has 3 frames; the model needs at least 4",
    ),
    (
        "missing clip",
        store("log_mels", lambda opened, fid: opened.pop(fid)),
        "no log-mels of clip {fid}; run preprocessing/4_audio_logmel.py again",
    ),
    ("NaN", store("log_mels", numbers(np.nan)), "the log-mels of clip {fid} are not finite"),
    ("infinite", store("log_mels", numbers(-np.inf)), "the log-mels of clip {fid} are not finite"),
    (
        "float64 beyond float32",
        store("log_mels", replaced(None, lambda: np.full((9, 64), 1e300))),
        "the log-mels of clip {fid} are not finite",
    ),
    (
        "group",
        store("log_mels", lambda opened, fid: (opened.pop(fid), opened.create_group(fid))),
        "{fid} is not a data set of this file",
    ),
    (
        "recipe is no JSON",
        store("log_mels", lambda opened, _: opened.attrs.modify("recipe", "torch, 64")),
        "its attribute recipe is not as preprocessing/4_audio_logmel.py writes it",
    ),
    (
        "recipe is a number",
        store("log_mels", lambda opened, _: opened.attrs.create("recipe", 64)),
        "its attribute recipe is not as preprocessing/4_audio_logmel.py writes it",
    ),
    (
        "no recipe",
        store("log_mels", lambda opened, _: opened.attrs.pop("recipe")),
        "made with audio_logmel.window None, but it is now 0.04",
    ),
    (
        "external link",
        store("log_mels", replaced(None, lambda: h5py.ExternalLink("elsewhere.hdf5", "x"))),
        "{fid} is not a data set of this file",
    ),
    (
        "soft link",
        store("log_mels", replaced(None, lambda: h5py.SoftLink("/x"))),
        "{fid} is not a data set of this file",
    ),
    ("virtual data set", store("log_mels", virtual), "{fid} is not stored in this file in full"),
    ("storage in another file", store("log_mels", raw), "{fid} is not stored in this file in full"),
    ("larger than their file", store("log_mels", unstored), "{fid} is not stored in this file in full"),
]
WORD_VECTORS = [  # of a file of word vectors, when the vocabulary gets its vectors
    ("missing", lambda folder: folder.word_vectors.unlink(), "no such file; set word2vec_embeddings.file"),
    ("empty", vectors(b""), "not word vectors in word2vec text or binary form"),
    ("row of another dimension", vectors(b"2 3\na 1 2 3\nb 1 2\n"), "not word vectors in word2vec text or binary form"),
    (
        "header promises more rows",
        vectors(b"9 2\na 1 2\nthe 1 2\n"),
        "its first line promises 9 vectors of 2 dimensions, which the file does not hold",
    ),
    (
        "header promises fewer rows",
        vectors(b"1 2\na 1 2\nthe 1 2\n"),
        "holds more than the 1 vectors that its first line promises",
    ),
    (
        "binary, fewer than there are",
        vectors(b"1 2\na " + b"\1" * 8 + b"the " + b"\1" * 8),
        "holds more than the 1 vectors",
    ),
    (
        "header of terabytes",
        vectors(b"3000000000 300\na 1 2\n"),
        "its first line promises 3000000000 vectors of 300 dimensions",
    ),
    (
        "words not UTF-8",
        vectors(b"2 2\na 1 2\n\xff\xfe 1 2\n"),
        "not word vectors in word2vec text or binary form, with words in UTF-8 ('utf-8' codec",
    ),
    ("NaN", vectors(b"2 2\na 1 2\nthe nan 2\n"), "the vector of 'the' is not finite"),
    ("gensim's own pickle", gensim_own, "gensim's own format can run code when it is read"),
    ("malicious pickle", malicious("word_vectors", pickled), "gensim's own format can run code when it is read"),
]
EMBEDS = [  # of word2vec_embeds.npz, in training
    (
        "truncated",
        cut("embeds"),
        "not the word vectors of preprocessing/3_word2vec_embeddings.py (File is not a zip file)",
    ),
    (
        "no zip file",
        lambda folder: folder.embeds.write_text("words"),
        "not the word vectors of preprocessing/3_word2vec_embeddings.py",
    ),
    (
        "malicious pickle",
        malicious("embeds", pickled_embeds),
        "not the word vectors of preprocessing/3_word2vec_embeddings.py (Object arrays cannot be loaded",
    ),
    (
        "wrong keys",
        embeds(word=words, vectors=values),
        "not the word vectors of preprocessing/3_word2vec_embeddings.py ('words is not a file in the archive')",
    ),
    (
        "fewer words than vectors",
        embeds(words=lambda w, _: w[:-1], vectors=values),
        "words and vectors do not belong together",
    ),
    (
        "word twice",
        embeds(words=lambda w, _: np.r_[w[:-1], w[1:2]], vectors=values),
        "words and vectors do not belong together",
    ),
    ("NaN", embeds(words=words, vectors=lambda _, v: v * np.nan), "the vector of '<pad>' is not finite"),
]
CHECKPOINTS = [  # of a checkpoint, in scoring
    ("truncated", cut("best"), "not a loadable checkpoint"),
    ("empty", bytes_of("best", lambda _: b""), "not a loadable checkpoint"),
    ("malicious", malicious("best", torch.save), "not a loadable checkpoint"),
    ("malicious plain pickle", malicious("best", pickled), "not a loadable checkpoint"),
    ("not a dictionary", lambda folder: torch.save([1], folder.best), "not a checkpoint that main.py wrote"),
    (
        "other architecture",
        checkpoint(model=lambda _: torch.nn.Linear(3, 3).state_dict()),
        "not a checkpoint of CRNNWordModel ('audio_enc.gru.weight_ih_l0')",
    ),
    (
        "other sizes",
        checkpoint(model=lambda before: before["model"] | {"audio_enc.gru.weight_hh_l0": torch.zeros(6, 2)}),
        "not a checkpoint of CRNNWordModel",
    ),
    (
        "history is text",
        checkpoint(history=lambda _: "epochs"),
        "not a checkpoint that main.py wrote (conf or history is of another type)",
    ),
    (
        "history of NaN",
        checkpoint(history=lambda before: [before["history"][0] | {"val_obj": np.nan}]),
        "not a checkpoint that main.py wrote (history: ",
    ),
    ("epoch is a fraction", checkpoint(epoch=lambda _: 1.5), "not a checkpoint that main.py wrote (epoch is 1.5)"),
    (
        "words are no list",
        checkpoint(words=lambda _: {"a": 1}),
        "not a checkpoint that main.py wrote (words is no list of words)",
    ),
    ("NaN weights", checkpoint(model=weights(np.nan)), "holds weights that are not finite: training has diverged"),
]
SCORES = [  # of scores, when metrics are computed
    (
        "missing",
        remove("trial/development_xmodal_scores.hdf5"),
        "no such file; postprocessing/1_xmodal_scores.py makes it",
    ),
    ("truncated", cut("scores"), "not a readable HDF5 file"),
    ("NaN", store("scores", numbers(np.nan)), "holds NaN scores"),
    (
        "other shape",
        store("scores", replaced("scores", lambda: np.zeros((2, 15), "f4"))),
        "scores and names do not belong together",
    ),
    (
        "one-dimensional",
        store("scores", replaced("scores", lambda: np.zeros(45, "f4"))),
        "scores and names do not belong together",
    ),
    ("texts", store("scores", replaced("scores", lambda: ["a"])), "scores holds object, not floating-point numbers"),
    (
        "captions of an unknown clip",
        store("scores", replaced("caption_fids", lambda: np.array([b"x"] * 15))),
        "scores and names do not belong together",
    ),
    (
        "numbers for names",
        store("scores", replaced("fids", lambda: np.arange(3))),
        "fids holds int64, not texts of fixed length",
    ),
    ("without an epoch", store("scores", lambda opened, _: opened.attrs.pop("epoch")), "not a readable HDF5 file"),
    (
        "of another epoch",
        store("scores", lambda opened, _: opened.attrs.modify("epoch", 7)),
        "scores of epoch 7, but the best epoch is now",
    ),
    (
        "external link",
        store("scores", replaced("scores", lambda: h5py.ExternalLink("elsewhere.hdf5", "x"))),
        "scores is not a data set of this file",
    ),
]
OTHERS = [
    (
        "captions: header only",
        [STEP_1, STEP_2],
        captions(),
        [
            "{captions.name} line 1: no captions",
            *[f"development ('{{wavs[{i}]}}'): the clip has no captions" for i in range(3)],
            "all 4 " + ADVICE,
        ],
    ),
    (
        "conf: two things wrong",
        [STEP_1],
        conf("param_conf: {seed: -1}\nAdamOptimizer: {lr: 0}"),
        ["param_conf.seed: is -1", "AdamOptimizer.lr: is 0"],
    ),
    ("conf: missing base", [STEP_1], whole_conf("base: absent.yaml"), ["absent.yaml: no such configuration file"]),
    ("conf: base is a directory", [STEP_1], whole_conf("base: data"), ["data: cannot be read (Is a directory)"]),
    (
        "override: without =",
        [STEP_1, "--conf", "{conf}", "param_conf.seed"],
        conf(""),
        ["'param_conf.seed': a setting on the command line is written section.key=value"],
    ),
    (
        "override: not YAML",
        [STEP_1, "--conf", "{conf}", "metrics=[1"],
        conf(""),
        ["'metrics=[1': '[1' is not a valid YAML value"],
    ),
    (
        "override: below a value",
        [STEP_1, "--conf", "{conf}", "trial_base.x=1"],
        conf(""),
        ["'trial_base.x=1': trial_base is a value, not a section"],
    ),
    (
        "audio: truncated flac",
        [STEP_1, STEP_2],
        as_other_format("flac", 0.5),
        ["development ('cut.flac'): unreadable audio", "all 1 " + ADVICE],
    ),
    (
        "audio: truncated ogg",
        [STEP_1, STEP_2],
        as_other_format("ogg", 0.5),
        ["development ('cut.ogg'): cut short", "all 1 " + ADVICE],
    ),
    (
        "audio: 4 kHz",
        [STEP_2, STEP_4],
        audio(noise(2, 4000), 4000),
        ["{wav}: fmax 8000 Hz is above half the sample rate of 4000 Hz; change the audio_logmel settings"],
    ),
    (
        "audio: energies overflow",
        [STEP_2, STEP_4],
        audio(lambda: noise()() * 1e30, subtype="FLOAT"),
        ["{wav}: samples so large that their energy is not finite"],
    ),
    (
        "index: vocabulary is no JSON",
        [STEP_3],
        write("vocab_info.json", "{"),
        ["{data}/vocab_info.json: not valid JSON"],
    ),
    (
        "index: vocabulary is a list",
        [STEP_3],
        write("vocab_info.json", "[]"),
        ["{data}/vocab_info.json: not as preprocessing/2_clotho_dataset.py writes it"],
    ),
    (
        "index: vocabulary of numbers",
        [STEP_3],
        write("vocab_info.json", '{"vocabulary": [1, 2]}'),
        ["{data}/vocab_info.json: vocabulary is no list of words"],
    ),
    (
        "index: nested JSON",
        [STEP_3],
        write("vocab_info.json", "[" * 100_000),
        ["{data}/vocab_info.json: not valid JSON"],
    ),
    (
        "index: clips are no table",
        [STEP_4],
        write("audio_info.json", '{"development": 3, "validation": 3, "evaluation": 3}'),
        ["{data}/audio_info.json: not as preprocessing/2_clotho_dataset.py writes it"],
    ),
    (
        "index: cleaned captions without lines",
        [STEP_2],
        write("development_clean_captions.csv", "line,file_name,column,raw_text,text\nx,a.wav,caption_1,a,a\n"),
        ["development_clean_captions.csv: holds lines without a number"],
    ),
    (
        "index: cleaned captions without a column",
        [STEP_2],
        write("development_clean_captions.csv", "line,file_name,column,raw_text\n"),
        ["development_clean_captions.csv: column text is missing"],
    ),
    (
        "index: empty table",
        [TRAIN],
        write("development_text.csv", ""),
        ["{text}: not a readable CSV file (No columns to parse from file)"],
    ),
    ("index: tokens are no list", [TRAIN], column("tokens", "dog"), ["{text}: tokens 'dog' are not a list of words"]),
    ("index: tokens of tokens", [TRAIN], column("tokens", "[[1]]"), ["{text}: tokens '[[1]]' are not a list of words"]),
    (
        "index: word without a vector",
        [TRAIN],
        column("tokens", '["zebra"]'),
        ["{text}: the word 'zebra' has no vector"],
    ),
    ("index: caption twice", [TRAIN], column("tid", "x"), ["{text}: a caption stands twice"]),
    (
        "word vectors: truncated gzip",
        [STEP_3, *FROM_FILE, "word2vec_embeddings.file={root}/vectors.gz"],
        zipped_vectors,
        ["{root}/vectors.gz: not word vectors in word2vec text or binary form, with words in UTF-8 (Compressed"],
    ),
    (
        "word vectors: none of the words",
        [STEP_3, *FROM_FILE],
        vectors(b"1 2\nzebra 1 2\n"),
        ["word2vec_embeddings: none of the vocabulary's words is among the word vectors"],
    ),
    (
        "embeds: numbers for words",
        [TRAIN],
        embeds(words=lambda w, _: np.arange(len(w)), vectors=values),
        ["(arrays of other types or shapes)"],
    ),
    (
        "embeds: other dimension",
        [TRAIN],
        embeds(words=words, vectors=lambda _, v: v[:, :6]),
        ["CRNNWordModel.audio_enc.out_dim: is 8, but the word vectors in {embeds} have 6 dimensions"],
    ),
    (
        "checkpoint: malicious, resumed",
        [TRAIN, *RESUME],
        malicious("last", torch.save),
        ["{last}: not a loadable checkpoint"],
    ),
    (
        "checkpoint: fewer words than vectors",
        [SCORE, *TRIAL],
        checkpoint(words=lambda before: before["words"][:-1]),
        ["word vectors"],
    ),
    (
        "checkpoint: words of another data set",
        [SCORE, *TRIAL],
        checkpoint(words=lambda before: [f"{word}s" for word in before["words"]]),
        ["has no vector: captions and word vectors are not of one run"],
    ),
    (
        "checkpoint: other vocabulary, resumed",
        [TRAIN, *RESUME],
        last_checkpoint("words", lambda words: words[::-1]),
        ["the vocabulary is not the one that the trial began with"],
    ),
    (
        "checkpoint: other optimizer, resumed",
        [TRAIN, *RESUME],
        last_checkpoint("optimizer", lambda _: {}),
        ["{last}: does not fit this trial"],
    ),
    (
        "checkpoint: other schedule, resumed",
        [TRAIN, *RESUME],
        last_checkpoint("scheduler", lambda state: state | {"num_bad_epochs": "many"}),
        ["{last}: does not fit this trial (the state of the learning-rate schedule)"],
    ),
    (
        "trial: none",
        [SCORE],
        lambda folder: shutil.rmtree(folder.root / "output"),
        ["{root}/output/demo: no trained trial yet; run main.py first"],
    ),
    (
        "trial: no checkpoint",
        [SCORE, *TRIAL],
        remove("trial/checkpoint_best.pt"),
        ["{best}: no such file; main.py makes it"],
    ),
    (
        "trial: no configuration",
        [SCORE, *TRIAL],
        remove("trial/conf.yaml"),
        ["{trial}: not a trial directory (it has no conf.yaml)"],
    ),
    (
        "trial: garbled configuration",
        [SCORE, *TRIAL],
        write("trial/conf.yaml", "{{{"),
        ["{trial}/conf.yaml: not valid YAML: line 1"],
    ),
    ("trial: its directory cannot be made", [TRAIN], file_for_folder, ["{root}/output/demo: Not a directory"]),
    (
        "trial: --conf beside it",
        [SCORE, "--conf", "{conf}", *TRIAL],
        conf(""),
        ["--trial {trial}: goes by the trial's own configuration; leave out --conf"],
    ),
]


def group(title: str, command: list[str], prefix: str, rows: list[tuple], *more: str) -> list[tuple]:
    """Rows of one command: what is spoiled, the command, how, and the error lines."""
    return [(f"{title}: {what}", command, spoil, [prefix + words, *more]) for what, spoil, words in rows]


REFUSED = [
    *group("conf", [STEP_1], "{conf}: ", CONFIGURATION),
    *group("captions", [STEP_1], "{captions}: ", CLEANED_CAPTIONS),
    *group("captions", [STEP_1, STEP_2], "{captions.name} line ", PAIRED_CAPTIONS, "all 1 " + ADVICE),
    *group("audio", [STEP_2], CLIP, AUDIO, "all 1 " + ADVICE),
    *group("log-mels", [TRAIN], "{log_mels}: ", LOG_MELS),
    *group("word vectors", [STEP_3, *FROM_FILE], "{word_vectors}: ", WORD_VECTORS),
    *group("embeds", [TRAIN], "{embeds}: ", EMBEDS),
    *group("checkpoint", [SCORE, *TRIAL], "{best}: ", CHECKPOINTS),
    *group("scores", [MEASURE, *TRIAL], "{scores}: ", SCORES),
    *OTHERS,
]


def play(folder: Folder, capfd: pytest.CaptureFixture, command: list[str], names: dict) -> tuple[int, str, str]:
    """Run a case's scripts one after the other, with its settings; all but the last succeed."""
    arguments = [part.format(**names) for part in command]
    scripts = [part for part in command if part.endswith(".py")]
    settings = arguments[len(scripts) :] or ["--conf", str(folder.conf)]
    for script in scripts[:-1]:
        status, _, complained = run(capfd, [script, *settings])
        assert status == 0, complained
    before = folder.files()
    status, printed, complained = run(capfd, [scripts[-1], *settings])
    if status:
        after = folder.files()
        assert {path: after.get(path) for path in before} == before
    assert not list(folder.root.rglob("*.tmp")) and not (folder.root / "owned").exists()
    return status, printed, complained


def names_in(folder: Folder) -> dict[str, object]:
    """What the table's braces stand for."""
    names = [
        "root",
        "conf",
        "data",
        "captions",
        "log_mels",
        "text",
        "embeds",
        "word_vectors",
        "trial",
        "best",
        "last",
        "scores",
        "wav",
        "fid",
    ]
    wavs = sorted(path.name for path in folder.wav.parent.iterdir())
    return {name: getattr(folder, name) for name in names} | {"wavs": wavs}


def spoil_and_play(folder, capfd, command, spoil, names):
    """Spoil a folder, let its provenance take that for the steps' own work, and `play` the case."""
    spoil(folder)
    folder.sign()
    return play(folder, capfd, command, names)


@pytest.mark.parametrize(("command", "spoil", "expected"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
def test_refused(folder, capfd, command, spoil, expected):
    names = names_in(folder)
    status, _, complained = spoil_and_play(folder, capfd, command, spoil, names)
    lines = complained.splitlines()
    assert status == 2, complained
    assert len(lines) == len(expected) and all(line.startswith("error: ") for line in lines), complained
    for line, words in zip(lines, expected, strict=True):
        assert words.format(**names) in line


# --- the table: handled ----------------------------------------------------------------------------------

Check = Callable[[Folder, str], object]


def first_caption(text: str) -> Check:
    def check(folder: Folder, printed: str) -> None:
        table = pd.read_csv(folder.text, dtype=str, na_filter=False)
        assert table["text"][0] == text and json.loads(table["tokens"][0]) == text.split()

    return check


def log_mel_of(scale: float, offset: float = 0.0) -> Check:
    """The first clip's log-mel is librosa's of the samples that scipy reads."""

    def check(folder: Folder, printed: str) -> None:
        rate, samples = wavfile.read(folder.wav)
        samples = ((samples.astype(np.float64) - offset) / scale).reshape(len(samples), -1).mean(axis=1)
        window = round(0.04 * rate)
        power = librosa.feature.melspectrogram(
            y=samples,
            sr=rate,
            n_fft=2 ** int(np.ceil(np.log2(window))),
            hop_length=round(0.02 * rate),
            win_length=window,
            n_mels=64,
            fmin=12,
            fmax=8000,
        )
        with h5py.File(folder.log_mels) as opened:
            log_mel = opened[folder.fid][()]
        assert log_mel.dtype == np.float32 and np.isfinite(log_mel).all()
        np.testing.assert_allclose(np.exp(log_mel), power.T + np.spacing(1), rtol=1e-3, atol=1e-9)

    return check


def says(words: str) -> Check:
    def check(folder: Folder, printed: str) -> None:
        assert words in printed

    return check


def seconds_of_first_clip(seconds: float) -> Check:
    def check(folder: Folder, printed: str) -> None:
        clip = json.loads((folder.data / "audio_info.json").read_text())["development"]["clips"][folder.fid]
        assert clip["seconds"] == seconds

    return check


def metrics_are_back(folder: Folder, printed: str) -> None:
    lines = (folder.trial / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]


def half_finished_trial(folder: Folder) -> None:
    (folder.trial.with_name("9999-12-31")).mkdir()


def finished_trial_is_scored(folder: Folder, printed: str) -> None:
    (folder.root / "output" / "demo" / "9999-12-31").rmdir()
    assert f"-> {folder.scores}" in printed


LOUD = "{0},a dog barks,b,c,d,e"
INDEX, LOG_MELS_OF = [STEP_1, STEP_2], [STEP_2, STEP_4]
HANDLED = [
    ("captions: byte-order mark", INDEX, captions(LOUD, *ROWS[1:], encoding="utf-8-sig"), first_caption("a dog barks")),
    ("captions: CRLF", INDEX, captions(LOUD, *ROWS[1:], line_feed="\r\n"), first_caption("a dog barks")),
    (
        "captions: quotes and commas",
        INDEX,
        captions('{0},"A dog, ""barking"",\nbarks.",b,c,d,e', *ROWS[1:]),
        first_caption("a dog barking barks"),
    ),
    ("captions: emoji", INDEX, captions("{0},a 🐕 barks!,b,c,d,e", *ROWS[1:]), first_caption("a 🐕 barks")),
    (
        "captions: odd spaces",
        INDEX,
        captions("{0},\u00a0a\u2003dog\tbarks\u3000,b,c,d,e", *ROWS[1:]),
        first_caption("a dog barks"),
    ),
    ("captions: a cell of 100 kB", INDEX, captions("{0}," + "dog " * 25_000 + ",b,c,d,e", *ROWS[1:]), says("3 clips")),
    (
        "captions: skipped where told to",
        [STEP_1, STEP_2, "--conf", "{conf}", "clotho_dataset.on_bad_data=skip"],
        captions(*ROWS, "absent.wav,a,b,c,d,e"),
        says("left out: 1 problems, listed in"),
    ),
    ("audio: 8 bits", LOG_MELS_OF, audio(noise(), subtype="PCM_U8"), log_mel_of(2**7, 2**7)),
    ("audio: 24 bits", LOG_MELS_OF, audio(noise(), subtype="PCM_24"), log_mel_of(2**31)),
    ("audio: 32 bits", LOG_MELS_OF, audio(noise(), subtype="PCM_32"), log_mel_of(2**31)),
    ("audio: float", LOG_MELS_OF, audio(noise(), subtype="FLOAT"), log_mel_of(1)),
    ("audio: stereo", LOG_MELS_OF, audio(noise(channels=2)), log_mel_of(2**15)),
    ("audio: eight channels", LOG_MELS_OF, audio(noise(channels=8)), log_mel_of(2**15)),
    ("audio: 192 kHz", LOG_MELS_OF, audio(noise(1, 192_000), 192_000), log_mel_of(2**15)),
    ("audio: silence", LOG_MELS_OF, audio(lambda: np.zeros(32_000)), log_mel_of(2**15)),
    ("audio: header promises less", [STEP_2], bytes_of("wav", data_size(32_000)), seconds_of_first_clip(1.0)),
    (
        "log-mels: float64",
        [TRAIN],
        store("log_mels", replaced(None, lambda: np.zeros((99, 64)))),
        says("best epoch by val_obj"),
    ),
    ("trial: garbled metrics.jsonl", [TRAIN, *RESUME], write("trial/metrics.jsonl", "{{"), metrics_are_back),
    ("trial: half-finished", [SCORE], half_finished_trial, finished_trial_is_scored),
]


@pytest.mark.filterwarnings("ignore:Chunk \\(non-data\\) not understood")  # scipy's
@pytest.mark.parametrize(("command", "spoil", "check"), [case[1:] for case in HANDLED], ids=[c[0] for c in HANDLED])
def test_handled(folder, capfd, command, spoil, check):
    status, printed, complained = spoil_and_play(folder, capfd, command, spoil, names_in(folder))
    assert status == 0 and "Traceback" not in complained, complained
    check(folder, printed)


# --- outside of this process, and outside of the table ---------------------------------------------------


@pytest.mark.parametrize("what", ["log-mels: storage in another file", "checkpoint: malicious"])
def test_refused_by_a_process_of_its_own(folder, what):
    command, spoil, (words,) = next(case[1:] for case in REFUSED if case[0] == what)
    names = names_in(folder)
    spoil(folder)
    folder.sign()
    arguments = [part.format(**names) for part in command]
    arguments = arguments if len(arguments) > 1 else [*arguments, "--conf", folder.conf]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ") and words.format(**names) in done.stderr
    assert not (folder.root / "owned").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="for root every directory can be written to")
def test_a_trial_directory_that_is_read_only(folder, capfd):
    folder.trial.chmod(0o500)
    try:
        status, _, complained = run(capfd, [SCORE, "--trial", str(folder.trial)])
    finally:
        folder.trial.chmod(0o700)
    assert status == 2 and len(complained.splitlines()) == 1 and "ermission denied" in complained
