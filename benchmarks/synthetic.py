"""Splits, batches and models of Clotho's size in memory, made with torch and numpy alone."""

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.core import CRNNWordModel
from utils.data_utils import Batch, Split
from utils.model_utils import TrainState, build_state

if TYPE_CHECKING:
    from utils.conf.schema import Conf

CPU = torch.device("cpu")
N_MELS, DIM = 64, 300
VOCABULARY = 4400  # words of Clotho's captions
CAPTION_WORDS = (8, 22)  # words of a caption, from and below: Clotho's
CLIP_FRAMES = (750, 1501)  # frames of a clip: 15 to 30 s at 50 frames a second, Clotho's


def synthetic_split(clips: int, frames: tuple[int, int] = CLIP_FRAMES, captions_each: int = 5) -> Split:
    """A split in memory with Clotho's durations and caption lengths; the log-mels are views of one random array."""
    rng = np.random.default_rng(0)
    log_mel = 2 * torch.randn(frames[1], N_MELS, generator=torch.Generator().manual_seed(0)) - 8
    return Split(
        fids=[f"clip{i}" for i in range(clips)],
        log_mels=[log_mel[:length] for length in rng.integers(*frames, clips)],
        tids=[f"caption{i}" for i in range(captions_each * clips)],
        captions=[torch.from_numpy(ids) for ids in random_captions(rng, captions_each * clips, VOCABULARY)],
        caption_clips=np.repeat(np.arange(clips), captions_each),
    )


def synthetic_batch(pairs: int, frames: int, words: int) -> Batch:
    """A batch of pairs of one length, each of another clip."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        audio=2 * torch.randn(pairs, frames, N_MELS, generator=generator) - 8,
        text=torch.randint(1, VOCABULARY, (pairs, words), generator=generator),
        clips=torch.arange(pairs),
        audio_lens=torch.full((pairs,), frames),
        text_lens=torch.full((pairs,), words),
    )


def new_model() -> CRNNWordModel:
    """The paper's model over random word vectors."""
    torch.manual_seed(0)
    return CRNNWordModel(N_MELS, DIM, word_vectors(VOCABULARY))


def new_state(conf: "Conf", device: torch.device = CPU) -> TrainState:
    """A model of the configuration over random word vectors, with what trains it."""
    torch.manual_seed(0)
    return build_state(conf, word_vectors(VOCABULARY).numpy(), device)


def step_flops(pairs: int, frames: int, words: int) -> float:
    """Operations of a training step: convolutions, GRU, score matrix; the backward pass counts as two forward ones."""

    def convolution(in_channels: int, out_channels: int, pixels: int) -> int:
        return 2 * 9 * in_channels * out_channels * pixels

    half, quarter = frames // 2, frames // 4
    clip = convolution(1, 32, frames * N_MELS)
    clip += convolution(32, 128, half * N_MELS // 4) + convolution(128, 128, half * N_MELS // 4)
    clip += 2 * convolution(128, 128, quarter * N_MELS // 16)
    clip += 2 * quarter * 2 * 3 * (DIM // 2) * (128 + DIM // 2)  # two directions, three gates
    scores = 2 * (pairs * frames) * (pairs * words) * DIM  # as published: every frame
    return 3 * (pairs * clip + scores)


def word_vectors(count: int) -> Tensor:
    """(V, E) random vectors of length 1, row 0 zero."""
    vectors = F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(0)), dim=-1)
    vectors[0] = 0
    return vectors


def random_captions(rng: np.random.Generator, count: int, vocabulary: int) -> list[np.ndarray]:
    """Word ids of captions: the n-th word of the vocabulary is 1/n times as frequent as the first, as in language."""
    frequency = np.concatenate([[0.0], 1 / np.arange(1, vocabulary)])
    lens = rng.integers(*CAPTION_WORDS, count)
    ids = rng.choice(vocabulary, lens.sum(), p=frequency / frequency.sum())
    return np.split(ids, np.cumsum(lens)[:-1])
