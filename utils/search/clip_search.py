"""Search a split with a trial's model: clips by a text, captions by a sound.

Shapes: C clips, M captions, V vocabulary.
"""

import sys
import warnings
from contextlib import redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array

from utils.audio_input import audio_input
from utils.common.errors import UserError
from utils.common.folders import own_file
from utils.common.steps import INDEXING, SCORING
from utils.data_utils import load_captions, load_split
from utils.dataset.audio import highest_frequency
from utils.dataset.index import read_cells
from utils.evaluation_utils import caption_weights, score_words
from utils.search.folder_search import SoundHit
from utils.search.scorer import TrialScorer
from utils.search.text_search import TextSearch
from utils.trial.checks import check_data, check_made, warn_of
from utils.trial.directory import open_trial
from utils.trial.retrieval import stored_word_weights
from utils.trial.score_files import WordScores, load_word_scores, word_scores_path
from utils.trial.trial import Trial


class ClipHit(NamedTuple):
    """A clip in the result of a search."""

    rank: int  # from 1
    score: float
    fid: str
    path: Path  # in the split's folder
    seconds: float
    captions: list[str]  # raw; empty if the split has none


class CaptionHit(NamedTuple):
    """A caption in the result of a search."""

    rank: int  # from 1
    score: float
    tid: str
    text: str  # raw


class ClipSearch(TextSearch):
    """Search in a split of a trial's data set. The first query by text or by sound reads the files that it needs.

    Args:
        trial: texts are scored by its {split}_word_scores.hdf5, sounds and sentences by its best checkpoint.
        split: one of the configuration's splits; None is its eval_data.

    Raises:
        UserError: no such split, no data set, or a damaged checkpoint.
    """

    def __init__(self, trial: Trial, split: str | None = None):
        self.trial, self.paths = trial, trial.dataset
        self.split = trial.conf.data_conf.eval_data if split is None else split
        if self.split not in trial.conf.data_conf.splits:
            raise UserError(f"{self.split!r}: not a split of {trial}; it has {', '.join(trial.conf.data_conf.splits)}")
        listing = f"{self.paths.vocab_info} lists known words,"
        super().__init__(TrialScorer(trial, self.split), listing, "word2vec_embeddings.extra_words adds others")

    @classmethod
    def open(cls, trial: Path | str, split: str | None = None) -> "ClipSearch":
        """Open a trial by its own configuration."""
        opened = open_trial(Path(trial), [])
        warn_of(opened)
        return cls(opened, split)

    # --- clips by a text ---------------------------------------------------------------------------------

    def by_text(self, query: str, top: int = 5) -> list[ClipHit]:
        """Find the `top` clips, or all, with the highest scores with a text; ties keep the split's order.

        The query is cleaned and corrected as captions are, but keeps named entities. Words without a vector, see
        `unknown_words`, do not count. Where the trial's captions are sentences, so is the query.

        Raises UserError if no word has a vector, or if the stored scores are missing, stale or damaged.
        """
        known, hits = self.require_known(query), []
        scores = self._sentence_scores(*known) if self.of_sentences else self.text_scores(known)
        for rank, i in self.ranked(scores, top):
            fid = self.stored.fids[i]
            path, captions = self.path(fid), self._captions_by_clip.get(fid, [])
            hits.append(ClipHit(rank, float(scores[i]), fid, path, self.scorer.clips[fid].seconds, captions))
        return hits

    @torch.no_grad()
    def _sentence_scores(self, sentence: str) -> np.ndarray:
        """(C,) float32: S of a sentence with the split's clips, which are encoded for it."""
        with redirect_stdout(sys.stderr):  # where the clips are read is not a result
            split = load_split(self.paths, self.split, self.words, audio_input(self.conf), cache="disk")
        embeds, weights = self.scorer.weighted([[sentence]])  # (1, E), (1, 1)
        by_clip, _ = score_words(self.model, split, [embeds], self.score)
        return (weights @ by_clip.numpy())[0]

    def path(self, fid: str) -> Path:
        """The path of a scored clip; raises UserError if it is no longer in the index."""
        if fid not in self.scorer.clips:
            advice = f"run {INDEXING} and the steps after it again"
            raise UserError(f"{self.paths.audio_info}: has no clip {fid}, which was scored; {advice}")
        return self.paths.clip(self.split, self.scorer.clips[fid].file_name)

    @cached_property
    def stored(self) -> WordScores:
        """The split's word scores; raises UserError if they are missing, stale or damaged."""
        path = word_scores_path(self.trial.path, self.split)
        check_data(self.trial, SCORING)
        check_made(self.trial, SCORING, reads=[path])
        return load_word_scores(path, self.epoch, str(self.score))

    @cached_property
    def word_weights(self) -> dict[str, float] | None:
        """The weight of each word that has a score; None: all the same."""
        names = list(dict.fromkeys([*self.words, *self.stored.words]))
        weights = stored_word_weights(self.conf, self.score, len(names))
        return None if weights is None else dict(zip(names, weights.tolist(), strict=True))

    @cached_property
    def _captions_by_clip(self) -> dict[str, list[str]]:
        """The raw captions of each clip, by fid."""
        captions = {}
        if self.paths.text(self.split).exists():
            for fid, text in read_cells(self.paths.text(self.split), ["fid", "raw_text"], INDEXING):
                captions.setdefault(fid, []).append(text)
        return captions

    # --- captions by a sound -----------------------------------------------------------------------------

    def by_audio(self, path: Path | str, top: int = 5) -> list[CaptionHit]:
        """Find the `top` captions, or all, with the highest scores with a sound; ties keep the split's order.

        For log-mels, a sound at another sample rate is resampled to that of most of the split's clips.

        Raises UserError if the file cannot be read, or is too short for the model.
        """
        path = Path(path)
        tids, texts, words, weights = self._captions
        sounds = self.scorer.sounds
        scores = weights @ self.scorer.sound_scores(sounds.read(path), self.scorer.word_embeds(words))  # (M,)
        if (highest := highest_frequency(path)) < sounds.fmax:
            band = f"holds nothing above {highest:g} Hz, but {sounds.noun} go up to {sounds.fmax:g} Hz"
            warnings.warn(f"{path}: {band}: results may be poor", stacklevel=2)
        return [CaptionHit(rank, float(scores[i]), tids[i], texts[i]) for rank, i in self.ranked(scores, top)]

    @cached_property
    def _captions(self) -> tuple[list[str], list[str], np.ndarray, csr_array]:
        """The split's tids (M), raw captions (M), the ids (V,) of their words, and what each counts in each (M, V)."""
        table, ids = load_captions(self.paths, self.split, self.words)
        words, weights = caption_weights(self.model, self.score, [caption.numpy() for caption in ids])
        return table["tid"].tolist(), table["raw_text"].tolist(), words, weights


def write_play_list(path: Path | str, hits: list[ClipHit] | list[SoundHit]) -> None:
    """Write clips as an extended M3U play list, UTF-8, with absolute paths.

    Raises UserError if a clip's path has a line break or is not Unicode, or if `path` holds anything but an earlier
    play list.
    """
    lines = ["#EXTM3U"]
    for hit in hits:
        clip = str(hit.path.absolute())
        if len(clip.splitlines()) != 1 or any("\ud800" <= character <= "\udfff" for character in clip):
            advice = f"rename the file, and where it is a clip of a data set, run {INDEXING} again"
            raise UserError(f"{clip!r}: a play list cannot hold this path; {advice}")
        lines += [f"#EXTINF:{round(hit.seconds)},{hit.path.name}", clip]
    with own_file(path, "play list") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
