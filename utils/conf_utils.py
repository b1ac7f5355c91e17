"""conf.yaml: read, inherited, overridden and checked before any work starts."""

import argparse
import re
from collections.abc import Hashable
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from yaml.constructor import ConstructorError

from utils.io_utils import UserError, whole_file
from utils.sampling_utils import STRATEGIES
from utils.text_utils import clean_caption

DEFAULT_CONF = "conf.yaml"
UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")  # no path, name or word has them
# A file replaces its base's whole, not entry by entry
TABLES = {"num_clips", "corrections", "variants", "metrics", "sweep_conf"}
NOT_SWEPT = {"trial_series", "trial_base", "sweep_conf", "ray_conf"}  # what a sweep's trials have in common


def _as_float(value: Any) -> Any:
    # YAML 1.1 reads 1e-3 as text; a number was meant.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _clean_words(table: dict[str, str]) -> dict[str, str]:
    for wrong, right in table.items():
        if not wrong or clean_caption(wrong) != wrong or " " in wrong or clean_caption(right) != right:
            raise ValueError(f"{wrong!r}: {right!r} must be lower-case words without punctuation, one before the colon")
    return table


def _free_metric_name(name: str) -> str:
    if name in ("obj", "map", "map_text_to_audio", "map_audio_to_text"):
        raise ValueError(f"val_{name} is reported anyway; choose another name")
    return name


def _dotted_keys(grid: Any) -> Any:
    return flat(grid) if isinstance(grid, dict) else grid


def _no_value_twice(values: list) -> list:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"holds {value!r} twice; name each value once")
    return values


def _part_or_whole(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError("Ray shares out parts of one GPU, such as 0.25, or whole ones")
    return gpus


def _known_strategy(name: str) -> str:
    if name not in STRATEGIES:
        raise ValueError(f"no such strategy; it is one of {', '.join(STRATEGIES)}")
    return name


Number = Annotated[float, BeforeValidator(_as_float), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1)]
FileName = Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")]  # of one file or folder, not hidden

Values = Annotated[list[Any], Field(min_length=1), AfterValidator(_no_value_twice)]
Grid = Annotated[dict[str, Values], BeforeValidator(_dotted_keys)]


class Section(BaseModel):
    """A section of conf.yaml: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DataConf(Section):
    dataset: Name
    train_data: FileName
    val_data: FileName
    eval_data: FileName
    cache: Literal["memory", "disk"]

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
    corrections: Annotated[dict[str, str], AfterValidator(_clean_words)]


class ClothoDatasetConf(Section):
    on_bad_data: Literal["refuse", "skip"]
    require_audio: bool


class Word2VecTrainConf(Section):
    vector_size: Count
    window: Count
    epochs: Count


class WordEmbeddingsConf(Section):
    source: Literal["word2vec-google-news-300", "fasttext-wiki-news-subwords-300", "file", "train"]
    file: Name | None
    variants: dict[str, Annotated[list[str], Field(min_length=1)]]
    unk_max_dot: Annotated[Number, Field(gt=0, le=1)]
    unk_max_draws: Count
    seed: Seed
    train: Word2VecTrainConf

    @model_validator(mode="after")
    def _file_is_named(self) -> "WordEmbeddingsConf":
        if self.source == "file" and self.file is None:
            raise ValueError("source is 'file': set word2vec_embeddings.file to the word vectors' path")
        return self


class LogMelConf(Section):
    backend: Literal["torch", "librosa", "torchaudio"]
    window: Positive
    hop: Positive
    n_mels: Annotated[int, Field(ge=64, multiple_of=64)]
    fmin: NonNegative
    fmax: Positive
    workers: Count | None

    @model_validator(mode="after")
    def _band_is_not_empty(self) -> "LogMelConf":
        if self.fmin >= self.fmax:
            raise ValueError(f"fmin ({self.fmin:g} Hz) must be below fmax ({self.fmax:g} Hz)")
        return self

    @property
    def recipe(self) -> dict[str, float]:
        """The keyword arguments of utils.audio_utils.log_mel_spectrogram."""
        return self.model_dump(include={"backend", "window", "hop", "n_mels", "fmin", "fmax"})


class ParamConf(Section):
    num_epoch: Annotated[int, Field(ge=0, lt=2**31)]
    batch_size: Annotated[int, Field(ge=2, lt=2**31)]
    seed: Seed
    criterion: Literal["TripletLoss", "InfoNCE"] = "TripletLoss"
    select_by: Literal["val_obj", "val_map"]
    precision: Literal["float32", "bfloat16"]
    tf32: bool
    compile: bool


class AudioEncConf(Section):
    in_dim: Annotated[int, Field(ge=64, multiple_of=64)]
    out_dim: Annotated[int, Field(ge=2, multiple_of=2)]


class TextEncConf(Section):
    trainable: bool


class ModelConf(Section):
    audio_enc: AudioEncConf
    text_enc: TextEncConf


class TripletLossConf(Section):
    margin: Positive
    sampling: Annotated[str, AfterValidator(_known_strategy)]
    mask_words: bool = False
    mask_frames: bool = False


class InfoNCEConf(Section):
    temperature: Positive = 0.07
    mask_words: bool = False
    mask_frames: bool = False


class CriteriaConf(Section):
    TripletLoss: TripletLossConf
    InfoNCE: InfoNCEConf = InfoNCEConf()


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
    address: Annotated[str, Field(pattern=r"^(auto|[^/]+:[0-9]+)$")] | None = None
    num_cpus: Count | None = None
    num_gpus: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _a_cluster_has_its_own(self) -> "RayInitConf":
        if self.address and (self.num_cpus, self.num_gpus) != (None, None):
            raise ValueError("a cluster at an address has its own CPUs and GPUs: leave num_cpus and num_gpus at null")
        return self


class TrialResourcesConf(Section):
    cpu: Count = 1
    gpu: Annotated[NonNegative, AfterValidator(_part_or_whole)] = 0.0


class RayConf(Section):
    init_args: RayInitConf = RayInitConf()
    trial_resources: TrialResourcesConf = TrialResourcesConf()


class Conf(Section):
    """The whole of conf.yaml; what has a default here is not in the trials of earlier versions."""

    trial_series: FileName
    trial_base: Name
    log_tensorboard: bool = False
    sweep_conf: Grid = {}
    ray_conf: RayConf = RayConf()
    data_conf: DataConf
    demo_dataset: DemoDatasetConf
    text_cleaning: TextCleaningConf
    clotho_dataset: ClothoDatasetConf
    word2vec_embeddings: WordEmbeddingsConf
    audio_logmel: LogMelConf
    param_conf: ParamConf
    CRNNWordModel: ModelConf
    criteria: CriteriaConf
    metrics: dict[Annotated[Name, AfterValidator(_free_metric_name)], TripletLossConf]
    AdamOptimizer: AdamConf
    ReduceLROnPlateau: ReduceLROnPlateauConf
    TrialPlateauStopper: StopperConf

    @property
    def objective(self) -> str:
        """What tells trials apart first: the sampling strategy, or the criterion that has none."""
        return self.criteria.TripletLoss.sampling if self.param_conf.criterion == "TripletLoss" else "InfoNCE"

    @model_validator(mode="after")
    def _bands_agree(self) -> "Conf":
        if self.audio_logmel.n_mels != self.CRNNWordModel.audio_enc.in_dim:
            raise ValueError(
                f"audio_logmel.n_mels is {self.audio_logmel.n_mels} but CRNNWordModel.audio_enc.in_dim is "
                f"{self.CRNNWordModel.audio_enc.in_dim}; they must be equal"
            )
        return self


# --- reading ---------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which lets pass what no configuration needs and a stranger's file could abuse."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Nine lines of aliases stand for gigabytes.
        if self.check_event(yaml.AliasEvent):
            raise ConstructorError(None, None, "aliases (*name) are not read here", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError):  # of int(), datetime() and others, which PyYAML lets through
            what = f"{_shown(node.value)} is no valid {node.tag.rpartition(':')[2]}; put text into quotes"
            raise ConstructorError(None, None, what, node.start_mark) from None
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ConstructorError(None, None, "too large a number", node.start_mark)
        return value

    def construct_scalar(self, node: yaml.Node) -> Any:
        value = super().construct_scalar(node)
        if UNPRINTABLE.search(value):
            raise ConstructorError(None, None, "a value with control characters", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            seen |= {key} if isinstance(key, Hashable) else set()  # PyYAML refuses the others
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value that a YAML text stands for.

    Raises ValueError with one line that says what is wrong, and where.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
        raise ValueError(f"{place}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def load_conf(path: Path | str, overrides: list[str] | tuple[str, ...] = ()) -> Conf:
    """Read a configuration file with its bases, apply `section.key=value` overrides, and check the result.

    Raises UserError with one line for each thing that is wrong.
    """
    tree = _read_tree(Path(path), seen=[])
    for override in overrides:
        _apply_override(tree, override)
    conf = _checked(tree, str(path))
    grid_confs(conf, str(path))
    return conf


def grid_points(conf: Conf) -> list[dict[str, Any]]:
    """The points of sweep_conf's grid: {dotted key: value} for every combination, the last key's values fastest."""
    return [dict(zip(conf.sweep_conf, values, strict=True)) for values in product(*conf.sweep_conf.values())]


def grid_confs(conf: Conf, source: str) -> list[Conf]:
    """The configuration at each of the `grid_points`.

    Raises UserError with one line for each thing that is wrong; `source` says where the grid stands.
    """
    confs, problems = [], {}  # a dictionary: a bad value is one line, however many points have it
    for point in grid_points(conf):
        tree = conf.model_dump()
        try:
            for key, value in point.items():
                if key.split(".")[0] in NOT_SWEPT:
                    raise UserError(f"{source}: sweep_conf: {key}: cannot differ within a sweep; take it out")
                _set(tree, key, value, f"{source}: sweep_conf: {key}")
            confs.append(_checked(tree, f"{source}: sweep_conf"))
            if unused := [key for key in point if _is_of_another_criterion(key, confs[-1])]:
                why = f"plays no part beside param_conf.criterion={confs[-1].param_conf.criterion}; take it out"
                raise UserError(f"{source}: sweep_conf: {unused[0]}: {why}")
        except UserError as error:
            problems |= dict.fromkeys(str(error).splitlines())
    if problems:
        raise UserError("\n".join(problems))
    return confs


def _is_of_another_criterion(key: str, conf: Conf) -> bool:
    section, _, rest = key.partition(".")
    return section == "criteria" and rest.partition(".")[0] != conf.param_conf.criterion


def _checked(tree: dict, source: str) -> Conf:
    """The configuration that a tree holds, or UserError with one line for each thing that is wrong."""
    try:
        return Conf.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(f"{source}: {_explain(problem)}" for problem in error.errors())) from None


def save_conf(conf: Conf, path: Path | str) -> None:
    """Write the configuration as resolved: without a base, every value in place."""
    with whole_file(path) as temporary:
        temporary.write_text(conf_text(conf), encoding="utf-8")


def conf_text(conf: Conf) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(conf.model_dump(), sort_keys=False, allow_unicode=True)


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    leaves = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def _read_tree(path: Path, seen: list[Path]) -> dict:
    """The mapping in a YAML file, laid over the mapping of its `base` (a path relative to the file)."""
    path = path.resolve() if seen else path
    if path.resolve() in seen:
        raise UserError(f"{path}: `base` leads back to this file; break the circle")
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: holds no `key: value` settings")
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"{path}: base: {_shown(base)} must be the path of a configuration file")
    return _merged(_read_tree(path.parent / base, [*seen, path.resolve()]), tree)


def _merged(base: dict, change: dict) -> dict:
    """`base` with the keys of `change` laid over it, section by section."""
    both = dict(base)
    for key, value in change.items():
        deeper = key not in TABLES and isinstance(value, dict) and isinstance(both.get(key), dict)
        both[key] = _merged(both[key], value) if deeper else value
    return both


def _apply_override(tree: dict, override: str) -> None:
    """Set one `section.key=value` in the tree; the value is read as YAML."""
    dotted, equals, text = override.partition("=")
    if not equals or not all(dotted.strip().split(".")):
        raise UserError(f"{override!r}: a setting on the command line is written section.key=value")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{override!r}: {_shown(text)} is not a valid YAML value ({error})") from None
    _set(tree, dotted.strip(), value, repr(override))


def _set(tree: dict, dotted: str, value: Any, source: str) -> None:
    """Set the value of one dotted key in the tree."""
    *sections, last = dotted.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UserError(f"{source}: {section} is a value, not a section")
    tree[last] = value


def _explain(problem: dict) -> str:
    """One line for one of pydantic's findings: the key, what it was, what it may be."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(problem["loc"])
        close = get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the keys here are {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], dict | Section):  # a rule over several keys says itself what they were
        return f"{key}: {message}" if key else message
    return f"{key}: is {_shown(problem['input'])}; {message[0].lower()}{message[1:]}"


def _shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _keys_beside(location: tuple) -> list[str]:
    """The keys that the section around `location` may have."""
    section: type[BaseModel] = Conf
    for part in location[:-1]:
        annotation = section.model_fields[part].annotation if part in section.model_fields else TripletLossConf
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
    return list(section.model_fields)


# --- command line ----------------------------------------------------------------------------------------


def command_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that every command takes: --conf FILE and section.key=value ..."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--conf", metavar="FILE", help=f"configuration file (default: {DEFAULT_CONF})")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings that replace the file's, read as YAML"
    )
    return parser


def parse_command(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; settings may stand before, between and after the other arguments."""
    return parser.parse_intermixed_args()


def refuse_conf_beside(args: argparse.Namespace, option: str) -> None:
    """Raise UserError where --conf stands beside an option that names a trial, and so a configuration."""
    if args.conf and getattr(args, option):
        raise UserError(f"--{option} {getattr(args, option)}: goes by the trial's own configuration; leave out --conf")


def conf_from_command(description: str) -> Conf:
    """Parse a preprocessing script's command line into its configuration."""
    args = parse_command(command_parser(description))
    return load_conf(args.conf or DEFAULT_CONF, args.overrides)
