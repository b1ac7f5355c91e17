"""The epochs of a run: their line in the log, the warning of a collapse, and metrics.jsonl read back."""

import json
import math
from pathlib import Path

from utils.common.errors import UserError
from utils.common.io import require_file
from utils.common.steps import EMBEDDING, TRAINING
from utils.conf.schema import Conf
from utils.trial.names import METRICS

COLLAPSED_SPREAD = 1e-3  # standard deviation of the scores; a model that tells clips apart has above 0.01
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
    """A warning where the features have collapsed: training loss at twice the margin, and all scores equal."""
    loss, spread = results.get("train_loss", math.inf), results["score_std"]
    criterion = conf.criteria.TripletLoss
    if conf.param_conf.criterion != "TripletLoss":
        return None
    if not math.isclose(loss, 2 * criterion.margin, rel_tol=COLLAPSED_LOSS) or spread >= COLLAPSED_SPREAD:
        return None
    advice = f"Word vectors that are all alike do this as well: look at what {EMBEDDING} reports."
    if criterion.sampling == "hard-NS":
        advice = "The paper finds this with hard negatives by cross-modality score (hard-NS); semi-hard-NS avoids it."
    return (
        f"WARNING: the features have collapsed under {criterion.sampling}: the loss sits at twice the margin "
        f"({loss:.4f}) and all scores are equal (standard deviation {spread:.1e}), so retrieval is at chance. {advice}"
    )


def best_of(history: list[dict[str, float]], conf: Conf) -> dict[str, float]:
    """The results of the best epoch by param_conf.select_by, the earliest on a tie."""
    if conf.param_conf.select_by == "val_obj":
        return min(history, key=lambda results: results["val_obj"])
    return max(history, key=lambda results: results["val_map"])


def read_history(trial: Path) -> list[dict[str, float]]:
    """The lines of a trial's metrics.jsonl, one an epoch."""
    path = trial / METRICS
    require_file(path, TRAINING)
    try:
        history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not history or not all(key in results for results in history for key in ("epoch", "val_obj", "val_map")):
            raise ValueError("no epochs, or not all of an epoch")
    except (ValueError, TypeError) as error:
        what = f"not the epochs that {TRAINING} wrote ({error})"
        raise UserError(f"{path}: {what}; resume the trial to mend it") from None
    return history
