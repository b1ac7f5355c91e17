"""Checkpoints: sealed by a digest; read without running anything in them, and refused where they are damaged.

A checkpoint is a zip archive of torch.save, whose comment is the SHA-256 of all before it.
"""

import hashlib
import io
import math
import pickle
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from models.core import CRNNWordModel
from utils.common.counts import counted
from utils.common.errors import UserError
from utils.common.io import require_file
from utils.common.steps import TRAINING
from utils.score_utils import Score

SEAL = b"sha256 "  # then 64 hexadecimal digits


def sealed(archive: bytes) -> bytes:
    """A zip archive with its digest as the comment: the last two bytes of one without are the comment's length, 0."""
    content = archive[:-2]
    return content + _seal_of(content)


def _seal_of(content: bytes) -> bytes:
    comment = SEAL + hashlib.sha256(content).hexdigest().encode()
    return len(comment).to_bytes(2, "little") + comment


def checkpoint_bytes(checkpoint: dict) -> bytes:
    """A checkpoint as its file holds it."""
    stream = io.BytesIO()
    torch.save(checkpoint, stream)
    return sealed(stream.getvalue())


def load_checkpoint(path: Path, identity: str | None = None) -> dict:
    """Read a checkpoint onto the CPU; only tensors and plain values are loaded, nothing in the file can run code.

    Args:
        identity: of the trial that it must belong to, if it must to any.
    """
    require_file(path, TRAINING)
    content = path.read_bytes()
    size = len(_seal_of(b""))
    if content[-size:] != _seal_of(content[:-size]):
        earlier = "" if content[-size + 2 :].startswith(SEAL) else ", or it is of a trial of format 1"
        raise UserError(f"{path}: its content is not what its digest says: it is damaged{earlier}; get it anew")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own message advises to load it by other means
        raise UserError(
            f"{path}: not a loadable checkpoint: damaged, or with more than tensors and values, which could run code"
        ) from None
    except Exception as error:  # torch raises many types for damaged files
        raise UserError(f"{path}: not a loadable checkpoint ({first_line(error)})") from None
    try:
        _check_form(checkpoint)
    except Exception as error:  # whatever the values' types give rise to
        raise UserError(f"{path}: not a checkpoint that {TRAINING} wrote ({first_line(error)})") from None
    if identity not in (None, checkpoint["trial"]):
        raise UserError(f"{path}: of another trial; put this trial's own back")
    if not all(torch.isfinite(weights).all() for weights in checkpoint["model"].values()):
        raise UserError(f"{path}: holds weights that are not finite: training has diverged; start a new trial")
    return checkpoint


def _check_form(checkpoint: dict) -> None:
    """Raise an exception where a checkpoint's values are not of the types and sizes that they must have."""
    if missing := {"model", "words", "conf", "history", "epoch", "trial"} - checkpoint.keys():
        raise ValueError(f"without {', '.join(sorted(missing))}")
    if not isinstance(checkpoint["words"], list) or not all(isinstance(word, str) for word in checkpoint["words"]):
        raise ValueError("words is no list of words")
    if type(checkpoint["epoch"]) is not int:
        raise ValueError(f"epoch is {checkpoint['epoch']!r:.80}")
    if not isinstance(checkpoint["conf"], dict) or not isinstance(checkpoint["history"], list):
        raise ValueError("conf or history is of another type")
    check_history(checkpoint["history"])
    for name, weights in checkpoint["model"].items():
        if weights.layout is not torch.strided or weights.is_quantized:
            raise ValueError(f"{name} is stored in a form of its own")


def check_history(history: list[dict[str, float]]) -> None:
    """Raise ValueError where a list is not a trial's epochs, one after the other from 0, of finite numbers."""
    for epoch, results in enumerate(history):
        known = isinstance(results, dict) and {"epoch", "lr", "val_obj", "val_map", "score_std"} <= results.keys()
        if not known or results["epoch"] != epoch or not all(map(_is_finite, results.values())):
            raise ValueError(f"history: epoch {epoch} is {results!r:.80}")


def _is_finite(value: object) -> bool:
    """Whether a value is a number whose square is one as well."""
    return type(value) in (int, float) and abs(value) < 1e150  # false of NaN


class Trained(NamedTuple):
    """What a checkpoint holds for those who use a model."""

    model: CRNNWordModel  # in evaluation mode
    score: Score
    words: list[str]  # V, id 0 the padding
    epoch: int


def load_model(path: Path, identity: str | None = None) -> Trained:
    """A checkpoint's model, score and vocabulary."""
    checkpoint = load_checkpoint(path, identity)
    words = checkpoint["words"]
    try:
        model = CRNNWordModel.from_state_dict(checkpoint["model"])
        score = Score(**checkpoint["conf"].get("score", {}), vocabulary=len(words))
        score.load_state_dict(checkpoint.get("score", {}))  # those of earlier checkpoints have nothing to be loaded
    except Exception as error:  # the sizes are the file's: torch raises many types for those that cannot be
        raise UserError(f"{path}: not a checkpoint of CRNNWordModel and its score ({first_line(error)})") from None
    if len(words) != len(model.text_enc.embedding.weight):
        vectors = counted(len(model.text_enc.embedding.weight), "word vector")
        raise UserError(f"{path}: holds {counted(len(words), 'word')} but {vectors}")
    if not all(torch.isfinite(value).all() for value in score.state_dict().values()):
        raise UserError(f"{path}: holds a score that is not finite: it is damaged; get it anew")
    return Trained(model.eval(), score, words, checkpoint["epoch"])


def check_states(checkpoint: dict, optimizer: Optimizer, scheduler: ReduceLROnPlateau) -> None:
    """Raise an exception where the optimizer's or the schedule's state is none: torch itself notices too late."""
    sizes = [weight.shape for group in optimizer.param_groups for weight in group["params"]]
    for place, state in checkpoint["optimizer"]["state"].items():
        moments = torch.stack([state["exp_avg"], state["exp_avg_sq"]])  # (2, *size)
        if moments.shape[1:] != sizes[place] or not moments.isfinite().all() or not 0 < state["step"].item() < 2**40:
            raise ValueError(f"the optimizer's state of weight {place}")
    groups, own_groups = checkpoint["optimizer"]["param_groups"], optimizer.state_dict()["param_groups"]
    for group, own in zip(groups, own_groups, strict=True):
        if any(group[key] != value for key, value in own.items() if key not in ("lr", "fused")):
            raise ValueError("the optimizer's settings")
        if not 0 <= group["lr"] < math.inf:
            raise ValueError(f"the learning rate {group['lr']!r:.80}")
    before, after = checkpoint["scheduler"], scheduler.state_dict()
    if {key: type(value) for key, value in before.items()} != {key: type(value) for key, value in after.items()}:
        raise ValueError("the state of the learning-rate schedule")


def first_line(error: Exception) -> str:
    """The first line of an error of torch, or its type."""
    return (str(error) or type(error).__name__).splitlines()[0]
