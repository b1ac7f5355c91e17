"""The negatives that each strategy picks from batches of the training split, in numbers and to listen to.

Batches are those that training would draw next: the pairs, and the draws of random negatives, of the epoch after the
best one and, if that is short, of those that follow. Scores are over the padded batch, as the trial trains, but under
the kept model in evaluation mode (no dropout, batch norm by its running statistics): so they are this model's own, and
the same in every report.

Shapes: N pairs of a batch.
"""

from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from utils.common.io import progress
from utils.common.steps import INDEXING
from utils.conf.schema import Conf
from utils.criterion_utils import LossTerms, TripletLoss, negative_mask
from utils.data_utils import Split, batch_order, collate, load_split
from utils.dataset.index import TEXT_COLUMNS, read_table
from utils.dataset.paths import DatasetPaths
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
from utils.report.gallery import Player, clip_files
from utils.report.negative_figures import gap_histogram
from utils.report.page import Page
from utils.sampling_utils import STRATEGIES
from utils.score_utils import Batch
from utils.trial.checkpoint import Trained

BATCHES = 20  # looked at, at the most: those without any negative are skipped, as in training
ANCHORS = 4  # shown with their negatives, all of one batch, whose clips are all that the page has to copy


class StrategyRow(NamedTuple):
    """What a strategy picks, in numbers."""

    strategy: str
    numbers: dict[str, float]  # loss, active, likely_false and STATISTICS
    picture: dict


class Item(NamedTuple):
    """A negative of an anchor, as the page shows it."""

    clip: Player
    caption: str  # of the pair
    score: float  # S(a_j, t_i) or S(a_i, t_k)
    above: bool  # the anchor pair's own
    likely_false: bool


class Anchor(NamedTuple):
    """An anchor pair with what each strategy picked for it: an audio and a text negative, or how many there are."""

    clip: Player
    caption: str
    others: list[str]  # the clip's other captions
    score: float
    picks: dict[str, tuple[Item | int, Item | int]]


class Drawn(NamedTuple):
    """A batch that training would draw, and what each strategy makes of it."""

    captions: np.ndarray  # (N,) by index
    terms: dict[str, LossTerms]
    likely_false: np.ndarray  # (N, N) bool, of `CaptionLikeness`


class Negatives:
    """What the eight strategies pick, under a trial's best model.

    Args:
        best: the trial's model, on the CPU.
        conf: the trial's configuration.
        page: where pictures and clips go.
    """

    def __init__(self, best: Trained, conf: Conf, page: Page):
        self.name, self.conf, self.page, self.first_epoch = conf.data_conf.train_data, conf, page, best.epoch + 1
        paths = DatasetPaths(conf.data_conf.dataset)
        self.margin = conf.criteria.TripletLoss.margin
        self.split: Split = load_split(paths, self.name, best.words, conf.audio_logmel.n_mels, cache="disk")
        self.texts = read_table(paths.text(self.name), TEXT_COLUMNS, INDEXING)["raw_text"]
        self.files = clip_files(paths, self.name, self.split.fids)
        self.drawn = self._draw(best)

    def _draw(self, best: Trained) -> list[Drawn]:
        model, words = best.model, best.words
        captions, clips = [ids.numpy() for ids in self.split.captions], self.split.caption_clips
        with torch.no_grad():
            vectors = model.text_branch(torch.arange(len(words)).unsqueeze(0))[0].numpy()  # (V, E)
        likeness = CaptionLikeness(captions, clips, words, vectors)
        drawn = []
        order = drawn_captions(self.split, self.conf, self.first_epoch)
        for those, generator in progress(order, f"{self.name}: negatives, batch", total=BATCHES):
            batch = collate(self.split, those)
            if negative_mask(batch.clips).any():
                terms = terms_of_strategies(best, batch, self.margin, generator)
                drawn.append(Drawn(np.array(those), terms, likeness.likely_false(np.array(those))))
        return drawn

    def section(self) -> dict[str, object]:
        """What the page's section shows; without rows where no batch holds two clips."""
        if not self.drawn:
            return {"split": self.name, "rows": []}
        an_epoch = len(batch_order(self.split, self.conf.param_conf.batch_size))
        return {
            "split": self.name,
            "batches": len(self.drawn),
            "pairs": max(len(each.captions) for each in self.drawn),
            "epochs": (self.first_epoch, self.first_epoch + (BATCHES - 1) // an_epoch),
            "margin": self.margin,
            "cosine": SHARED_MEANING,
            "rows": self.rows(),
            "agreement": dict(zip(STRATEGIES, self.agreement().tolist(), strict=True)),
            "anchors": self.anchors(),
        }

    def rows(self) -> list[StrategyRow]:
        """A line for each strategy; their histograms share one axis."""
        found = {name: [gaps_of_picks(each.terms[name]) for each in self.drawn] for name in STRATEGIES}
        sides = {name: tuple(map(np.concatenate, zip(*of_batch, strict=True))) for name, of_batch in found.items()}
        values = np.concatenate([side for both in sides.values() for side in both])
        reach = float(values.min()), float(values.max())
        return [
            StrategyRow(name, self._numbers(name), self.page.picture(gap_histogram(name, *both, self.margin, reach)))
            for name, both in sides.items()
        ]

    def _numbers(self, name: str) -> dict[str, float]:
        terms = [each.terms[name] for each in self.drawn]
        picked, false = [term.picked for term in terms], [each.likely_false for each in self.drawn]
        return {
            "loss": float(np.mean([term.loss for term in terms])),
            "active": float(np.mean([term.active for term in terms])),
            "likely_false": float(np.mean([share_of_picks(*each) for each in zip(picked, false, strict=True)])),
            **pick_statistics(picked),
        }

    def agreement(self) -> np.ndarray:
        """(8, 8): see `negative_utils.agreement`."""
        return agreement([[each.terms[name].picked for each in self.drawn] for name in STRATEGIES])

    def anchors(self) -> list[Anchor]:
        """The first anchors of the first batch, each of another clip, with what was picked for them."""
        drawn = self.drawn[0]
        clips = self.split.caption_clips[drawn.captions]
        _, firsts = np.unique(clips, return_index=True)
        return [self._anchor(drawn, i) for i in sorted(firsts)[:ANCHORS]]

    def _anchor(self, drawn: Drawn, i: int) -> Anchor:
        caption = drawn.captions[i]
        clip = self.split.caption_clips[caption]
        own = np.flatnonzero(self.split.caption_clips == clip)
        scores = next(iter(drawn.terms.values())).picked.scores
        picks = {name: self._picks(drawn, name, i) for name in STRATEGIES}
        others = [self.texts[other] for other in own if other != caption]
        return Anchor(self._player(clip), self.texts[caption], others, float(scores[i, i]), picks)

    def _picks(self, drawn: Drawn, name: str, i: int) -> tuple[Item | int, Item | int]:
        picked = drawn.terms[name].picked
        audio, text = (side[i].nonzero().flatten().tolist() for side in (picked.audio, picked.text))
        scores, own = picked.scores, picked.scores[i, i]

        def item(j: int, score: torch.Tensor) -> Item:
            caption = drawn.captions[j]
            player = self._player(self.split.caption_clips[caption])
            marks = bool(score > own), bool(drawn.likely_false[i, j])
            return Item(player, self.texts[caption], float(score), *marks)

        return (
            item(audio[0], scores[audio[0], i]) if len(audio) == 1 else len(audio),
            item(text[0], scores[i, text[0]]) if len(text) == 1 else len(text),
        )

    def _player(self, clip: int) -> Player:
        path = self.files[clip]
        return Player(path.name, self.page.clip(path, self.split.fids[clip]))


def drawn_captions(split: Split, conf: Conf, epoch: int) -> Iterator[tuple[list[int], torch.Generator]]:
    """The captions of the first BATCHES batches drawn by training from an epoch on, and the negatives' generator."""
    left = BATCHES
    while left:
        generator = seed_epoch(conf.param_conf.seed, epoch)
        for captions in islice(batch_order(split, conf.param_conf.batch_size, shuffle=True), left):
            yield captions, generator
            left -= 1
        epoch += 1


@torch.no_grad()
def terms_of_strategies(
    best: Trained, batch: Batch, margin: float, generator: torch.Generator
) -> dict[str, LossTerms]:
    """The triplet loss of a batch, with the picks, under each strategy; scores are made once for all."""
    scores = best.score(best.model.encode_audio(batch.audio), best.model.text_branch(batch.text), batch)
    scores = scores._replace(text_text=cache(scores.text_text), audio_audio=cache(scores.audio_audio))
    negatives = negative_mask(batch.clips)
    return {name: TripletLoss(margin, name)(scores, negatives, generator) for name in STRATEGIES}


def gaps_of_picks(terms: LossTerms) -> tuple[np.ndarray, np.ndarray]:
    """S_ii minus the negative's score, of each audio negative (P,) and each text negative (Q,) of a batch."""
    gap, picks = gaps(terms.picked), both_sides(terms.picked)  # (2, N, N)
    return gap[0][picks[0]].numpy(), gap[1][picks[1]].numpy()
