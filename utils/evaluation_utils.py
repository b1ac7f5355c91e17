"""Evaluation: encode a split's clips once, score them with its captions, and sum up in an objective and in metrics.

Shapes: C clips, M captions, V vocabulary, N pairs of a batch.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from models.audio_encoders import TIME_POOLING
from models.core import CRNNWordModel
from utils.common.processes import all_reduce_sum, broadcast_buffers, on_rank_zero, own_share, world_size
from utils.criterion_utils import negative_mask
from utils.data_utils import Split
from utils.metric_utils import both_directions
from utils.model_utils import Diverged, TrainState
from utils.score_utils import (
    BatchScores,
    caption_word_weights,
    pair_scores,
    self_score_matrix,
    step_weights,
    word_scores,
)

LENGTH_STEP = 64  # frames; clips are padded to multiples, since convolutions keep memory for every size that they meet
FRAMES_AT_ONCE = 2**17  # of all the clips that are encoded together: 64 clips of 40 s


@dataclass(frozen=True)
class SplitScores:
    """Scores of a split under a model, every clip and caption at its own length."""

    split: Split
    by_word: np.ndarray  # (V, C) float32: of each word with every clip
    cross: np.ndarray  # (C, M) float32: of every clip with every caption
    steps: dict[int, Tensor]  # C of (1, L, E): what the clips were encoded to, where that was asked for


def score_split(
    model: CRNNWordModel, split: Split, keep_steps: bool = False, all_words: bool = False
) -> SplitScores:
    """Score every clip of a split with every caption, from one encoding of each clip.

    Args:
        model: in evaluation mode.
        split: C clips, M captions.
        keep_steps: keep what clips were encoded to, for the strategies that compare clips with clips.
        all_words: score every word that the model knows, by id, for texts to come; else those of the captions.
    """
    vocabulary = model.text_enc.embedding.num_embeddings if all_words else None
    words, weights = caption_word_weights([ids.numpy() for ids in split.captions], vocabulary)  # (V,), (M, V)
    by_word, steps = score_words(model, split, words, keep_steps)
    return SplitScores(split, by_word, np.ascontiguousarray((weights @ by_word).T), steps)


@torch.no_grad()
def score_words(
    model: CRNNWordModel, split: Split, words: np.ndarray, keep_steps: bool = False
) -> tuple[np.ndarray, dict[int, Tensor]]:
    """The score of each word (V,), by id, with every clip: (V, C) float32; and the clips' steps, if they are kept.

    Several ranks encode and score a share of the clips each; every rank gets all.
    """
    embeds = model.text_branch(torch.from_numpy(words).to(model.device).unsqueeze(0))[0]  # (V, E)
    scores = torch.zeros(len(words), len(split.frames), device=model.device)
    kept = {}
    for clip, steps in encode_clips(model, split):
        scores[:, clip] = word_scores(steps, split.frames[clip], embeds)
        if keep_steps:
            kept[clip] = steps.clone()  # not the batch that it is a part of
    return all_reduce_sum(scores).cpu().numpy(), _everyones(kept, split, embeds) if keep_steps else kept


def _everyones(kept: dict[int, Tensor], split: Split, like: Tensor) -> dict[int, Tensor]:
    """The steps of all clips, from those of this rank's share."""
    if world_size() == 1:
        return kept
    lens = [frames // TIME_POOLING for frames in split.frames]
    steps = [kept.get(clip, like.new_zeros(1, length, like.shape[1])) for clip, length in enumerate(lens)]
    return dict(enumerate(all_reduce_sum(torch.cat(steps, dim=1)).split(lens, dim=1)))


@torch.no_grad()
def encode_clips(model: CRNNWordModel, split: Split) -> Iterator[tuple[int, Tensor]]:
    """Of this rank's share, each clip's index and steps (1, L, E), at its own length; shortest clips first.

    Whole groups are shared out: what a clip is encoded to does not depend on the number of ranks, to the bit.
    """
    for clips in own_share(list(_groups(split.frames, at_once=64 if model.device.type == "cuda" else 4))):
        log_mels = [split.log_mels[clip] for clip in clips]
        lens = torch.tensor([len(log_mel) for log_mel in log_mels])
        audio = pad_sequence(log_mels, batch_first=True)
        audio = F.pad(audio, (0, 0, 0, -audio.shape[1] % LENGTH_STEP))
        steps = model.audio_steps(audio.to(model.device), lens)
        for i, clip in enumerate(clips):
            yield clip, steps[i : i + 1, : lens[i] // TIME_POOLING]


def _groups(frames: list[int], at_once: int) -> Iterator[list[int]]:
    """The clips by length, so many at once, fewer where they are long: the memory is bounded, or a single clip's."""
    group: list[int] = []
    for clip in np.argsort(frames, kind="stable").tolist():
        if len(group) == at_once or (group and (len(group) + 1) * frames[clip] > FRAMES_AT_ONCE):
            yield group
            group = []
        group.append(clip)
    yield group


@torch.no_grad()
def clip_scores(scores: SplitScores, clips: np.ndarray) -> Tensor:
    """Scores of clips (N,) with clips, every pair at its own lengths: (N, N)."""
    steps, frames = [scores.steps[clip] for clip in clips], scores.split.frames
    weights = [step_weights(part, frames[clip]) for part, clip in zip(steps, clips, strict=True)]
    within = torch.empty(len(clips), len(clips))
    for i, j in combinations_with_replacement(range(len(clips)), 2):
        within[i, j] = within[j, i] = pair_scores(steps[i][0], weights[i][0], steps[j], weights[j])[0]
    return within


@torch.no_grad()
def scores_of_batch(
    model: CRNNWordModel, scores: SplitScores, captions: np.ndarray, mask_words: bool
) -> BatchScores:
    """Scores among some captions (N,) and their clips, as a batch of the loss.

    Frames are averaged over each clip's own length; words over the longest caption of the batch, as published, unless
    mask_words. S_padded = n_words / W_max * S_masked, exactly.
    """
    split = scores.split
    clips = split.caption_clips[captions]
    cross = torch.from_numpy(scores.cross[np.ix_(clips, captions)])
    text = pad_sequence([split.captions[caption] for caption in captions], batch_first=True)
    lens = torch.tensor([len(split.captions[caption]) for caption in captions])

    def text_text() -> Tensor:
        return self_score_matrix(model.text_branch(text.to(model.device)), lens if mask_words else None).cpu()

    cross = cross if mask_words else cross * (lens / lens.max())
    return BatchScores(cross, text_text, lambda: clip_scores(scores, clips))


def objective(
    model: CRNNWordModel, scores: SplitScores, criterion: nn.Module, batch_size: int, mask_words: bool
) -> float:
    """The mean loss over batches of the split's pairs, in one fixed shuffled order and with fixed draws."""
    order = np.random.default_rng(0).permutation(len(scores.split.captions))
    generator = torch.Generator().manual_seed(0)
    losses = []
    for start in range(0, len(order), batch_size):
        captions = order[start : start + batch_size]
        negatives = negative_mask(torch.from_numpy(scores.split.caption_clips[captions]))
        if negatives.any():
            batch = scores_of_batch(model, scores, captions, mask_words)
            losses.append(criterion(batch, negatives, generator).loss.item())
    return statistics.fmean(losses) if losses else 0.0


def evaluate(state: TrainState, split: Split, metrics: dict[str, nn.Module], batch_size: int) -> dict[str, float]:
    """The validation objective, further losses by name, mAP in both directions and the spread of the scores.

    Several ranks encode the clips together, by the running statistics of rank zero, which does the rest.

    Raises Diverged, on rank zero, where the scores are not finite.
    """
    state.model.eval()
    broadcast_buffers(state.model)
    scores = score_split(state.model, split, keep_steps=True)
    return on_rank_zero(lambda: _results(state, scores, metrics, batch_size))


def _results(
    state: TrainState, scores: SplitScores, metrics: dict[str, nn.Module], batch_size: int
) -> dict[str, float]:
    if not np.isfinite(scores.cross).all():
        raise Diverged("the validation scores are not finite", [])
    losses = {
        name: objective(state.model, scores, criterion, batch_size, state.mask_words)
        for name, criterion in ({"obj": state.criterion} | metrics).items()
    }
    retrieval = both_directions(scores.cross, scores.split.caption_clips)
    text_to_audio, audio_to_text = retrieval["text_to_audio"]["mAP"], retrieval["audio_to_text"]["mAP"]
    return {
        **{f"val_{name}": loss for name, loss in losses.items()},
        "val_map_text_to_audio": text_to_audio,
        "val_map_audio_to_text": audio_to_text,
        "val_map": (text_to_audio + audio_to_text) / 2,
        "score_std": float(scores.cross.std(dtype=np.float64)),
    }
