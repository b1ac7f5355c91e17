"""Search by text in the sounds of a folder: each is encoded once, and what all texts need of it is kept.

A text's score is a (weighted) mean of its words' scores. So a sound's scores with every word of the vocabulary are
kept, and further texts cost a look-up. Where texts are sentences, a sound's vector is kept at the clip level; at the
frame level its scores with the sentences asked for, and those of other sentences are not kept.

Shapes: C sounds; K values kept of a sound; W words that are held in memory; E embedding dimension.
"""

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.common.chunks import load_part, make_folder, save_part
from utils.common.counts import counted
from utils.common.digests import digest_of, file_digest
from utils.common.errors import UserError
from utils.common.io import progress
from utils.common.lock import held
from utils.dataset.audio import highest_frequency, open_audio
from utils.dataset.paths import AUDIO_FILES, sounds_in
from utils.score_utils import ClipScore
from utils.search.scorer import Scorer
from utils.search.text_search import TextSearch
from utils.trial.score_files import WordScores

PART = re.compile(r"([0-9a-f]{16})-[0-9a-f]{64}\.(?:npy|\d+\.tmp)")  # .tmp: of a killed process
CACHE = "word_scores"  # ends the name of the folder that keeps what sounds were encoded to
SHOWN = 20  # problems or words printed


class SoundHit(NamedTuple):
    """A sound in the result of a search."""

    rank: int  # from 1
    score: float
    path: Path
    seconds: float


class Kept(NamedTuple):
    """What is kept of a sound: K values."""

    size: int  # K
    unit: str  # of the values, in messages
    embeds: Callable[[], Tensor]  # what a sound is scored with: (K, E)
    held: Callable[[np.ndarray], np.ndarray]  # (K,) -> (W,), the scores that are held in memory
    made_by: Sequence = ()  # what decides the values, beside the model


class FolderSearch(TextSearch):
    """Search by text in a folder of sounds; they are resampled as in `ClipSearch.by_audio`.

    Args:
        scorer: the model.
        folder: the sounds; subfolders are skipped.
        cache: the folder that keeps what was encoded.
        texts: that will be searched for: only the scores of their words are held. None: those of all words.
    """

    def __init__(self, scorer: Scorer, folder: Path, cache: Path, texts: list[str] | None = None):
        known = f"{scorer.name} knows {counted(len(scorer.words) - 1, 'word')};"
        super().__init__(scorer, known, "6_export.py --extra-words adds others")
        self.folder, self.cache, self.texts = folder, cache, texts
        files = list(sounds_in(folder))
        self.files = [name for name, problem in files if problem is None]
        self.problems = [f"{folder / name}: {problem}" for name, problem in files if problem]
        self.low_rates: list[str] = []  # sounds whose sample rate is too low for the model
        self.encoded = 0  # sounds, in this run
        if not files:
            raise UserError(f"{folder}: holds no {AUDIO_FILES} files")

    def by_text(self, query: str, top: int = 5) -> list[SoundHit]:
        """Find the `top` sounds, or all, with the highest scores S with a text; ties are sorted by name.

        Raises UserError if no word has a vector, or (unless clotho_dataset.on_bad_data is skip) a sound cannot be used.
        """
        known = self.require_known(query)
        with redirect_stdout(sys.stderr):  # what was encoded is not a result
            scores = self.scores(query)
        scores = scores * self.scorer.weighted([known])[1].sum()  # at the clip level, over the text vector's length
        ranked = [(rank, float(scores[i]), self.folder / self.names[i]) for rank, i in self.ranked(scores, top)]
        return [SoundHit(rank, score, path, seconds_of(path)) for rank, score, path in ranked]

    @property
    def names(self) -> list[str]:
        """C file names, sorted."""
        return self.stored.fids

    @property
    def known_words(self) -> dict[str, int]:
        return self.scorer.ids

    def scores(self, query: str) -> np.ndarray:
        """(C,) float32: the mean of the sounds' scores with a text's words; 0 if it has no known word.

        At the clip level it is S times the length of the text's vector.
        """
        known = self.known_tokens(query)
        scores = self.text_scores(known) if known else np.zeros(len(self.names), np.float32)
        self.require_finite(scores)
        return scores

    # --- what is kept of a sound ---------------------------------------------------------------------------

    @cached_property
    def _wanted(self) -> list[str]:
        """The W words, or sentences, whose scores are held."""
        if self.texts is None:
            return self.words
        tokens = dict.fromkeys(chain.from_iterable(map(self.scorer.tokens, self.texts)))
        return list(tokens) if self.of_sentences else [word for word in self.words if word in tokens]

    @cached_property
    def _kept(self) -> Kept:
        if not self.of_sentences:
            ids = np.array([self.scorer.ids[word] for word in self._wanted], dtype=np.int64)
            return Kept(len(self.words), "word", self.scorer.word_embeds, lambda kept: kept[ids])
        if not isinstance(self.score, ClipScore):
            sentences = partial(self.scorer.sentence_embeds, self._wanted)
            return Kept(len(self._wanted), "distinct caption", sentences, lambda kept: kept, [self._wanted])
        vectors = self.scorer.sentence_embeds(self._wanted)  # (W, E)
        axes = torch.eye(vectors.shape[1], device=self.model.device)
        return Kept(len(axes), "dimension", lambda: axes, lambda kept: vectors.cpu().numpy() @ kept)

    @cached_property
    def _embeds(self) -> Tensor:
        return self._kept.embeds()

    @cached_property
    def stored(self) -> WordScores:
        """The scores (W, C) of the texts' words with the usable sounds."""
        scores, names = np.empty((len(self._wanted), len(self.files)), np.float32), []
        mark = digest_of([*self.scorer.made_by, *self._kept.made_by])[:16]
        with filling(self.cache, mark):
            for name in progress(self.files, f"scoring {self.folder}", total=len(self.files)):
                kept = self._of_sound(self.folder / name, mark)
                if kept is not None:
                    scores[:, len(names)] = self._kept.held(kept)
                    names.append(name)
        self._report(names)
        return WordScores(scores[:, : len(names)], self._wanted, names, self.epoch)

    def _of_sound(self, path: Path, mark: str) -> np.ndarray | None:
        """What is kept of a sound (K,), from the cache or computed; None, and a problem, if it is unusable."""
        audio = None
        try:
            part = self.cache / f"{mark}-{file_digest(path)}.npy"
            kept = load_part(part, (self._kept.size,))
            if kept is None:
                audio = self.scorer.sounds.read(path)
            if highest_frequency(path) < self.scorer.sounds.fmax:
                self.low_rates.append(path.name)
        except (UserError, OSError) as error:
            self.problems.append(str(error) if isinstance(error, UserError) else f"{path}: {error.strerror}")
            return None
        if audio is not None:  # outside `try`: a full disk is not a problem of the sound
            kept = self.scorer.sound_scores(audio, self._embeds)
            save_part(part, kept)
            self.encoded += 1
        return kept

    def _report(self, names: list[str]) -> None:
        """Print what was scored; refuse or warn of unusable sounds."""
        if self.problems and self.conf.clotho_dataset.on_bad_data == "refuse":
            unusable = f"{counted(len(self.problems), 'sound')} cannot be ranked{_more(self.problems)}"
            advice = "correct or remove them, or set clotho_dataset.on_bad_data=skip"
            raise UserError("\n".join([*self.problems[:SHOWN], f"{self.folder}: {unusable}: {advice}"]))
        for problem in self.problems:
            warnings.warn(f"left out: {problem}", stacklevel=2)
        if not names:
            raise UserError(f"{self.folder}: no sound is left to be ranked")
        if self.low_rates:
            sounds, low = self.scorer.sounds, f"{counted(len(self.low_rates), 'sound')} of a low sample rate"
            missing = f"nothing up to the {sounds.fmax:g} Hz that {sounds.noun} go up to"
            example = f"{low}, e.g. {self.low_rates[0]!r}"
            warnings.warn(f"{self.folder}: {example}: {missing}: their ranks may be wrong", stacklevel=2)
        earlier = f" ({len(names) - self.encoded} kept from an earlier run)" if self.encoded < len(names) else ""
        sizes = f"{counted(len(names), 'sound')}{earlier} x {counted(self._kept.size, self._kept.unit)}"
        print(f"{self.folder}: {sizes} -> {self.cache}")


def seconds_of(path: Path) -> float:
    """The length of a sound that can be read, in seconds."""
    with open_audio(path) as stream:
        return stream.frames / stream.samplerate


def beside(folder: Path, kind: str = CACHE) -> Path:
    """A path beside a folder, named after it: by default that of what its sounds were encoded to."""
    return folder.resolve().parent / f"{folder.resolve().name}_{kind}"


def shown_words(words: list[str]) -> str:
    """Words for a message, the first of many."""
    return f"{', '.join(words[:SHOWN])}{_more(words)}"


def _more(items: list[str]) -> str:
    return f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""


@contextmanager
def filling(folder: Path, mark: str) -> Iterator[None]:
    """Lock a cache folder, made if it is missing, and drop scores with other marks.

    `mark` is 16 hexadecimal digits for the model and settings; a sound's scores are in {mark}-{SHA-256 of sound}.npy.
    """
    make_folder(folder)
    with held(folder / ".lock", f"{folder}: another process is filling it; wait for that, or end it"):
        dropped = 0
        for path in list(folder.iterdir()):
            if (part := PART.fullmatch(path.name)) and (part[1] != mark or path.suffix == ".tmp"):
                path.unlink()
                dropped += path.suffix == ".npy"
        if dropped:
            print(f"{folder}: scores of {counted(dropped, 'sound')} by another model, or other settings, are dropped")
        yield
