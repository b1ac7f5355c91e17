"""A split's rankings in both directions, by the scores that a trial stored.

Shapes: C clips, M captions; Q queries and I items of a direction; L relevant pairs.
"""

from typing import NamedTuple

import numpy as np

from utils.conf.schema import Conf
from utils.metric_utils import per_query_by_chance, relevant_pairs
from utils.retrieval_utils import CaptionScores, hardest_negatives, per_query_both_directions
from utils.trial.relevance import extra_relevant_pairs
from utils.trial.score_files import StoredScores, load_scores, word_scores_path
from utils.trial.trial import Trial


class Queries(NamedTuple):
    """A split's queries and their metrics, by direction: Q = M captions, or C clips."""

    values: dict[str, dict[str, np.ndarray]]  # (Q,) each: utils.metric_utils.per_query_metrics
    query_clips: dict[str, np.ndarray]  # (Q,) the clip, in [0, C), that each query is or describes
    fids: list[str]  # C
    tids: list[str]  # M
    pairs: np.ndarray  # (L, 2) of utils.metric_utils.relevant_pairs

    def same_items(self, other: "Queries") -> bool:
        """Whether both have the same clips and captions, in the same order."""
        clips = [queries.query_clips["text_to_audio"].tolist() for queries in (self, other)]
        return (self.fids, self.tids, clips[0]) == (other.fids, other.tids, clips[1])

    def by_chance(self) -> "Queries":
        """The same queries under random rankings: expected values."""
        return self._replace(values=per_query_by_chance(self.pairs, len(self.fids), len(self.tids)))


def split_queries(conf: Conf, split: str, stored: StoredScores) -> Queries:
    """A split's queries by its stored scores, with the extra relevant pairs of a configuration."""
    clips = stored.caption_clips
    pairs = relevant_pairs(clips, extra_relevant_pairs(conf, split, stored))
    query_clips = {"text_to_audio": clips, "audio_to_text": np.arange(len(stored.fids))}
    return Queries(per_query_both_directions(stored.scores, pairs), query_clips, stored.fids, stored.tids, pairs)


class Ranking(NamedTuple):
    """A split's rankings in one direction."""

    queries: Queries
    by_text: bool  # whether the queries are captions, and the items clips
    values: dict[str, np.ndarray]  # (Q,) each: utils.metric_utils.per_query_metrics
    query_clips: np.ndarray  # (Q,) the clip that each query is or describes
    item_clips: np.ndarray  # (I,) the clip that each item is or describes
    pairs: np.ndarray  # (L, 2): a query and an item that is relevant to it
    scores: CaptionScores
    positive: np.ndarray  # (Q,) each query's best score with a relevant item
    negative: np.ndarray  # (Q,) its best score with an irrelevant one, the hardest negative; 0 if there is none

    @property
    def relevant(self) -> np.ndarray:
        """(Q,) each query's number of relevant items."""
        return np.bincount(self.pairs[:, 0], minlength=len(self.query_clips))

    def of_query(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """A query's scores (I,), and which items are relevant to it (I,) bool."""
        one, every = slice(query, query + 1), slice(None)
        scores = self.scores.tile(one, every) if self.by_text else self.scores.tile(every, one)
        relevant = np.isin(np.arange(len(self.item_clips)), self.pairs[self.pairs[:, 0] == query, 1])
        return scores.numpy().ravel(), relevant


def load_rankings(trial: Trial, split: str, epoch: int, score: str | None = None) -> dict[str, Ranking]:
    """A split's rankings by direction, from the stored scores, with `epoch` and `score` as in `load_scores`."""
    stored = load_scores(word_scores_path(trial.path, split), epoch, score)
    queries = split_queries(trial.conf, split, stored)
    captions, clips = queries.pairs[:, 1], queries.pairs[:, 0]
    scores = stored.scores.with_clips(captions, clips[:, None])[:, 0].numpy()  # (L,)
    query_clips, rankings = queries.query_clips, {}
    sides = ("text_to_audio", "audio_to_text"), ("audio_to_text", "text_to_audio")
    for (side, other), negative in zip(sides, hardest_negatives(stored.scores, queries.pairs), strict=True):
        by_text = side == "text_to_audio"
        pairs = queries.pairs[:, ::-1] if by_text else queries.pairs
        positive = np.zeros_like(negative)
        np.maximum.at(positive, pairs[:, 0], scores)
        values = queries.values[side]
        rankings[side] = Ranking(
            queries, by_text, values, query_clips[side], query_clips[other], pairs, stored.scores, positive, negative
        )
    return rankings
