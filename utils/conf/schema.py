"""conf.yaml: its sections in order, what each value may be, and what it decides."""

import re
from collections.abc import Iterator
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal
from unicodedata import normalize

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from utils.dataset.captions import clean_caption
from utils.dataset.log_mel_config import LogMelConfig
from utils.sampling_utils import STRATEGIES


class Role(Enum):
    """What a setting decides. A section's role holds for all below it that has none of its own."""

    RESULTS = "what comes out"
    SEED = "which of its draws an experiment takes"
    DURATION = "how far a run goes"
    EVALUATION = "what a trial is measured on: training does not see it"
    RUNTIME = "where things are, and what stands around a run: it decides no number"

    @property
    def may_change_on_resume(self) -> bool:
        return self in (Role.DURATION, Role.EVALUATION, Role.RUNTIME)

    @property
    def may_change_afterwards(self) -> bool:
        """Whether a trial can be scored, measured and shown with another value than it was trained with."""
        return self in (Role.EVALUATION, Role.RUNTIME)

    @property
    def tells_experiments_apart(self) -> bool:
        """Whether trials that differ in it are two rows of a comparison, whose trials are all measured on the same."""
        return self in (Role.RESULTS, Role.DURATION)

    @property
    def decides_numbers(self) -> bool:
        """Whether it may differ within a sweep, and counts for the provenance of what a step writes."""
        return self in (Role.RESULTS, Role.SEED, Role.DURATION)


NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE | re.ASCII)


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    leaves = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def _as_float(value: Any) -> Any:
    # YAML 1.1 reads 1e-3 as text; a number was meant.
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


def _clean_words(table: dict[str, str]) -> dict[str, str]:
    for wrong, right in table.items():
        if not wrong or clean_caption(wrong) != wrong or " " in wrong or clean_caption(right) != right:
            raise ValueError(f"{wrong!r}: {right!r} must be lower-case words without punctuation, one before the colon")
    return table


def _composed(word: str) -> str:
    return normalize("NFC", word)


def _free_metric_name(name: str) -> str:
    if name in ("obj", "map", "map_text_to_audio", "map_audio_to_text"):
        raise ValueError(f"val_{name} is reported anyway; choose another name")
    return name


def _dotted_keys(grid: Any) -> Any:
    return flat(grid) if isinstance(grid, dict) else grid


def _no_value_twice(values: list) -> list:
    seen = set()
    for value in map(repr, values):
        if value in seen:
            raise ValueError(f"holds {value} twice; name each value once")
        seen.add(value)
    return values


def _part_or_whole(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError("Ray shares out parts of one GPU, such as 0.25, or whole ones")
    return gpus


def _known_strategy(name: str) -> str:
    if name not in STRATEGIES:
        raise ValueError(f"no such strategy; it is one of {', '.join(STRATEGIES)}")
    return name


# Far beyond any use, and far within float32, in which the optimiser and the losses count
Finite = Annotated[float, BeforeValidator(_as_float), Field(allow_inf_nan=False)]
Number = Annotated[Finite, Field(le=1e6)]
Positive = Annotated[Number, Field(gt=0)]
Temperature = Annotated[Number, Field(ge=1e-6)]  # scores are divided by it
NonNegative = Annotated[Number, Field(ge=0)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
EmbeddingDim = Annotated[int, Field(ge=2, multiple_of=2, lt=2**31)]  # half a direction of the GRU
Bands = Annotated[int, Field(ge=64, multiple_of=64)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1)]
MetricName = Annotated[Name, AfterValidator(_free_metric_name)]
Strategy = Annotated[str, AfterValidator(_known_strategy)]
Word = Annotated[str, AfterValidator(_composed)]  # as `clean_caption` leaves one
Corrections = Annotated[dict[Word, Word], AfterValidator(_clean_words)]
Gpus = Annotated[NonNegative, AfterValidator(_part_or_whole)]
FileName = Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")]  # of one file or folder, not hidden

Values = Annotated[list[Any], Field(min_length=1), AfterValidator(_no_value_twice)]
Grid = Annotated[dict[str, Values], BeforeValidator(_dotted_keys)]


class Section(BaseModel):
    """A section of conf.yaml: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


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
