"""Weights of EfficientAT's networks, which have heard AudioSet: by a published name, downloaded once, or by a path."""

import sys
import warnings
from functools import cache
from pathlib import Path

import torch

from models.mobilenet import MobileNetV3
from utils.common.digests import file_digest
from utils.common.errors import UserError, reason_of
from utils.common.io import is_plain_file, replaced
from utils.common.processes import pick_device

RELEASE = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1"
PUBLISHED = {  # name: file; mn04 has width 0.4, and mAP 0.432 on AudioSet
    "mn01_as": "mn01_as_mAP_298.pt",
    "mn02_as": "mn02_as_mAP_378.pt",
    "mn04_as": "mn04_as_mAP_432.pt",
    "mn05_as": "mn05_as_mAP_443.pt",
    "mn10_as": "mn10_as_mAP_471.pt",
    "mn20_as": "mn20_as_mAP_478.pt",
    "mn30_as": "mn30_as_mAP_482.pt",
    "mn40_as": "mn40_as_mAP_484.pt",
}
SHA256 = {"mn04_as": "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c"}  # those that are known
KEY = "audio_features.weights"


def find_weights(weights: str) -> tuple[str, Path]:
    """The name and the file of published weights, downloaded if they are missing, or of those at a path.

    Raises UserError where there are none, or they cannot be downloaded.
    """
    name, path = (weights, _published(weights)) if weights in PUBLISHED else (Path(weights).stem, Path(weights))
    if not path.is_file():
        names = ", ".join(PUBLISHED)
        raise UserError(f"{KEY}: no such file: {weights}; name a file, or one of {names}, which are downloaded")
    return name, path


@cache
def load_network(path: Path) -> MobileNetV3:
    """A process's one copy of the network of a file, for inference on its GPU if it has one.

    Raises UserError where the file holds no such network.
    """
    again = f"download it again, or name another in {KEY} (such as {RELEASE}/{PUBLISHED['mn04_as']})"
    try:
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many types for damaged files, and advises to allow code
        raise UserError(f"{path}: damaged, or not a file of weights alone; {again}") from None
    try:
        network = MobileNetV3.from_state_dict(state)
    except (KeyError, RuntimeError, TypeError, AttributeError, IndexError, ValueError):
        raise UserError(f"{path}: weights of another network than EfficientAT's MobileNets; {again}") from None
    if not all(values.isfinite().all() for values in network.state_dict().values()):
        raise UserError(f"{path}: holds weights that are not finite; {again}")
    return network.folded().to(pick_device())


def _published(name: str) -> Path:
    """The file of a published name in torch's cache, downloaded if it is missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / PUBLISHED[name]
    if not path.exists():
        _download(name, path)
    if name in SHA256 and (not is_plain_file(path) or file_digest(path) != SHA256[name]):
        raise UserError(f"{path}: not {name} as published (by its SHA-256); remove it, and run this again")
    return path


def _download(name: str, path: Path) -> None:
    url = f"{RELEASE}/{PUBLISHED[name]}"
    print(f"{name}: downloading {url} -> {path}")
    try:
        with replaced(path) as temporary:
            torch.hub.download_url_to_file(url, temporary, SHA256.get(name), progress=sys.stderr.isatty())
            load_network(temporary)  # a download that was cut short is not kept
    except (OSError, RuntimeError, UserError) as error:
        reason = reason_of(error)
        raise UserError(
            f"{KEY}: {name} could not be downloaded ({reason:.200}); download {url} elsewhere, and name the file in "
            f"{KEY}, or put it at {path}"
        ) from None
    finally:
        load_network.cache_clear()
