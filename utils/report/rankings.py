"""A split's rankings in both directions, from the scores that a trial has stored.

Shapes: C clips, M captions; Q queries, I items of a direction; L right pairs.
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
    """What each query of a split is worth by a trial's scores, by direction: Q = M captions, or C clips."""

    values: dict[str, dict[str, np.ndarray]]  # (Q,) each: utils.metric_utils.per_query_metrics
    query_clips: dict[str, np.ndarray]  # (Q,) the clip, in [0, C), that each query is, or describes
    fids: list[str]  # C
    tids: list[str]  # M
    pairs: np.ndarray  # (L, 2) of utils.metric_utils.relevant_pairs

    def are_those_of(self, other: "Queries") -> bool:
        """Whether both are of the same clips and captions, in one order."""
        clips = [queries.query_clips["text_to_audio"].tolist() for queries in (self, other)]
        return (self.fids, self.tids, clips[0]) == (other.fids, other.tids, clips[1])

    def by_chance(self) -> "Queries":
        """What random rankings give the same queries: expected values, which are those of scores that are all equal."""
        return self._replace(values=per_query_by_chance(self.pairs, len(self.fids), len(self.tids)))


def load_queries(trial: Trial, split: str, epoch: int) -> Queries:
    """A split's queries by the stored scores, those of the checkpoint of this epoch."""
    return _queries(trial.conf, split, load_scores(word_scores_path(trial.path, split), epoch))


def _queries(conf: Conf, split: str, stored: StoredScores) -> Queries:
    clips = stored.caption_clips
    pairs = relevant_pairs(clips, extra_relevant_pairs(conf, split, stored))
    query_clips = {"text_to_audio": clips, "audio_to_text": np.arange(len(stored.fids))}
    return Queries(per_query_both_directions(stored.scores, pairs), query_clips, stored.fids, stored.tids, pairs)


class Ranking(NamedTuple):
    """A split's rankings in one direction."""

    direction: str
    scores: CaptionScores
    pairs: np.ndarray  # (L, 2) as in Queries
    query_clips: np.ndarray  # (Q,) the clip, in [0, C), that each query is, or describes
    item_clips: np.ndarray  # (I,)
    positive: np.ndarray  # (Q,) each query's best right score,
    negative: np.ndarray  # (Q,) and its best wrong one, the hardest negative's; 0 where there is none
    values: dict[str, np.ndarray]  # (Q,) each: utils.metric_utils.per_query_metrics
    fids: list[str]  # C
    tids: list[str]  # M captions: the queries of text-to-audio, the items of audio-to-text

    @property
    def by_text(self) -> bool:
        """Whether the queries are captions, and the items clips."""
        return self.direction == "text_to_audio"

    @property
    def relevant(self) -> np.ndarray:
        """(Q,) how many right items each query has."""
        return np.bincount(self.pairs[:, int(self.by_text)], minlength=len(self.query_clips))

    def of_query(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """The scores (I,) of a query, and which items are right for it (I,) bool."""
        one, every = slice(query, query + 1), slice(None)
        scores = self.scores.tile(one, every) if self.by_text else self.scores.tile(every, one)
        side, other = (1, 0) if self.by_text else (0, 1)
        right = np.zeros(len(self.item_clips), dtype=bool)
        right[self.pairs[self.pairs[:, side] == query, other]] = True
        return scores.numpy().ravel(), right


def load_rankings(trial: Trial, split: str, epoch: int, score: str | None = None) -> dict[str, Ranking]:
    """A split's rankings by direction; by the stored scores, with `epoch` and `score` as in `load_scores`."""
    stored = load_scores(word_scores_path(trial.path, split), epoch, score)
    queries = _queries(trial.conf, split, stored)
    own = stored.scores.with_clips(queries.pairs[:, 1], queries.pairs[:, :1])[:, 0].numpy()  # (L,)
    captions, clips = queries.query_clips.values()
    sides = {  # the clips of the queries and of the items, and which query each right pair is of
        "text_to_audio": (captions, clips, queries.pairs[:, 1]),
        "audio_to_text": (clips, captions, queries.pairs[:, 0]),
    }
    negatives, rankings = hardest_negatives(stored.scores, queries.pairs), {}
    for (side, (query_clips, item_clips, query)), negative in zip(sides.items(), negatives, strict=True):
        positive = np.zeros_like(negative)
        np.maximum.at(positive, query, own)
        ranked = (query_clips, item_clips, positive, negative, queries.values[side])
        rankings[side] = Ranking(side, stored.scores, queries.pairs, *ranked, stored.fids, stored.tids)
    return rankings
