"""Files of features: step 5's, by a pretrained network, or the user's, which are checked."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from utils.common.counts import counted
from utils.common.errors import UserError
from utils.common.hdf5 import get_dataset, open_hdf5
from utils.common.steps import FEATURES
from utils.dataset.audio import Clip
from utils.dataset.clip_store import ClipStore
from utils.dataset.feature_model import FeatureModel, read_features
from utils.dataset.mobilenet_features import find_mobilenet
from utils.dataset.transformers_features import find_transformer

MODELS = {"efficientat": find_mobilenet, "transformers": find_transformer}  # by audio_features.model
WRITER = "the program that wrote it"  # of the user's features
LISTED = 10  # faults of a file; the others are counted


def find_model(model: str, weights: str) -> FeatureModel:
    """The network of audio_features.model and audio_features.weights. Raises UserError where there is none."""
    return MODELS[model](weights)


def feature_store(path: Path, model: FeatureModel) -> ClipStore:
    """A split's features by a pretrained network, (L, D) each; features by other weights do not count as finished."""
    attributes = {"model": model.name, "seconds_per_frame": model.seconds_per_frame, "weights_sha256": model.sha256}
    recipe = attributes | {"window": model.window}
    compute = partial(read_features, model=model)
    return ClipStore(path, FEATURES, "features", model.size, "dimensions", compute, recipe, attributes)


def refuse_to_replace(path: Path) -> None:
    """Raise UserError where a file holds features that step 5 did not write."""
    try:
        with h5py.File(path, "r") as store:
            is_foreign = len(store) > 0 and "weights_sha256" not in store.attrs
    except (OSError, RuntimeError, ValueError):  # absent or damaged
        return
    if is_foreign:
        raise UserError(
            f"{path}: holds features of another model and is not replaced; set audio_features.model to own to use "
            "them, or move the file"
        )


# --- the user's features, as docs/features.md describes them ----------------------------------------------


class Sizes(NamedTuple):
    """What a file of features holds."""

    frames: int  # of all clips
    size: int  # D


def check_own_features(files: dict[Path, dict[str, Clip]]) -> dict[Path, Sizes]:
    """Check the files of features, given with their clips by fid; returns their sizes.

    Raises UserError with one line for each fault: a clip that is missing, features that are not (frames, dimensions) of
    finite numbers with a frame or more, other dimensions than in the other files, an attribute that is missing.
    """
    sizes, faults = {}, []
    for path, clips in files.items():
        found = list(_faults(path, clips, sizes))
        hidden = len(found) - LISTED
        faults += found[:LISTED] + ([f"{path}: {counted(hidden, 'more fault')}"] if hidden > 0 else [])
    first = next(iter(sizes.values()), None)
    faults += [
        f"{path}: {size} dimensions, but {next(iter(sizes))} has {first.size}; write all by one model"
        for path, (_, size) in sizes.items()
        if size != first.size
    ]
    if faults:
        raise UserError("\n".join(faults))
    return sizes


def _faults(path: Path, clips: dict[str, Clip], sizes: dict[Path, Sizes]) -> Iterator[str]:
    """The faults of a file; adds its sizes."""
    if not path.is_file():
        yield f"{path}: no such file; write it (docs/features.md), or set audio_features.model to efficientat"
        return
    frames, sizes_seen = 0, {}  # the first clip of each size
    with open_hdf5(path, WRITER) as store:
        model, seconds = store.attrs.get("model"), store.attrs.get("seconds_per_frame")
        if not isinstance(model, str | bytes) or not model:
            yield f"{path}: the attribute model is missing or no text; set it to the model's name"
        if not isinstance(seconds, int | float | np.number) or not 0 < seconds < math.inf:
            yield f"{path}: the attribute seconds_per_frame is missing or not above 0; set it"
        if missing := [fid for fid in clips if fid not in store]:
            example = f"{missing[0]} ({clips[missing[0]].file_name!r})"
            yield f"{path}: lacks {counted(len(missing), 'clip')} of the split, such as {example}; add their features"
        for fid in (fid for fid in clips if fid in store):
            try:
                features = get_dataset(store, fid, WRITER)
            except UserError as error:
                yield str(error)
                continue
            if fault := _fault(features):
                yield f"{path}: {fid} ({clips[fid].file_name!r}) {fault}"
            else:
                frames += len(features)
                sizes_seen.setdefault(features.shape[1], fid)
    for size, fid in list(sizes_seen.items())[1:]:
        other_size, other = next(iter(sizes_seen.items()))
        yield f"{path}: {fid} has {size} dimensions, but {other} has {other_size}; write all by one model"
    if len(sizes_seen) == 1:
        sizes[path] = Sizes(frames, next(iter(sizes_seen)))


def _fault(features: h5py.Dataset) -> str | None:
    """What is wrong with a clip's features."""
    if features.ndim != 2 or not features.shape[1]:
        return f"has the shape {features.shape}; write (frames, dimensions)"
    if not len(features):
        return "has no frames; write one or more"
    with np.errstate(over="ignore"):
        is_finite = np.isfinite(features[()].astype(np.float32)).all()
    return None if is_finite else "has features that are not finite"
