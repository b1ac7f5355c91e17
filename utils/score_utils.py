"""The score of a clip and a caption: S = weighted mean over words w of pool over frames f of max(0, a_f . e_w).

As published the pool is the mean over frames, and all words weigh the same; `Score` has the other choices.
`score_matrix` is the definition; `utils.step_score_utils` computes the same from what the encoder gives before
upsampling. Lengths decide whether padding takes part, as published, or each item's own frames and words alone.

Shapes: N, M items; T frames; W words; E embedding dimension; V vocabulary; C clips.
Source: Xie, Räsänen, Virtanen, "On Negative Sampling for Contrastive Audio-Text Retrieval", ICASSP 2023.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

AT_ONCE = 2**27  # similarities, frame by word or frame by frame: ten minutes by the words of Clotho; 0.5 GB

# --- over frames -----------------------------------------------------------------------------------------

# (similarities (N, T, K), norms (N, T) that they are still to be divided by, or None, lens (N,) or None) -> (N, K)
Pool = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def mean_over_frames(similarities: Tensor, norms: Tensor | None = None, lens: Tensor | None = None) -> Tensor:
    """The mean over all T frames, or over each clip's own `lens`, as published."""
    n, t, _ = similarities.shape
    weights = mean_weights(lens, n, t, similarities)  # (N, T)
    weights = weights if norms is None else weights / norms
    return torch.bmm(weights.unsqueeze(1), similarities).squeeze(1)


def best_frame(similarities: Tensor, norms: Tensor | None = None, lens: Tensor | None = None) -> Tensor:
    """The highest of the frames; those that tie share the gradient evenly."""
    return _own_alone(_normalised(similarities, norms), lens).amax(dim=1)


def softmax_over_frames(
    similarities: Tensor, norms: Tensor | None = None, lens: Tensor | None = None, sharpness: float | Tensor = 10.0
) -> Tensor:
    """The mean weighted by softmax(sharpness * similarity): between the mean (0) and the best frame (infinity)."""
    similarities = _normalised(similarities, norms)
    shares = torch.softmax(_own_alone(sharpness * similarities, lens), dim=1)
    return (shares * similarities).sum(dim=1)


def _normalised(similarities: Tensor, norms: Tensor | None) -> Tensor:
    return similarities if norms is None else similarities / norms.unsqueeze(2)


def _own_alone(values: Tensor, lens: Tensor | None) -> Tensor:
    """(N, T, K), -inf beyond each clip's own frames."""
    if lens is None:
        return values
    return values.masked_fill(~_inside(lens, values.shape[1], values).unsqueeze(2), -torch.inf)


def _inside(lens: Tensor, size: int, like: Tensor) -> Tensor:
    """(items, size) bool: which places are within each item's first `lens`, on the device of `like`."""
    return torch.arange(size, device=like.device) < lens.to(like.device).unsqueeze(1)


POOLINGS: dict[str, Callable[..., Tensor]] = {
    "mean": mean_over_frames,
    "max": best_frame,
    "softmax": softmax_over_frames,
}

WEIGHINGS = ("mean", "idf")  # of words

# --- over words ------------------------------------------------------------------------------------------


def word_weights(lens: Tensor | None, items: int, size: int, like: Tensor, importance: Tensor | None = None) -> Tensor:
    """What each word counts in a caption's score: (M, W) weights of M items padded to size W words.

    Args:
        lens: (M,) true lengths, to average over those alone; None averages over all W places, padding included.
        like: a tensor of the wanted type and device.
        importance: (M, W) what the words weigh beside each other, 0 at the padding, whose places then weigh as much as
            an average word; None weighs all the same.
    """
    if importance is None:
        return mean_weights(lens, items, size, like)
    weights = importance / importance.sum(dim=1, keepdim=True).clamp(min=1e-12)
    if lens is None:
        weights = weights * ((importance > 0).sum(dim=1, keepdim=True) / size)
    return weights.to(like.dtype)


def mean_weights(lens: Tensor | None, items: int, size: int, like: Tensor) -> Tensor:
    """(items, size) weights whose weighted sum is the mean over all places, or over each item's first `lens`."""
    if lens is None:
        return like.new_full((items, size), 1.0 / max(size, 1))
    return _inside(lens, size, like).to(like.dtype) / lens.to(like.device).clamp(min=1).unsqueeze(1)


def inverse_document_frequency(captions: Iterable[Tensor], vocabulary: int) -> Tensor:
    """How telling each word is: log((1 + M) / (1 + M_w)) + 1, of M captions M_w of which have the word; 0 for id 0.

    Args:
        captions: M tensors of word ids.
        vocabulary: V, ids with the padding's.

    Returns:
        (V,) float32. Source: Spärck Jones 1972, smoothed as in scikit-learn's TfidfTransformer.
    """
    distinct = [torch.unique(ids) for ids in captions]
    counts = torch.bincount(torch.cat([*distinct, torch.empty(0, dtype=torch.int64)]), minlength=vocabulary)  # (V,)
    idf = torch.log((1 + len(distinct)) / (1 + counts.double())) + 1
    idf[0] = 0
    return idf.float()


# --- the score -------------------------------------------------------------------------------------------


class Score(nn.Module):
    """What S is under a configuration: its pool over frames, what its words weigh, and whether padding takes part.

    Args:
        frames: a name in POOLINGS.
        sharpness: of the pool "softmax"; at the start, if it is learnt, by its logarithm.
        learn_sharpness: see above.
        words: mean | idf (`inverse_document_frequency` among the training split's captions).
        mask_words, mask_frames: average over each caption's own words, and pool over each clip's own frames; else over
            the batch's padded length.
        vocabulary: V, for idf.

    Raises:
        ValueError: no such pool, or no such weighing.
    """

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
        self._idf_values: np.ndarray | None = None
        self.register_load_state_dict_post_hook(lambda *_: self.__setattr__("_idf_values", None))

    def count_words(self, captions: Iterable[Tensor]) -> None:
        """Weigh words by how few of the training split's captions have them, where the words are weighed."""
        if self.idf is not None:
            self.idf, self._idf_values = inverse_document_frequency(captions, len(self.idf)).to(self.idf.device), None

    @property
    def idf_values(self) -> np.ndarray | None:
        """(V,) idf on the host, which waits for a GPU the first time; None where words weigh the same."""
        if self.idf is not None and self._idf_values is None:
            self._idf_values = self.idf.cpu().numpy()
        return self._idf_values

    def pool(self, similarities: Tensor, norms: Tensor | None = None, lens: Tensor | None = None) -> Tensor:
        """(N, T, K) -> (N, K), as the functions of POOLINGS."""
        if self.frames == "softmax":
            return softmax_over_frames(similarities, norms, lens, self.log_sharpness.exp())
        return POOLINGS[self.frames](similarities, norms, lens)

    def importance(self, ids: Tensor) -> Tensor | None:
        """What words (of any shape) weigh beside each other; None: all the same."""
        return None if self.idf is None else self.idf[ids]

    @torch.no_grad()
    def frame_shares(self, similarities: Tensor) -> Tensor:
        """How much each frame counts in each word's score: (T, W) -> (T, W); S_w = sum over frames of share * value."""
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


def score_matrix(
    audio_embeds: Tensor,
    text_embeds: Tensor,
    audio_lens: Tensor | None = None,
    text_lens: Tensor | None = None,
    pool: Pool = mean_over_frames,
    importance: Tensor | None = None,
) -> Tensor:
    """Scores of every clip with every caption, from one matrix product.

    Args:
        audio_embeds: (N, T, E) frame embeddings.
        text_embeds: (M, W, E) word embeddings.
        audio_lens: (N,) true frame counts, to pool over those alone; None pools over all T, padding included, as
            published.
        text_lens: (M,) true word counts, likewise.
        pool: over frames.
        importance: (M, W) of the words, as in `word_weights`.

    Returns:
        (N, M) scores. Either side may as well hold the other modality: S(t, t) and S(a, a) are the same function.
    """
    n, t, _ = audio_embeds.shape
    m, w, _ = text_embeds.shape
    similarities = audio_embeds.flatten(0, 1) @ text_embeds.flatten(0, 1).T  # (N*T, M*W)
    # clamp, not relu: the published code's gradient at exactly 0
    similarities = similarities.clamp(min=0).view(n, t, m * w)  # (N, T, M*W)
    by_word = pool(similarities, None, audio_lens).view(n, m, w)  # (N, M, W)
    return (by_word * word_weights(text_lens, m, w, similarities, importance)).sum(dim=-1)


def alignment_map(audio_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """What a score sums up: frames (T, E) and words (W, E) -> (T, W), max(0, a_f . e_w)."""
    return (audio_embeds @ text_embeds.T).clamp(min=0)


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


def symmetric(scores: Tensor) -> Tensor:
    """(N, N), with what is above the diagonal below it as well."""
    return torch.triu(scores) + torch.triu(scores, diagonal=1).T


class BatchScores(NamedTuple):
    """Scores within a batch of N pairs; those within a modality are computed only for a strategy that asks."""

    audio_text: Tensor  # (N, N): S(a_i, t_j)
    text_text: Callable[[], Tensor]  # () -> (N, N): S(t_i, t_j), as published, without gradient
    audio_audio: Callable[[], Tensor]  # () -> (N, N): S(a_i, a_j), as published, without gradient


def caption_word_weights(
    captions: list[np.ndarray], vocabulary: int | None = None, importance: np.ndarray | None = None
) -> tuple[np.ndarray, csr_array]:
    """The captions' distinct words, and their share in each caption: S is one sparse product with the words' scores.

    Args:
        captions: M arrays of word ids.
        vocabulary: how many ids there are, to have a column for each; else for those that occur.
        importance: what each id weighs beside others; None: all the same.

    Returns:
        words: (V,) the columns' ids, sorted.
        weights: (M, V) sparse float32: how often caption m has word v, over its length, or by importance. With the word
            scores s (V, C) of clips, S = (weights @ s).T is the (C, M) matrix of masked scores.
    """
    lens = np.array([len(ids) for ids in captions], dtype=np.int64)
    ids = np.concatenate([*captions, np.empty(0, np.int64)])
    words, columns = np.unique(ids, return_inverse=True)
    if vocabulary is not None:
        words, columns = np.arange(vocabulary), words[columns]
    rows = np.repeat(np.arange(len(captions)), lens)
    if importance is None:
        shares = np.repeat(1.0 / np.maximum(lens, 1), lens).astype(np.float32)
    else:
        own = importance[ids.astype(np.int64)].astype(np.float64)
        shares = (own / np.bincount(rows, weights=own, minlength=len(captions))[rows]).astype(np.float32)
    return words.astype(np.int64), csr_array((shares, (rows, columns)), shape=(len(captions), len(words)))
