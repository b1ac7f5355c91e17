"""Inputs of the benchmarks: random splits, batches and models in memory; data sets, trials and scores on disk."""

import hashlib
import importlib
import io
import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import CPU
from models.audio_encoders import CRNNEncoder
from models.core import CRNNWordModel
from models.text_encoders import WordEncoder
from utils.common.digests import file_digest
from utils.common.io import write_csv, write_json
from utils.common.steps import CLEANING, EMBEDDING, INDEXING, SCORING, Stage
from utils.conf.load import load_conf, save_conf
from utils.conf.schema import Conf
from utils.data_utils import Split
from utils.dataset.audio import Clip
from utils.dataset.index import TEXT_COLUMNS, clip_id, clip_info
from utils.dataset.paths import DatasetPaths
from utils.dataset.word_vectors import PAD, WordEmbeddings, save_embeddings
from utils.model_utils import TrainState, build_state
from utils.retrieval_utils import slices
from utils.score_utils import Batch, caption_word_weights
from utils.trial.checkpoint import checkpoint_bytes
from utils.trial.dataset_provenance import preprocessing, record_step_outputs, step_outputs
from utils.trial.identity import begin, identity
from utils.trial.names import BEST, CONF
from utils.trial.provenance import record_outputs
from utils.trial.score_files import Captions, WordScores, new_word_scores, save_word_scores, word_scores_path

ROOT = Path(__file__).resolve().parents[1]
N_MELS, DIM = 64, 300
RATE = 44100  # Hz
# Clotho's sizes; ranges exclude their end
VOCABULARY = 4400  # words
CAPTION_WORDS = (8, 22)
CLIP_FRAMES = (750, 1501)  # 15 to 30 s at 50 frames a second
WORDS = [PAD, *(f"word{i}" for i in range(1, VOCABULARY))]

# --- in memory -------------------------------------------------------------------------------------------


def synthetic_split(clips: int, frames: tuple[int, int] = CLIP_FRAMES, captions_each: int = 5) -> Split:
    """A split with Clotho's durations and caption lengths; its log-mels are views of one random array."""
    rng = np.random.default_rng(0)
    log_mel = 2 * torch.randn(frames[1], N_MELS, generator=torch.Generator().manual_seed(0)) - 8
    return Split(
        fids=[f"clip{i}" for i in range(clips)],
        audio=[log_mel[:length] for length in rng.integers(*frames, clips)],
        tids=[f"caption{i}" for i in range(captions_each * clips)],
        captions=[torch.from_numpy(ids) for ids in random_captions(rng, captions_each * clips, VOCABULARY)],
        caption_clips=np.repeat(np.arange(clips), captions_each),
    )


def features_split(clips: int, frames: int, dims: int) -> Split:
    """`synthetic_split` with features (frames, dims) of each clip, all of them in memory."""
    features = torch.randn(clips, frames, dims, generator=torch.Generator().manual_seed(0))
    return replace(synthetic_split(clips), audio=list(features), noun="features")


def synthetic_batch(pairs: int, frames: int, words: int) -> Batch:
    """A batch of pairs of equal lengths, each of a different clip."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        audio=2 * torch.randn(pairs, frames, N_MELS, generator=generator) - 8,
        text=torch.randint(1, VOCABULARY, (pairs, words), generator=generator),
        clips=torch.arange(pairs),
        audio_lens=torch.full((pairs,), frames),
        text_lens=torch.full((pairs,), words),
    )


def random_captions(rng: np.random.Generator, count: int, vocabulary: int) -> list[np.ndarray]:
    """Word ids of captions, Zipf-distributed: the n-th word is 1/n times as frequent as the first."""
    frequency = np.concatenate([[0.0], 1 / np.arange(1, vocabulary)])
    lens = rng.integers(*CAPTION_WORDS, count)
    ids = rng.choice(vocabulary, lens.sum(), p=frequency / frequency.sum())
    return np.split(ids, np.cumsum(lens)[:-1])


def word_vectors(count: int) -> Tensor:
    """(V, E) random vectors of length 1; row 0 is zero."""
    vectors = F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(0)), dim=-1)
    vectors[0] = 0
    return vectors


def new_model() -> CRNNWordModel:
    """The paper's model over random word vectors."""
    torch.manual_seed(0)
    return CRNNWordModel(CRNNEncoder(N_MELS, DIM), WordEncoder(word_vectors(VOCABULARY)))


def new_state(conf: Conf, device: torch.device = CPU) -> TrainState:
    """A configuration's model over random word vectors, with its optimiser."""
    torch.manual_seed(0)
    return build_state(conf, word_vectors(VOCABULARY).numpy(), device)


class NoEncoder(nn.Module):
    """Stands in for CRNNEncoder: the same random outputs for every clip, (N, T, in_dim) -> (N, T // 4, E)."""

    frames_out = CRNNEncoder.frames_out
    padded_to = CRNNEncoder.padded_to

    def __init__(self) -> None:
        super().__init__()
        self.outputs = torch.randn(1, CLIP_FRAMES[1] // 4, DIM, generator=torch.Generator().manual_seed(0))

    def encode_padded(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.outputs[:, : audio.shape[1] // 4].expand(len(audio), -1, -1)


def encoded_model() -> CRNNWordModel:
    """`new_model` with an encoder that costs nothing, to time scoring alone."""
    model = new_model()
    model.audio_enc = NoEncoder()
    return model


def step_flops(pairs: int, frames: int, words: int) -> float:
    """FLOP of a training step: convolutions, GRU and score matrix; the backward pass counts as two forward passes."""

    def convolution(in_channels: int, out_channels: int, pixels: int) -> int:
        return 2 * 9 * in_channels * out_channels * pixels

    half, quarter = frames // 2, frames // 4
    clip = convolution(1, 32, frames * N_MELS)
    clip += convolution(32, 128, half * N_MELS // 4) + convolution(128, 128, half * N_MELS // 4)
    clip += 2 * convolution(128, 128, quarter * N_MELS // 16)
    clip += 2 * quarter * 2 * 3 * (DIM // 2) * (128 + DIM // 2)  # two directions, three gates
    scores = 2 * (pairs * frames) * (pairs * words) * DIM  # as published: every frame
    return 3 * (pairs * clip + scores)


# --- on disk ---------------------------------------------------------------------------------------------


def dataset_conf(root: Path | str, *settings: str) -> Conf:
    """The paper's settings for the data set in a directory, with overrides."""
    return load_conf(ROOT / "conf.yaml", [f"data_conf.dataset={root}", *settings])


def write_clotho_like(root: Path | str, num_clips: dict[str, int], mean_seconds: float) -> None:
    """Synthesise a preprocessed data set with five captions a clip: clips, index, word vectors and log-mels."""
    rng, paths, words = np.random.default_rng(0), DatasetPaths(str(root)), WORDS[:300]
    clips: dict[str, dict[str, Clip]] = {}
    for split, count in num_clips.items():
        clips[split], folder = {}, paths.audio(split)
        folder.mkdir(parents=True)
        for file in (f"{i}.wav" for i in range(count)):
            seconds = mean_seconds * rng.uniform(0.6, 1.4)
            soundfile.write(folder / file, _waveform(rng, seconds), RATE)
            clips[split][clip_id(split, file)] = Clip(file, seconds, RATE, 1, file_digest(folder / file))
        write_captions(paths.text(split), rng, clips[split], words)
    write_json(paths.audio_info, clip_info(clips))
    save_embeddings(paths.word_embeds, WordEmbeddings(words, word_vectors(len(words)).numpy()))
    record_as_made(dataset_conf(root), CLEANING, INDEXING, EMBEDDING)
    extract_log_mels(root)


def write_captions(path: Path, rng: np.random.Generator, clips: dict[str, Clip], words: list[str]) -> None:
    """Write a split's table of five random captions a clip."""
    rows, captions = [], random_captions(rng, 5 * len(clips), len(words))
    for i, (fid, clip) in enumerate(clips.items()):
        for k, ids in enumerate(captions[5 * i : 5 * i + 5]):
            tokens = [words[word] for word in ids]
            text = " ".join(tokens)
            rows.append([f"{fid}-{k}", fid, clip.file_name, text, text, json.dumps(tokens)])
    write_csv(path, TEXT_COLUMNS, rows)


def record_as_made(conf: Conf, *steps: Stage) -> None:
    """Record preprocessing steps that were not run; their missing outputs are created empty."""
    for step in steps:
        for path in step_outputs(conf, step):
            path.touch()
        with record_step_outputs(conf, step):
            pass


def extract_log_mels(root: Path | str, anew: bool = True) -> None:
    """Run preprocessing/4_audio_logmel.py on a data set within this process; `anew` removes its outputs first."""
    for split in dataset_conf(root).data_conf.splits if anew else ():
        DatasetPaths(str(root)).log_mels(split).unlink(missing_ok=True)
    step_4 = importlib.import_module("preprocessing.4_audio_logmel")
    sys.argv = ["4_audio_logmel.py", "--conf", str(ROOT / "conf.yaml"), f"data_conf.dataset={root}"]
    with redirect_stdout(io.StringIO()):
        step_4.main()


def write_trial(root: Path | str, clips: int) -> Path:
    """Write what a search reads, for clips with random word scores and five captions each. Returns the trial."""
    rng, conf, trial = np.random.default_rng(0), dataset_conf(root), Path(root) / "trial"
    split, paths = conf.data_conf.eval_data, DatasetPaths(str(root))
    trial.mkdir()
    save_conf(conf, trial / CONF)
    nothing = hashlib.sha256(b"").hexdigest()  # stands for a sound's digest
    index = {clip_id(split, file): Clip(file, 20.0, RATE, 1, nothing) for file in (f"{i}.wav" for i in range(clips))}
    scores = rng.random((VOCABULARY, clips), dtype=np.float32)
    save_word_scores(word_scores_path(trial, split), WordScores(scores, WORDS, list(index), epoch=0))
    write_json(paths.audio_info, clip_info({other: {} for other in conf.data_conf.splits} | {split: index}))
    write_captions(paths.text(split), rng, index, WORDS)
    soundfile.write(Path(root) / "query.wav", _waveform(rng, 20.0), RATE)
    record_as_made(conf, *preprocessing(conf))
    begin(trial, conf, {})
    checkpoint = {"model": new_model().state_dict(), "words": WORDS, "conf": {}, "history": [], "epoch": 0}
    (trial / BEST).write_bytes(checkpoint_bytes(checkpoint | {"trial": identity(trial)}))
    with record_outputs(trial, SCORING, [trial / BEST], [word_scores_path(trial, split)]):
        pass
    return trial


def write_random_word_scores(path: Path, clips: int) -> None:
    """Write random word scores of clips with five captions each, and of as many words as Clotho has."""
    rng = np.random.default_rng(0)
    weights = caption_word_weights(random_captions(rng, 5 * clips, VOCABULARY), VOCABULARY)[1]
    fids, tids = [f"clip{i}" for i in range(clips)], [f"caption{i}" for i in range(5 * clips)]
    captions = Captions(tids, [fid for fid in fids for _ in range(5)], weights)
    with new_word_scores(path, WORDS, fids, captions, epoch=0) as write:
        for part in slices(clips, 2**13):
            write(part, rng.random((VOCABULARY, part.stop - part.start), dtype=np.float32))


def _waveform(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A decaying tone in noise, (samples,)."""
    times = np.arange(round(seconds * RATE)) / RATE
    tone = np.exp(-times) * np.sin(2 * np.pi * rng.uniform(100, 4000) * times)
    return 0.4 * tone + 0.02 * rng.standard_normal(len(times))
