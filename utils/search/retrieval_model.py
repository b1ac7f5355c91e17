"""An exported model in Python: scores, vectors, and search in a folder, without its trial and its data set.

Shapes: C sounds, M texts, E embedding dimension, V words.
"""

import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.common.errors import UserError
from utils.common.io import progress
from utils.data_utils import Split
from utils.dataset.captions import has_words
from utils.evaluation_utils import score_words
from utils.fast_score_utils import EncodedClips, caption_sums
from utils.score_utils import ClipScore
from utils.search.folder_search import FolderSearch, SoundHit, beside, shown_words
from utils.search.model_file import ExportedScorer

AT_ONCE = 16  # sounds in memory


class RetrievalModel:
    """A model that 6_export.py wrote.

    Sounds are paths of audio files of any length and sample rate; texts are cleaned as captions are. Words that the
    model does not know are left out with a warning.
    """

    def __init__(self, scorer: ExportedScorer):
        self.scorer = scorer

    @classmethod
    def load(
        cls, path: Path | str, device: torch.device | str | None = None, settings: Sequence[str] = ()
    ) -> "RetrievalModel":
        """Load a model's file, with the arguments of `ExportedScorer`."""
        return cls(ExportedScorer(Path(path), settings, device))

    def score(self, sounds: Sequence[Path | str], texts: Sequence[str]) -> np.ndarray:
        """S of sounds and texts, as the trial scores them: (C, M) float32. A text without a known word scores 0.

        Raises UserError where a sound cannot be read, or a text holds no words.
        """
        embeds, weights = self.scorer.weighted(self._known(texts))
        if not len(embeds):
            return np.zeros((len(sounds), len(texts)), np.float32)
        by_word = [scores.cpu().numpy() for scores, _ in self._encoded(sounds, embeds)]  # (V, c) each
        return np.concatenate([(weights @ scores).T for scores in by_word] or [np.zeros((0, len(texts)))], dtype="f4")

    def rank(self, text: str, folder: Path | str, top: int = 10, cache: Path | str | None = None) -> list[SoundHit]:
        """Find the `top` sounds of a folder, or all, with the highest scores with a text; ties are sorted by name.

        Args:
            cache: the folder that keeps what sounds were encoded to; None is FOLDER_word_scores, beside the folder.

        Raises UserError as `FolderSearch.by_text` does.
        """
        folder = Path(folder)
        search = FolderSearch(self.scorer, folder, Path(cache) if cache else beside(folder), [text])
        if unknown := search.unknown_words(text):
            warnings.warn(f"unknown words, left out: {shown_words(unknown)}", stacklevel=2)
        return search.by_text(text, top)

    def encode_sounds(self, sounds: Sequence[Path | str]) -> np.ndarray:
        """Unit vectors (C, E) float32 of sounds, whose product with those of texts is S; at the clip level only."""
        self._require_vectors()
        no_words = self.scorer.word_embeds(np.zeros(0, np.int64))  # (0, E)
        outputs = [clips.outputs(range(len(clips.starts))) for _, clips in self._encoded(sounds, no_words)]
        vectors = [F.normalize(clips.squeeze(1), dim=-1) for clips in outputs]
        return torch.cat([no_words, *vectors]).cpu().numpy()

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (M, E) float32 of texts, as in `encode_sounds`; 0 for a text without a known word."""
        self._require_vectors()
        embeds, weights = self.scorer.weighted(self._known(texts))
        return caption_sums(weights, embeds).cpu().numpy()

    def _require_vectors(self) -> None:
        if not isinstance(self.scorer.score, ClipScore):
            raise UserError(
                f"{self.scorer.name}: its score compares frames with words (score.level is frame), so sounds and texts "
                "have no vectors; use score() or rank()"
            )

    def _known(self, texts: Sequence[str]) -> list[list[str]]:
        """The known words of each text, with a warning of the others."""
        if isinstance(texts, str):
            raise UserError(f"the text {texts[:200]!r} is alone; give a list of texts")
        tokens = [self.scorer.tokens(text) for text in texts]
        for text, words in zip(texts, tokens, strict=True):
            if not has_words(" ".join(words)):
                raise UserError(f"the text {text[:200]!r} holds no words; describe a sound in words")
        if self.scorer.of_sentences:
            return tokens
        known = [[word for word in words if word in self.scorer.ids] for words in tokens]
        if unknown := list(dict.fromkeys(word for words in tokens for word in words if word not in self.scorer.ids)):
            warnings.warn(f"unknown words, left out: {shown_words(unknown)}", stacklevel=3)
        for text in (text for text, words in zip(texts, known, strict=True) if not words):
            warnings.warn(f"no word of {text[:200]!r} is known: its scores are 0", stacklevel=3)
        return known

    def _encoded(self, sounds: Sequence[Path | str], embeds: Tensor) -> Iterator[tuple[Tensor, EncodedClips]]:
        """Encode sounds, some at a time: their scores with words (V, c), and the encoder's outputs."""
        if isinstance(sounds, str | Path):
            raise UserError(f"{sounds}: is one path; give a list of paths")
        scorer, reading = self.scorer, progress(sounds, "scoring", len(sounds))
        while read := [torch.from_numpy(scorer.sounds.read(Path(sound))) for sound in islice(reading, AT_ONCE)]:
            names = [str(i) for i in range(len(read))]
            split = Split(names, read, [], [], np.empty(0, np.int64), scorer.sounds.noun)
            yield score_words(scorer.model, split, [embeds], scorer.score, keep_encoded=True)
