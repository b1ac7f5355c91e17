"""Checkpoints: read without running code in them, and refused where they are damaged.

A checkpoint is a zip archive of torch.save, whose comment is the SHA-256 of all bytes before it.
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
from utils.score_utils import Score, configured_score

SEAL = b"sha256 "  # then 64 hexadecimal digits
REQUIRED = {"epoch", "lr", "val_obj", "val_map", "val_map_text_to_audio", "val_map_audio_to_text", "score_std"}


def sealed(archive: bytes) -> bytes:
    """A zip archive with its digest as the comment."""
    content = archive[:-2]  # without the length of the comment, 0
    return content + _seal_of(content)


def _seal_of(content: bytes) -> bytes:
    comment = SEAL + hashlib.sha256(content).hexdigest().encode()
    return len(comment).to_bytes(2, "little") + comment


def checkpoint_bytes(checkpoint: dict) -> bytes:
    """The content of a checkpoint's file."""
    stream = io.BytesIO()
    torch.save(checkpoint, stream)
    return sealed(stream.getvalue())


def load_checkpoint(path: Path, identity: str | None = None) -> dict:
    """Read a checkpoint onto the CPU: tensors and plain values alone, so that nothing in the file can run code.

    `identity`: of the trial that it must belong to; None accepts any.
    """
    require_file(path, TRAINING)
    content = path.read_bytes()
    size = len(_seal_of(b""))
    if content[-size:] != _seal_of(content[:-size]):
        earlier = "" if content[-size + 2 :].startswith(SEAL) else ", or it is of a trial of format 1"
        raise UserError(f"{path}: its content is not what its digest says: it is damaged{earlier}; get a new copy")
    try:
        with warnings.catch_warnings(action="ignore"):
            checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's message advises to allow code
        raise UserError(
            f"{path}: not a loadable checkpoint: damaged, or with more than tensors and values, which could run code"
        ) from None
    except Exception as error:  # torch raises many types for damaged files
        raise UserError(f"{path}: not a loadable checkpoint ({first_line(error)})") from None
    try:
        _check_form(checkpoint)
    except Exception as error:  # values of other types raise many
        raise UserError(f"{path}: not a checkpoint that {TRAINING} wrote ({first_line(error)})") from None
    if identity not in (None, checkpoint["trial"]):
        raise UserError(f"{path}: of another trial; put this trial's own back")
    if not all(torch.isfinite(weights).all() for weights in checkpoint["model"].values()):
        raise UserError(f"{path}: holds weights that are not finite: training has diverged; start a new trial")
    return checkpoint


def _check_form(checkpoint: dict) -> None:
    """Raise an exception where a checkpoint lacks a value, or a value is of another type."""
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
            raise ValueError(f"{name} is sparse or quantized")


def check_history(history: list[dict[str, float]]) -> None:
    """Raise ValueError unless a list holds a trial's epochs, in order from 0, with finite numbers."""
    for epoch, results in enumerate(history):
        known = isinstance(results, dict) and results.keys() >= REQUIRED and type(results["epoch"]) is int
        # numbers whose squares are finite; false of NaN
        numbers = known and all(type(value) in (int, float) and abs(value) < 1e150 for value in results.values())
        if not numbers or results["epoch"] != epoch:
            raise ValueError(f"history: epoch {epoch} is {results!r:.80}")


class Trained(NamedTuple):
    """A trained model, as a checkpoint holds it."""

    model: CRNNWordModel  # in evaluation mode
    score: Score
    words: list[str]  # V, id 0 the padding; of sentences, the distinct captions
    epoch: int


def load_model(path: Path, identity: str | None = None) -> Trained:
    """A checkpoint's model, score and vocabulary."""
    checkpoint = load_checkpoint(path, identity)
    states = checkpoint["model"], checkpoint.get("score", {})  # earlier checkpoints have no score
    return trained_of(path, states, checkpoint["conf"].get("score", {}), checkpoint["words"], checkpoint["epoch"])


def trained_of(path: Path, states: tuple[dict, dict], settings: dict, words: list[str], epoch: int) -> Trained:
    """A Trained of the states of model and score that a file holds, and of the settings of its score.

    Raises UserError where they do not fit each other, or the score is not finite.
    """
    try:
        model = CRNNWordModel.from_state_dict(states[0])
        score = configured_score(settings, len(words))
        score.load_state_dict(states[1])
    except Exception as error:  # torch raises many types for sizes that do not fit
        raise UserError(f"{path}: holds no weights of a CRNNWordModel and its score ({first_line(error)})") from None
    if len(words) != len(model.text_enc.embedding.weight):
        vectors = counted(len(model.text_enc.embedding.weight), "word vector")
        raise UserError(f"{path}: holds {counted(len(words), 'word')} but {vectors}")
    if not all(torch.isfinite(value).all() for value in score.state_dict().values()):
        raise UserError(f"{path}: holds a score that is not finite: it is damaged; get a new copy")
    return Trained(model.eval(), score, words, epoch)


def check_states(checkpoint: dict, optimizer: Optimizer, scheduler: ReduceLROnPlateau) -> None:
    """Raise an exception where the state of the optimizer or the schedule does not fit: torch notices too late."""
    sizes = [weight.shape for group in optimizer.param_groups for weight in group["params"]]
    for number, state in checkpoint["optimizer"]["state"].items():
        moments = torch.stack([state["exp_avg"], state["exp_avg_sq"]])  # (2, *size)
        if moments.shape[1:] != sizes[number] or not moments.isfinite().all() or not 0 < state["step"].item() < 2**40:
            raise ValueError(f"the optimizer's state of weight {number}")
    groups, current_groups = checkpoint["optimizer"]["param_groups"], optimizer.state_dict()["param_groups"]
    for group, current in zip(groups, current_groups, strict=True):
        if any(group[key] != value for key, value in current.items() if key not in ("lr", "fused")):
            raise ValueError("the optimizer's settings")
        if not 0 <= group["lr"] < math.inf:
            raise ValueError(f"the learning rate {group['lr']!r:.80}")
    before, after = checkpoint["scheduler"], scheduler.state_dict()
    if {key: type(value) for key, value in before.items()} != {key: type(value) for key, value in after.items()}:
        raise ValueError("the state of the learning-rate schedule")


def first_line(error: Exception) -> str:
    """The first line of an error's message; its type where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]
