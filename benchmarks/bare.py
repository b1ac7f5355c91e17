"""Replacements of missing packages, so that gpu.py runs with torch, numpy and h5py alone. Import it first.

A small class replaces scipy's sparse matrix. Names that do nothing replace the other packages, since training only
imports them. tests/test_benchmarks.py compares the matrix and `paper_settings` with the originals.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

UNUSED = ("pandas", "pydantic", "pydantic.fields", "soundfile", "soxr", "yaml", "yaml.constructor")


class SparseRows:
    """The part of scipy.sparse.csr_array that scores use: built from (values, (rows, columns)), rows, products."""

    def __init__(self, entries: tuple[np.ndarray, tuple[np.ndarray, np.ndarray]], shape: tuple[int, int]):
        values, (rows, columns) = entries
        width = max(shape[1], 1)
        places, which = np.unique(np.asarray(rows, np.int64) * width + columns, return_inverse=True)
        self.data = np.zeros(len(places), values.dtype)
        np.add.at(self.data, which, values)
        self.indices = places % width
        self.indptr = np.concatenate([[0], np.cumsum(np.bincount(places // width, minlength=shape[0]))])
        self.shape = shape

    def __getitem__(self, rows: np.ndarray | slice) -> "SparseRows":
        spans = [slice(self.indptr[row], self.indptr[row + 1]) for row in np.arange(self.shape[0])[rows]]
        new_rows = np.repeat(np.arange(len(spans)), [span.stop - span.start for span in spans])
        data, columns = (np.concatenate([all_[:0], *(all_[s] for s in spans)]) for all_ in (self.data, self.indices))
        return SparseRows((data, (new_rows, columns)), (len(spans), self.shape[1]))

    def __matmul__(self, other: np.ndarray) -> np.ndarray:
        spans = zip(self.indptr[:-1], self.indptr[1:], strict=True)
        return np.stack([self.data[first:end] @ other[self.indices[first:end]] for first, end in spans])


class Unused(type):
    """The class of names from a missing package; subclassing or calling one gives another that does nothing."""

    def __new__(cls, name: str, bases: tuple = (), namespace: dict | None = None, **_: Any) -> "Unused":
        return super().__new__(cls, name, bases, dict(namespace or {}))

    def __getattr__(cls, name: str) -> "Unused":
        if name.startswith("__"):
            raise AttributeError(name)
        return Unused(name)

    def __call__(cls, *args: Any, **kwargs: Any) -> "Unused":
        return cls

    def __iter__(cls) -> Any:
        return iter(())


@contextmanager
def missing_packages_replaced() -> Iterator[None]:
    """Import the project's modules within it; afterwards the packages are missing again, as torch expects."""
    stand_ins: dict[str, Any] = {name: Unused(name) for name in UNUSED}
    stand_ins["scipy"], stand_ins["scipy.sparse"] = ModuleType("scipy"), ModuleType("scipy.sparse")
    stand_ins["scipy.sparse"].csr_array = SparseRows
    missing = []
    for name, stand_in in stand_ins.items():
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
            sys.modules[name] = stand_in
    yield
    sys.modules |= dict.fromkeys(missing)  # None: importing one raises ImportError


class Settings(SimpleNamespace):
    """A section of the configuration."""

    def model_dump(self) -> dict[str, Any]:
        return {k: value.model_dump() if isinstance(value, Settings) else value for k, value in vars(self).items()}


def paper_settings(objective: str, precision: str, tf32: bool, compiled: bool) -> Settings:
    """Read the single values of conf.yaml by section, without PyYAML, and set an objective: a strategy or InfoNCE."""
    path = [Settings()]
    for line in (Path(__file__).resolve().parents[1] / "conf.yaml").read_text().splitlines():
        key, colon, value = line.partition("#")[0].rstrip().partition(":")
        if not colon or key.lstrip().startswith("-"):
            continue
        del path[1 + (len(key) - len(key.lstrip())) // 4 :]
        setattr(path[-1], key.strip(), Settings() if not value else _plain_value(value.strip()))
        path.append(getattr(path[-1], key.strip()))
    conf, training = path[0], path[0].param_conf
    training.precision, training.tf32, training.compile = precision, tf32, compiled
    if objective == "InfoNCE":
        training.criterion = objective
    else:
        conf.criteria.TripletLoss.sampling = objective
    return conf


def _plain_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
