"""The slow parts of the published code, restated from the method; `make bench` compares our code with them.

Nothing is slowed on purpose. This file shares no computation with `models` and `utils`, so it stays the same while they
get faster. tests/test_benchmarks.py checks that both give the same numbers; tests/reference.py takes the strategies
from here. Two faults are left out: log-mels stay in float32, and batches of one clip are skipped, at which the
published code stops.

Shapes as elsewhere: N items, T frames, W words, E embedding dimension, Q queries, I items to rank.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import librosa
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from utils.data_utils import Split
from utils.score_utils import Batch

CUTOFFS = (1, 5, 10)


# --- log-mels: one process, clip after clip --------------------------------------------------------------


def extract_log_mels(files: dict[str, Path], target: Path) -> None:
    """Write the log-mels (T, 64) of clips, by fid, into an HDF5 file."""
    with h5py.File(target, "w") as store:
        for fid, path in files.items():
            store.create_dataset(fid, data=log_mel(path))


def log_mel(path: Path) -> np.ndarray:
    """(T, 64) float32 log-mel energies of an audio file: 40 ms windows every 20 ms."""
    y, sample_rate = librosa.load(path, sr=None, mono=True)
    window, hop = int(sample_rate * 0.04), int(sample_rate * 0.02)
    mel = librosa.feature.melspectrogram(
        y=y, sr=sample_rate, n_fft=2 ** int(np.ceil(np.log2(window))), hop_length=hop, win_length=window,
        n_mels=64, fmin=12, fmax=8000,
    )  # (64, T)  # fmt: skip
    return np.log(mel + float(np.spacing(1))).T  # a Python float: stays float32


# --- the model, the loss and a training step -------------------------------------------------------------


class Model(nn.Module):
    """The dual encoder with the library's modules, in their default memory layout; built from a state dict."""

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        self.audio_enc = CRNN(half_dim=state["audio_enc.gru.weight_hh_l0"].shape[1])
        self.text_enc = nn.Module()
        self.text_enc.embedding = nn.Embedding.from_pretrained(state["text_enc.embedding.weight"].clone())
        self.load_state_dict(state)

    def audio_branch(self, audio: Tensor) -> Tensor:
        """(N, T, 64) -> (N, T, E), each frame of length 1."""
        return F.normalize(self.audio_enc(audio), dim=-1)

    def text_branch(self, text: Tensor) -> Tensor:
        """(N, W) -> (N, W, E), each word of length 1."""
        return F.normalize(self.text_enc.embedding(text), dim=-1)

    def forward(self, audio: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.audio_branch(audio), self.text_branch(text)


class CRNN(nn.Module):
    """Five convolutions with power-average pooling, then a bidirectional GRU at a quarter of the frames."""

    def __init__(self, half_dim: int):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.BatchNorm2d(1),
            *_convolution(1, 32),
            nn.LPPool2d(4, (2, 4)),
            nn.BatchNorm2d(32),
            *_convolution(32, 128),
            nn.BatchNorm2d(128),
            *_convolution(128, 128),
            nn.LPPool2d(4, (2, 4)),
            nn.BatchNorm2d(128),
            *_convolution(128, 128),
            nn.BatchNorm2d(128),
            *_convolution(128, 128),
            nn.LPPool2d(4, (1, 4)),
            nn.Dropout(0.3),
        )
        self.gru = nn.GRU(128, half_dim, bidirectional=True, batch_first=True)

    def forward(self, audio: Tensor) -> Tensor:
        """(N, T, 64) -> (N, T, E)."""
        x = self.cnn(audio.unsqueeze(1))  # (N, 128, T/4, 1)
        x, _ = self.gru(x.transpose(1, 2).flatten(2))  # (N, T/4, E)
        x = F.interpolate(x.transpose(1, 2), audio.shape[1], mode="linear", align_corners=False)  # (N, E, T)
        return x.transpose(1, 2)


def _convolution(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.LeakyReLU(0.1, inplace=True)


def pair_scores(left: Tensor, right: Tensor) -> Tensor:
    """(K or 1, T, E) and (K or 1, W, E) -> (K,): the mean over both axes of the clamped products."""
    return torch.matmul(left, right.transpose(1, 2)).clamp(min=0).mean(dim=(1, 2))


class AnchorScores(NamedTuple):
    """Functions that compute an anchor's scores: of its pair, and (K,) with its candidate negatives."""

    positive: Callable
    audio: Callable  # of their clips with its caption
    text: Callable  # of their captions with its clip
    audio_audio: Callable
    text_text: Callable


def triplet_loss(audio: Tensor, text: Tensor, fids: Tensor, sampling: str, margin: float = 0.5) -> Tensor:
    """The loss of embeddings (N, T, E) and (N, W, E), anchor by anchor; fids (N,) hold at least two clips."""
    fids = fids.tolist()
    anchors = []
    for i in range(len(fids)):
        others = [j for j in range(len(fids)) if fids[j] != fids[i]]
        audio_negatives, text_negatives = choose(sampling, others, anchor_scores(audio, text, i, others))
        clip, caption = audio[[i]], text[[i]]  # (1, T, E), (1, W, E)
        positive = pair_scores(clip, caption)  # (1,)
        audio_terms = pair_scores(audio[audio_negatives], caption) - positive + margin
        text_terms = pair_scores(clip, text[text_negatives]) - positive + margin
        anchors.append(audio_terms.clamp(min=0).mean() + text_terms.clamp(min=0).mean())
    return torch.stack(anchors).mean()


def anchor_scores(audio: Tensor, text: Tensor, i: int, others: list[int]) -> AnchorScores:
    """Scores of anchor i from embeddings; autograd records those that are computed."""
    return AnchorScores(
        positive=lambda: pair_scores(audio[[i]], text[[i]]),
        audio=lambda: pair_scores(audio[others], text[[i]]),
        text=lambda: pair_scores(audio[[i]], text[others]),
        audio_audio=lambda: pair_scores(audio[[i]], audio[others]),
        text_text=lambda: pair_scores(text[[i]], text[others]),
    )


def choose(sampling: str, others: list[int], scores: AnchorScores) -> tuple[list[int], list[int]]:
    """Pick an anchor's audio and text negatives from the others; the first of equal ones."""
    if sampling == "random-NS":
        return [random.choice(others)], [random.choice(others)]
    if sampling == "full-batch-NS":
        return others, others
    if sampling in ("semi-hard-NS", "hard-NS"):
        audio, text = scores.audio(), scores.text()
        if sampling == "semi-hard-NS":
            positive = scores.positive()
            audio, text = -abs(audio - positive), -abs(text - positive)
        return [others[audio.argmax()]], [others[text.argmax()]]
    similarity = scores.text_text() if "text" in sampling else scores.audio_audio()
    picked = [others[similarity.argmax() if sampling.startswith("hard") else similarity.argmin()]]
    return picked, picked


def training_step(model: Model, batch: Batch, sampling: str, optimizer: torch.optim.Optimizer) -> float:
    """Forward, backward and one update. Returns the batch's loss."""
    audio, text = model(batch.audio, batch.text)
    loss = triplet_loss(audio, text, batch.clips, sampling)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


# --- an epoch: a pass of training and six of evaluation --------------------------------------------------


def epoch(model: Model, splits: list[Split], sampling: str, batch_size: int, optimizer: torch.optim.Optimizer) -> None:
    """Train on the first split; then compute objective and metric over every split, in separate passes."""
    model.train()
    for batch in shuffled_batches(splits[0], batch_size):
        training_step(model, batch, sampling, optimizer)
    for split in splits:
        for _ in ("objective", "metric"):
            mean_loss(model, split, sampling, batch_size)


@torch.no_grad()
def mean_loss(model: Model, split: Split, sampling: str, batch_size: int) -> float:
    """Mean loss over the split's batches; a clip is encoded again for each caption."""
    model.train(False)
    losses = []
    for batch in shuffled_batches(split, batch_size):
        audio, text = model(batch.audio, batch.text)
        losses.append(triplet_loss(audio, text, batch.clips, sampling).item())
    return float(np.mean(losses))


def shuffled_batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """Zero-padded batches of all pairs in a new random order; batches of a single clip are skipped."""

    def collate(captions: list[int]) -> Batch:
        clips = split.caption_clips[captions]
        audio, text = [split.audio[clip] for clip in clips], [split.captions[caption] for caption in captions]
        return Batch(
            pad_sequence(audio, batch_first=True),
            pad_sequence(text, batch_first=True),
            torch.from_numpy(clips),
            torch.tensor([len(frames) for frames in audio]),
            torch.tensor([len(words) for words in text]),
        )

    loader = DataLoader(range(len(split.captions)), batch_size, shuffle=True, collate_fn=collate)
    return (batch for batch in loader if len(batch.clips.unique()) > 1)


# --- scores and metrics ----------------------------------------------------------------------------------


def score_split(model: Model, log_mels: list[Tensor], captions: list[Tensor]) -> np.ndarray:
    """(C, M) scores of clips (T, 64) and captions (W,), unpadded; autograd records all of it."""
    return np.array([score_clip(model, model.audio_branch(log_mel[None])[0], captions) for log_mel in log_mels])


def score_clip(model: Model, audio: Tensor, captions: list[Tensor]) -> list[float]:
    """Scores of one clip's frames (T, E) with all captions; every caption is embedded again for each clip."""
    return [(audio @ model.text_branch(caption).T).clamp(min=0).mean().item() for caption in captions]


def retrieval_metrics(scores: np.ndarray, relevant: dict[int, set[int]]) -> dict[str, float]:
    """mAP, R1, R5, R10, HR1, HR5, HR10 of scores (Q, I), averaged over queries with their relevant items."""
    values: dict[str, list[float]] = {"mAP": [], **{f"{name}{k}": [] for name in ("R", "HR") for k in CUTOFFS}}
    for query, items in relevant.items():
        ranking = np.argsort(-scores[query]).tolist()
        ranks = [rank for rank, item in enumerate(ranking, start=1) if item in items]
        values["mAP"].append(sum(found / rank for found, rank in enumerate(ranks, start=1)) / len(items))
        for k in CUTOFFS:
            hits = sum(rank <= k for rank in ranks)
            values[f"R{k}"].append(hits / len(items))
            values[f"HR{k}"].append(float(hits > 0))
    return {name: float(np.mean(of_queries)) for name, of_queries in values.items()}


def both_directions(scores: np.ndarray, caption_clips: np.ndarray) -> dict[str, dict[str, float]]:
    """Metrics of scores (C, M) in both directions; caption_clips (M,) is the clip that each caption describes."""
    described: dict[int, set[int]] = {}
    for caption, clip in enumerate(caption_clips.tolist()):
        described.setdefault(clip, set()).add(caption)
    clip_of = {caption: {clip} for caption, clip in enumerate(caption_clips.tolist())}
    return {
        "text_to_audio": retrieval_metrics(scores.T, clip_of),
        "audio_to_text": retrieval_metrics(scores, described),
    }
