"""The sections of conf.yaml in order: what each setting may be, and what it decides."""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache, partial
from operator import attrgetter, eq, ne
from pathlib import Path
from typing import Annotated, Any, Literal
from unicodedata import normalize

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from utils.dataset.captions import clean_caption
from utils.dataset.log_mel_config import LogMelConfig

DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE | re.ASCII)


class Section(BaseModel):
    """A section of conf.yaml. Unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Role(Enum):
    """What a setting does, in words for messages. The role of a section applies to each setting in it that has none."""

    RESULTS = "decides the results"
    SEED = "decides the random draws"
    DURATION = "decides the number of epochs"
    EVALUATION = "changes the evaluation, not the training"
    RUNTIME = "changes no result"

    def __init__(self, words: str):
        self.decides_numbers = self.name in ("RESULTS", "SEED", "DURATION")  # it may be swept, and is recorded
        self.tells_experiments_apart = self.name in ("RESULTS", "DURATION")  # different rows of a comparison
        self.may_change_on_resume = self.name in ("DURATION", "EVALUATION", "RUNTIME")
        self.may_change_afterwards = not self.decides_numbers  # when a trained trial is scored, evaluated and shown


# --- values ----------------------------------------------------------------------------------------------


def _names(table: str, file: str) -> tuple[str, ...]:
    """The names in a table of the code, read from its source: importing it imports torch, which takes a second."""
    source = Path(__file__).resolve().parents[2] / file
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and ast.unparse(node).startswith((f"{table} =", f"{table}:")):
            return tuple(map(ast.literal_eval, node.value.keys))
    raise LookupError(f"{file} has no table {table}")


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    leaves = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def _dotted_keys(grid: Any) -> Any:
    return flat(grid) if isinstance(grid, dict) else grid


def _as_float(value: Any) -> Any:
    """Convert 1e-3, which PyYAML reads as text."""
    return float(value) if isinstance(value, str) and DECIMAL.fullmatch(value) else value


def _require_clean_words(corrections: dict[str, str]) -> dict[str, str]:
    for wrong, right in corrections.items():
        if clean_caption(wrong).split() != [wrong] or clean_caption(right) != right:
            raise ValueError(f"{wrong!r}: {right!r} must be lower-case words without punctuation, one before the colon")
    return corrections


def _require_free_name(name: str) -> str:
    if name in ("obj", "map", "map_text_to_audio", "map_audio_to_text"):
        raise ValueError(f"val_{name} is always reported; choose another name")
    return name


def _require_distinct(values: list) -> list:
    [(value, count)] = Counter(map(repr, values)).most_common(1)
    if count > 1:
        raise ValueError(f"holds {value} twice; name each value once")
    return values


def _require_part_or_whole(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError("Ray assigns part of one GPU, such as 0.25, or whole GPUs")
    return gpus


# The limits are far beyond any use, and far within float32, in which losses and the optimiser compute
Number = Annotated[float, BeforeValidator(_as_float), Field(allow_inf_nan=False), Field(le=1e6)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
EmbeddingDim = Annotated[int, Field(ge=2, multiple_of=2, lt=2**31)]  # half for each direction of the GRU
Bands = Annotated[int, Field(ge=64, multiple_of=64)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1)]
FileName = Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")]  # a file or folder, not hidden
Word = Annotated[str, AfterValidator(partial(normalize, "NFC"))]  # as `clean_caption` writes it
GridValues = Annotated[list[Any], Field(min_length=1), AfterValidator(_require_distinct)]
Grid = Annotated[dict[str, GridValues], BeforeValidator(_dotted_keys)]


# --- preprocessing ---------------------------------------------------------------------------------------


class DemoDatasetConf(Section):
    num_clips: Annotated[dict[FileName, Count], Field(min_length=1)]
    sample_rate: Annotated[int, Field(ge=8000, le=192000)]
    seed: Seed


class TextCleaningConf(Section):
    named_entities: Literal["replace", "keep"]
    corrections: Annotated[dict[Word, Word], AfterValidator(_require_clean_words)]


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
    def _source_fits_file(self) -> "WordEmbeddingsConf":
        if (self.source == "file") != (self.file is not None):
            advice = "name a file" if self.source == "file" else "set file to null, or source to file"
            raise ValueError(f"source is {self.source!r} but file is {self.file!r}; {advice}")
        return self


class SentenceEmbeddingsConf(Section):
    model: Name = "all-MiniLM-L6-v2"


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
    def _band_fits(self) -> "LogMelConf":
        if self.fmin >= self.fmax:
            raise ValueError(f"fmin ({self.fmin:g} Hz) must be below fmax ({self.fmax:g} Hz)")
        if self.sample_rate is not None:
            self.config.at(self.sample_rate)
        return self

    @property
    def config(self) -> LogMelConfig:
        return LogMelConfig(**self.model_dump(exclude={"workers"}))


class AudioFeaturesConf(Section):
    model: Literal["efficientat", "transformers", "own"] = "efficientat"
    weights: Name = "mn04_as"
    workers: Annotated[Count | None, Role.RUNTIME] = None


# --- training ------------------------------------------------------------------------------------------


class DataConf(Section):
    dataset: Annotated[Name, Role.RUNTIME]
    train_data: FileName
    val_data: FileName
    eval_data: Annotated[FileName, Role.EVALUATION]
    relevance: Annotated[Name | None, Role.EVALUATION] = None
    audio: Literal["logmels", "features"] = "logmels"
    cache: Annotated[Literal["device", "memory", "disk"], Role.RUNTIME]

    @property
    def splits(self) -> list[str]:
        """The splits in use, without repeats."""
        return list(dict.fromkeys([self.train_data, self.val_data, self.eval_data]))


class ParamConf(Section):
    num_epoch: Annotated[int, Field(ge=0, lt=2**31), Role.DURATION]
    batch_size: Annotated[int, Field(ge=2, lt=2**31)]
    seed: Annotated[Seed, Role.SEED]
    criterion: Literal["TripletLoss", "InfoNCE"]
    select_by: Literal["val_obj", "val_map"]
    average_from: Count | None = None
    start_from: Name | None = None
    precision: Literal["float32", "bfloat16"]
    tf32: bool
    compile: bool

    @model_validator(mode="after")
    def _average_starts_in_time(self) -> "ParamConf":
        if self.average_from is not None and self.average_from > self.num_epoch:
            raise ValueError(f"average_from is {self.average_from} but num_epoch is {self.num_epoch}; lower it")
        return self


class AudioEncConf(Section):
    name: Literal[_names("AUDIO_ENCODERS", "models/audio_encoders.py")] = "crnn"
    in_dim: Count | None
    out_dim: EmbeddingDim | None
    projection: Count | None = None
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.3


class TextEncConf(Section):
    level: Literal["word", "sentence"] = "word"
    projection: Count | None = None
    trainable: bool


class ModelConf(Section):
    audio_enc: AudioEncConf
    text_enc: TextEncConf


class ScoreConf(Section):
    level: Literal["frame", "clip"] = "frame"
    frames: Literal["mean", "max", "softmax"] = "mean"
    sharpness: Annotated[Number, Field(gt=0, le=1000)] = 10.0
    learn_sharpness: bool = False
    words: Literal["mean", "idf"] = "mean"
    mask_words: bool
    mask_frames: bool

    @model_validator(mode="after")
    def _clips_have_no_pool(self) -> "ScoreConf":
        if self.level == "clip":
            for key in ("frames", "sharpness", "learn_sharpness"):
                value, default = getattr(self, key), ScoreConf.model_fields[key].default
                if value != default:
                    raise ValueError(
                        f"{key} is {value} but level is clip, where frames are averaged; set {key} to {default}"
                    )
        return self


class TripletLossConf(Section):
    margin: Positive
    sampling: Literal[_names("STRATEGIES", "utils/sampling_utils.py")]


class InfoNCEConf(Section):
    temperature: Annotated[Positive, Field(ge=1e-6)]


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
    def _a_cluster_has_its_own_processors(self) -> "RayInitConf":
        if self.address and (self.num_cpus, self.num_gpus) != (None, None):
            raise ValueError("a running cluster's CPUs and GPUs are fixed; leave num_cpus and num_gpus at null")
        return self


class TrialResourcesConf(Section):
    cpu: Count
    gpu: Annotated[NonNegative, AfterValidator(_require_part_or_whole)]


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
    clotho_dataset: Annotated[ClothoDatasetConf, Role.RUNTIME]  # bad_data.csv lists what it leaves out
    word2vec_embeddings: WordEmbeddingsConf
    sentence_embeddings: SentenceEmbeddingsConf = SentenceEmbeddingsConf()
    audio_logmel: LogMelConf
    audio_features: AudioFeaturesConf = AudioFeaturesConf()
    param_conf: ParamConf
    CRNNWordModel: ModelConf
    score: ScoreConf
    xmodal_scores: Annotated[Literal["auto", "always", "never"], Role.RUNTIME] = "auto"
    criteria: CriteriaConf
    metrics: dict[Annotated[Name, AfterValidator(_require_free_name)], TripletLossConf]
    AdamOptimizer: AdamConf
    ReduceLROnPlateau: ReduceLROnPlateauConf
    TrialPlateauStopper: StopperConf
    sweep_conf: Annotated[Grid, Role.RUNTIME]
    ray_conf: Annotated[RayConf, Role.RUNTIME]

    @property
    def objective(self) -> str:
        """The sampling strategy, or InfoNCE: what trial directories and rows of comparisons are named by."""
        return self.criteria.TripletLoss.sampling if self.param_conf.criterion == "TripletLoss" else "InfoNCE"

    @model_validator(mode="after")
    def _sections_agree(self) -> "Conf":
        encoder = self.CRNNWordModel.audio_enc
        n_mels, in_dim = self.audio_logmel.n_mels, encoder.in_dim
        if (encoder.name == "features") != (self.data_conf.audio == "features"):
            raise ValueError(
                f"data_conf.audio is {self.data_conf.audio} but CRNNWordModel.audio_enc.name is {encoder.name}; the "
                "encoder `features` reads features, crnn reads logmels"
            )
        if encoder.name == "crnn" and in_dim not in (None, n_mels):
            raise ValueError(
                f"audio_logmel.n_mels is {n_mels} but CRNNWordModel.audio_enc.in_dim is {in_dim}; leave in_dim at null"
            )
        if encoder.name == "features" and self.param_conf.compile:
            raise ValueError("param_conf.compile is true but features pass no CNN to compile; set it to false")
        extra_words, text = self.word2vec_embeddings.extra_words, self.CRNNWordModel.text_enc
        if text.level == "sentence":
            for key, value, needed in (
                ("CRNNWordModel.text_enc.trainable", text.trainable, False),
                ("score.words", self.score.words, "mean"),
                ("word2vec_embeddings.extra_words", extra_words, 0),
            ):
                if value != needed:
                    raise ValueError(
                        f"{key} is {str(value).lower()} but CRNNWordModel.text_enc.level is sentence, where a caption "
                        f"has one vector and no words; set {key} to {str(needed).lower()}"
                    )
        if extra_words and text.trainable:
            raise ValueError(
                f"word2vec_embeddings.extra_words is {extra_words} but CRNNWordModel.text_enc.trainable is true, which "
                "trains only the words of captions; set extra_words to 0"
            )
        return self


# --- what the settings decide ----------------------------------------------------------------------------


def _fields_below(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}", field
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _fields_below(field.annotation, f"{prefix}{name}.")


FIELDS = dict(_fields_below(Conf))  # by dotted key: every section and setting


@cache
def role_of(key: str) -> Role:
    """The role of a dotted key, or else of the nearest section around it that has one."""
    while key:
        for role in FIELDS[key].metadata if key in FIELDS else []:
            if isinstance(role, Role):
                return role
        key = key.rpartition(".")[0]
    return Role.RESULTS


def default_of(key: str) -> Any:
    """The value of a dotted key in trials that are older than the setting; None if the schema has no default."""
    if key not in FIELDS or FIELDS[key].is_required():
        return None
    default = FIELDS[key].default
    return default.model_dump() if isinstance(default, Section) else default


NO_EFFECT = (  # settings or sections, and the comparison of another setting: where true, they have no effect
    *(((f"criteria.{name}",), "param_conf.criterion", ne, name) for name in CriteriaConf.model_fields),
    (("score.frames", "score.sharpness", "score.learn_sharpness", "score.mask_words"), "score.level", ne, "frame"),
    (("score.sharpness", "score.learn_sharpness"), "score.frames", ne, "softmax"),
    (("CRNNWordModel.audio_enc.out_dim",), "CRNNWordModel.audio_enc.name", eq, "features"),
    (("AdamOptimizer.decoupled_weight_decay",), "AdamOptimizer.weight_decay", eq, 0),
    (("word2vec_embeddings.train",), "word2vec_embeddings.source", ne, "train"),
    (("word2vec_embeddings",), "CRNNWordModel.text_enc.level", ne, "word"),
    (("sentence_embeddings",), "CRNNWordModel.text_enc.level", ne, "sentence"),
    (("audio_logmel",), "data_conf.audio", ne, "logmels"),
    (("audio_features",), "data_conf.audio", ne, "features"),
    (("audio_features.weights",), "audio_features.model", eq, "own"),
)


@cache
def _conditions(key: str) -> list[tuple[str, Callable[[Any, Any], bool], Any]]:
    """The comparisons of NO_EFFECT for a dotted key: found once, as a grid asks for each of its points."""
    return [row for settings, *row in NO_EFFECT if f"{key}.".startswith(tuple(f"{name}." for name in settings))]


def unused_because(conf: Conf, key: str, among: set[str] | None = None) -> str | None:
    """The setting, of these sections or of all, that makes a dotted key irrelevant; None if the key matters."""
    for other, holds, value in _conditions(key):
        is_among = among is None or other.partition(".")[0] in among
        if is_among and holds(found := attrgetter(other)(conf), value):
            return f"{other}={found or value}"  # 0, not 0.0
    return None


def result_settings(conf: Conf, sections: set[str] | None = None, alone: bool = False) -> dict[str, Any]:
    """The settings that decide numbers and matter, by dotted key; of all sections, or of these.

    `alone`: no setting of another section makes them irrelevant.
    """
    leaves = flat(conf.model_dump(include=sections, exclude={"sweep_conf"}))  # a grid may be long
    deciding = {key: value for key, value in leaves.items() if role_of(key).decides_numbers}
    among = sections if alone else None
    return {key: value for key, value in deciding.items() if not unused_because(conf, key, among)}
