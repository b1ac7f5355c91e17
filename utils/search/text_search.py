"""Search by text among sounds whose scores with words are stored. Shapes: C sounds, V words."""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator
from functools import cached_property

import numpy as np

from utils.common.errors import UserError
from utils.dataset.captions import has_words
from utils.search.scorer import Scorer, TrialScorer
from utils.trial.score_files import WordScores


class TextSearch(ABC):
    """Search by text with a trained model.

    Args:
        scorer: the model.
        listing, advice: where its known words are listed and how to add others, in an error.
    """

    def __init__(self, scorer: Scorer, listing: str, advice: str):
        if scorer.conf.CRNNWordModel.text_enc.trainable:  # the vectors of other words would not fit them
            advice = "it trained its word vectors (text_enc.trainable), so no others can be added"
        self.word_advice = f"{listing} {advice}"
        self.scorer, self.conf, self.of_sentences = scorer, scorer.conf, scorer.of_sentences
        self.model, self.score, self.words, self.epoch = scorer.model, scorer.score, scorer.words, scorer.epoch

    @property
    @abstractmethod
    def stored(self) -> WordScores:
        """The scores (V, C) of words with the sounds; raises UserError where they cannot be read."""

    @cached_property
    def word_weights(self) -> dict[str, float] | None:
        """The weight of each word that has a score; None: all the same."""
        idf = self.score.idf_values
        return None if idf is None else dict(zip(self.words, idf.tolist(), strict=True))

    @property
    def known_words(self) -> Container[str]:
        """The words that have a score."""
        return self._rows

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Each word's row of the word scores."""
        return {word: row for row, word in enumerate(self.stored.words)}

    def unknown_words(self, query: str) -> list[str]:
        """The distinct words of a query that have no vector; none, where it is a sentence."""
        if self.of_sentences:
            return []
        return [word for word in dict.fromkeys(self.scorer.tokens(query)) if word not in self.known_words]

    def known_tokens(self, query: str) -> list[str]:
        """The words of a query that have a vector, or the sentence."""
        tokens = self.scorer.tokens(query)
        return tokens if self.of_sentences else [word for word in tokens if word in self.known_words]

    def require_known(self, query: str) -> list[str]:
        """`known_tokens`; raises UserError where there are none."""
        if not has_words(" ".join(self.scorer.tokens(query))):
            raise UserError(f"the query {query!r} holds no words; describe a sound in words")
        if not (known := self.known_tokens(query)):
            unknown = ", ".join(self.unknown_words(query))
            raise UserError(f"no word of the query is known ({unknown}); {self.word_advice}")
        return known

    def text_scores(self, known: list[str]) -> np.ndarray:
        """(C,) float32: the mean of each sound's scores with known words, weighted as in a caption."""
        rows, counts = np.unique([self._rows[word] for word in known], return_counts=True)
        shares = counts / len(known)
        if self.word_weights is not None:
            shares = counts * np.array([self.word_weights[self.stored.words[row]] for row in rows])
            shares = shares / shares.sum()
        scores = np.zeros(len(self.stored.fids), np.float32)
        for row, share in zip(rows, shares, strict=True):  # not a product: it may round equal columns differently
            scores += self.stored.scores[row] * np.float32(share)
        return scores

    def ranked(self, scores: np.ndarray, top: int) -> Iterator[tuple[int, int]]:
        """Ranks and indices of the `top` highest scores."""
        if top < 1:
            raise UserError(f"top: is {top}, but must be at least 1")
        self.require_finite(scores)
        return enumerate(best(scores, top), start=1)

    def require_finite(self, scores: np.ndarray) -> None:
        """Raise UserError where a score is NaN."""
        if not np.isfinite(scores).all():
            advice = "look at the trial's train.log" if isinstance(self.scorer, TrialScorer) else "get another"
            raise UserError(f"{self.scorer.name}: scores are NaN: the model is broken; {advice}")


def best(scores: np.ndarray, top: int) -> np.ndarray:
    """The indices of the `top` highest scores (N,), or of all, highest first, ties by index."""
    if top < len(scores):
        least = np.partition(scores, -top)[-top]
        above, tied = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
        chosen = np.concatenate([above, tied[: top - len(above)]])
    else:
        chosen = np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")]
