"""Give damaged files to the real loaders: each must raise a UserError that names the file, or accept it.

`make fuzz` mutates valid files for two minutes. `python -m tests.fuzz --seed S --case N` repeats one case of a run.
Files that fail are kept in output/fuzz.
"""

import argparse
import gzip
import io
import multiprocessing
import os
import random
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import gensim.downloader
import gensim.models
import h5py
import nltk
import numpy as np
import soundfile
import torch

from tests.helpers import ON_FEATURES, ROOT, record_files, unread_nltk_words, write_nltk_data
from utils.audio_input import audio_input
from utils.common.chunks import load_part, save_part
from utils.common.errors import UserError
from utils.common.folders import WRITTEN, own_file, require_own_file
from utils.common.io import write_csv, write_json
from utils.common.steps import MEASURING, TRAINING
from utils.common.streams import visible
from utils.common.workers import for_a_worker
from utils.conf.load import load_conf, save_conf
from utils.data_utils import collate, load_split
from utils.dataset.audio import Clip, probe_clip
from utils.dataset.captions import clean_caption, read_captions
from utils.dataset.demo import CAPTION_COLUMNS
from utils.dataset.index import (
    CLEAN_COLUMNS,
    TEXT_COLUMNS,
    clip_id,
    clip_info,
    index_split,
    read_clips,
    read_vocabulary,
)
from utils.dataset.log_mel import read_log_mel
from utils.dataset.named_entities import CHUNKER, PLACES, TAGGER, replace_named_entities
from utils.dataset.named_entities import WORDS as WORD_LIST
from utils.dataset.paths import DatasetPaths
from utils.dataset.vector_file import vector_rows
from utils.dataset.word_vectors import (
    PAD,
    WordEmbeddings,
    embed_vocabulary,
    load_embeddings,
    save_embeddings,
    source_rows,
    unknown_vector,
)
from utils.metric_utils import relevant_pairs
from utils.model_utils import TrainState, build_state
from utils.report.curves import line_of, panels_of
from utils.retrieval_utils import CaptionScores, rank_counts
from utils.score_utils import caption_word_weights
from utils.search import model_file
from utils.search.challenge import read_queries
from utils.search.model_file import Content, ExportedScorer, digest, tensors_of, write_model
from utils.trial.checkpoint import SEAL, checkpoint_bytes, load_checkpoint, load_model, sealed
from utils.trial.checks import check_made, check_metrics
from utils.trial.history import as_lines, best_of, collapse_warning, is_finished
from utils.trial.identity import FORMAT, diverged, identity
from utils.trial.names import BEST, LAST, METRICS
from utils.trial.provenance import PROVENANCE, Entry, record
from utils.trial.record import TrialRecord
from utils.trial.relevance import SETTING, as_measured, extra_relevant_pairs, measured_by
from utils.trial.score_files import (
    PUBLISHED,
    Captions,
    StoredScores,
    WordScores,
    load_scores,
    load_word_scores,
    save_word_scores,
)
from utils.trial.trial import Trial

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.helpers", "gensim.models", "utils.search.challenge"])  # their imports take seconds
PATIENCE = 20.0  # s, for one case
MEMORY = 3 * 2**30  # bytes that a case may take
KEPT = ROOT / "output" / "fuzz"
SIZE = 4  # of the word vectors
NUMBERS = ("val_obj", "val_map", "val_map_text_to_audio", "val_map_audio_to_text", "score_std")
RESULTS = [{"epoch": epoch, "lr": 1e-3} | dict.fromkeys(NUMBERS, 0.5) for epoch in (0, 1)]  # of two epochs
WORDS = [PAD, "barks", "dog", "falls", "rain"]
DRAW_UNKNOWN = partial(unknown_vector, max_dot=1.0, max_draws=3, seed=0)
CAPTION = 'A "dog" barks,'
CONF = load_conf(ROOT / "conf.yaml")
LOG_MEL_CONFIG = CONF.audio_logmel.config
ID3 = b"ID3\4\0\0\0\0\0\x64" + bytes(100)  # a tag
OWN = f".own.csv{WRITTEN}"


# --- valid files and their loaders -----------------------------------------------------------------------


Make = Callable[[Path], object]


class Kind(NamedTuple):
    """A kind of file: its path within the folder, the function that makes a valid one, and the loader."""

    file: str
    make: Make
    load: Callable[[Path], object]
    sealed: bool = False  # a digest protects every bit


def sound(subtype: str, channels: int = 1, form: str | None = None, before: bytes = b"", after: bytes = b"") -> Make:
    """A sound with other bytes before or after it; `form` is its format where the name does not tell."""

    def make(path: Path) -> None:
        samples = np.random.default_rng(0).normal(scale=0.1, size=(4000, channels))
        soundfile.write(path, samples, 16000, subtype=subtype, format=form)
        path.write_bytes(before + path.read_bytes() + after)

    return make


def make_mp3_in_wav(path: Path) -> None:
    """A .wav file that holds MP3 and states the number of its samples."""
    sound("MPEG_LAYER_III", form="MP3")(path)
    mp3 = path.read_bytes()
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 16000, 8000, 1, 0, 12, 1, 2, 576, 1, 1393)
    chunks = [(b"fmt ", form), (b"fact", struct.pack("<I", 4000)), (b"data", mp3 + bytes(len(mp3) % 2))]
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(content)) + content for name, content in chunks)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def load_sound(path: Path) -> None:
    clip = probe_clip(path).clip
    frames = len(read_log_mel(path, LOG_MEL_CONFIG))  # from disk; with resampling, from memory
    assert frames == LOG_MEL_CONFIG.frames(clip.samples, clip.sample_rate)
    read_log_mel(path, replace(LOG_MEL_CONFIG, sample_rate=22050))


def csv(header: list[str], rows: list[list]) -> Make:
    return lambda path: write_csv(path, header, rows)


make_pairs = csv(["file_name", "caption"], [["x.wav", CAPTION]] * 9)


def make_nltk_package(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_nltk_data(Path(folder))
        shutil.make_archive(str(path.with_suffix("")), "zip", Path(folder, path.parent.name), path.stem)


def load_nltk_package(path: Path) -> None:
    nltk.data.path[:] = [str(path.parents[1])]
    nltk.corpus.words = unread_nltk_words()
    nltk.download = lambda *_, **__: False
    assert replace_named_entities(["a dog in paris", ""])[1] == ""


def paths_of(path: Path) -> DatasetPaths:
    """The data set that a file belongs to."""
    return DatasetPaths(str(path.parent))


def make_clips(path: Path) -> None:
    clip = Clip("x.wav", 0.25, 16000, 1, "0" * 64)
    write_json(path, clip_info({"dev": {clip_id("dev", name): clip for name in "ab"}}))


def load_clips(path: Path) -> None:
    for clip in read_clips(paths_of(path), "dev").values():
        paths_of(path).clip("dev", clip.file_name)


def make_provenance(path: Path) -> None:
    write_json(path.with_name("settings.json"), {})
    settings, run = {"audio_logmel.hop": 0.02}, {"commit": "1f", "threads": 2}
    record_files(path.parent, TRAINING, [path.with_name("settings.json")], [], settings, format=FORMAT, runs=[run])


def load_provenance(path: Path) -> None:
    check_made(Trial(path.parent, CONF), TRAINING)
    diverged(path.parent)


def frames(first: int, dimensions: int, value: float, **attributes: object) -> Make:
    """An HDF5 file of two clips: `first` frames of the first, and one more of the second."""

    def make(path: Path) -> None:
        with h5py.File(path, "w") as store:
            store.attrs.update(attributes)
            for i in range(2):
                store[f"f{i}"] = np.full((first + i, dimensions), value, np.float32)

    return make


def load_data(path: Path, settings: Sequence[str] = ()) -> None:
    paths, audio = paths_of(path), audio_input(load_conf(ROOT / "conf.yaml", settings))
    for cache in ("memory", "disk"):
        split = load_split(paths, "dev", WORDS, audio, cache)
        collate(split, list(range(len(split.captions))))
    audio.seconds_per_frame(paths, "dev")


def make_scores(path: Path) -> None:
    ids = [np.array([1, 2]), np.array([1]), np.array([2, 2, 1]), np.array([1])]
    captions = Captions(["t0", "t1", "t2", "t3"], ["f0", "f0", "f1", "f1"], caption_word_weights(ids, len(WORDS))[1])
    save_word_scores(path, WordScores(floats(len(WORDS), 2), WORDS, ["f0", "f1"], 3), captions)


def load_and_measure(path: Path) -> None:
    stored = load_scores(path, 3)
    rank_counts(stored.scores, relevant_pairs(stored.caption_clips))


def load_and_index(path: Path) -> None:
    stored = load_word_scores(path, 3, PUBLISHED)
    stored.scores[[0, len(stored.words) - 1]]
    stored.scores.file.close()


def load_pairs(path: Path) -> None:
    settings = f"data_conf.dataset={path.parent}", "data_conf.eval_data=dev", f"{SETTING}={path}"
    conf = load_conf(ROOT / "conf.yaml", settings)
    fids, tids = ["f0", "f1"], ["t0", "t1", "t2", "t3"]
    stored = StoredScores(CaptionScores(None, None), fids, tids, ["f0", "f0", "f1", "f1"], 3)
    relevant_pairs(stored.caption_clips, extra_relevant_pairs(conf, "dev", stored))


def make_measured(path: Path) -> None:
    pairs = path.with_name("pairs.csv")
    make_pairs(pairs)
    conf = load_conf(ROOT / "conf.yaml", [f"{SETTING}={pairs}"])
    record_files(path.parent, MEASURING, [pairs], [], **measured_by(conf))


def make_own(path: Path) -> None:
    with own_file(path.with_name("own.csv"), "ranking") as temporary:
        temporary.write_text("x")


def load_scores_of_a_sound(path: Path) -> None:
    if load_part(path, (len(WORDS),)) is None:  # the sound is encoded again
        raise UserError(f"{path}: damaged")


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def word_vectors(binary: bool, compress: Callable[[bytes], bytes] = bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        keyed = gensim.models.KeyedVectors(SIZE)
        keyed.add_vectors(WORDS[1:], floats(len(WORDS) - 1, SIZE))
        plain = path.with_suffix(".plain")
        keyed.save_word2vec_format(str(plain), binary=binary)
        path.write_bytes(compress(plain.read_bytes()))

    return make


def load_vectors(path: Path) -> None:
    embed_vocabulary(WORDS[1:], dict(vector_rows(path)), {}, DRAW_UNKNOWN)


def load_download(path: Path) -> None:
    gensim.downloader.BASE_DIR = str(path.parents[1])
    embed_vocabulary(WORDS[1:], dict(source_rows(path.parent.name, None)), {}, DRAW_UNKNOWN)


def new_state() -> TrainState:
    torch.manual_seed(0)
    return build_state(CONF, floats(len(WORDS), SIZE), torch.device("cpu"))


def step(state: TrainState) -> None:
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    state.optimizer.step()


def make_checkpoint(path: Path) -> None:
    state = new_state()
    step(state)
    results = [result | {"val_obj": 0.5 - 0.1 * result["epoch"]} for result in RESULTS]
    states = {name: part.state_dict() for name, part in state.checkpointables.items()}
    record(path.parent, TRAINING, Entry(format=FORMAT))  # the first entry of a trial's provenance
    content = {"words": WORDS, "history": results, "epoch": 1, "best": results[1], "conf": CONF.model_dump()}
    path.write_bytes(checkpoint_bytes(states | content | {"trial": identity(path.parent)}))


def load_sealed_again(path: Path) -> None:
    """A damaged checkpoint that its author sealed."""
    archive, comment, _ = path.read_bytes().rpartition(SEAL)
    path.write_bytes(sealed(archive if comment else path.read_bytes()))  # sealed() adds the comment and its length
    load_and_resume(path)


def load_and_resume(path: Path) -> None:
    load_model(path)
    state = new_state()
    record = TrialRecord(Trial(path.parent, CONF), WORDS)
    try:
        record.restore(state.checkpointables)
        step(state)
        state.scheduler.step(record.best["val_obj"])
    finally:
        (path.parent / BEST).unlink(missing_ok=True)  # restore() wrote it


def make_model(path: Path) -> None:
    make_checkpoint(path.with_name(LAST))
    trained = load_model(path.with_name(LAST))
    tensors = tensors_of(trained)
    said = {"format": model_file.FORMAT, "sha256": digest(tensors), "conf": CONF.model_dump(), "words": trained.words}
    said |= {"extra_words": 0, "epoch": 1, "sample_rate": 16000, "weights_sha256": None, "metrics": None}
    write_model(path, tensors, Content(**said, caveat=None, digests={"checkpoint": "1f"}, versions={"numpy": "2"}))


def load_signed_model(path: Path) -> None:
    """A damaged exported model whose author gave it the digest of its tensors."""
    path.write_bytes(re.sub(rb'(sha256\\":\\")[0-9a-f]{64}', rb"\g<1>" + b"0" * 64, path.read_bytes(), count=1))
    with patch.object(model_file, "digest", lambda tensors: "0" * 64):
        load_exported(path)


def load_exported(path: Path) -> None:
    scorer = ExportedScorer(path, device="cpu")
    scorer.sound_scores(np.zeros((8, scorer.conf.audio_logmel.n_mels), np.float32), scorer.word_embeds())
    scorer.weighted([scorer.words[1:2]])


def make_epochs(path: Path) -> None:
    """The epochs of the checkpoint beside it."""
    make_checkpoint(path.with_name(LAST))
    path.write_text(as_lines(load_checkpoint(path.with_name(LAST))["history"]))


def load_epochs(path: Path) -> None:
    """Read the epochs as a report and a comparison do."""
    trial = Trial(path.parent, CONF)
    check_metrics(trial)
    history = trial.history
    best_of(history, CONF), is_finished(history, CONF), collapse_warning(history[-1], CONF)
    for title, key, _ in panels_of(history):
        line_of(history, title, key)


SOUNDS = {
    "16.wav": sound("PCM_16"),
    "24.wav": sound("PCM_24", channels=2),
    "float.wav": sound("FLOAT"),
    "x.flac": sound("PCM_16"),
    "x.ogg": sound("VORBIS"),
    "x.opus": sound("OPUS", form="OGG"),
    "x.mp3": sound("MPEG_LAYER_III"),
    "x.aiff": sound("PCM_16"),
    "x.au": sound("PCM_16"),
    "x.caf": sound("PCM_16"),
    "tag.wav": sound("PCM_16", form="WAV", before=ID3),
    "zeros.wav": sound("VORBIS", form="OGG", after=bytes(999)),
    "mp3.wav": make_mp3_in_wav,
}
CAPTIONS = csv(["file_name", *CAPTION_COLUMNS], [[f"{i}.wav", CAPTION, *"abcd"] for i in range(9)])
CLEANED = [[i + 2, f"{i}.wav", column, "Dog.", "dog barks"] for i in range(3) for column in CAPTION_COLUMNS]
INDEXED = [[f"t{i}", f"f{i // 2}", "x.wav", CAPTION, "dog barks", '["dog", "barks"]'] for i in range(4)]
LISTS = csv(["query", "audio_filenames"], [[CAPTION, "['x.wav', \"x.wav\"]"]] * 9)
FRAMES, FEATURES = frames(6, 64, -9), frames(2, 8, -0.5, model="efficientat mn04_as", seconds_per_frame=0.32)
DOWNLOAD = "word2vec-google-news-300/word2vec-google-news-300.gz"

KINDS = {file: Kind(file, make, load_sound) for file, make in SOUNDS.items()} | {
    "captions": Kind(
        "captions.csv", CAPTIONS, lambda path: [clean_caption(row.raw_text) for row in read_captions(path)]
    ),
    "captions, a row each": Kind("captions.csv", make_pairs, read_captions),
    "NLTK's tagger": Kind(f"{PLACES[TAGGER]}.zip", make_nltk_package, load_nltk_package),
    "NLTK's chunker": Kind(f"{PLACES[CHUNKER]}.zip", make_nltk_package, load_nltk_package),
    "NLTK's words": Kind(f"{PLACES[WORD_LIST]}.zip", make_nltk_package, load_nltk_package),
    "cleaned captions": Kind(
        "dev_clean_captions.csv", csv(CLEAN_COLUMNS, CLEANED), lambda path: index_split(paths_of(path), "dev", None)
    ),
    "indexed captions": Kind("dev_text.csv", csv(TEXT_COLUMNS, INDEXED), load_data),
    "vocabulary": Kind(
        "vocab_info.json",
        lambda path: write_json(path, {"vocabulary": WORDS[1:], "splits": {}}),
        lambda path: read_vocabulary(paths_of(path)),
    ),
    "clips": Kind("audio_info.json", make_clips, load_clips),
    "provenance": Kind(PROVENANCE, make_provenance, load_provenance),
    "configuration": Kind(
        "conf.yaml",
        partial(shutil.copy, ROOT / "conf.yaml"),
        lambda path: save_conf(load_conf(path), path.with_name("resolved.yaml")),
    ),
    "log-mels": Kind("dev_audio_logmels.hdf5", FRAMES, load_data),
    "features": Kind("dev_audio_features.hdf5", FEATURES, partial(load_data, settings=ON_FEATURES)),
    "scores": Kind("scores.hdf5", make_scores, load_and_measure),
    "word scores": Kind("word_scores.hdf5", make_scores, load_and_index),
    "queries": Kind("queries.csv", make_pairs, read_queries),
    "right pairs": Kind("pairs.csv", make_pairs, load_pairs),
    "right pairs, lists": Kind("pairs.csv", LISTS, load_pairs),
    "record of measuring": Kind(
        f"measured/{PROVENANCE}", make_measured, lambda path: as_measured(Trial(path.parent, CONF))
    ),
    "record of a ranking": Kind(OWN, make_own, lambda path: require_own_file(path.with_name("own.csv"), "ranking")),
    "a sound's scores": Kind(
        "part.npy", lambda path: save_part(path, floats(len(WORDS))), load_scores_of_a_sound, sealed=True
    ),
    "word embeds": Kind(
        "word2vec_embeds.npz",
        lambda path: save_embeddings(path, WordEmbeddings(WORDS, floats(len(WORDS), SIZE))),
        load_embeddings,
    ),
    "word vectors, text": Kind("vectors.txt", word_vectors(binary=False), load_vectors),
    "word vectors, binary": Kind("vectors.bin", word_vectors(binary=True), load_vectors),
    "word vectors, gzip": Kind("vectors.gz", word_vectors(binary=True, compress=gzip.compress), load_vectors),
    "word vectors, unnamed": Kind("vectors", word_vectors(binary=False, compress=gzip.compress), load_vectors),
    "word vectors, download": Kind(DOWNLOAD, word_vectors(binary=True, compress=gzip.compress), load_download),
    "exported model": Kind("model/x.safetensors", make_model, load_exported),
    "exported model, a stranger's": Kind("model/x.safetensors", make_model, load_signed_model),
    "epochs": Kind(f"trial/{METRICS}", make_epochs, load_epochs, sealed=True),
    "epochs, no checkpoint": Kind(f"alone/{METRICS}", lambda path: path.write_text(as_lines(RESULTS)), load_epochs),
    "checkpoint": Kind(f"trial/{LAST}", make_checkpoint, load_and_resume, sealed=True),
    "checkpoint, a stranger's": Kind(f"trial/{LAST}", make_checkpoint, load_sealed_again),
}


# --- mutations -------------------------------------------------------------------------------------------

PRINTABLE = bytes(range(32, 127))
TOKENS = [
    *(b'"', b"\n", b"\r", b"\0", b",", b"\xff", b"\xef\xbb\xbf", b"[" * 2000, b"{", b": ", b"- ", b"\t", b"&a ", b"*a"),
    *(b"nan", b"-1", b"0", b"1e999", b"9" * 30, b"9" * 5000, b"null", b"!!python/object:os.x ", "\u2028é🐕".encode()),
]


def mutate(rng: random.Random, content: bytes) -> bytes:
    """Different content after one to four changes. Within a zip archive's member, its checksum still holds."""
    changed = content
    while changed == content:
        if content.startswith(b"PK\x03\x04") and rng.random() < 0.6:
            changed = _mutate_member(rng, content)
        else:
            is_text = b"\0" not in content and rng.random() < 0.8  # then it mostly stays text
            changed = _change(rng, content, rng.randint(1, 4), is_text)
    return changed


def flip(rng: random.Random, content: bytes) -> bytes:
    """The content with one bit flipped."""
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def _mutate_member(rng: random.Random, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(out, "w") as after:
        members = {name: before.read(name) for name in before.namelist()}
        files = [name for name in members if not name.endswith("/")]
        tables = [name for name in files if name.endswith(("data.pkl", ".npy"))]
        chosen = rng.choice(tables if tables and rng.random() < 0.9 else files)
        members[chosen] = _change(rng, members[chosen], rng.randint(1, 3), is_text=False)
        for name, member in members.items():
            after.writestr(zipfile.ZipInfo(name), member)  # a plain name would add the time
    return out.getvalue()


def _change(rng: random.Random, content: bytes, changes: int, is_text: bool) -> bytes:
    """Change some places, often near the beginning or the end, which hold headers and tables of contents."""
    changed = bytearray(content)
    for _ in range(changes):
        size = len(changed)
        near = min(size, 1000)
        at = rng.choice([rng.randint(0, size), rng.randint(0, near), size - rng.randint(0, near)])
        length = rng.choice([1, 2, 4, 8, 64, 1000])
        # binary formats mostly keep their layout
        match rng.choices(range(8), weights=[1] * 8 if is_text else [6, 6, 1, 1, 1, 6, 8, 1])[0]:
            case 0 if at < size:
                changed[at] ^= 1 << rng.randrange(5 if is_text else 8)
            case 1:
                changed[at : at + length] = rng.choices(PRINTABLE, k=length) if is_text else rng.randbytes(length)
            case 2:
                del changed[at:]
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length]
            case 5:
                other = rng.randint(0, size)
                changed[at : at + length] = changed[other : other + length]
            case 6:
                extreme = rng.choice([0, 1, -1, 2**7, 2**15, 2**31 - 1, 2**31, 2**62, -(2**63)])
                width = rng.choice([1, 2, 4, 8])
                number = (extreme % 2 ** (8 * width)).to_bytes(width, rng.choice(["little", "big"]))
                changed[at : at + width] = str(extreme).encode() if is_text else number
            case _:
                changed[at:at] = rng.choice(TOKENS)
    return bytes(changed)


# --- cases -----------------------------------------------------------------------------------------------


class Case(NamedTuple):
    kind: str
    content: bytes


def case_of(seed: int, number: int, valid: dict[str, bytes]) -> Case:
    """The mutated file that belongs to a seed and a number."""
    kind = list(KINDS)[number % len(KINDS)]
    rng = random.Random(f"{seed} {number}")
    flips = KINDS[kind].sealed and rng.random() < 0.7
    return Case(kind, (flip if flips else mutate)(rng, valid[kind]))


def make_valid(folder: Path) -> dict[str, bytes]:
    """Make a valid file of each kind, and check that its loader accepts it. Returns the contents by kind."""
    for kind in KINDS.values():
        (folder / kind.file).parent.mkdir(exist_ok=True)
        kind.make(folder / kind.file)
    for kind in KINDS.values():
        kind.load(folder / kind.file)
    return {name: (folder / kind.file).read_bytes() for name, kind in KINDS.items()}


def judge(kind: Kind, content: bytes, folder: Path) -> str:
    """Load content in place of the valid file's: 'clean' (a UserError that names the file), 'accepted' or the fault."""
    path = folder / kind.file
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        kind.load(path)
        return "accepted, although its digest is of another" if kind.sealed else "accepted"
    except UserError as error:
        lines = visible(str(error)).splitlines()  # as it is printed
        named = [path.name in line or str(path.parent) in line or "word2vec_embeddings" in line for line in lines]
        return "clean" if lines and all(named) else f"an error that does not name the file: {error}"
    except BaseException:
        return traceback.format_exc()
    finally:
        path.write_bytes(before)


def judge_number(seed: int, valid: dict[str, bytes], folder: Path, number: int) -> str:
    case = case_of(seed, number, valid)
    return judge(KINDS[case.kind], case.content, folder)


def serve(function: Callable[[int], str], pipe: Connection) -> None:
    """Answer numbers from a pipe, in silence and with limited memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(devnull, stream)
    pipe.send("ready")
    while True:
        pipe.send(function(pipe.recv()))


class Worker:
    """A process that calls a function with numbers; replaced after a crash, or when a call takes too long."""

    def __init__(self, function: Callable[[int], str], patience: float = PATIENCE):
        self.function, self.patience = function, patience
        self._start()

    def _start(self) -> None:
        self.pipe, end = FORKS.Pipe()
        self.process = FORKS.Process(target=serve, args=(self.function, end), daemon=True)
        with for_a_worker():
            self.process.start()
        end.close()
        self.pipe.recv()

    def outcome(self, number: int) -> str:
        self.pipe.send(number)
        try:
            if self.pipe.poll(self.patience):
                return self.pipe.recv()
            outcome = f"no end within {self.patience:g} s"
        except (EOFError, ConnectionError):
            self.process.join()
            outcome = f"the process ended with status {self.process.exitcode}"
        self.close()
        self._start()
        return outcome

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(seed: int, mutations: int, seconds: float, folder: Path) -> bool:
    """Judge cases until their number or the time is reached. Prints the outcomes; returns whether none failed."""
    valid = make_valid(folder)
    worker = Worker(partial(judge_number, seed, valid, folder))
    started, counts, number = time.monotonic(), Counter(), 0
    while number < mutations and time.monotonic() - started < seconds:
        case, outcome = case_of(seed, number, valid), worker.outcome(number)
        failed = outcome not in ("clean", "accepted")
        counts[case.kind, "failed" if failed else outcome] += 1
        if failed:
            file = KINDS[case.kind].file
            (folder / file).write_bytes(valid[case.kind])  # a crash leaves the damaged one
            KEPT.mkdir(parents=True, exist_ok=True)
            kept = KEPT / f"{seed}-{number}-{Path(file).name}"
            kept.write_bytes(case.content)
            print(f"{case.kind}, {kept}: python -m tests.fuzz --seed {seed} --case {number}\n{outcome}", flush=True)
        number += 1
    worker.close()
    print(f"seed {seed}, {time.monotonic() - started:.0f} s")
    for kind in KINDS:
        print(f"  {kind:22} {counts[kind, 'clean']:5} clean errors  {counts[kind, 'accepted']:5} accepted")
    clean, accepted, failed = (sum(counts[kind, name] for kind in KINDS) for name in ("clean", "accepted", "failed"))
    print(f"mutations {number}, clean errors {clean}, accepted {accepted}, tracebacks {failed}")
    return failed == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutations", type=int, default=10_000, help="at most so many")
    parser.add_argument("--seconds", type=float, default=120, help="at most so long")
    parser.add_argument("--case", type=int, help="only this case, in this process")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.case is None:
            sys.exit(not run(args.seed, args.mutations, args.seconds, Path(folder)))
        print(judge_number(args.seed, make_valid(Path(folder)), Path(folder), args.case))


if __name__ == "__main__":
    main()
