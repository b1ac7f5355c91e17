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


def load_rankings(trial: Path, conf: Conf, split: str, epoch: int) -> dict[str, Ranking]:
    """A split's stored scores of the checkpoint of this epoch, by direction."""
    stored = load_scores(scores_path(trial, split), epoch)
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
