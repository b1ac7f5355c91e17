"""Start a new trial from another one's weights, as param_conf.start_from says."""

from pathlib import Path

from torch import Tensor, nn

from utils.common.digests import file_digest
from utils.common.errors import UserError
from utils.conf.schema import Conf
from utils.model_utils import TrainState
from utils.trial.checkpoint import load_checkpoint
from utils.trial.names import BEST

KEY = "param_conf.start_from"
PARTS = {"audio encoder": "audio_enc", "audio projection": "audio_projection", "text projection": "text_projection"}


def start_sources(conf: Conf) -> dict[str, str]:
    """The SHA-256 of the checkpoint that a new trial starts from, for its provenance; UserError where it is damaged."""
    path = _checkpoint(conf)
    if path is None:
        return {}
    load_checkpoint(path)
    return {"start": file_digest(path)}


def load_start(state: TrainState, conf: Conf, sources: dict[str, str]) -> str:
    """Load what fits of the checkpoint's audio encoder, projections and score. Returns what was loaded and what not.

    A part fits if its weights have the same names and shapes. Word vectors and idf are those of this trial's data.

    Raises UserError where nothing fits, or the checkpoint is no longer the one of `start_sources`.
    """
    path = _checkpoint(conf)
    checkpoint = load_checkpoint(path)
    if file_digest(path) != sources["start"]:
        raise UserError(f"{path}: has changed since this trial was begun; put it back, or start a new trial")
    loaded, left = [], []
    for name, prefix in PARTS.items():
        weights = {key: value for key, value in checkpoint["model"].items() if key.startswith(f"{prefix}.")}
        module = getattr(state.model, prefix)
        if weights or module.state_dict():
            weights = {key.removeprefix(f"{prefix}."): value for key, value in weights.items()}
            (loaded if _load(module, weights) else left).append(name)
    learnt = nn.ParameterDict({key: value for key, value in state.score.named_parameters() if value.requires_grad})
    if len(learnt):
        weights = {key: value for key, value in checkpoint.get("score", {}).items() if key in learnt}
        (loaded if _load(learnt, weights) else left).append("score")
    if not loaded:
        raise UserError(f"{KEY}: nothing of {path} fits this model ({', '.join(left)}); name another trial, or null")
    rest = f"; not loaded, because it does not fit: {', '.join(left)}" if left else ""
    return f"starts from {path}, epoch {checkpoint['epoch']}: {', '.join(loaded)}{rest}"


def _checkpoint(conf: Conf) -> Path | None:
    """The checkpoint's file: the best of a trial."""
    if conf.param_conf.start_from is None:
        return None
    path = Path(conf.param_conf.start_from)
    if not path.exists():
        raise UserError(f"{KEY}: no such trial or checkpoint: {path}")
    return path / BEST if path.is_dir() else path


def _load(module: nn.Module, weights: dict[str, Tensor]) -> bool:
    """Load weights into a module if all of them fit."""
    shapes = ({key: value.shape for key, value in state.items()} for state in (module.state_dict(), weights))
    fits = next(shapes) == next(shapes)
    if fits:
        module.load_state_dict(weights)
    return fits
