"""Helpers of all tests: paths, runs of the commands, small random data, and trials written without training."""

import filecmp
import gc
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import soundfile
import torch
import torch.nn.functional as F
import yaml
from scipy.sparse import csr_array

from benchmarks.inputs import record_as_made
from models.audio_encoders import CRNNEncoder
from models.core import CRNNWordModel
from models.mobilenet import MobileNetV3
from models.text_encoders import WordEncoder
from utils.audio_input import audio_input
from utils.common.digests import KEPT
from utils.common.io import write_json
from utils.common.steps import MEASURING, SCORING
from utils.conf.load import load_conf, save_conf
from utils.criterion_utils import TripletLoss
from utils.data_utils import Split, load_split
from utils.dataset.audio import probe_clip
from utils.dataset.clip_store import Sound, part_name
from utils.dataset.index import clip_id
from utils.dataset.log_mel import log_mel_spectrogram
from utils.dataset.paths import DatasetPaths
from utils.evaluation_utils import encode_words, score_words
from utils.metric_utils import both_directions, per_query_metrics, relevant_pairs
from utils.model_utils import TrainState, build_optimizer
from utils.report.rankings import Queries
from utils.retrieval_utils import CaptionScores
from utils.score_utils import BatchScores, Score, caption_means, caption_word_weights, score_matrix, word_scores
from utils.trial.checkpoint import checkpoint_bytes
from utils.trial.dataset_provenance import preprocessing, record_step_outputs
from utils.trial.identity import begin, data_digests, identity
from utils.trial.names import BEST
from utils.trial.provenance import record_outputs
from utils.trial.record import TrialRecord
from utils.trial.score_files import (
    Captions,
    WordScores,
    load_scores,
    save_scores,
    save_word_scores,
    scores_path,
    word_scores_path,
)
from utils.trial.trial import Trial

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"

# --- running the commands ---------------------------------------------------------------------------------

STAGES = [
    "preprocessing/0_demo_dataset.py",
    "preprocessing/1_text_cleaning.py",
    "preprocessing/2_clotho_dataset.py",
    "preprocessing/3_word2vec_embeddings.py",
    "preprocessing/4_audio_logmel.py",
    "main.py",
    "postprocessing/1_xmodal_scores.py",
    "postprocessing/2_xmodal_retrieval.py",
    "postprocessing/3_report.py",
]
SEARCH = "postprocessing/4_search.py"
STEP_5 = "preprocessing/5_audio_features.py"
DISTURBED = [*STAGES[:5], STEP_5, *STAGES[5:], SEARCH]  # the search ranks a folder for captions


def call(*command, status=0, apart=False):
    """Run a script from the repository's root. Returns its standard output, or its standard error if status is not 0.

    Runs within this process, which saves the imports; warnings count as standard error. Runs in a child process with
    `apart`, or if the command starts with -m or -c.
    """
    command = [*map(str, command)]
    if apart or command[0].startswith("-"):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    else:
        done = run_here(command)
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    return done.stderr if status else done.stdout


def call_both(*command, status=0):
    """Run a script within this process. Returns its standard output and its standard error."""
    done = run_here([*map(str, command)])
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def run_here(command):
    """Run a script within this process as Python would. Returns a CompletedProcess; stderr includes warnings."""
    before, ended = (sys.argv, list(sys.path), warnings.formatwarning), 0
    sys.argv = command
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings(record=True) as warned:
        try:
            runpy.run_path(str(ROOT / command[0]), run_name="__main__")
        except SystemExit as end:
            ended = end.code
        finally:
            sys.argv, sys.path[:], warnings.formatwarning = before
            gc.unfreeze()
    complaints = err.getvalue() + "".join(f"{warning.message}\n" for warning in warned)
    return subprocess.CompletedProcess(command, ended or 0, out.getvalue(), complaints)


@contextmanager
def started(*command, stderr=subprocess.STDOUT):
    """Run a command beside the test, in its own process group, which is killed at the end."""
    streams = {"stdout": subprocess.PIPE, "stderr": stderr, "text": True}
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, start_new_session=True, **streams)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def read_until(process, words):
    """Read what a command prints, up to a line with these words."""
    lines = []
    while not lines or words not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], lines
    return "".join(lines)


@contextmanager
def closed_pipe():
    """The writing end of a pipe that nobody reads."""
    unread, pipe = os.pipe()
    os.close(unread)
    try:
        yield pipe
    finally:
        os.close(pipe)


def tiny_conf(folder):
    """Write a configuration of 8 + 4 + 4 clips and 2 epochs into a folder. Returns its path."""
    conf = {
        "base": str(ROOT / "conf_demo.yaml"),
        "trial_base": str(folder / "output"),
        "data_conf": {"dataset": str(folder / "data")},
        "demo_dataset": {"num_clips": {"development": 8, "validation": 4, "evaluation": 4}},
        "word2vec_embeddings": {"train": {"epochs": 5}},
        "param_conf": {"num_epoch": 2, "batch_size": 8},
        "metrics": {"random": {"margin": 0.5, "sampling": "random-NS"}},
    }
    path = folder / "conf.yaml"
    path.write_text(yaml.safe_dump(conf))
    return path


def run_pipeline(conf, *settings, stages=STAGES, apart=False):
    """Run commands in order, by default all. Returns {script: what it printed}."""
    return {stage: call(stage, "--conf", conf, *settings, apart=apart) for stage in stages}


def only_trial(folder):
    (trial,) = (folder / "output" / "demo").iterdir()
    return trial


# --- small random data ------------------------------------------------------------------------------------

CPU = torch.device("cpu")
ON_FEATURES = ["data_conf.audio=features", "CRNNWordModel.audio_enc.name=features"]
VOCABULARY = 12


def write_nltk_data(root):
    """Write NLTK data in NLTK's formats: a tagger that knows `paris`, and a chunker that marks it."""
    tagger = root / "taggers" / "averaged_perceptron_tagger_eng"
    chunker = root / "chunkers" / "maxent_ne_chunker_tab" / "english_ace_binary"
    words = root / "corpora" / "words"
    for folder in (tagger, chunker, words):
        folder.mkdir(parents=True)
    files = {"weights": {"bias": {"NN": 1.0}}, "tagdict": {"paris": "NNP"}, "classes": ["NN", "NNP"]}
    for name, content in files.items():
        (tagger / f"averaged_perceptron_tagger_eng.{name}.json").write_text(json.dumps(content))
    (chunker / "mapping.tab").write_text("word\tparis\tB-NE\t0\nbias\trepr-True\tO\t1\n")
    (chunker / "weights.txt").write_text("5.0\n1.0\n")
    (chunker / "labels.txt").write_text("O\nB-NE\n")
    (chunker / "alwayson.tab").write_text("")
    for name in ("en", "en-basic"):
        (words / name).write_text("dog\nbark\n")


def unread_nltk_words():
    """A new reader of NLTK's English words, which has cached none of an earlier folder."""
    import nltk

    return nltk.corpus.LazyCorpusLoader("words", nltk.corpus.WordListCorpusReader, r"(?!README|\.).*")


def random_split(longest=40):
    """6 clips of 9 to `longest` frames with 3 captions of 2 to 6 words each: shuffled, clips repeat."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    return Split(
        fids=[f"clip{i}" for i in range(6)],
        audio=[torch.randn(int(rng.integers(9, longest)), 64, generator=generator) - 5 for _ in range(6)],
        tids=[f"caption{i}" for i in range(18)],
        captions=[torch.from_numpy(rng.integers(1, VOCABULARY, rng.integers(2, 7))) for _ in range(18)],
        caption_clips=np.repeat(np.arange(6), 3),
    )


def random_model(trainable_words=False):
    """A model of 64 bands and 20 dimensions, the same at every call."""
    torch.manual_seed(0)
    words = torch.randn(VOCABULARY, 20)
    words[0] = 0
    return CRNNWordModel(CRNNEncoder(64, 20), WordEncoder(words, trainable_words))


def make_frames(encoded, frames):
    """Upsample encoder outputs (N, L, E) by the library. Returns normalised frames (N, T, E)."""
    upsampled = F.interpolate(encoded.transpose(1, 2), size=frames, mode="linear", align_corners=False)
    return F.normalize(upsampled.transpose(1, 2), dim=-1)


def embedding_scores(audio, text, audio_lens=None, text_lens=None, score=None, ids=None):
    """A batch's scores by their definition, from embeddings (N, T, E) and (N, W, E); only idf reads ids (N, W)."""
    score, ids = score or Score(), torch.ones(text.shape[:2], dtype=torch.int64) if ids is None else ids
    by_word = word_scores(audio, text.flatten(0, 1), audio_lens, score.pool)
    return BatchScores(
        caption_means(by_word, score.word_weights(ids, text_lens, by_word)),
        lambda: score_matrix(text, text, text_lens, text_lens).detach(),
        lambda: score_matrix(audio, audio, audio_lens, audio_lens).detach(),
    )


def state_of(model, criterion, device=CPU, **settings):
    """The TrainState of a model and a criterion, with conf.yaml's optimiser."""
    score = settings.setdefault("score", Score())
    optimizer, scheduler = build_optimizer(load_conf(ROOT / "conf.yaml"), model, criterion, score)
    return TrainState(model, criterion, optimizer, scheduler, device, **settings)


def results_of(epoch, val_obj=1.0, val_map=0.1):
    """An epoch's results, as a trial records them."""
    maps = {"val_map_text_to_audio": val_map, "val_map_audio_to_text": val_map, "val_map": val_map}
    return {"epoch": epoch, "lr": 1e-3, "val_obj": val_obj, "score_std": 0.1} | maps


def record_of(trial, conf, epochs):
    """A trial's record with these epochs' results, and its checkpointables; the model's first weight is the epoch."""
    state = state_of(CRNNWordModel(CRNNEncoder(64, 4), WordEncoder(torch.zeros(3, 4))), TripletLoss(0.5, "random-NS"))
    record = TrialRecord(Trial(trial, conf), ["<pad>", "a", "b"])
    for results in epochs:
        with torch.no_grad():
            state.model.audio_enc.cnn[0].weight.fill_(results["epoch"])
        record.add(results, 1.0, state.checkpointables)
    return record, state.checkpointables


# --- trials written without training, with every file as the commands write it ----------------------------

ODD_NAMES = [
    "Ruisseau &#39;d&#39;été # 1.wav",
    " 100 % wind  &amp; rain?.wav",
    "<script>alert(1)<script>.wav",
    "\"><img src=x onerror='alert(2)'>.WAV",
    "雨 – дождь.flac",
]
WORDS = ["<pad>", "a", "dog", "barks", "rain", "über", "<b>loud</b>", "supercalifragilistic"]
RATE = 16000  # Hz


def write_trial(folder, names=ODD_NAMES, captions_each=3):
    """Write a trial of an untrained model and its data set into a folder. Returns its directory and configuration.

    The evaluation split has the named clips; the development split, also the validation split, has two.
    """
    settings = ["data_conf.val_data=development", "param_conf.num_epoch=1"]
    settings += [f"data_conf.dataset={folder / 'data'}", f"trial_base={folder}"]
    conf = load_conf(ROOT / "conf_demo.yaml", settings)
    paths, rng = DatasetPaths(conf.data_conf.dataset), np.random.default_rng(0)
    info = {
        split: write_split(paths, split, files, captions_each, conf.audio_logmel.config, rng)
        for split, files in (("evaluation", names), ("development", ["one.wav", "two.wav"]))
    }
    write_json(paths.audio_info, info)
    trial = folder / "trial"
    trial.mkdir()
    save_conf(conf, trial / "conf.yaml")
    torch.manual_seed(0)
    vectors = torch.randn(len(WORDS), 300)
    vectors[0] = 0
    model = CRNNWordModel(CRNNEncoder(64, 300), WordEncoder(vectors)).eval()
    record_preprocessing(conf)
    begin(trial, conf, data_digests(conf, [conf.data_conf.train_data]))
    content = {"model": model.state_dict(), "words": WORDS, "conf": conf.model_dump(), "history": [], "epoch": 1}
    (trial / BEST).write_bytes(checkpoint_bytes(content | {"trial": identity(trial)}))
    metrics, files = {}, []
    for name in conf.data_conf.splits:
        split = load_split(paths, name, WORDS, audio_input(conf))
        scores = of_all_words(model, split)
        captions = Captions(split.tids, [split.fids[clip] for clip in split.caption_clips], scores.weights)
        files += [word_scores_path(trial, name), scores_path(trial, name)]
        save_word_scores(files[-2], WordScores(scores.by_word.numpy(), WORDS, split.fids, 1), captions)
        save_scores(files[-1], load_scores(files[-2], 1))
        metrics[name] = both_directions(matrix_of(scores), split.caption_clips)
    record_files(trial, SCORING, [trial / BEST], files, data=data_digests(conf, conf.data_conf.splits))
    write_json(trial / "retrieval_metrics.json", metrics)
    write_history(trial, epochs=2)
    return trial, conf


def record_step(conf, step):
    """Record a preprocessing step as if it had written the files that exist."""
    with record_step_outputs(conf, step):
        pass


def record_files(root, step, inputs, outputs, settings=None, **more):
    """Record any step in the same way."""
    with record_outputs(root, step, inputs, outputs, settings, **more):
        pass


def record_preprocessing(conf):
    """Record all preprocessing steps in the same way; missing outputs are created empty."""
    record_as_made(conf, *preprocessing(conf))


def write_split(paths, split, files, captions_each, config, rng):
    """Write clips of half a second and their indexed captions. Returns the split's part of audio_info.json."""
    folder = paths.audio(split)
    folder.mkdir(parents=True)
    rows, clips = [], {}
    with h5py.File(paths.log_mels(split), "w") as store:
        for i, name in enumerate(files):
            fid = clip_id(split, name)
            samples = 0.3 * np.sin(2 * np.pi * (300 + 200 * i) * np.arange(RATE // 2) / RATE)
            kind = "FLAC" if name.endswith("flac") else "WAV"
            soundfile.write(folder / name, samples, RATE, format=kind)
            store[fid] = log_mel_spectrogram(samples, RATE, config)
            clips[fid] = probe_clip(folder / name).clip._asdict()
            for number in range(captions_each):
                tokens = rng.choice(WORDS[1:], size=rng.integers(2, 7)).tolist()
                raw = f'{" ".join(tokens)} & "{name}" {number}'
                rows.append((f"{fid}-{number}", fid, name, raw, " ".join(tokens), json.dumps(tokens)))
    columns = ["tid", "fid", "file_name", "raw_text", "text", "tokens"]
    pd.DataFrame(rows, columns=columns).to_csv(paths.text(split), index=False, lineterminator="\n")
    return {"num_clips": len(clips), "seconds": 0.5 * len(clips), "clips": clips}


def write_features(path, features, seconds_per_frame=0.32):
    """Write a split's features, {fid: (T, D)}, as step 5 writes them."""
    with h5py.File(path, "w") as store:
        store.attrs["model"], store.attrs["seconds_per_frame"] = "random", seconds_per_frame
        for fid, frames in features.items():
            store[fid] = frames
            store[fid].attrs["audio_sha256"] = "0" * 64


def finish_clips(store, clips, folder):
    """Finish a ClipStore's clips; returns the fids of the computed ones, and the places of all."""
    stored = store.stored()
    store.prepare()
    finished = store.finished()
    batch = [
        Sound(fid, clip, folder / clip.file_name, stored.get(fid) == clip.sha256 or part_name(fid, clip) in finished)
        for fid, clip in clips.items()
    ]
    places = dict(zip(clips, store.finish(batch), strict=True))
    computed = [fid for fid in clips if places[fid] is not None]
    return computed, finished | {part_name(fid, clips[fid]): places[fid] for fid in computed}


def write_history(trial, epochs=3, offset=0.0):
    """Write metrics.jsonl; epoch 0 has no training loss."""
    lines = []
    for epoch in range(epochs):
        results = {"epoch": epoch, "lr": 0.001, "train_loss": 1 - 0.1 * epoch + offset, "active": 1.0}
        results |= {"val_obj": 1 - 0.2 * epoch + offset}
        results |= {"val_map_text_to_audio": 0.2 * epoch, "val_map_audio_to_text": 0.1 * epoch}
        results |= {"val_map": 0.15 * epoch, "score_std": 0.01 * epoch}
        if epoch == 0:
            del results["train_loss"], results["active"]
        lines.append(json.dumps(results) + "\n")
    (trial / "metrics.jsonl").write_text("".join(lines))


def of_all_words(model, split, score=None):
    """CaptionScores of a split with scores of all words that the model knows, not only of the captions' words."""
    score, ids = score or Score(), np.arange(model.text_enc.embedding.num_embeddings)
    by_word, _ = score_words(model, split, [score.word_embeds(encode_words(model, ids))], score)
    weights = caption_word_weights([caption.numpy() for caption in split.captions], len(ids), score.idf_values)[1]
    return CaptionScores(weights, by_word)


def matrix_of(scores):
    """All CaptionScores as an array (C, M) of clips and captions."""
    return scores.tile(slice(None), slice(None)).T.cpu().numpy()


def some_scores(clips=12, seed=0):
    """Random scores (C, M) of clips with 1 to 5 captions each, with ties, and each caption's clip (M,)."""
    rng = np.random.default_rng(seed)
    caption_clips = np.repeat(np.arange(clips), rng.integers(1, 6, clips))
    return rng.integers(0, 9, (clips, len(caption_clips))) / 9, caption_clips


def per_query(scores, caption_clips):
    """Metrics of each query by scores (C, M), by direction."""
    relevance = np.arange(len(scores))[:, None] == caption_clips
    return {
        "text_to_audio": per_query_metrics(scores.T, relevance.T),
        "audio_to_text": per_query_metrics(scores, relevance),
    }


def queries_of(scores, caption_clips):
    """The Queries of a comparison, from scores (C, M)."""
    fids, tids = [f"clip{i}" for i in range(len(scores))], [f"caption{i}" for i in range(len(caption_clips))]
    query_clips = {"text_to_audio": caption_clips, "audio_to_text": np.arange(len(scores))}
    return Queries(per_query(scores, caption_clips), query_clips, fids, tids, relevant_pairs(caption_clips))


def write_finished(folder, name, sampling, seed, metrics=None, settings=(), sources=None, scores=None):
    """Write a trial directory with all that a comparison reads. Each clip has five captions.

    Scores (C, 5 C) decide the metrics, unless `metrics` gives one value for all metrics of a direction.
    """
    trial = folder / name
    trial.mkdir(parents=True)
    settings = ("param_conf.num_epoch=2", *settings)
    overrides = (f"criteria.TripletLoss.sampling={sampling}", f"param_conf.seed={seed}", *settings)
    conf = load_conf(ROOT / "conf_demo.yaml", (f"data_conf.dataset={folder}/data", *overrides))
    save_conf(conf, trial / "conf.yaml")
    begin(trial, conf, {})
    split, results = conf.data_conf.eval_data, trial / "retrieval_metrics.json"
    if scores is None:
        metrics = metrics or {"text_to_audio": 0.5, "audio_to_text": 0.25}
        scores = np.random.default_rng(seed).random((2, 10))
    clips = np.repeat(np.arange(len(scores)), 5)  # of the captions
    measured = both_directions(scores, clips)
    names = ("mAP", "mAP10", "mAP16", "R1", "R5", "R10", "HR1", "HR5", "HR10", "MedR")
    for side, value in (metrics or {}).items():
        measured[side] |= dict.fromkeys(names, value)
    fids, tids = [f"c{i}" for i in range(len(scores))], [f"t{i}" for i in range(len(clips))]
    stored = WordScores(np.ascontiguousarray(scores.T, np.float32), tids, fids, epoch=2)  # each caption is one word
    captions = Captions(tids, [fids[clip] for clip in clips], csr_array(np.eye(len(clips), dtype=np.float32)))
    save_word_scores(word_scores_path(trial, split), stored, captions)
    sources = sources or {"captions of evaluation": "1f", "word vectors": "2e"}
    record_files(trial, SCORING, [], [word_scores_path(trial, split)], sources=sources)
    write_json(results, {split: measured})
    record_files(trial, MEASURING, [word_scores_path(trial, split)], [results])
    write_history(trial, offset=0.01 * seed)
    return trial


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


# --- disturbing the commands ------------------------------------------------------------------------------

EVER_NEW = {"train.log", "provenance.json"}  # of a trial: they describe the run and differ each time


@dataclass
class Stages:
    """The commands on a small data set in `folder`/work, with copies of it from before and after each.

    Args:
        folder: an empty directory.
        names: the commands to disturb; the others run once, within this process.
    """

    folder: Path
    names: list[str]

    def __post_init__(self):
        self.work = self.folder / "work"
        self.work.mkdir(parents=True)
        tiny_conf(self.work)
        (self.work / "queries.csv").write_text("caption\na bell rings\nrain\n")
        torch.manual_seed(0)
        torch.save(MobileNetV3(0.1).state_dict(), self.work / "mn01.pt")  # random weights
        self.seconds: dict[str, float] = {}
        for stage in DISTURBED[: 1 + max(map(DISTURBED.index, self.names))]:
            self._keep(stage, "before")
            if stage in self.names:
                start = time.perf_counter()
                done = self.run(stage)
                self.seconds[stage] = time.perf_counter() - start
                assert done.returncode == 0, done.stderr
            else:
                call(*self.command(stage)[1:])
            self._keep(stage, "after")

    def command(self, stage: str) -> list[str]:
        """The command line of a stage; training resumes the trial that an earlier try began."""
        trials = [path.parent for path in self.work.glob("output/*/*/conf.yaml")]
        which = ["--resume", str(trials[0])] if stage == "main.py" and trials else ["--conf", f"{self.work}/conf.yaml"]
        place = {"queries": "queries.csv", "clips": "data/evaluation", "csv": "ranked.csv"} if stage == SEARCH else {}
        where = [part for name, file in place.items() for part in (f"--{name}", f"{self.work / file}")]
        weights = [f"audio_features.weights={self.work / 'mn01.pt'}"] if stage == STEP_5 else []
        return [sys.executable, stage, *which, *where, *weights]

    def run(self, stage: str, **options) -> subprocess.CompletedProcess:
        options |= {"cwd": ROOT, "capture_output": True, "text": True, "env": os.environ | {"CUDA_VISIBLE_DEVICES": ""}}
        return subprocess.run(self.command(stage), check=False, **options)

    def rewind(self, stage: str) -> None:
        """Restore the state from before a stage."""
        shutil.rmtree(self.work)
        shutil.copytree(self._kept(stage, "before"), self.work)

    def differences(self, stage: str) -> list[str]:
        """Names of files that differ from those of the undisturbed stage, are missing, or are left over."""
        after, now = self._files(stage, "after"), _files(self.work)
        described = {name for name in after if name.startswith("TRIAL") and name.split("/")[-1] in EVER_NEW}
        changed = {name for name in after.keys() & now.keys() if not _same(after[name], now[name])}
        return sorted((changed - described) | (after.keys() ^ now.keys()))

    def written(self, stage: str) -> list[Path]:
        """The files that the undisturbed stage wrote or changed."""
        before, after = self._files(stage, "before"), self._files(stage, "after")
        return [path for name, path in after.items() if name not in before or not _same(before[name], path)]

    def lost(self, stage: str) -> list[str]:
        """Names of files from before a stage that are lost or damaged, and of half-written files."""
        before, after, now = self._files(stage, "before"), self._files(stage, "after"), _files(self.work)
        kept = before.keys() & now.keys()
        whole = {name for name in kept if _same(before[name], now[name]) or _same(after[name], now[name])}
        return sorted(before.keys() - whole) + sorted(name for name in now if name.endswith(".tmp"))

    def _files(self, stage: str, when: str) -> dict[str, Path]:
        return _files(self._kept(stage, when))

    def _kept(self, stage: str, when: str) -> Path:
        return self.folder / f"{when}_{DISTURBED.index(stage)}"

    def _keep(self, stage: str, when: str) -> None:
        shutil.copytree(self.work, self._kept(stage, when))


def _same(one: Path, other: Path) -> bool:
    """Compare bytes; checkpoints value by value, since how they are pickled depends on which strings are shared."""
    if one.suffix == ".pt":
        contents = [torch.load(path, weights_only=True) for path in (one, other)]
        return equal(*(content | {"trial": None} for content in contents))  # random
    return filecmp.cmp(one, other, shallow=False)


def equal(one: object, other: object) -> bool:
    """Whether the contents of two checkpoints are equal, value by value."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def _files(root: Path) -> dict[str, Path]:
    """{name: path} of the files in a directory; TRIAL stands for the one trial, which is named after its start."""
    files = {}
    for path in root.rglob("*"):
        if path.is_file() and path.name != KEPT:  # it contains times
            parts = path.relative_to(root).parts
            name = "/".join(["TRIAL", *parts[3:]] if parts[0] == "output" else parts)
            files[name] = path
    return files
