"""The sections of conf.yaml, in its order, and what each setting decides."""

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from utils.conf.preprocessing import (
    ClothoDatasetConf,
    DemoDatasetConf,
    LogMelConf,
    TextCleaningConf,
    WordEmbeddingsConf,
)
from utils.conf.roles import Role
from utils.conf.section import Section
from utils.conf.values import (
    Bands,
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


class DataConf(Section):
    dataset: Annotated[Name, Role.RUNTIME]
    train_data: FileName
    val_data: FileName
    eval_data: Annotated[FileName, Role.EVALUATION]
    relevance: Annotated[Name | None, Role.EVALUATION] = None
    cache: Annotated[Literal["device", "memory", "disk"], Role.RUNTIME]

    @property
    def splits(self) -> list[str]:
        """The splits in use, each once."""
        return list(dict.fromkeys([self.train_data, self.val_data, self.eval_data]))


class ParamConf(Section):
    num_epoch: Annotated[int, Field(ge=0, lt=2**31), Role.DURATION]
    batch_size: Annotated[int, Field(ge=2, lt=2**31)]
    seed: Annotated[Seed, Role.SEED]
    criterion: Literal["TripletLoss", "InfoNCE"]
    select_by: Literal["val_obj", "val_map"]
    average_from: Count | None = None
    precision: Literal["float32", "bfloat16"]
    tf32: bool
    compile: bool

    @model_validator(mode="after")
    def _an_epoch_is_averaged(self) -> "ParamConf":
        if self.average_from is not None and self.average_from > self.num_epoch:
            raise ValueError(f"average_from is {self.average_from} but num_epoch is {self.num_epoch}; lower it")
        return self


class AudioEncConf(Section):
    in_dim: Bands | None
    out_dim: EmbeddingDim | None
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.3


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
    decoupled_weight_decay: bool = False


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

    trial_series: Annotated[FileName, Role.RUNTIME]
    trial_base: Annotated[Name, Role.RUNTIME]
    log_tensorboard: Annotated[bool, Role.RUNTIME]
    data_conf: DataConf
    demo_dataset: Annotated[DemoDatasetConf, Role.RUNTIME]
    text_cleaning: TextCleaningConf
    clotho_dataset: Annotated[ClothoDatasetConf, Role.RUNTIME]  # what it leaves out is listed in bad_data.csv
    word2vec_embeddings: WordEmbeddingsConf
    audio_logmel: LogMelConf
    param_conf: ParamConf
    CRNNWordModel: ModelConf
    score: ScoreConf
    xmodal_scores: Annotated[Literal["auto", "always", "never"], Role.RUNTIME] = "auto"
    criteria: CriteriaConf
    metrics: dict[MetricName, TripletLossConf]
    AdamOptimizer: AdamConf
    ReduceLROnPlateau: ReduceLROnPlateauConf
    TrialPlateauStopper: StopperConf
    sweep_conf: Annotated[Grid, Role.RUNTIME]
    ray_conf: Annotated[RayConf, Role.RUNTIME]

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


@cache
def role_of(key: str) -> Role:
    """The role of a dotted key: its field's, or that of the nearest section around it that has one."""
    roles = [mark for field in _fields_along(key) for mark in field.metadata if isinstance(mark, Role)]
    return roles[-1] if roles else Role.RESULTS


def default_of(key: str) -> Any:
    """What a dotted key stands at where it is not written down: a trial may be older than a setting; else None."""
    *_, field = [None, *_fields_along(key)]
    return None if field is None or field.is_required() else field.default


def _fields_along(key: str) -> Iterator[FieldInfo]:
    """The fields on the way to a dotted key, as far as there are any."""
    section = Conf
    for part in key.split("."):
        field = section.model_fields.get(part)
        if field is None:
            return
        yield field
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            return
        section = field.annotation


def unused_because(conf: Conf, key: str) -> str | None:
    """The setting beside which a dotted key plays no part in a configuration; None where it plays one."""
    criterion, source = conf.param_conf.criterion, conf.word2vec_embeddings.source
    if key.startswith("criteria.") and key.split(".")[1] != criterion:
        return f"param_conf.criterion={criterion}"
    if key in ("score.sharpness", "score.learn_sharpness") and conf.score.frames != "softmax":
        return f"score.frames={conf.score.frames}"
    if key == "AdamOptimizer.decoupled_weight_decay" and conf.AdamOptimizer.weight_decay == 0:
        return "AdamOptimizer.weight_decay=0"
    if key.startswith("word2vec_embeddings.train.") and source != "train":
        return f"word2vec_embeddings.source={source}"
    return None


def result_settings(conf: Conf, sections: set[str] | None = None) -> dict[str, Any]:
    """The settings that decide numbers and play a part, by dotted key; of all sections, or of these."""
    leaves = flat(conf.model_dump(include=sections, exclude={"sweep_conf"}))  # which decides none, and may be long
    results = {key: value for key, value in leaves.items() if role_of(key).decides_numbers}
    return {key: value for key, value in results.items() if not unused_because(conf, key)}
