"""The sections of conf.yaml for the preprocessing steps, in its order."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from utils.conf.roles import Role
from utils.conf.section import Section
from utils.conf.values import (
    Bands,
    Corrections,
    Count,
    EmbeddingDim,
    FileName,
    Name,
    NonNegative,
    Number,
    Positive,
    Seed,
    Word,
)
from utils.dataset.log_mel_config import LogMelConfig


class DemoDatasetConf(Section):
    num_clips: Annotated[dict[FileName, Count], Field(min_length=1)]
    sample_rate: Annotated[int, Field(ge=8000, le=192000)]
    seed: Seed


class TextCleaningConf(Section):
    named_entities: Literal["replace", "keep"]
    corrections: Corrections


class ClothoDatasetConf(Section):
    on_bad_data: Literal["refuse", "skip"]
    require_audio: bool


class Word2VecTrainConf(Section):
    vector_size: EmbeddingDim
    window: Count
    epochs: Count


class WordEmbeddingsConf(Section):
    source: Literal["word2vec-google-news-300", "fasttext-wiki-news-subwords-300", "file", "train"]
    file: Name | None
    variants: dict[Word, Annotated[list[str], Field(min_length=1)]]
    unk_max_dot: Annotated[Number, Field(gt=0, le=1)]
    unk_max_draws: Count
    extra_words: Annotated[int, Field(ge=0), Role.RUNTIME] = 0
    seed: Seed
    train: Word2VecTrainConf

    @model_validator(mode="after")
    def _file_is_named(self) -> "WordEmbeddingsConf":
        if self.source == "file" and self.file is None:
            raise ValueError("source is 'file': set word2vec_embeddings.file to the word vectors' path")
        if self.source != "file" and self.file is not None:
            raise ValueError(
                f"word2vec_embeddings.file is {self.file!r} but source is {self.source!r}, which reads no file: set "
                "word2vec_embeddings.source=file, or file to null"
            )
        return self


class LogMelConf(Section):
    backend: Annotated[Literal["torch", "librosa", "torchaudio"], Role.RUNTIME]
    sample_rate: Annotated[int, Field(ge=1000, le=384000)] | None
    window: Positive
    hop: Positive
    n_mels: Bands
    fmin: NonNegative
    fmax: Positive
    workers: Annotated[Count | None, Role.RUNTIME]

    @model_validator(mode="after")
    def _band_is_not_empty(self) -> "LogMelConf":
        if self.fmin >= self.fmax:
            raise ValueError(f"fmin ({self.fmin:g} Hz) must be below fmax ({self.fmax:g} Hz)")
        return self

    @model_validator(mode="after")
    def _config_fits_the_sample_rate(self) -> "LogMelConf":
        if self.sample_rate is not None:
            self.config.at(self.sample_rate)
        return self

    @property
    def config(self) -> LogMelConfig:
        """How log-mels are made."""
        return LogMelConfig(**self.model_dump(exclude={"workers"}))
