"""A split's rankings in both directions, from the scores that a trial has stored."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.conf.schema import Conf
from utils.metric_utils import per_query_both_directions, right_pairs
from utils.trial.relevance import further_pairs
from utils.trial.score_files import load_scores, scores_path


class Ranking(NamedTuple):
    """A split's scores in one direction: Q queries, I items."""

    direction: str
    scores: np.ndarray  # (Q, I)
    query_clips: np.ndarray  # (Q,) the clip, in [0, C), that each query is, or describes
    item_clips: np.ndarray  # (I,)
    relevance: np.ndarray  # (Q, I) bool
    values: dict[str, np.ndarray]  # (Q,) each: utils.metric_utils.per_query_metrics
    fids: list[str]  # C
    tids: list[str]  # M captions: the queries of text-to-audio, the items of audio-to-text


def load_rankings(trial: Path, conf: Conf, split: str, epoch: int, score: str | None = None) -> dict[str, Ranking]:
    """A split's stored scores, those of the checkpoint of this epoch, by direction; `score` as in `load_scores`."""
    stored = load_scores(scores_path(trial, split), epoch, score)
    captions, clips = stored.caption_clips, np.arange(len(stored.fids))
    further = further_pairs(conf, split, stored)
    relevance = right_pairs(captions, len(clips), further)
    values = per_query_both_directions(stored.scores, captions, further)
    names = (stored.fids, stored.tids)
    sides = {
        "text_to_audio": (stored.scores.T, captions, clips, relevance.T),
        "audio_to_text": (stored.scores, clips, captions, relevance),
    }
    return {direction: Ranking(direction, *side, values[direction], *names) for direction, side in sides.items()}


class Queries(NamedTuple):
    """What each query of a split is worth by a trial's scores, by direction: Q = M captions, or C clips."""

    values: dict[str, dict[str, np.ndarray]]  # (Q,) each: utils.metric_utils.per_query_metrics
    query_clips: dict[str, np.ndarray]  # (Q,) as in Ranking
    fids: list[str]  # C
    tids: list[str]  # M
    relevance: np.ndarray  # (C, M) bool

    def are_those_of(self, other: "Queries") -> bool:
        """Whether both are of the same clips and captions, in one order."""
        clips = [queries.query_clips["text_to_audio"].tolist() for queries in (self, other)]
        return (self.fids, self.tids, clips[0]) == (other.fids, other.tids, clips[1])

    def by_chance(self) -> "Queries":
        """What random rankings give the same queries: expected values, which are those of scores that are all equal."""
        nothing = np.zeros((len(self.fids), len(self.tids)), np.float32)
        further = np.argwhere(self.relevance)
        values = per_query_both_directions(nothing, self.query_clips["text_to_audio"], further)
        return self._replace(values=values)


def load_queries(trial: Path, conf: Conf, split: str, epoch: int) -> Queries:
    """The queries of `load_rankings`, without the scores."""
    rankings = load_rankings(trial, conf, split, epoch)
    one = rankings["text_to_audio"]
    return Queries(
        {side: ranking.values for side, ranking in rankings.items()},
        {side: ranking.query_clips for side, ranking in rankings.items()},
        one.fids,
        one.tids,
        rankings["audio_to_text"].relevance,
    )
