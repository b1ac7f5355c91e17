"""Search a split under a trial's model: clips by a text, captions by a sound.

Shapes: C clips, M captions, V vocabulary.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array

from models.audio_encoders import CRNNEncoder
from utils.common.counts import counted
from utils.common.errors import UserError
from utils.common.folders import own_file
from utils.common.steps import INDEXING, SCORING, TRAINING
from utils.data_utils import load_captions
from utils.dataset.audio import Clip, highest_frequency
from utils.dataset.captions import clean_caption, correct_words, has_words
from utils.dataset.index import read_clips, read_table
from utils.dataset.log_mel import read_log_mel
from utils.dataset.log_mel_config import LogMelConfig
from utils.dataset.paths import AUDIO_FILES
from utils.fast_score_utils import EncodedClips, split_word_scores
from utils.score_utils import caption_word_weights
from utils.trial.caveats import warn_of
from utils.trial.checks import check_data, check_made, check_trial
from utils.trial.directory import open_trial
from utils.trial.retrieval import stored_word_weights
from utils.trial.score_files import WordScores, load_word_scores, word_scores_path
from utils.trial.trial import Trial


class ClipHit(NamedTuple):
    """A clip that was found."""

    rank: int  # from 1
    score: float
    fid: str
    path: Path  # in the split's folder
    seconds: float
    captions: list[str]  # as the data set has them; none where the split has none


class CaptionHit(NamedTuple):
    """A caption that was found."""

    rank: int  # from 1
    score: float
    tid: str
    text: str  # as the data set has it


class ClipSearch:
    """A split of a trial's data set, to be searched. What a kind of query needs is read at the first of the kind.

    Args:
        trial: texts are scored by its {split}_word_scores.hdf5, sounds by its best checkpoint.
        split: one of the configuration's splits; None is its eval_data.

    Raises:
        UserError: no such split, no data set, or a damaged checkpoint.
    """

    def __init__(self, trial: Trial, split: str | None = None):
        self.trial, self.conf = trial, trial.conf
        conf = self.conf
        self.split = conf.data_conf.eval_data if split is None else split
        if self.split not in conf.data_conf.splits:
            raise UserError(f"{self.split!r}: not a split of {trial}; it has {', '.join(conf.data_conf.splits)}")
        self.paths = trial.dataset
        check_trial(trial, TRAINING)
        self.model, self.score, self.words, self.epoch = trial.best

    @classmethod
    def open(cls, trial: Path | str, split: str | None = None) -> "ClipSearch":
        """The search in a split of a trial, by the trial's own configuration."""
        opened = open_trial(Path(trial), [])
        warn_of(opened)
        return cls(opened, split)

    def _ranked(self, scores: np.ndarray, top: int) -> Iterator[tuple[int, int]]:
        """Rank and index of the best."""
        if top < 1:
            raise UserError(f"top: is {top}, but must be at least 1")
        if not np.isfinite(scores).all():
            raise UserError(f"{self.trial}: scores are NaN: the model is broken; look at the trial's train.log")
        return enumerate(best(scores, top), start=1)

    # --- clips by a text ---------------------------------------------------------------------------------

    def by_text(self, query: str, top: int = 5) -> list[ClipHit]:
        """The `top` clips (all, if there are fewer) with the highest scores with a text, ties in the split's order.

        The query is read as a caption: cleaned, corrected, repeated words repeated, but without named entities.
        The score is that of the words that have a vector; `unknown_words` has the others.

        Raises UserError where the query has no such word, and where what is stored is missing, stale or damaged.
        """
        scores, fids = self._clip_scores(self._known_words(query)), self.stored.fids
        return [self._clip_hit(rank, scores[i], fids[i]) for rank, i in self._ranked(scores, top)]

    def unknown_words(self, query: str) -> list[str]:
        """The words of a query that have no vector, each once."""
        return [word for word in dict.fromkeys(self._tokens(query)) if word not in self._rows]

    def _tokens(self, query: str) -> list[str]:
        return correct_words(clean_caption(query), self.conf.text_cleaning.corrections).split()

    def _known_words(self, query: str) -> list[str]:
        tokens = self._tokens(query)
        if not has_words(" ".join(tokens)):
            raise UserError(f"the query {query!r} holds no words; describe a sound in words")
        known = [word for word in tokens if word in self._rows]
        if not known:
            unknown = ", ".join(self.unknown_words(query))
            those = f"{self.paths.vocab_info} lists those of the captions, word2vec_embeddings.extra_words adds others"
            raise UserError(f"no word of the query is known ({unknown}); {those}")
        return known

    def _clip_scores(self, known: list[str]) -> np.ndarray:
        """(C,) float32: the mean over words of each clip's score with the word, weighed as in a caption."""
        rows, counts = np.unique([self._rows[word] for word in known], return_counts=True)
        shares = counts / len(known)
        if self.word_weights is not None:
            shares = counts * np.array([self.word_weights[self.stored.words[row]] for row in rows])
            shares = shares / shares.sum()
        scores = np.zeros(len(self.stored.fids), np.float32)
        for row, share in zip(rows, shares, strict=True):  # not a product: it may round equal columns differently
            scores += self.stored.scores[row] * np.float32(share)
        return scores

    def _clip_hit(self, rank: int, score: float, fid: str) -> ClipHit:
        path = self.path(fid)
        return ClipHit(rank, float(score), fid, path, self.clips[fid].seconds, self._captions_of.get(fid, []))

    def path(self, fid: str) -> Path:
        """Where a clip that was scored lies; UserError where it is not in the index."""
        if fid not in self.clips:
            what = f"has no clip {fid}, which was scored; run {INDEXING} and what follows it again"
            raise UserError(f"{self.paths.audio_info}: {what}")
        return self.paths.clip(self.split, self.clips[fid].file_name)

    @cached_property
    def stored(self) -> WordScores:
        """The split's word scores, in their file.

        Raises UserError where they are missing, stale or damaged.
        """
        path = word_scores_path(self.trial.path, self.split)
        check_data(self.trial, SCORING)
        check_made(self.trial, SCORING, reads=[path])
        return load_word_scores(path, self.epoch, str(self.score))

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Each word's row of the word scores."""
        return {word: row for row, word in enumerate(self.stored.words)}

    @cached_property
    def word_weights(self) -> dict[str, float] | None:
        """What each word that has a score weighs beside others; None: all the same."""
        names = list(dict.fromkeys([*self.words, *self.stored.words]))
        weights = stored_word_weights(self.conf, self.score, len(names))
        return None if weights is None else dict(zip(names, weights.tolist(), strict=True))

    @cached_property
    def clips(self) -> dict[str, Clip]:
        """The split's clips, by fid."""
        return read_clips(self.paths, self.split)

    @cached_property
    def _captions_of(self) -> dict[str, list[str]]:
        """The captions of each clip, by fid."""
        captions: dict[str, list[str]] = {}
        if self.paths.text(self.split).exists():
            table = read_table(self.paths.text(self.split), ["fid", "raw_text"], INDEXING)
            for fid, text in zip(table["fid"], table["raw_text"], strict=True):
                captions.setdefault(fid, []).append(text)
        return captions

    # --- captions by a sound -----------------------------------------------------------------------------

    def by_audio(self, path: Path | str, top: int = 5) -> list[CaptionHit]:
        """The `top` captions (all, if there are fewer) with the highest scores with a sound, ties in the split's order.

        A sound of another sample rate than most of the split's clips is resampled to theirs.

        Raises UserError where the file cannot be read, or is too short for the model.
        """
        path = Path(path)
        tids, texts, words, weights = self._captions
        scores = weights @ self._sound_scores(self._log_mel(path), words)  # (M,)
        if (highest := highest_frequency(path)) < self._log_mel_config.fmax:
            band = f"holds nothing above {highest:g} Hz, but log-mels go up to {self._log_mel_config.fmax:g} Hz"
            warnings.warn(f"{path}: {band}: what is found may not fit", stacklevel=2)
        return [CaptionHit(rank, float(scores[i]), tids[i], texts[i]) for rank, i in self._ranked(scores, top)]

    @torch.no_grad()
    def _sound_scores(self, log_mel: np.ndarray, words: np.ndarray) -> np.ndarray:
        """A sound's score with each word: (T, n_mels) and ids (V,) -> (V,) float32."""
        embeds = self.model.text_branch(torch.from_numpy(words).unsqueeze(0))[0]  # (V, E)
        encoded = self.model.encode_audio(torch.from_numpy(log_mel).unsqueeze(0))  # (1, L, E)
        clip = EncodedClips.of_batch(encoded, np.array([encoded.shape[1]]), np.array([len(log_mel)]))
        return split_word_scores(clip, embeds, self.score.pool)[:, 0].numpy()

    def _log_mel(self, path: Path) -> np.ndarray:
        """(T, n_mels), by the trial's config at the data set's sample rate."""
        if not path.is_file():
            raise UserError(f"{path}: no such file; name a {AUDIO_FILES} file")
        log_mel = read_log_mel(path, self._log_mel_config)
        if not CRNNEncoder.frames_out(len(log_mel)):
            shortest = (CRNNEncoder.rate - 1) * self.conf.audio_logmel.hop
            needed = f"the model needs {CRNNEncoder.rate}, about {shortest:g} s"
            raise UserError(f"{path}: too short: {counted(len(log_mel), 'frame')}; {needed}")
        return log_mel

    @cached_property
    def _log_mel_config(self) -> LogMelConfig:
        """The trial's config with a sample rate: its own, or that of most of the split's clips."""
        config = self.conf.audio_logmel.config
        if config.sample_rate is not None or not self.clips:
            return config
        rates = Counter(clip.sample_rate for clip in self.clips.values())
        return replace(config, sample_rate=rates.most_common(1)[0][0])

    @cached_property
    def _captions(self) -> tuple[list[str], list[str], np.ndarray, csr_array]:
        """The split's tids (M) and texts (M), and their `caption_word_weights`."""
        table, ids = load_captions(self.paths, self.split, self.words)
        weights = caption_word_weights([caption.numpy() for caption in ids], idf=self.score.idf_values)
        return table["tid"].tolist(), table["raw_text"].tolist(), *weights


def best(scores: np.ndarray, top: int) -> np.ndarray:
    """The indices of the `top` highest scores (N,), or of all N if there are fewer: highest first, ties by index."""
    if top < len(scores):
        least = np.partition(scores, -top)[-top]
        above, tied = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
        chosen = np.concatenate([above, tied[: top - len(above)]])
    else:
        chosen = np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


PLAY_LIST = "#EXTM3U"  # what every play list begins with


def write_play_list(path: Path | str, hits: list[ClipHit]) -> None:
    """Write clips as an extended M3U play list, UTF-8, with absolute paths.

    Raises UserError where a path cannot stand in one, because it has a line break or is not Unicode, and where
    something else than an earlier play list is in its place.
    """
    lines = [PLAY_LIST]
    for hit in hits:
        place = str(hit.path.absolute())
        if len(place.splitlines()) != 1 or any("\ud800" <= character <= "\udfff" for character in place):
            raise UserError(f"{place!r}: a play list cannot hold this path; rename the file, and run {INDEXING} again")
        lines += [f"#EXTINF:{round(hit.seconds)},{hit.path.name}", place]
    with own_file(path, "play list") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
