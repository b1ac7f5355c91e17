"""A trained model that scores sounds with texts: here of a trial, in retrieval_model.py of an exported file.

Shapes: V vocabulary, M texts, N sounds; E embedding dimension; T frames, L encoder outputs.
"""

import statistics
from collections.abc import Sequence
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from utils.common.errors import UserError
from utils.common.hdf5 import open_hdf5
from utils.common.steps import FEATURES, TRAINING
from utils.conf.schema import Conf
from utils.dataset.audio import Clip
from utils.dataset.captions import clean_caption, correct_words
from utils.dataset.index import read_clips
from utils.dataset.sentence_encoder import SentenceEncoder
from utils.evaluation_utils import encode_words
from utils.fast_score_utils import EncodedClips
from utils.score_utils import caption_word_weights
from utils.search.sounds import Features, Heard, LogMels
from utils.text_input import of_sentences
from utils.trial.checkpoint import Trained
from utils.trial.checks import check_trial
from utils.trial.identity import identity
from utils.trial.trial import Trial

SAME_VECTOR = 0.999  # cosine; one sentence's vectors on two machines are nearer


class Scorer:
    """A model, its score and its vocabulary, and how it reads sounds and texts.

    Args:
        name: the trial's directory or the model's file, in messages.
        conf: its configuration.
        trained: of a model of sentences, the vocabulary holds the padding and at least one sentence.
        origin: what tells the model from others.
    """

    extra = 0  # how many of the words, the last, no caption has
    heard: Heard  # how the data set's sounds were read

    def __init__(self, name: str, conf: Conf, trained: Trained, origin: list):
        self.name, self.conf, self.origin = name, conf, origin
        self.model, self.score, self.words, self.epoch = trained
        self.of_sentences = of_sentences(conf)
        self.ids = {word: i for i, word in enumerate(self.words)}

    @property
    def made_by(self) -> list:
        """What decides its scores of a sound; another value for each model and settings."""
        return [*self.origin, self.conf.score.model_dump(), self.sounds.settings]

    @cached_property
    def sounds(self) -> LogMels | Features:
        """Reads sounds as training read those of the data set."""
        reader = Features if self.conf.data_conf.audio == "features" else LogMels
        return reader(self.conf, self.heard)

    @torch.no_grad()
    def sound_scores(self, audio: np.ndarray, embeds: Tensor) -> np.ndarray:
        """Score a sound (T, D) with words (V, E): (V,) float32."""
        encoded = self.score.encode_audio(self.model, torch.from_numpy(audio).unsqueeze(0).to(self.model.device))
        clip = EncodedClips.of_batch(encoded, np.array([encoded.shape[1]]), np.array([len(audio)]))
        return self.score.of_words(clip, embeds)[:, 0].cpu().numpy()

    # --- texts -------------------------------------------------------------------------------------------

    def tokens(self, text: str) -> list[str]:
        """The words of a text, cleaned and corrected as captions are, but with named entities; or the sentence."""
        cleaned = correct_words(clean_caption(text), self.conf.text_cleaning.corrections)
        return [cleaned] if self.of_sentences else cleaned.split()

    @torch.no_grad()
    def word_embeds(self, ids: np.ndarray | None = None) -> Tensor:
        """Embed words by id, or the whole vocabulary, as the score takes them: (V, E)."""
        ids = np.arange(len(self.words)) if ids is None else ids
        return self.score.word_embeds(encode_words(self.model, ids))

    @cached_property
    def _encoder(self) -> SentenceEncoder:
        return SentenceEncoder(self.conf.sentence_embeddings.model)

    @torch.no_grad()
    def sentence_embeds(self, sentences: list[str]) -> Tensor:
        """Embed sentences as the score takes them: (N, E). UserError where the encoder is not that of the captions."""
        vectors = torch.from_numpy(self._encoder.encode([self.words[1], *sentences]))  # a known one, and these
        expected = self.model.text_enc.embedding.weight[1].cpu()
        if len(expected) != vectors.shape[1] or torch.cosine_similarity(vectors[0], expected, dim=0) < SAME_VECTOR:
            raise UserError(
                f"sentence_embeddings.model: {self._encoder.name} gives other vectors than those that {self.name} was "
                "trained with; put that model back"
            )
        return self.score.word_embeds(self.model.text_projection(vectors[1:].to(self.model.device)))

    def weighted(self, texts: Sequence[list[str]]) -> tuple[Tensor, csr_array]:
        """Embed texts, each given by its known `tokens`. Returns the tokens' embeddings (V, E), and weights (M, V).

        S is the product of the weights with the tokens' scores; 0 for a text without tokens.
        """
        ids = self.ids
        if self.of_sentences:
            ids = {sentence: i for i, sentence in enumerate(dict.fromkeys(chain.from_iterable(texts)))}
        captions = [np.array([ids[token] for token in text], dtype=np.int64) for text in texts]
        used = caption_word_weights(captions)[0]
        embeds = self.sentence_embeds(list(ids)) if self.of_sentences else self.word_embeds(used)
        return embeds, self.score.caption_weights(captions, embeds)


class TrialScorer(Scorer):
    """The best model of a trial, which reads sounds as those of a split.

    Raises UserError where there is no data set, or the checkpoint is damaged.
    """

    def __init__(self, trial: Trial, split: str | None = None):
        self.trial, self.split = trial, split or trial.conf.data_conf.eval_data
        check_trial(trial, TRAINING)
        super().__init__(str(trial), trial.conf, trial.best, [identity(trial.path), trial.best.epoch])

    @cached_property
    def clips(self) -> dict[str, Clip]:
        """The split's clips, by fid."""
        return read_clips(self.trial.dataset, self.split)

    @cached_property
    def heard(self) -> Heard:
        rate = statistics.mode(clip.sample_rate for clip in self.clips.values()) if self.clips else None
        if self.conf.data_conf.audio != "features" or self.conf.audio_features.model == "own":
            return Heard(self.name, rate)
        file = self.trial.dataset.audio_features(self.split)
        with open_hdf5(file, FEATURES) as store:
            return Heard(str(file), rate, store.attrs.get("weights_sha256"))
