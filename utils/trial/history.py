"""The epochs of a trial: log lines, the best epoch, the end of training, and metrics.jsonl."""

import json
import math
from itertools import zip_longest
from pathlib import Path

from utils.common.counts import counted
from utils.common.errors import UserError
from utils.common.io import require_file
from utils.common.steps import EMBEDDING, TRAINING
from utils.conf.schema import Conf
from utils.model_utils import PlateauStopper
from utils.trial.checkpoint import check_history, load_checkpoint
from utils.trial.identity import identity
from utils.trial.names import BEST, LAST, METRICS

History = list[dict[str, float]]  # the results of each epoch, from 0

COLLAPSED_SPREAD = 1e-3  # standard deviation of the scores; above 0.01 where a model tells clips apart
COLLAPSED_LOSS = 0.02  # distance from twice the margin, relative


def epoch_line(results: dict[str, float]) -> str:
    """An epoch's results on one line."""
    training = ""
    if "train_loss" in results:
        training = f"loss {results['train_loss']:.4f}  active {results['active']:.2f}  "
    return (
        f"epoch {results['epoch']:3d}  {training}val_obj {results['val_obj']:.4f}  "
        f"val mAP t2a {results['val_map_text_to_audio']:.3f} a2t {results['val_map_audio_to_text']:.3f}  "
        f"score std {results['score_std']:.4f}  lr {results['lr']:.0e}"
    )


def collapse_warning(results: dict[str, float], conf: Conf) -> str | None:
    """A warning where the features have collapsed: the training loss is twice the margin, and all scores are equal."""
    loss, spread = results.get("train_loss", math.inf), results["score_std"]
    criterion = conf.criteria.TripletLoss
    if conf.param_conf.criterion != "TripletLoss":
        return None
    if not math.isclose(loss, 2 * criterion.margin, rel_tol=COLLAPSED_LOSS) or spread >= COLLAPSED_SPREAD:
        return None
    advice = f"Word vectors that are all alike do this too: look at what {EMBEDDING} reports."
    if criterion.sampling == "hard-NS":
        advice = "The paper finds this with hard negatives by cross-modality score (hard-NS); semi-hard-NS avoids it."
    return (
        f"WARNING: the features have collapsed under {criterion.sampling}: the loss sits at twice the margin "
        f"({loss:.4f}) and all scores are equal (standard deviation {spread:.1e}), so retrieval is at chance. {advice}"
    )


def best_of(history: History, conf: Conf) -> dict[str, float]:
    """The results of the best epoch by param_conf.select_by; on a tie, of the earliest."""
    if conf.param_conf.select_by == "val_obj":
        return min(history, key=lambda results: results["val_obj"])
    return max(history, key=lambda results: results["val_map"])


def has_settled(history: History, conf: Conf) -> bool:
    """Whether the stopper ends training after these epochs."""
    stopper = PlateauStopper(**conf.TrialPlateauStopper.model_dump())
    return stopper.should_stop([results["val_obj"] for results in history])


def is_finished(history: History, conf: Conf) -> bool:
    """Whether no epoch is left to train."""
    return len(history) > conf.param_conf.num_epoch or has_settled(history, conf)


def as_lines(history: History) -> str:
    """The epochs as lines of metrics.jsonl."""
    return "".join(json.dumps(results) + "\n" for results in history)


def load_history(trial: Path) -> History:
    """The epochs of a trial's last checkpoint; without it, those of metrics.jsonl.

    metrics.jsonl must then begin with the epochs of the best checkpoint, if there is one.
    """
    if (trial / LAST).is_file():
        return load_checkpoint(trial / LAST, identity(trial))["history"]
    path = trial / METRICS
    require_file(path, TRAINING)
    try:
        history = [json.loads(line) for line in path.read_bytes().splitlines()]
        check_history(history)
        if not history:
            raise ValueError("no epochs")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not the epochs that {TRAINING} wrote ({error}); put this trial's own back") from None
    if (trial / BEST).is_file():
        require_lines(trial, load_checkpoint(trial / BEST, identity(trial))["history"], BEST)
    return history


def require_lines(trial: Path, history: History, checkpoint: str) -> None:
    """Raise UserError unless metrics.jsonl holds a checkpoint's epochs; others may follow those of the best."""
    path = trial / METRICS
    require_file(path, TRAINING)
    lines = path.read_bytes().splitlines(keepends=True)
    known = as_lines(history).encode().splitlines(keepends=True)
    if checkpoint == BEST:
        lines = lines[: len(known)]
    for number, (line, expected) in enumerate(zip_longest(lines, known), start=1):
        if line != expected:
            advice = "resume the trial to mend it" if checkpoint == LAST else "put this trial's own back"
            raise UserError(
                f"{path}: line {number} is not as {checkpoint}, which has {counted(len(history), 'epoch')}, says; "
                f"{advice}"
            )
