"""A split's rankings in both directions, from the scores that a trial has stored."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.metric_utils import per_query_both_directions
from utils.trial.checkpoint import Trained
from utils.trial.score_files import load_scores, scores_path


class Ranking(NamedTuple):
    """A split's scores in one direction: Q queries, I items."""

    direction: str
    scores: np.ndarray  # (Q, I)
    query_clips: np.ndarray  # (Q,) the clip, in [0, C), that each query is, or describes
    item_clips: np.ndarray  # (I,)
    values: dict[str, np.ndarray]  # (Q,) each: utils.metric_utils.per_query_metrics
    fids: list[str]  # C
    tids: list[str]  # M captions: the queries of text-to-audio, the items of audio-to-text

    @property
    def relevance(self) -> np.ndarray:
        """(Q, I) bool."""
        return self.query_clips[:, None] == self.item_clips[None, :]


def load_rankings(trial: Path, split: str, best: Trained) -> dict[str, Ranking]:
    """A split's stored scores, those of the trial's best checkpoint, by direction."""
    stored = load_scores(scores_path(trial, split), best.epoch, str(best.score))
    captions, clips = stored.caption_clips, np.arange(len(stored.fids))
    values = per_query_both_directions(stored.scores, captions)
    names = (stored.fids, stored.tids)
    sides = {"text_to_audio": (stored.scores.T, captions, clips), "audio_to_text": (stored.scores, clips, captions)}
    return {direction: Ranking(direction, *side, values[direction], *names) for direction, side in sides.items()}
