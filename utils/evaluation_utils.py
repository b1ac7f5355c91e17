"""Evaluation: encode a split's clips once, score them with its captions, compute the objective (val_obj) and metrics.

All values stay on the model's device until the results are read at once.

Shapes: C clips, M captions, V vocabulary; batches of N pairs; L encoder outputs.
"""

import statistics
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from models.core import CRNNWordModel
from models.tensors import to_device
from utils.common.processes import all_reduce_sum, broadcast_buffers, on_rank_zero, own_share
from utils.criterion_utils import compares_clips, negative_mask
from utils.data_utils import Split
from utils.device_utils import Diverged
from utils.fast_score_utils import EncodedClips
from utils.metric_utils import averages, per_query_by_counts, relevant_pairs
from utils.model_utils import TrainState
from utils.retrieval_utils import CaptionScores, rank_counts, spread
from utils.score_utils import BatchScores, Score, caption_word_weights

FRAMES_AT_ONCE = 2**17  # frames of all clips that are encoded together: 64 clips of 40 s


@dataclass(frozen=True)
class SplitScores:
    """A split's scores under a model, each clip and caption at its own length, on the model's device."""

    split: Split
    score: Score
    words: Tensor  # (V, E) embeddings
    weights: csr_array  # (M, V) of `Score.text_weights`
    cross: CaptionScores  # of every clip with every caption
    clips: EncodedClips | None  # the encoder's outputs, where they are kept


@torch.no_grad()
def score_split(
    model: CRNNWordModel, split: Split, score: Score | None = None, keep_encoded: bool = False
) -> SplitScores:
    """Score every clip of a split with every caption, from one encoding of each clip by a model in evaluation mode.

    `score` None is the published one. `keep_encoded` keeps the encoder's outputs, for strategies that compare clips.
    """
    score = score or Score()
    captions = [ids.numpy() for ids in split.captions]
    words = score.word_embeds(encode_words(model, caption_word_weights(captions)[0]))  # (V, E)
    by_word, clips = score_words(model, split, [words], score, keep_encoded)
    cross = CaptionScores(score.caption_weights(captions, words), by_word)
    return SplitScores(split, score, words, score.text_weights(captions, cross.weights), cross, clips)


@torch.no_grad()
def caption_weights(model: CRNNWordModel, score: Score, captions: list[np.ndarray]) -> tuple[np.ndarray, csr_array]:
    """The ids (V,) of the captions' words, and what each counts in each of M captions: (M, V)."""
    ids, _ = caption_word_weights(captions)
    return ids, score.caption_weights(captions, score.word_embeds(encode_words(model, ids)))


@torch.no_grad()
def encode_words(model: CRNNWordModel, ids: np.ndarray) -> Tensor:
    """Words by id, (V,) -> (V, E) of `CRNNWordModel.encode_text`, on the model's device."""
    return model.encode_text(to_device(torch.from_numpy(ids), model.device).unsqueeze(0))[0]


@torch.no_grad()
def score_words(
    model: CRNNWordModel,
    split: Split,
    tables: list[Tensor],
    score: Score,
    keep_encoded: bool = False,
    part: slice | None = None,
) -> tuple[Tensor, EncodedClips | None]:
    """Score the words of tables (V, E) of `Score.word_embeds` with every clip, or those of a part: (sum of V, C).

    Returns the scores, and the encoder's outputs if they are kept. Each table has its own matrix product, so that a
    word's scores have the same bits whatever the other tables are. Each rank encodes and scores a share of the groups,
    and gets the results of all. A clip's outputs have the same bits whatever the number of ranks.
    """
    part = part or slice(0, len(split.fids))
    frames = np.array(split.frames[part])
    lengths = model.audio_enc.frames_out(frames)
    groups = _groups(frames, lengths, at_once=64 if model.device.type == "cuda" else 4)
    lengths = score.outputs(lengths)
    counts, longest = np.array([[len(clips), lengths[clips[0]]] for clips in groups]).T
    columns, rows = (np.cumsum(sizes) - sizes for sizes in (counts, counts * longest))  # where each group begins
    scores = tables[0].new_zeros(sum(map(len, tables)), len(frames))
    kept = scores.new_zeros(counts @ longest if keep_encoded else 0, tables[0].shape[1])
    for clips, column, row in own_share(list(zip(groups, columns, rows, strict=True))):
        encoded = encode_clips(model, split, [part.start + clip for clip in clips], score)  # (N, L, E)
        group = EncodedClips.of_batch(encoded, lengths[clips], frames[clips])
        scores[:, column : column + len(clips)] = torch.cat([score.of_words(group, words) for words in tables])
        if keep_encoded:
            kept[row : row + len(group.rows)] = group.rows
    all_reduce_sum(scores)
    all_reduce_sum(kept)
    places = np.argsort(np.concatenate(groups))  # (C,) of the clips in the groups' order
    by_word = scores.index_select(1, to_device(torch.from_numpy(places), model.device))
    starts = np.concatenate([row + length * np.arange(n) for row, length, n in zip(rows, longest, counts, strict=True)])
    return by_word, EncodedClips(kept, starts[places], lengths, frames) if keep_encoded else None


def encode_clips(model: CRNNWordModel, split: Split, clips: list[int], score: Score) -> Tensor:
    """Encode clips, those with the most outputs first: (N, L, E), each clip's first outputs as of the clip alone."""
    frames = [split.audio[clip] for clip in clips]
    audio = pad_sequence(frames, batch_first=True)
    audio = F.pad(audio, (0, 0, 0, -audio.shape[1] % model.audio_enc.padded_to))
    lengths = torch.tensor([len(clip) for clip in frames])
    return score.encode_audio(model, to_device(audio, model.device), lengths)


def _groups(frames: np.ndarray, lengths: np.ndarray, at_once: int) -> list[list[int]]:
    """Group clips (C,) of similar length: at most `at_once` in a group, and FRAMES_AT_ONCE frames or a single clip.

    Short clips come first; within a group, those with the most outputs, `lengths` (C,).
    """
    groups: list[list[int]] = [[]]
    for clip in np.argsort(frames, kind="stable").tolist():
        size = len(groups[-1])
        if size == at_once or (size and (size + 1) * frames[clip] > FRAMES_AT_ONCE):
            groups.append([])
        groups[-1].append(clip)
    return [sorted(group, key=lambda clip: -lengths[clip]) for group in groups]


class PairBatches:
    """The batches of the validation objective: a split's pairs, in a fixed shuffled order and with fixed draws.

    Frames are pooled over each clip's own length. Words are averaged over the length of the batch's longest caption, as
    published, unless mask_words: S_padded = n_words / W_max * S_masked, exactly. Batches without any negative are left
    out.
    """

    def __init__(self, scores: SplitScores, batch_size: int, mask_words: bool):
        self.scores, self.mask_words = scores, mask_words
        order, clips = np.random.default_rng(0).permutation(len(scores.split.captions)), scores.split.caption_clips
        batches = np.split(order, range(batch_size, len(order), batch_size))
        self.captions = [batch for batch in batches if (clips[batch] != clips[batch[0]]).any()]  # (N,) each
        generator = torch.Generator().manual_seed(0)
        self.draws = [torch.rand(2, len(batch), len(batch), generator=generator) for batch in self.captions]

    @torch.no_grad()
    def losses(self, criterion: nn.Module) -> Tensor:
        """The criterion's loss of each of B batches: (B,), on the device; of none, 0."""
        device, losses = self.scores.words.device, []
        for captions, draws in zip(self.captions, self.draws, strict=True):
            negatives = negative_mask(torch.from_numpy(self.scores.split.caption_clips[captions]))
            terms = criterion(self.batch_scores(captions), to_device(negatives, device), to_device(draws, device))
            losses.append(terms.loss)
        return torch.stack(losses) if losses else self.scores.words.new_zeros(1)

    def batch_scores(self, captions: np.ndarray) -> BatchScores:
        """The scores of a batch of captions (N,) and their clips, (N, N) each."""
        split, device = self.scores.split, self.scores.words.device
        clips = split.caption_clips[captions]  # (N,)
        lens = torch.tensor([len(split.captions[caption]) for caption in captions])
        shares = to_device(lens / lens.max(), device)  # (N,)
        cross = self.scores.cross.with_clips(captions, np.tile(clips, (len(clips), 1))).T  # (N clips, N captions)

        def text_text() -> Tensor:
            within = self.scores.score.of_captions(self.scores.words, self.scores.weights[captions])
            return within if self.mask_words else within * shares.unsqueeze(1) * shares.unsqueeze(0)

        def audio_audio() -> Tensor:
            places = to_device(torch.from_numpy(clips), device)
            return self.clips_with_clips[places.unsqueeze(1), places.unsqueeze(0)]

        return BatchScores(cross if self.mask_words else cross * shares, text_text, audio_audio)

    @cached_property
    def clips_with_clips(self) -> Tensor:
        """(C, C): the scores of clips that share a batch, each pair of clips scored once; NaN elsewhere."""
        encoded, count = self.scores.clips, len(self.scores.split.fids)
        share_batch = np.zeros((count, count), dtype=bool)
        for captions in self.captions:
            clips = self.scores.split.caption_clips[captions]  # (N,)
            share_batch[np.ix_(clips, clips)] = True
        pairs = np.argwhere(np.triu(share_batch))  # (P, 2)
        within = encoded.rows.new_full((count, count), torch.nan)
        i, j = to_device(torch.from_numpy(pairs), within.device).unbind(dim=1)
        within[i, j] = within[j, i] = self.scores.score.of_clips(encoded, pairs)
        return within


def evaluate(state: TrainState, split: Split, metrics: dict[str, nn.Module], batch_size: int) -> dict[str, float]:
    """Compute the validation objective, the other losses by name, mAP in both directions and the scores' spread.

    All ranks encode the clips together, with the running statistics of rank zero, which does the rest.

    Raises Diverged, on rank zero, where the scores are not finite.
    """
    model = state.evaluated.eval()
    broadcast_buffers(model)
    compare = any(map(compares_clips, [state.criterion, *metrics.values()]))
    scores = score_split(model, split, state.score, keep_encoded=compare)
    return on_rank_zero(lambda: _results(state, scores, metrics, batch_size))


def _results(
    state: TrainState, scores: SplitScores, metrics: dict[str, nn.Module], batch_size: int
) -> dict[str, float]:
    batches = PairBatches(scores, batch_size, state.score.mask_words)
    losses = {name: batches.losses(criterion) for name, criterion in ({"obj": state.criterion} | metrics).items()}
    pairs = relevant_pairs(scores.split.caption_clips)
    counts = rank_counts(scores.cross, pairs)  # (5, M)
    summary = torch.stack([torch.isfinite(scores.cross.by_word).all().double(), spread(scores.cross)])
    (finite, deviation), counts, *losses_read = _read([summary, counts.flatten(), *losses.values()])
    if not finite:
        raise Diverged("the validation scores are not finite", [])
    values = per_query_by_counts(counts.reshape(5, -1), pairs, len(scores.split.fids), len(pairs))
    text_to_audio, audio_to_text = (averages(values[side])["mAP"] for side in ("text_to_audio", "audio_to_text"))
    return {
        **{f"val_{name}": statistics.fmean(values) for name, values in zip(losses, losses_read, strict=True)},
        "val_map_text_to_audio": text_to_audio,
        "val_map_audio_to_text": audio_to_text,
        "val_map": (text_to_audio + audio_to_text) / 2,
        "score_std": float(deviation),
    }


def _read(parts: list[Tensor]) -> list[np.ndarray]:
    """Copy vectors from the device as float64 arrays, in one copy: the host waits once."""
    values = torch.cat([part.double() for part in parts]).cpu().numpy()
    return np.split(values, np.cumsum([len(part) for part in parts])[:-1])
