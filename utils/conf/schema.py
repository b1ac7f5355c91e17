"""The sections of conf.yaml, in its order, and what each setting decides."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from utils.conf.roles import Role
from utils.conf.values import (
    Bands,
    Corrections,
    Count,
    EmbeddingDim,
    FileName,
    Gpus,
    Grid,
    MetricName,
    Name,
    NonNegative,
    Number,
    Positive,
    Seed,
    Strategy,
    Temperature,
    flat,
)
from utils.dataset.recipe import LogMelRecipe


class Section(BaseModel):
    """A section of conf.yaml: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DataConf(Section):
    dataset: Annotated[Name, Role.AROUND]
    train_data: FileName
    val_data: FileName
    eval_data: Annotated[FileName, Role.MEASURED]
    cache: Annotated[Literal["device", "memory", "disk"], Role.AROUND]

    @property
    def splits(self) -> list[str]:
        """The splits in use, each once."""
        return list(dict.fromkeys([self.train_data, self.val_data, self.eval_data]))


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
    variants: dict[str, Annotated[list[str], Field(min_length=1)]]
    unk_max_dot: Annotated[Number, Field(gt=0, le=1)]
    unk_max_draws: Count
    extra_words: Annotated[int, Field(ge=0), Role.AROUND] = 0
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
    backend: Annotated[Literal["torch", "librosa", "torchaudio"], Role.AROUND]
    sample_rate: Annotated[int, Field(ge=1000, le=384000)] | None
    window: Positive
    hop: Positive
    n_mels: Bands
    fmin: NonNegative
    fmax: Positive
    workers: Annotated[Count | None, Role.AROUND]

    @model_validator(mode="after")
    def _band_is_not_empty(self) -> "LogMelConf":
        if self.fmin >= self.fmax:
            raise ValueError(f"fmin ({self.fmin:g} Hz) must be below fmax ({self.fmax:g} Hz)")
        return self

    @model_validator(mode="after")
    def _recipe_fits_the_sample_rate(self) -> "LogMelConf":
        if self.sample_rate is not None:
            self.recipe.at(self.sample_rate)
        return self

    @property
    def recipe(self) -> LogMelRecipe:
        """How log-mels are made."""
        return LogMelRecipe(**self.model_dump(exclude={"workers"}))


class ParamConf(Section):
    num_epoch: Annotated[int, Field(ge=0, lt=2**31), Role.REACH]
    batch_size: Annotated[int, Field(ge=2, lt=2**31)]
    seed: Annotated[Seed, Role.SEED]
    criterion: Literal["TripletLoss", "InfoNCE"]
    select_by: Literal["val_obj", "val_map"]
    precision: Literal["float32", "bfloat16"]
    tf32: bool
    compile: bool


class AudioEncConf(Section):
    in_dim: Bands | None
    out_dim: EmbeddingDim | None


class TextEncConf(Section):
    trainable: bool


class ModelConf(Section):
    audio_enc: AudioEncConf
    text_enc: TextEncConf


class ScoreConf(Section):
    frames: Literal["mean", "max", "softmax"] = "mean"
    sharpness: Annotated[Number, Field(gt=0, le=1000)] = 10.0
    learn_sharpness: bool = False
    words: Literal["mean", "idf"] = "mean"
    mask_words: bool
    mask_frames: bool


class TripletLossConf(Section):
    margin: Positive
    sampling: Strategy


class InfoNCEConf(Section):
    temperature: Temperature


class CriteriaConf(Section):
    TripletLoss: TripletLossConf
    InfoNCE: InfoNCEConf


class AdamConf(Section):
    lr: Positive
    weight_decay: NonNegative


class ReduceLROnPlateauConf(Section):
    factor: Annotated[Number, Field(gt=0, lt=1)]
    patience: Annotated[int, Field(ge=0)]
    threshold: NonNegative
    min_lr: NonNegative


class StopperConf(Section):
    std: NonNegative
    num_results: Count
    grace_period: Count


class RayInitConf(Section):
    address: Annotated[str, Field(pattern=r"^(auto|[^/]+:[0-9]+)$")] | None
    num_cpus: Count | None
    num_gpus: Annotated[int, Field(ge=0)] | None

    @model_validator(mode="after")
    def _a_cluster_has_its_own(self) -> "RayInitConf":
        if self.address and (self.num_cpus, self.num_gpus) != (None, None):
            raise ValueError("a cluster at an address has its own CPUs and GPUs: leave num_cpus and num_gpus at null")
        return self


class TrialResourcesConf(Section):
    cpu: Count
    gpu: Gpus


class RayConf(Section):
    init_args: RayInitConf
    trial_resources: TrialResourcesConf


class Conf(Section):
    """The whole of conf.yaml."""

    trial_series: Annotated[FileName, Role.AROUND]
    trial_base: Annotated[Name, Role.AROUND]
    log_tensorboard: Annotated[bool, Role.AROUND]
    data_conf: DataConf
    demo_dataset: Annotated[DemoDatasetConf, Role.AROUND]
    text_cleaning: TextCleaningConf
    clotho_dataset: Annotated[ClothoDatasetConf, Role.AROUND]  # what it leaves out is listed in bad_data.csv
    word2vec_embeddings: WordEmbeddingsConf
    audio_logmel: LogMelConf
    param_conf: ParamConf
    CRNNWordModel: ModelConf
    score: ScoreConf
    criteria: CriteriaConf
    metrics: dict[MetricName, TripletLossConf]
    AdamOptimizer: AdamConf
    ReduceLROnPlateau: ReduceLROnPlateauConf
    TrialPlateauStopper: StopperConf
    sweep_conf: Annotated[Grid, Role.AROUND]
    ray_conf: Annotated[RayConf, Role.AROUND]

    @property
    def objective(self) -> str:
        """What tells trials apart first: the sampling strategy, or the criterion that has none."""
        return self.criteria.TripletLoss.sampling if self.param_conf.criterion == "TripletLoss" else "InfoNCE"

    @model_validator(mode="after")
    def _sections_agree(self) -> "Conf":
        in_dim = self.CRNNWordModel.audio_enc.in_dim
        if in_dim not in (None, self.audio_logmel.n_mels):
            raise ValueError(
                f"audio_logmel.n_mels is {self.audio_logmel.n_mels} but CRNNWordModel.audio_enc.in_dim is "
                f"{in_dim}; leave in_dim at null, or make them equal"
            )
        if self.word2vec_embeddings.extra_words and self.CRNNWordModel.text_enc.trainable:
            raise ValueError(
                f"word2vec_embeddings.extra_words is {self.word2vec_embeddings.extra_words}, but with CRNNWordModel."
                "text_enc.trainable=true word vectors are trained, and words that no caption has are not; set it to 0"
            )
        return self


# --- what the settings decide ----------------------------------------------------------------------------


def role_of(key: str) -> Role:
    """The role of a dotted key: its field's, or that of the nearest section around it that has one."""
    role, section = Role.NUMBERS, Conf
    for part in key.split("."):
        field = section.model_fields.get(part)
        if field is None:
            break
        role = next((mark for mark in field.metadata if isinstance(mark, Role)), role)
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            break
        section = field.annotation
    return role


def _later(section: type[Section], prefix: str = "") -> dict[str, Any]:
    settings = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            settings |= _later(field.annotation, f"{prefix}{name}.")
        elif not field.is_required():
            settings[f"{prefix}{name}"] = field.default
    return settings


# Settings that came after trials of format 2 did, with what these were run by: fields with a default
LATER = _later(Conf)


def idle_because(conf: Conf, key: str) -> str | None:
    """The setting beside which a dotted key plays no part in a configuration; None where it plays one."""
    criterion, source = conf.param_conf.criterion, conf.word2vec_embeddings.source
    if key.startswith("criteria.") and key.split(".")[1] != criterion:
        return f"param_conf.criterion={criterion}"
    if key in ("score.sharpness", "score.learn_sharpness") and conf.score.frames != "softmax":
        return f"score.frames={conf.score.frames}"
    if key.startswith("word2vec_embeddings.train.") and source != "train":
        return f"word2vec_embeddings.source={source}"
    return None


def telling(conf: Conf) -> dict[str, Any]:
    """The settings that decide numbers and play a part, by dotted key."""
    leaves = flat(conf.model_dump())
    return {key: value for key, value in leaves.items() if role_of(key).decides_numbers and not idle_because(conf, key)}
