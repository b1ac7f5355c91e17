"""Evaluation: encode a split's clips once, score them with its captions, and sum up in an objective and in metrics.

Everything stays on the model's device until the results are read, all at once.

Shapes: C clips, M captions, V vocabulary, B batches of N pairs.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from models.audio_encoders import TIME_POOLING, send
from models.core import CRNNWordModel
from utils.common.processes import all_reduce_sum, broadcast_buffers, on_rank_zero, own_share
from utils.criterion_utils import compares_clips, negative_mask
from utils.data_utils import Split
from utils.device_utils import Diverged
from utils.metric_utils import averages, per_query_by_places, right_pairs
from utils.model_utils import TrainState
from utils.place_utils import CaptionScores, places_in_both_directions, spread
from utils.score_utils import BatchScores, Pool, Score, caption_word_weights, mean_over_frames
from utils.split_score_utils import EncodedClips, caption_pair_scores, clip_pair_scores, group_word_scores

LENGTH_STEP = 64  # frames; clips are padded to multiples, since convolutions keep memory for every size that they meet
FRAMES_AT_ONCE = 2**17  # of all the clips that are encoded together: 64 clips of 40 s


@dataclass(frozen=True)
class SplitScores:
    """Scores of a split under a model, every clip and caption at its own length; on the model's device."""

    split: Split
    words: Tensor  # (V, E) embeddings
    weights: csr_array  # (M, V) how much of each caption a word is, all words alike
    cross: CaptionScores  # of every clip with every caption
    clips: EncodedClips | None  # what the clips were encoded to, where that was asked for


@torch.no_grad()
def score_split(
    model: CRNNWordModel, split: Split, score: Score | None = None, keep_steps: bool = False
) -> SplitScores:
    """Score every clip of a split with every caption, from one encoding of each clip.

    Args:
        model: in evaluation mode.
        split: C clips, M captions.
        score: its pool and the weights of its words; None: the published score.
        keep_steps: keep what clips were encoded to, for the strategies that compare clips with clips.
    """
    score = score or Score()
    captions = [ids.numpy() for ids in split.captions]
    ids, weights = caption_word_weights(captions)  # (V,), (M, V)
    words = embed_words(model, ids)
    by_word, clips = score_words(model, split, [words], score.pool, keep_steps)
    weighed = weights if score.idf_values is None else caption_word_weights(captions, importance=score.idf_values)[1]
    return SplitScores(split, words, weights, CaptionScores(weighed, by_word), clips)


@torch.no_grad()
def embed_words(model: CRNNWordModel, ids: np.ndarray) -> Tensor:
    """The embeddings of words by id, (V,) -> (V, E), on the model's device."""
    return model.text_branch(send(torch.from_numpy(ids), model.device).unsqueeze(0))[0]


@torch.no_grad()
def score_words(
    model: CRNNWordModel,
    split: Split,
    tables: list[Tensor],
    pool: Pool = mean_over_frames,
    keep_steps: bool = False,
    part: slice | None = None,
) -> tuple[Tensor, EncodedClips | None]:
    """The score of each word, of tables (V, E), with every clip, or those of a part: (sum of V, C); and what the clips
    were encoded to, if it is kept.

    Each table is multiplied on its own: to the bit, a word's scores do not depend on the other tables.
    Several ranks encode and score a share of the groups each, and every rank gets all: what a clip is encoded to does
    not depend on the number of ranks, to the bit.
    """
    part = part or slice(0, len(split.fids))
    frames = np.array(split.frames[part])
    groups = _groups(frames, at_once=64 if model.device.type == "cuda" else 4)
    order = np.concatenate(groups)
    counts, lengths = np.array([[len(clips), frames[clips[0]] // TIME_POOLING] for clips in groups]).T
    columns, rows = (np.cumsum(sizes) - sizes for sizes in (counts, counts * lengths))  # where each group begins
    scores = tables[0].new_zeros(sum(map(len, tables)), len(frames))
    steps = scores.new_zeros(counts @ lengths if keep_steps else 0, tables[0].shape[1])
    for clips, column, row in own_share(list(zip(groups, columns, rows, strict=True))):
        encoded = encode_clips(model, split, [part.start + clip for clip in clips])  # (N, L, E)
        by_clip = [group_word_scores(encoded, frames[clips].tolist(), words, pool) for words in tables]
        scores[:, column : column + len(clips)] = torch.cat(by_clip)
        if keep_steps:
            steps[row : row + encoded.shape[0] * encoded.shape[1]] = encoded.flatten(0, 1)
    all_reduce_sum(scores)
    all_reduce_sum(steps)
    places = np.argsort(order)  # (C,) of the clips in that order
    by_word = scores.index_select(1, send(torch.from_numpy(places), model.device))
    starts = np.concatenate([row + length * np.arange(n) for row, length, n in zip(rows, lengths, counts, strict=True)])
    return by_word, EncodedClips(steps, starts[places], frames) if keep_steps else None


def encode_clips(model: CRNNWordModel, split: Split, clips: list[int]) -> Tensor:
    """The steps of some clips, those of the most steps first: (N, L, E), of each those that its own frames make."""
    log_mels = [split.log_mels[clip] for clip in clips]
    audio = pad_sequence(log_mels, batch_first=True)
    audio = F.pad(audio, (0, 0, 0, -audio.shape[1] % LENGTH_STEP))
    return model.audio_steps(send(audio, model.device), torch.tensor([len(log_mel) for log_mel in log_mels]))


def _groups(frames: np.ndarray, at_once: int) -> list[list[int]]:
    """The clips by length, so many at once, fewer where they are long: the memory is bounded, or a single clip's.

    Short clips come first; within a group, those of the most steps.
    """
    groups: list[list[int]] = [[]]
    for clip in np.argsort(frames, kind="stable").tolist():
        group = groups[-1]
        if len(group) == at_once or (group and (len(group) + 1) * frames[clip] > FRAMES_AT_ONCE):
            groups.append([])
        groups[-1].append(clip)
    return [sorted(group, key=lambda clip: -(frames[clip] // TIME_POOLING)) for group in groups]


class PairBatches:
    """A split's pairs in batches, in one fixed shuffled order and with fixed draws; those of one size go at once.

    Frames are pooled over each clip's own length; words averaged over the longest caption of the batch, as published,
    unless mask_words. S_padded = n_words / W_max * S_masked, exactly. Batches without any negative are left out.
    """

    def __init__(self, scores: SplitScores, batch_size: int, mask_words: bool):
        self.scores, self.mask_words = scores, mask_words
        order = np.random.default_rng(0).permutation(len(scores.split.captions))
        whole = len(order) // batch_size * batch_size
        clips, generator = scores.split.caption_clips, torch.Generator().manual_seed(0)
        self.captions: list[np.ndarray] = []  # (B, N) each
        self.draws: list[Tensor] = []  # (B, 2, N, N) for each
        for captions in (order[:whole].reshape(-1, batch_size), order[whole:].reshape(1, -1)):
            captions = captions[(clips[captions] != clips[captions[:, :1]]).any(axis=1)]
            if len(captions):
                n = captions.shape[1]
                self.captions.append(captions)
                self.draws.append(torch.rand((len(captions), 2, n, n), generator=generator))

    @torch.no_grad()
    def losses(self, criterion: nn.Module) -> Tensor:
        """The criterion's loss of each batch: (B,), on the device."""
        parts = zip(map(self.batch_scores, self.captions), self.captions, self.draws, strict=True)
        losses = [self._losses_at_once(criterion, *part) for part in parts]
        return torch.cat(losses) if losses else self.scores.words.new_zeros(1)

    def _losses_at_once(self, criterion: nn.Module, scores: BatchScores, captions: np.ndarray, draws: Tensor) -> Tensor:
        """(B,), as if the criterion were called batch by batch."""

        def loss(batch: Tensor, cross: Tensor, negatives: Tensor, drawn: Tensor) -> Tensor:
            def of_batch(within: Callable[[], Tensor]) -> Callable[[], Tensor]:
                return lambda: within().index_select(0, batch.unsqueeze(0))[0]  # (N, N)

            one = BatchScores(cross, of_batch(scores.text_text), of_batch(scores.audio_audio))
            return criterion(one, negatives, drawn).loss

        cross, device = scores.audio_text, scores.audio_text.device
        clips = send(torch.from_numpy(self.scores.split.caption_clips[captions]), device)  # (B, N)
        negatives = torch.vmap(negative_mask)(clips)  # (B, N, N)
        return torch.vmap(loss)(torch.arange(len(cross), device=device), cross, negatives, send(draws, device))

    def batch_scores(self, captions: np.ndarray) -> BatchScores:
        """The scores of B batches of captions (B, N) and their clips, (B, N, N) each."""
        split, device = self.scores.split, self.scores.words.device
        own_clips = split.caption_clips[captions]  # (B, N)
        clips = send(torch.from_numpy(own_clips), device)
        lens = torch.tensor([[len(split.captions[caption]) for caption in batch] for batch in captions])
        shares = send(lens / lens.amax(dim=1, keepdim=True), device)  # (B, N)
        with_clips = self.scores.cross.with_clips(captions.ravel(), own_clips.repeat(captions.shape[1], axis=0))
        cross = with_clips.view(*captions.shape, -1).mT  # (B*N captions, N clips) -> (B, N clips, N captions)

        @cache
        def text_text() -> Tensor:
            within = caption_pair_scores(self.scores.words, self.scores.weights, captions)
            return within if self.mask_words else within * shares.unsqueeze(2) * shares.unsqueeze(1)

        return BatchScores(
            audio_text=cross if self.mask_words else cross * shares.unsqueeze(1),
            text_text=text_text,
            audio_audio=lambda: self.clips_with_clips[clips.unsqueeze(2), clips.unsqueeze(1)],
        )

    @cached_property
    def clips_with_clips(self) -> Tensor:
        """(C, C): the scores of all clips that meet in a batch, each pair of clips scored once."""
        encoded, count = self.scores.clips, len(self.scores.split.fids)
        clips = [self.scores.split.caption_clips[captions] for captions in self.captions]  # (B, N) each
        met = np.unique(np.concatenate([(part[:, :, None] * count + part[:, None, :]).ravel() for part in clips]))
        pairs = np.stack([met // count, met % count], axis=1)
        pairs = pairs[pairs[:, 0] <= pairs[:, 1]]  # (P, 2)
        within = encoded.rows.new_full((count, count), torch.nan)
        i, j = send(torch.from_numpy(pairs), within.device).unbind(dim=1)
        within[i, j] = within[j, i] = clip_pair_scores(encoded, pairs)
        return within


def evaluate(state: TrainState, split: Split, metrics: dict[str, nn.Module], batch_size: int) -> dict[str, float]:
    """The validation objective, further losses by name, mAP in both directions and the spread of the scores.

    Several ranks encode the clips together, by the running statistics of rank zero, which does the rest.

    Raises Diverged, on rank zero, where the scores are not finite.
    """
    model = state.evaluated.eval()
    broadcast_buffers(model)
    compare = any(map(compares_clips, [state.criterion, *metrics.values()]))
    scores = score_split(model, split, state.score, keep_steps=compare)
    return on_rank_zero(lambda: _results(state, scores, metrics, batch_size))


def _results(
    state: TrainState, scores: SplitScores, metrics: dict[str, nn.Module], batch_size: int
) -> dict[str, float]:
    batches = PairBatches(scores, batch_size, state.score.mask_words)
    losses = {name: batches.losses(criterion) for name, criterion in ({"obj": state.criterion} | metrics).items()}
    pairs = right_pairs(scores.split.caption_clips)
    places = places_in_both_directions(scores.cross, pairs)  # (5, M)
    summary = torch.stack([torch.isfinite(scores.cross.by_word).all().double(), spread(scores.cross)])
    parts = [summary, places.flatten(), *losses.values()]
    (finite, deviation), *read = _read(parts)
    if not finite:
        raise Diverged("the validation scores are not finite", [])
    values = per_query_by_places(read[0].reshape(5, -1), pairs, len(scores.split.fids), len(pairs))
    text_to_audio, audio_to_text = (averages(values[side])["mAP"] for side in ("text_to_audio", "audio_to_text"))
    return {
        **{f"val_{name}": statistics.fmean(values) for name, values in zip(losses, read[1:], strict=True)},
        "val_map_text_to_audio": text_to_audio,
        "val_map_audio_to_text": audio_to_text,
        "val_map": (text_to_audio + audio_to_text) / 2,
        "score_std": float(deviation),
    }


def _read(parts: list[Tensor]) -> list[np.ndarray]:
    """Vectors on the device as float64 arrays, by one copy, for which the host waits once."""
    values = torch.cat([part.double() for part in parts]).cpu().numpy()
    return np.split(values, np.cumsum([len(part) for part in parts])[:-1])
