"""Search a split with a trial's model: clips by a text, captions by a sound.

Shapes: C clips, M captions, V vocabulary.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from utils.audio_input import audio_input
from utils.common.errors import UserError
from utils.common.folders import own_file
from utils.common.steps import INDEXING, SCORING, TRAINING
from utils.data_utils import load_captions, load_split
from utils.dataset.audio import Clip, highest_frequency
from utils.dataset.captions import clean_caption, correct_words, has_words
from utils.dataset.index import read_cells, read_clips
from utils.dataset.sentence_encoder import SentenceEncoder
from utils.evaluation_utils import caption_weights, encode_words, score_words
from utils.fast_score_utils import EncodedClips
from utils.text_input import of_sentences
from utils.trial.checks import check_data, check_made, check_trial, warn_of
from utils.trial.directory import open_trial
from utils.trial.retrieval import stored_word_weights
from utils.trial.score_files import WordScores, load_word_scores, word_scores_path
from utils.trial.trial import Trial

if TYPE_CHECKING:
    from utils.search.sounds import Features, LogMels

SAME_VECTOR = 0.999  # cosine; one sentence's vectors on two machines are nearer


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


class ClipSearch:
    """Search in a split of a trial's data set. The first query by text or by sound reads the files that it needs.

    Args:
        trial: texts are scored by its {split}_word_scores.hdf5, sounds and sentences by its best checkpoint.
        split: one of the configuration's splits; None is its eval_data.

    Raises:
        UserError: no such split, no data set, or a damaged checkpoint.
    """

    def __init__(self, trial: Trial, split: str | None = None):
        self.trial, self.conf, self.paths = trial, trial.conf, trial.dataset
        self.split = self.conf.data_conf.eval_data if split is None else split
        if self.split not in self.conf.data_conf.splits:
            raise UserError(f"{self.split!r}: not a split of {trial}; it has {', '.join(self.conf.data_conf.splits)}")
        check_trial(trial, TRAINING)
        self.model, self.score, self.words, self.epoch = trial.best
        self.of_sentences = of_sentences(self.conf)

    @classmethod
    def open(cls, trial: Path | str, split: str | None = None) -> "ClipSearch":
        """Open a trial by its own configuration."""
        opened = open_trial(Path(trial), [])
        warn_of(opened)
        return cls(opened, split)

    def _ranked(self, scores: np.ndarray, top: int) -> Iterator[tuple[int, int]]:
        """Ranks and indices of the `top` highest scores."""
        if top < 1:
            raise UserError(f"top: is {top}, but must be at least 1")
        self.require_finite(scores)
        return enumerate(best(scores, top), start=1)

    def require_finite(self, scores: np.ndarray) -> None:
        if not np.isfinite(scores).all():
            raise UserError(f"{self.trial}: scores are NaN: the model is broken; look at the trial's train.log")

    # --- clips by a text ---------------------------------------------------------------------------------

    def by_text(self, query: str, top: int = 5) -> list[ClipHit]:
        """Find the `top` clips, or all, with the highest scores with a text; ties keep the split's order.

        The query is cleaned and corrected as captions are, but keeps named entities. Words without a vector, see
        `unknown_words`, do not count. Where the trial's captions are sentences, so is the query.

        Raises UserError if no word has a vector, or if the stored scores are missing, stale or damaged.
        """
        known, hits = self._known_words(query), []
        scores = self._sentence_scores(*known) if self.of_sentences else self._clip_scores(known)
        for rank, i in self._ranked(scores, top):
            fid = self.stored.fids[i]
            path, captions = self.path(fid), self._captions_by_clip.get(fid, [])
            hits.append(ClipHit(rank, float(scores[i]), fid, path, self.clips[fid].seconds, captions))
        return hits

    def unknown_words(self, query: str) -> list[str]:
        """The distinct words of a query that have no vector; none, where it is a sentence."""
        if self.of_sentences:
            return []
        return [word for word in dict.fromkeys(self._tokens(query)) if word not in self._rows]

    def _tokens(self, query: str) -> list[str]:
        text = correct_words(clean_caption(query), self.conf.text_cleaning.corrections)
        return [text] if self.of_sentences else text.split()

    def _known_words(self, query: str) -> list[str]:
        tokens = self._tokens(query)
        if not has_words(" ".join(tokens)):
            raise UserError(f"the query {query!r} holds no words; describe a sound in words")
        known = tokens if self.of_sentences else [word for word in tokens if word in self._rows]
        if not known:
            unknown = ", ".join(self.unknown_words(query))
            advice = f"{self.paths.vocab_info} lists known words, word2vec_embeddings.extra_words adds others"
            raise UserError(f"no word of the query is known ({unknown}); {advice}")
        return known

    def _clip_scores(self, known: list[str]) -> np.ndarray:
        """(C,) float32: the mean of each clip's scores with known words, weighted as in a caption."""
        rows, counts = np.unique([self._rows[word] for word in known], return_counts=True)
        shares = counts / len(known)
        if self.word_weights is not None:
            shares = counts * np.array([self.word_weights[self.stored.words[row]] for row in rows])
            shares = shares / shares.sum()
        scores = np.zeros(len(self.stored.fids), np.float32)
        for row, share in zip(rows, shares, strict=True):  # not a product: it may round equal columns differently
            scores += self.stored.scores[row] * np.float32(share)
        return scores

    @torch.no_grad()
    def _sentence_scores(self, sentence: str) -> np.ndarray:
        """(C,) float32: S of a sentence with the split's clips, which are encoded for it."""
        with redirect_stdout(sys.stderr):  # where the clips are read is not a result
            split = load_split(self.paths, self.split, self.words, audio_input(self.conf), cache="disk")
        embeds = self._sentence_embeds([sentence])  # (1, E)
        by_clip, _ = score_words(self.model, split, [embeds], self.score)
        return (self.score.caption_weights([np.zeros(1, np.int64)], embeds) @ by_clip.numpy())[0]

    @torch.no_grad()
    def _sentence_embeds(self, sentences: list[str]) -> Tensor:
        """What the score takes of sentences: (N, E). UserError where the encoder is not the one of the captions."""
        encoder, known = SentenceEncoder(self.conf.sentence_embeddings.model), self.words[1]
        vectors = torch.from_numpy(encoder.encode([known, *sentences]))
        expected = self.model.text_enc.embedding.weight[1]
        if len(expected) != vectors.shape[1] or torch.cosine_similarity(vectors[0], expected, dim=0) < SAME_VECTOR:
            raise UserError(
                f"sentence_embeddings.model: {encoder.name} gives other vectors than those that {self.trial} was "
                "trained with; put that model back"
            )
        return self.score.word_embeds(self.model.text_projection(vectors[1:]))

    def path(self, fid: str) -> Path:
        """The path of a scored clip; raises UserError if it is no longer in the index."""
        if fid not in self.clips:
            advice = f"run {INDEXING} and the steps after it again"
            raise UserError(f"{self.paths.audio_info}: has no clip {fid}, which was scored; {advice}")
        return self.paths.clip(self.split, self.clips[fid].file_name)

    @cached_property
    def stored(self) -> WordScores:
        """The split's word scores; raises UserError if they are missing, stale or damaged."""
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
        """The weight of each word that has a score; None: all the same."""
        names = list(dict.fromkeys([*self.words, *self.stored.words]))
        weights = stored_word_weights(self.conf, self.score, len(names))
        return None if weights is None else dict(zip(names, weights.tolist(), strict=True))

    @cached_property
    def clips(self) -> dict[str, Clip]:
        """The split's clips, by fid."""
        return read_clips(self.paths, self.split)

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
        embeds = self.score.word_embeds(encode_words(self.model, words))  # (V, E)
        scores = weights @ self._sound_scores(self.sounds.read(path), embeds)  # (M,)
        if (highest := highest_frequency(path)) < self.sounds.fmax:
            band = f"holds nothing above {highest:g} Hz, but {self.sounds.noun} go up to {self.sounds.fmax:g} Hz"
            warnings.warn(f"{path}: {band}: results may be poor", stacklevel=2)
        return [CaptionHit(rank, float(scores[i]), tids[i], texts[i]) for rank, i in self._ranked(scores, top)]

    @torch.no_grad()
    def _sound_scores(self, audio: np.ndarray, embeds: Tensor) -> np.ndarray:
        """Score a sound (T, D) with words (V, E): (V,) float32."""
        encoded = self.score.encode_audio(self.model, torch.from_numpy(audio).unsqueeze(0))  # (1, L, E)
        clip = EncodedClips.of_batch(encoded, np.array([encoded.shape[1]]), np.array([len(audio)]))
        return self.score.of_words(clip, embeds)[:, 0].numpy()

    @cached_property
    def sounds(self) -> "LogMels | Features":
        """Reads sounds as training read those of the data set."""
        from utils.search.sounds import Features, LogMels  # imports librosa, which a search by text does without

        if self.conf.data_conf.audio == "features":
            return Features(self.conf, self.paths.audio_features(self.split), self.clips.values())
        return LogMels(self.conf, self.clips.values())

    @cached_property
    def _captions(self) -> tuple[list[str], list[str], np.ndarray, csr_array]:
        """The split's tids (M), raw captions (M), the ids (V,) of their words, and what each counts in each (M, V)."""
        table, ids = load_captions(self.paths, self.split, self.words)
        words, weights = caption_weights(self.model, self.score, [caption.numpy() for caption in ids])
        return table["tid"].tolist(), table["raw_text"].tolist(), words, weights


def best(scores: np.ndarray, top: int) -> np.ndarray:
    """The indices of the `top` highest scores (N,), or of all, highest first, ties by index."""
    if top < len(scores):
        least = np.partition(scores, -top)[-top]
        above, tied = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
        chosen = np.concatenate([above, tied[: top - len(above)]])
    else:
        chosen = np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def write_play_list(path: Path | str, hits: list[ClipHit]) -> None:
    """Write clips as an extended M3U play list, UTF-8, with absolute paths.

    Raises UserError if a clip's path has a line break or is not Unicode, or if `path` holds anything but an earlier
    play list.
    """
    lines = ["#EXTM3U"]
    for hit in hits:
        clip = str(hit.path.absolute())
        if len(clip.splitlines()) != 1 or any("\ud800" <= character <= "\udfff" for character in clip):
            raise UserError(f"{clip!r}: a play list cannot hold this path; rename the file, and run {INDEXING} again")
        lines += [f"#EXTINF:{round(hit.seconds)},{hit.path.name}", clip]
    with own_file(path, "play list") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
