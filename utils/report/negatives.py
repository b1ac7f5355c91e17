"""The report's section on negatives: what each strategy picks from batches of the training split.

The batches are those that training would draw next: pairs and random draws of the epoch after the best one and, if that
epoch is short, of the following ones. The best model scores the padded batch as in training, but in evaluation mode (no
dropout, running statistics of the batch norm). So the scores are that model's own, and the same in every report.

Shapes: N pairs of a batch.
"""

from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.common.io import progress
from utils.conf.schema import Conf
from utils.criterion_utils import LossTerms, TripletLoss, negative_mask
from utils.data_utils import Split, batch_order, collate
from utils.model_utils import seed_epoch
from utils.negative_utils import (
    SHARED_MEANING,
    CaptionLikeness,
    agreement,
    both_sides,
    gaps,
    pick_statistics,
    share_of_picks,
)
from utils.report.histograms import gap_histogram
from utils.report.page import Page, PlayableSplit
from utils.sampling_utils import STRATEGIES
from utils.score_utils import Batch
from utils.text_input import of_sentences
from utils.trial.checkpoint import Trained

BATCHES = 20  # drawn; those without any negative are skipped, as in training
ANCHORS = 4  # shown with their negatives, all from one batch, to copy few clips


class DrawnBatch(NamedTuple):
    """A batch that training would draw, with each strategy's picks."""

    captions: np.ndarray  # (N,) by index
    terms: dict[str, LossTerms]  # by strategy
    likely_false: np.ndarray  # (N, N) bool, of `CaptionLikeness`


class Negatives:
    """What the eight strategies pick, under a trial's best model.

    Args:
        best: the trial's model, on the CPU.
        conf: the trial's configuration.
        page: where pictures and clips are written.
    """

    def __init__(self, best: Trained, conf: Conf, page: Page):
        self.name, self.conf, self.page, self.first_epoch = conf.data_conf.train_data, conf, page, best.epoch + 1
        self.margin = conf.criteria.TripletLoss.margin
        self.split = PlayableSplit(self.name, conf, best.words, page)
        self.data = self.split.data
        self.drawn = self._draw(best)

    def _draw(self, best: Trained) -> list[DrawnBatch]:
        with torch.no_grad():
            vectors = F.normalize(best.model.text_enc(torch.arange(len(best.words))), dim=-1).numpy()  # (V, W)
        ids = [caption.numpy() for caption in self.data.captions]
        likeness = CaptionLikeness(ids, self.data.caption_clips, best.words, vectors)
        order = drawn_captions(self.data, self.conf, self.first_epoch)
        drawn = []
        for captions, generator in progress(order, f"{self.name}: negatives, batch", total=BATCHES):
            batch = collate(self.data, captions)
            if negative_mask(batch.clips).any():
                terms = terms_of_strategies(best, batch, self.margin, generator)
                drawn.append(DrawnBatch(np.array(captions), terms, likeness.likely_false(np.array(captions))))
        return drawn

    def section(self) -> dict[str, object]:
        """The content of the page's section; without rows if no batch holds two clips."""
        if not self.drawn:
            return {"split": self.name, "rows": []}
        picked = [[batch.terms[name].picked for batch in self.drawn] for name in STRATEGIES]
        batches_an_epoch = len(batch_order(self.data, self.conf.param_conf.batch_size))
        return {
            "split": self.name,
            "batches": len(self.drawn),
            "pairs": max(len(batch.captions) for batch in self.drawn),
            "epochs": (self.first_epoch, self.first_epoch + (BATCHES - 1) // batches_an_epoch),
            "margin": self.margin,
            "cosine": SHARED_MEANING,
            "of_sentences": of_sentences(self.conf),
            "rows": self._rows(),
            "agreement": dict(zip(STRATEGIES, agreement(picked).tolist(), strict=True)),
            "anchors": self.anchors(),
        }

    def _rows(self) -> list[dict[str, object]]:
        """Each strategy's name, numbers and histogram; the histograms share one axis."""
        sides = {}  # by strategy: the gaps of its audio negatives and of its text negatives
        for name in STRATEGIES:
            by_batch = [gaps_of_picks(batch.terms[name]) for batch in self.drawn]
            sides[name] = [np.concatenate(side) for side in zip(*by_batch, strict=True)]
        values = np.concatenate([side for both in sides.values() for side in both])
        reach = float(values.min()), float(values.max())
        rows = []
        for name, both in sides.items():
            terms = [batch.terms[name] for batch in self.drawn]
            false = [share_of_picks(batch.terms[name].picked, batch.likely_false) for batch in self.drawn]
            numbers = {
                "loss": float(np.mean([term.loss for term in terms])),
                "active": float(np.mean([term.active for term in terms])),
                "likely_false": float(np.mean(false)),
                **pick_statistics([term.picked for term in terms]),
            }
            picture = self.page.picture(gap_histogram(name, *both, self.margin, reach))
            rows.append({"strategy": name, "numbers": numbers, "picture": picture})
        return rows

    def anchors(self) -> list[dict[str, object]]:
        """The first anchors of the first batch, each of another clip, with the negatives of each strategy."""
        batch = self.drawn[0]
        _, firsts = np.unique(self.data.caption_clips[batch.captions], return_index=True)
        scores = next(iter(batch.terms.values())).picked.scores  # the same for all strategies
        anchors = []
        for i in sorted(firsts)[:ANCHORS]:
            pair, picks = self._pair(batch.captions[i]), {}
            siblings = np.flatnonzero(self.data.caption_clips == self.data.caption_clips[batch.captions[i]])
            others = [self.split.captions[caption] for caption in siblings if caption != batch.captions[i]]
            for name, terms in batch.terms.items():
                _, _, audio, text = terms.picked
                picks[name] = self._pick(batch, i, audio[i], scores[:, i]), self._pick(batch, i, text[i], scores[i])
            anchors.append(pair | {"others": others, "score": float(scores[i, i]), "picks": picks})
        return anchors

    def _pick(self, batch: DrawnBatch, i: int, mask: Tensor, scores: Tensor) -> dict[str, object] | int:
        """Anchor i's negative in a mask (N,), with scores (N,); the number of negatives if it is not one."""
        picked = mask.nonzero().flatten().tolist()
        if len(picked) != 1:
            return len(picked)
        (j,) = picked
        above, likely_false = bool(scores[j] > scores[i]), bool(batch.likely_false[i, j])
        return self._pair(batch.captions[j]) | {
            "score": float(scores[j]), "above": above, "likely_false": likely_false
        }  # fmt: skip

    def _pair(self, caption: int) -> dict[str, object]:
        """A caption, and its clip for the page to play."""
        return {"clip": self.split.player(self.data.caption_clips[caption]), "caption": self.split.captions[caption]}


def drawn_captions(split: Split, conf: Conf, epoch: int) -> Iterator[tuple[list[int], torch.Generator]]:
    """The first BATCHES batches of captions that training draws from an epoch on, and the negatives' generator."""
    left = BATCHES
    while left:
        generator = seed_epoch(conf.param_conf.seed, epoch)
        for captions in islice(batch_order(split, conf.param_conf.batch_size, shuffle=True), left):
            yield captions, generator
            left -= 1
        epoch += 1


@torch.no_grad()
def terms_of_strategies(best: Trained, batch: Batch, margin: float, generator: torch.Generator) -> dict[str, LossTerms]:
    """The triplet loss and the picks of each strategy in a batch that is scored once."""
    encoded = best.score.encode_audio(best.model, batch.audio, best.score.training_lengths(batch))
    scores = best.score(encoded, best.score.encode_text(best.model, batch), batch)
    scores = scores._replace(text_text=cache(scores.text_text), audio_audio=cache(scores.audio_audio))
    negatives = negative_mask(batch.clips)
    return {name: TripletLoss(margin, name)(scores, negatives, generator) for name in STRATEGIES}


def gaps_of_picks(terms: LossTerms) -> tuple[np.ndarray, np.ndarray]:
    """S_ii minus the negative's score, of each audio negative (P,) and each text negative (Q,) of a batch."""
    gap, picks = gaps(terms.picked), both_sides(terms.picked)  # (2, N, N)
    return gap[0][picks[0]].numpy(), gap[1][picks[1]].numpy()
