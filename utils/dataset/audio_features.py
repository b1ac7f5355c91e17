"""Step 5's files of features, and the pretrained networks that make them."""

from functools import partial
from pathlib import Path

import h5py

from utils.common.errors import UserError
from utils.common.steps import FEATURES
from utils.dataset.clip_store import ClipStore
from utils.dataset.feature_model import FeatureModel, read_features
from utils.dataset.mobilenet_features import find_mobilenet
from utils.dataset.transformers_features import find_transformer

MODELS = {"efficientat": find_mobilenet, "transformers": find_transformer}  # by audio_features.model


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
