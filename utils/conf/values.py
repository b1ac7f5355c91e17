"""The types and limits of single values of conf.yaml."""

import re
from typing import Annotated, Any
from unicodedata import normalize

from pydantic import AfterValidator, BeforeValidator, Field

from utils.dataset.captions import clean_caption
from utils.sampling_utils import STRATEGIES

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
