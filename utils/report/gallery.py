"""Queries of a split with what they find, to look at and to listen to."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.common.errors import UserError
from utils.common.steps import INDEXING, SCORING
from utils.conf.schema import Conf
from utils.data_utils import Split, load_split
from utils.dataset.index import TEXT_COLUMNS, read_clips, read_table
from utils.dataset.paths import DatasetPaths
from utils.report import figures
from utils.report.numbers import choose_queries
from utils.report.page import Page
from utils.report.rankings import Ranking
from utils.score_utils import similarities
from utils.trial.checkpoint import Trained

TOP = 5  # results shown of a query
EACH = 2  # queries shown of the best, the typical and the worst


class Player(NamedTuple):
    """A clip on the page, to be played."""

    name: str  # as the data set has it: text, not to be used as a path
    source: str  # of its copy, as the page links it


class Result(NamedTuple):
    """A result of a query, as the page shows it."""

    rank: int
    score: float
    right: bool
    clip: Player | None  # what was found by a caption,
    caption: str | None  # or by a clip
    total: str  # how the score adds up
    picture: dict


class Query(NamedTuple):
    """A query with its first results, and the best right one where it is not among those."""

    clip: Player
    captions: list[str]  # the query itself, or those of the clip
    first_rank: float  # of the right result,
    tied: bool  # with wrong ones: expected
    top: float  # the similarity that the pictures draw brightest
    results: list[Result]


class Gallery:
    """Queries of a split with what they find, to look at and to listen to.

    Args:
        best: the trial's model, on the CPU.
        conf: the trial's configuration.
        ranking: of the split data_conf.eval_data, whose rows and columns the split's files must have.
        page: where pictures and clips go.
    """

    def __init__(self, best: Trained, conf: Conf, ranking: Ranking, page: Page):
        name, paths = conf.data_conf.eval_data, DatasetPaths(conf.data_conf.dataset)
        self.best, self.page, self.hop = best, page, conf.audio_logmel.hop
        self.split: Split = load_split(paths, name, best.words, conf.audio_logmel.n_mels, cache="disk")
        if (self.split.fids, self.split.tids) != (ranking.fids, ranking.tids):
            raise UserError(f"{paths.text(name)}: not the captions that were scored; run {SCORING} again")
        self.captions = read_table(paths.text(name), TEXT_COLUMNS, INDEXING)["raw_text"]
        self.files = clip_files(paths, name, self.split.fids)
        self.frames: dict[int, Tensor] = {}  # embeddings (T, E) of the clips met so far

    def groups(self, ranking: Ranking) -> dict[str, list[Query]]:
        """Some of the best, the typical and the worst queries of a direction."""
        margin = ranking.positive - ranking.negative
        chosen = choose_queries(ranking.values["first_rank"], margin, ranking.query_clips, EACH)
        return {name: [self._query(ranking, query) for query in queries] for name, queries in chosen.items()}

    def _query(self, ranking: Ranking, query: int) -> Query:
        (scores, right), own = ranking.of_query(query), ranking.query_clips[query]
        order = np.argsort(-scores, kind="stable")
        right = right[order]  # by rank
        places = list(range(min(TOP, len(order))))
        if not right[:TOP].any():
            places.append(int(right.argmax()))
        pairs = [self._pair(ranking, query, int(order[place])) for place in places]
        maps = [self._alignment(*pair) for pair in pairs]
        top = max(float(similarities.max()) for similarities in maps)
        results = [
            self._result(ranking, place, float(scores[order[place]]), bool(right[place]), pair, similarities, top)
            for place, pair, similarities in zip(places, pairs, maps, strict=True)
        ]
        captions = [query] if ranking.by_text else np.flatnonzero(ranking.item_clips == own)
        first_rank, tied = float(ranking.values["first_rank"][query]), bool(ranking.values["tied"][query])
        return Query(self._player(own), [self.captions[i] for i in captions], first_rank, tied, top, results)

    def _pair(self, ranking: Ranking, query: int, item: int) -> tuple[int, int]:
        """The clip and the caption that a query and an item are."""
        return (item, query) if ranking.by_text else (query, item)

    def _result(
        self, ranking: Ranking, place: int, score: float, right: bool, pair: tuple[int, int], similarities: np.ndarray,
        top: float,
    ) -> Result:  # fmt: skip
        clip, caption = pair
        ids, log_mel = self.split.captions[caption], self.split.log_mels[clip].numpy()
        shares = self.best.score.frame_weights(torch.from_numpy(similarities)).numpy()  # (T, W)
        by_word, words = (shares * similarities).sum(axis=0), [self.best.words[word] for word in ids]
        total = score_sum(by_word, self._word_shares(ids))
        pool = self.best.score.frames
        picture = figures.alignment(log_mel, similarities, by_word, marked(shares), words, pool, self.hop, top)
        picture = self.page.picture(picture)
        if ranking.by_text:
            return Result(place + 1, score, right, self._player(clip), None, total, picture)
        return Result(place + 1, score, right, None, self.captions[caption], total, picture)

    def _word_shares(self, ids: Tensor) -> np.ndarray | None:
        """(W,) what each word counts in a caption's score; None: all the same."""
        idf = self.best.score.idf_values
        return None if idf is None else idf[ids.numpy()] / idf[ids.numpy()].sum()

    @torch.no_grad()
    def _alignment(self, clip: int, caption: int) -> np.ndarray:
        """(T, W) similarities of a clip's frames with a caption's words."""
        if clip not in self.frames:
            self.frames[clip] = self.best.model.audio_branch(self.split.log_mels[clip].unsqueeze(0))[0]
        words = self.best.model.text_branch(self.split.captions[caption].unsqueeze(0))[0]
        return similarities(self.frames[clip], words).numpy()

    def _player(self, clip: int) -> Player:
        path = self.files[clip]
        return Player(path.name, self.page.clip(path, self.split.fids[clip]))


def marked(shares: np.ndarray) -> np.ndarray:
    """The frames that count in each word's score: shares (T, W) -> (T, W) bool; none where all count the same.

    They are those that count at least half as much as the one that counts most.
    """
    most = shares.max(axis=0)
    return (shares >= most / 2) & (shares.min(axis=0) < most / 2)


def score_sum(by_word: np.ndarray, shares: np.ndarray | None) -> str:
    """How words' scores (W,) add up to a caption's, by their shares (W,) or as their mean."""
    if shares is None:
        return f"({' + '.join(f'{value:.3f}' for value in by_word)}) / {len(by_word)}"
    return " + ".join(f"{share:.3f} · {value:.3f}" for share, value in zip(shares, by_word, strict=True))


def clip_files(paths: DatasetPaths, split: str, fids: list[str]) -> list[Path]:
    """The audio files of a split's clips; UserError where one is not listed, or lies outside of the data set."""
    clips = read_clips(paths, split)
    for fid in fids:
        if fid not in clips:
            raise UserError(f"{paths.audio_info}: lists no clip {fid} of {split}, which was scored; score again")
    return [paths.clip(split, clips[fid].file_name) for fid in fids]
