"""What the method needs of packages that a bare GPU machine lacks, from torch and numpy alone.

The settings of conf.yaml that training reads, without pydantic and PyYAML, and scipy's sparse matrix of captions and
words. tests/test_benchmarks.py holds both to the originals.
"""

import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class Settings(SimpleNamespace):
    """A section of the configuration."""

    def model_dump(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {
            name: value.model_dump() if isinstance(value, Settings) else value for name, value in vars(self).items()
        }


def paper_settings(objective: str, precision: str, tf32: bool, compiled: bool) -> Settings:
    """The sections of conf.yaml that training reads, with its values but for these; the objective is its sampling
    strategy, or InfoNCE."""
    triplets = objective != "InfoNCE"
    return Settings(
        audio_logmel=Settings(n_mels=64),
        param_conf=Settings(
            num_epoch=120,
            batch_size=32,
            seed=0,
            criterion="TripletLoss" if triplets else objective,
            select_by="val_obj",
            average_from=None,
            precision=precision,
            tf32=tf32,
            compile=compiled,
        ),
        CRNNWordModel=Settings(
            audio_enc=Settings(in_dim=None, out_dim=None, dropout=0.3),
            text_enc=Settings(trainable=False),
        ),
        score=Settings(
            frames="mean", sharpness=10.0, learn_sharpness=False, words="mean", mask_words=False, mask_frames=False
        ),
        criteria=Settings(
            TripletLoss=Settings(margin=0.5, sampling=objective if triplets else "random-NS"),
            InfoNCE=Settings(temperature=0.07),
        ),
        AdamOptimizer=Settings(lr=0.001, weight_decay=0.0, decoupled_weight_decay=False),
        ReduceLROnPlateau=Settings(factor=0.1, patience=5, threshold=0.005, min_lr=1e-6),
        TrialPlateauStopper=Settings(std=0.001, num_results=10, grace_period=60),
    )


class SparseRows:
    """The part of scipy.sparse.csr_array that the scores use: made of (values, (rows, columns)), rows, products."""

    def __init__(self, parts: tuple[np.ndarray, tuple[np.ndarray, np.ndarray]], shape: tuple[int, int]):
        values, (rows, columns) = parts
        places, which = np.unique(np.asarray(rows, np.int64) * max(shape[1], 1) + columns, return_inverse=True)
        self.data = np.zeros(len(places), values.dtype)
        np.add.at(self.data, which, values)
        self.indices = places % max(shape[1], 1)
        self.indptr = np.concatenate([[0], np.cumsum(np.bincount(places // max(shape[1], 1), minlength=shape[0]))])
        self.shape = shape

    def __getitem__(self, rows: np.ndarray | slice) -> "SparseRows":
        spans = [slice(self.indptr[row], self.indptr[row + 1]) for row in np.arange(self.shape[0])[rows]]
        own = np.repeat(np.arange(len(spans)), [span.stop - span.start for span in spans])
        data, indices = (np.concatenate([part[:0], *(part[s] for s in spans)]) for part in (self.data, self.indices))
        return SparseRows((data, (own, indices)), (len(spans), self.shape[1]))

    def __matmul__(self, other: np.ndarray) -> np.ndarray:
        spans = zip(self.indptr[:-1], self.indptr[1:], strict=True)
        return np.stack([self.data[first:end] @ other[self.indices[first:end]] for first, end in spans])


def stand_in_for_scipy() -> None:
    """Where scipy is not installed, let `from scipy.sparse import csr_array` give `SparseRows`."""
    try:
        if find_spec("scipy"):
            return
    except ValueError:  # None in its place
        pass
    package, sparse = ModuleType("scipy"), ModuleType("scipy.sparse")
    package.sparse, sparse.csr_array = sparse, SparseRows
    sys.modules |= {"scipy": package, "scipy.sparse": sparse}
