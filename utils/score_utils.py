"""The score of a clip and a caption: S(a, t) = weighted mean over words w of pool over frames f of max(0, a_f . e_w).

As published, the pool is the mean over frames, and all words weigh the same. `score_matrix` is the definition. `Score`
is what training calls, with the configured pool, word weights and masks; it takes the encoder's outputs before
upsampling, by `fast_score_utils`. Lengths decide whether padding takes part, as published, or only an item's own frames
and words. `ClipScore` is S at the clip level: the cosine of the clip's and the caption's vectors.

Shapes: N, M items; T frames; W words; L encoder outputs; E embedding dimension; V vocabulary; C clips.
Source: Xie, Räsänen, Virtanen, "On Negative Sampling for Contrastive Audio-Text Retrieval", ICASSP 2023.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn

from models.tensors import to_device, upsample
from utils.fast_score_utils import (
    AT_ONCE,
    EncodedClips,
    caption_scores,
    caption_sums,
    clip_pair_scores,
    clip_scores,
    frame_norms,
    frame_similarities,
    split_word_scores,
    symmetric,
)

# --- the definition --------------------------------------------------------------------------------------


def score_matrix(
    audio_embeds: Tensor, text_embeds: Tensor, audio_lens: Tensor | None = None, text_lens: Tensor | None = None
) -> Tensor:
    """Scores of every clip with every caption, as published.

    Args:
        audio_embeds: (N, T, E) frame embeddings.
        text_embeds: (M, W, E) word embeddings.
        audio_lens: (N,) true frame counts, to average over those alone; None averages over all T, padding included, as
            published.
        text_lens: (M,) true word counts, likewise.

    Returns:
        (N, M) scores. Either side may as well hold the other modality: S(t, t) and S(a, a) are the same function.
    """
    m, w, _ = text_embeds.shape
    by_word = word_scores(audio_embeds, text_embeds.flatten(0, 1), audio_lens)  # (N, M*W)
    return caption_means(by_word, mean_weights(text_lens, m, w, by_word))


def similarities(audio_embeds: Tensor, words: Tensor) -> Tensor:
    """Frames (..., T, E) and words (K, E) -> (..., T, K): max(0, a_f . e_w)."""
    # clamp, not relu: the published code's gradient at exactly 0
    return (audio_embeds @ words.T).clamp(min=0)


def word_scores(
    audio_embeds: Tensor, words: Tensor, audio_lens: Tensor | None = None, pool: "Pool | None" = None
) -> Tensor:
    """Clips (N, T, E) and words (K, E) -> (N, K), one of POOLINGS over frames; None: `mean_over_frames`."""
    return (pool or mean_over_frames)(similarities(audio_embeds, words), None, audio_lens)


def caption_means(by_word: Tensor, weights: Tensor) -> Tensor:
    """Word scores (N, M*W) and what each word counts in its caption (M, W) -> (N, M)."""
    return (by_word.view(len(by_word), *weights.shape) * weights).sum(dim=-1)


@torch.no_grad()
def self_score_matrix(embeds: Tensor, lens: Tensor | None = None) -> Tensor:
    """Scores of items of one modality with each other, as published, without gradient; each pair is computed once.

    Args:
        embeds: (N, T, E); lens: (N,) true lengths or None, as in `score_matrix`.

    Returns:
        (N, N), symmetric. One row of pairs at a time bounds the memory at T * N * T values; CUDA takes all in one
        product where they are few.
    """
    n = len(embeds)
    if embeds.is_cuda and (n * embeds.shape[1]) ** 2 <= AT_ONCE:
        return symmetric(score_matrix(embeds, embeds, lens, lens))
    scores = embeds.new_empty(n, n)
    for i in range(n):
        one_lens, rest_lens = (None, None) if lens is None else (lens[i : i + 1], lens[i:])
        row = score_matrix(embeds[i : i + 1], embeds[i:], one_lens, rest_lens)[0]
        scores[i, i:] = scores[i:, i] = row
    return scores


# --- over frames -----------------------------------------------------------------------------------------

# (similarities (N, T, K), norms (N, T) that they are still to be divided by, or None, lens (N,) or None) -> (N, K)
Pool = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def mean_over_frames(similarities: Tensor, norms: Tensor | None = None, lens: Tensor | None = None) -> Tensor:
    """The mean over all T frames, as published, or over each clip's own `lens`."""
    n, t, _ = similarities.shape
    weights = mean_weights(lens, n, t, similarities)  # (N, T)
    weights = weights if norms is None else weights / norms
    return torch.bmm(weights.unsqueeze(1), similarities).squeeze(1)


def best_frame(similarities: Tensor, norms: Tensor | None = None, lens: Tensor | None = None) -> Tensor:
    """The highest of the frames; those that tie share the gradient evenly."""
    return _masked(_normalised(similarities, norms), lens).amax(dim=1)


def softmax_over_frames(
    similarities: Tensor, norms: Tensor | None = None, lens: Tensor | None = None, sharpness: float | Tensor = 10.0
) -> Tensor:
    """The mean weighted by softmax(sharpness * similarity): between the mean (0) and the best frame (infinity)."""
    similarities = _normalised(similarities, norms)
    weights = torch.softmax(_masked(sharpness * similarities, lens), dim=1)
    return (weights * similarities).sum(dim=1)


POOLINGS: dict[str, Callable[..., Tensor]] = {
    "mean": mean_over_frames,
    "max": best_frame,
    "softmax": softmax_over_frames,
}


def _normalised(similarities: Tensor, norms: Tensor | None) -> Tensor:
    return similarities if norms is None else similarities / norms.unsqueeze(2)


def _masked(values: Tensor, lens: Tensor | None) -> Tensor:
    """(N, T, K), -inf beyond each clip's own frames."""
    if lens is None:
        return values
    return values.masked_fill(~_inside(lens, values.shape[1], values).unsqueeze(2), -torch.inf)


# --- over words ------------------------------------------------------------------------------------------

WEIGHINGS = ("mean", "idf")  # of words


def mean_weights(lens: Tensor | None, items: int, size: int, like: Tensor) -> Tensor:
    """Weights (items, size), like a tensor, whose weighted sum is the mean over all places, or each item's `lens`."""
    if lens is None:
        return like.new_full((items, size), 1.0 / max(size, 1))
    return _inside(lens, size, like).to(like.dtype) / lens.to(like.device).clamp(min=1).unsqueeze(1)


def _inside(lens: Tensor, size: int, like: Tensor) -> Tensor:
    """(items, size) bool: which places are within each item's first `lens`, on the device of `like`."""
    return torch.arange(size, device=like.device) < lens.to(like.device).unsqueeze(1)


def inverse_document_frequency(captions: Iterable[Tensor], vocabulary: int) -> Tensor:
    """How informative each word is, (V,) float32: log((1 + M) / (1 + M_w)) + 1, of M captions M_w of which have it.

    Id 0, the padding, has 0. Source: Spärck Jones 1972, smoothed as in scikit-learn's TfidfTransformer.
    """
    distinct = [torch.unique(ids) for ids in captions]
    counts = torch.bincount(torch.cat([*distinct, torch.empty(0, dtype=torch.int64)]), minlength=vocabulary)  # (V,)
    idf = torch.log((1 + len(distinct)) / (1 + counts.double())) + 1
    idf[0] = 0
    return idf.float()


def caption_word_weights(
    captions: list[np.ndarray], vocabulary: int | None = None, idf: np.ndarray | None = None
) -> tuple[np.ndarray, csr_array]:
    """What each distinct word counts in each caption.

    Args:
        captions: M arrays of word ids.
        vocabulary: how many ids there are, to have a column for each; None: a column for each id that occurs.
        idf: (V,) what each id weighs beside others; None: all the same.

    Returns:
        words: (V,) the columns' ids, sorted.
        weights: (M, V) sparse float32: how often caption m has word v, over its length, or by idf. With the word scores
            s (V, C) of clips, S = (weights @ s).T is the (C, M) matrix of masked scores.
    """
    lens = np.array([len(ids) for ids in captions], dtype=np.int64)
    ids = np.concatenate([*captions, np.empty(0, np.int64)])
    words, columns = np.unique(ids, return_inverse=True)
    if vocabulary is not None:
        words, columns = np.arange(vocabulary), words[columns]
    rows = np.repeat(np.arange(len(captions)), lens)
    own = np.ones(len(ids)) if idf is None else idf[ids.astype(np.int64)].astype(np.float64)
    weights = (own / np.bincount(rows, weights=own, minlength=len(captions))[rows]).astype(np.float32)
    return words.astype(np.int64), csr_array((weights, (rows, columns)), shape=(len(captions), len(words)))


# --- as configured ---------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """N caption-clip pairs, zero-padded to the longest; each rank has its own shard of the audio."""

    audio: Tensor  # (N, T, D) float32, log-mels or features; of several ranks (n, T, D), n its shard of N
    text: Tensor  # (N, W) int64 word ids
    clips: Tensor  # (N,) int64, on the CPU: which clip; equal where two captions describe one clip
    audio_lens: Tensor  # (N,) int64 true frames
    text_lens: Tensor  # (N,) int64 true words

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device, except `clips`, by which the host decides whether there is a step."""
        return Batch(*(values if values is self.clips else to_device(values, device) for values in self))


class BatchScores(NamedTuple):
    """Scores within a batch of N pairs; those within a modality are computed only for a strategy that asks."""

    audio_text: Tensor  # (N, N): S(a_i, t_j)
    text_text: Callable[[], Tensor]  # () -> (N, N): S(t_i, t_j), as published, without gradient
    audio_audio: Callable[[], Tensor]  # () -> (N, N): S(a_i, a_j), as published, without gradient


class Score(nn.Module):
    """S as configured: its pool over frames, what its words weigh, and whether padding takes part.

    Args:
        frames: a name in POOLINGS.
        sharpness: of the pool "softmax"; at the start, with `learn_sharpness`, which learns its logarithm.
        words: mean | idf (`inverse_document_frequency` among the training split's captions).
        mask_words, mask_frames: average over each caption's own words, and pool over each clip's own frames; else over
            the batch's padded length.
        vocabulary: V, for idf.

    Raises ValueError where there is no such pool or weighing.
    """

    signed = False  # whether scores may be negative

    def __init__(
        self,
        frames: str = "mean",
        sharpness: float = 10.0,
        learn_sharpness: bool = False,
        words: str = "mean",
        mask_words: bool = False,
        mask_frames: bool = False,
        vocabulary: int = 1,
    ):
        super().__init__()
        if frames not in POOLINGS or words not in WEIGHINGS:
            raise ValueError(f"frames {frames!r}, words {words!r}: of {', '.join(POOLINGS)}; of {', '.join(WEIGHINGS)}")
        self.frames, self.words, self.mask_words, self.mask_frames = frames, words, mask_words, mask_frames
        if frames == "softmax":
            log_sharpness = torch.tensor(math.log(sharpness))
            self.log_sharpness = nn.Parameter(log_sharpness, requires_grad=learn_sharpness)
        self.register_buffer("idf", (torch.arange(vocabulary) > 0).float() if words == "idf" else None)

    def encode_audio(self, model: nn.Module, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode clips (N, T, D) of true `lengths` (N,), or all of T frames, by a CRNNWordModel: (N, L, E)."""
        return model.encode_audio(audio, lengths)

    def training_lengths(self, batch: Batch) -> Tensor | None:
        """The lengths by which a training batch is encoded: padded, as published."""
        return None

    def encode_text(self, model: nn.Module, batch: Batch) -> Tensor:
        """Encode a training batch's captions: their words' unit vectors (N, W, E)."""
        return self.word_embeds(model.encode_text(batch.text))

    def outputs(self, lengths: np.ndarray) -> np.ndarray:
        """How many rows `encode_audio` gives of clips of so many encoder outputs (N,)."""
        return lengths

    def word_embeds(self, encoded: Tensor) -> Tensor:
        """Words (..., E) of `CRNNWordModel.encode_text` as the score takes them: of length 1."""
        return F.normalize(encoded, dim=-1)

    def forward(self, encoded: Tensor, words: Tensor, batch: Batch) -> BatchScores:
        """The scores of a batch of N pairs.

        Args:
            encoded: (N, L, E) of `encode_audio`.
            words: (N, W, E) of `encode_text`.
            batch: whose padded length T, word ids and true lengths decide what is averaged over.
        """
        frames = batch.audio.shape[1]
        audio_lens = batch.audio_lens if self.mask_frames else None
        text_lens = batch.text_lens if self.mask_words else None
        dots = frame_similarities(encoded, frames, words.flatten(0, 1))  # (N, T, N*W)
        by_word = self.pool(dots, frame_norms(encoded, frames), audio_lens)  # (N, N*W)
        return BatchScores(
            audio_text=caption_means(by_word, self.word_weights(batch.text, text_lens, by_word)),
            text_text=lambda: self_score_matrix(words, text_lens),
            audio_audio=lambda: self.audio_audio(encoded.detach(), batch),
        )

    def audio_audio(self, encoded: Tensor, batch: Batch, anchors: range | None = None) -> Tensor:
        """S(a_i, a_j) of a batch's clips, all of them encoded: (N, N); with `anchors` as in `clip_scores`."""
        return clip_scores(encoded, batch.audio.shape[1], batch.audio_lens if self.mask_frames else None, anchors)

    # --- of a whole split, every clip and caption at its own length

    def of_words(self, clips: EncodedClips, words: Tensor) -> Tensor:
        """The scores of words (V, E) with clips: (V, C)."""
        return split_word_scores(clips, words, self.pool)

    def caption_weights(self, captions: list[np.ndarray], words: Tensor, vocabulary: int | None = None) -> csr_array:
        """The weights (M, V) of `caption_word_weights`, by whose product with `of_words` S follows; words (V, E)."""
        return caption_word_weights(captions, vocabulary, self.idf_values)[1]

    def of_clips(self, clips: EncodedClips, pairs: np.ndarray) -> Tensor:
        """S(a_i, a_j) of pairs (P, 2) of clips: (P,)."""
        return clip_pair_scores(clips, pairs)

    def text_weights(self, captions: list[np.ndarray], weights: csr_array) -> csr_array:
        """The weights (M, V) for `of_captions`, beside those of `caption_weights`: as published, all words the same."""
        return weights if self.idf is None else caption_word_weights(captions)[1]

    def of_captions(self, words: Tensor, weights: csr_array) -> Tensor:
        """S(t_i, t_j) of captions (N, V) of words (V, E): (N, N)."""
        return caption_scores(words, weights)

    def pool(self, similarities: Tensor, norms: Tensor | None = None, lens: Tensor | None = None) -> Tensor:
        """(N, T, K) -> (N, K), as the functions of POOLINGS."""
        if self.frames == "softmax":
            return softmax_over_frames(similarities, norms, lens, self.log_sharpness.exp())
        return POOLINGS[self.frames](similarities, norms, lens)

    def word_weights(self, ids: Tensor, lens: Tensor | None, like: Tensor) -> Tensor:
        """What each word counts in its caption's score, for ids (M, W): (M, W), of the type and device of `like`.

        They add up to 1 over each caption's own words, with true `lens` (M,). Without, padding weighs as much as an
        average word of the caption, and adds nothing.
        """
        if self.idf is None:
            return mean_weights(lens, *ids.shape, like)
        idf = self.idf[ids]  # (M, W), 0 at the padding
        weights = idf / idf.sum(dim=1, keepdim=True).clamp(min=1e-12)
        if lens is None:
            weights = weights * ((idf > 0).sum(dim=1, keepdim=True) / ids.shape[1])
        return weights.to(like.dtype)

    def count_words(self, captions: Iterable[Tensor]) -> None:
        """Take idf from the training split's captions, where words weigh by it."""
        if self.idf is not None:
            self.idf = inverse_document_frequency(captions, len(self.idf)).to(self.idf.device)

    @property
    def idf_values(self) -> np.ndarray | None:
        """(V,) idf on the host, which waits for a GPU; None where words weigh the same."""
        return None if self.idf is None else self.idf.cpu().numpy()

    def alignment(self, encoded: Tensor, frames: int, words: Tensor, weights: Tensor) -> Tensor:
        """Similarities (frames, W) of a clip, from its outputs (L, E), with words (W, E); `weights` have no effect."""
        return similarities(F.normalize(upsample(encoded.unsqueeze(0), frames)[0], dim=-1), words)

    @torch.no_grad()
    def frame_weights(self, similarities: Tensor) -> Tensor:
        """What each frame counts in each word's score: (T, W) -> (T, W); S_w = sum over frames of weight * value."""
        if self.frames == "max":
            best = (similarities == similarities.amax(dim=0)).to(similarities.dtype)
            return best / best.sum(dim=0)
        sharpness = self.log_sharpness.exp() if self.frames == "softmax" else 0.0
        return torch.softmax(sharpness * similarities, dim=0)

    def __str__(self) -> str:
        """What decides the scores of whole clips and captions."""
        # by the host in double precision: the same text wherever the parameter is
        pool = f"softmax({math.exp(self.log_sharpness.item()):.6g})" if self.frames == "softmax" else self.frames
        return f"frames={pool}, words={self.words}"


class ClipScore(Score):
    """S at the clip level: S(a, t) = cos(mean over the encoder's outputs, weighted mean over words).

    Both means are taken before the projections, with which they commute. S is additive over words: a word's score with
    a clip is the dot product of its embedding with the clip's unit vector, and a caption's weights are divided by the
    length of its vector. It may be negative. Padding words are zero, so `mask_words` makes no difference.

    Args:
        words, mask_frames, vocabulary: as in `Score`.
    """

    signed = True

    def __init__(self, words: str = "mean", mask_frames: bool = False, vocabulary: int = 1):
        super().__init__(words=words, mask_words=True, mask_frames=mask_frames, vocabulary=vocabulary)

    def encode_audio(self, model: nn.Module, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Clips (N, T, D) -> (N, 1, E): the mean of the encoder's outputs, of `lengths` (N,) or of all T frames."""
        return model.encode_clips(audio, lengths)

    def training_lengths(self, batch: Batch) -> Tensor | None:
        return batch.audio_lens if self.mask_frames else None

    def encode_text(self, model: nn.Module, batch: Batch) -> Tensor:
        """A batch's captions: (N, 1, E), the weighted means of their words."""
        words = model.text_enc(batch.text)  # (N, W, D)
        weights = self.word_weights(batch.text, batch.text_lens, words)  # (N, W)
        return model.text_projection(torch.bmm(weights.unsqueeze(1), words))

    def outputs(self, lengths: np.ndarray) -> np.ndarray:
        return np.ones_like(lengths)  # a row a clip

    def word_embeds(self, encoded: Tensor) -> Tensor:
        return encoded  # their lengths count in the mean

    def forward(self, encoded: Tensor, words: Tensor, batch: Batch) -> BatchScores:
        """The scores of a batch of N pairs, from clips (N, 1, E) and captions (N, 1, E)."""
        audio, text = (F.normalize(vectors.squeeze(1), dim=-1) for vectors in (encoded, words))  # (N, E) each
        return BatchScores(
            audio_text=audio @ text.T,
            text_text=lambda: text.detach() @ text.detach().T,
            audio_audio=lambda: self.audio_audio(encoded.detach(), batch),
        )

    def audio_audio(self, encoded: Tensor, batch: Batch, anchors: range | None = None) -> Tensor:
        """The cosines of clips (N, 1, E) with each other; with `anchors` as in `clip_scores`."""
        audio = F.normalize(encoded.squeeze(1), dim=-1)
        scores = audio @ audio.T
        if anchors is not None:
            inside = torch.isin(torch.arange(len(scores)), torch.tensor(anchors))
            scores = scores * inside.to(scores.device).unsqueeze(1)
        return symmetric(scores)

    @torch.no_grad()
    def of_words(self, clips: EncodedClips, words: Tensor) -> Tensor:
        return words @ F.normalize(clips.rows, dim=-1).T

    def caption_weights(self, captions: list[np.ndarray], words: Tensor, vocabulary: int | None = None) -> csr_array:
        """Each caption's weights are divided by the length of its vector."""
        weights = super().caption_weights(captions, words, vocabulary)
        lengths = caption_sums(weights, words).norm(dim=-1).clamp(min=1e-12).cpu().numpy()  # (M,)
        weights.data /= np.repeat(lengths, np.diff(weights.indptr))
        return weights

    def text_weights(self, captions: list[np.ndarray], weights: csr_array) -> csr_array:
        return weights

    def of_clips(self, clips: EncodedClips, pairs: np.ndarray) -> Tensor:
        vectors = F.normalize(clips.outputs(range(len(clips.starts))).squeeze(1), dim=-1)  # (C, E)
        i, j = to_device(torch.from_numpy(pairs), vectors.device).unbind(dim=1)
        return (vectors @ vectors.T)[i, j]

    def of_captions(self, words: Tensor, weights: csr_array) -> Tensor:
        vectors = caption_sums(weights, words)
        return vectors @ vectors.T

    def alignment(self, encoded: Tensor, frames: int, words: Tensor, weights: Tensor) -> Tensor:
        """What each output and each word add to S, times their numbers: (L, W), whose weighted mean is S."""
        return (encoded @ words.T) / (encoded.mean(dim=0).norm() * (weights @ words).norm())

    @torch.no_grad()
    def frame_weights(self, similarities: Tensor) -> Tensor:
        return torch.full_like(similarities, 1 / len(similarities))

    def __str__(self) -> str:
        return f"level=clip, words={self.words}"


def configured_score(settings: dict[str, object], vocabulary: int) -> Score:
    """The score of a configuration's section `score`: at its level, with the settings that matter there."""
    settings = dict(settings)
    if settings.pop("level", "frame") == "frame":
        return Score(**settings, vocabulary=vocabulary)
    return ClipScore(settings["words"], settings["mask_frames"], vocabulary)
