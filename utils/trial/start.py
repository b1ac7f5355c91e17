"""What a training starts from: its data, and the weights of another trial where param_conf.start_from names one."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from utils.audio_input import audio_input
from utils.common.digests import file_digest
from utils.common.errors import UserError
from utils.common.processes import pick_device
from utils.conf.schema import Conf
from utils.data_utils import Split, load_split, on_device
from utils.dataset.paths import DatasetPaths
from utils.memory_utils import require_memory
from utils.model_utils import TrainState, encoder_dim
from utils.text_input import read_vectors
from utils.trial.checkpoint import load_checkpoint
from utils.trial.dataset_provenance import check_steps, preprocessing
from utils.trial.identity import data_digests
from utils.trial.names import BEST
from utils.trial.relevance import require_pairs

KEY = "param_conf.start_from"
PARTS = {"audio encoder": "audio_enc", "audio projection": "audio_projection", "text projection": "text_projection"}


class TrainingData(NamedTuple):
    """A vocabulary (of words, or of whole captions) with its vectors, and the splits for training and validation."""

    words: list[str]  # V, id 0 the padding
    vectors: np.ndarray  # (V, E) float32
    train: Split
    val: Split
    files: dict[str, str]  # SHA-256 by file name, taken before reading


def load_training_data(conf: Conf) -> TrainingData:
    """Read the data set, before the trial directory exists.

    Raises UserError where preprocessing by this configuration would not make it.
    """
    paths, data = DatasetPaths(conf.data_conf.dataset), conf.data_conf
    check_steps(conf, *preprocessing(conf))
    require_pairs(conf)  # read after training only: refuse it before
    files = data_digests(conf, [data.train_data, data.val_data])
    audio = audio_input(conf)
    words, vectors = read_vectors(conf)
    train = load_split(paths, data.train_data, words, audio, data.cache, needs_negatives=True)
    encoder_dim(conf, vectors.shape[1], train.width)
    audio = audio.of_width(train.width, f"the clips of {data.train_data} have")
    val = load_split(paths, data.val_data, words, audio, data.cache, needs_negatives=True)
    device = pick_device()
    needed = require_memory(conf, vectors.shape[1], train, device)
    train = on_device(train, data.train_data, device, data.cache, needed)
    return TrainingData(words, vectors, train, val, files)


# --- the weights of another trial ------------------------------------------------------------------------


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
    parts = {}  # a module of this trial, and the checkpoint's weights for it
    for name, prefix in PARTS.items():
        weights = {key: value for key, value in checkpoint["model"].items() if key.startswith(f"{prefix}.")}
        weights = {key.removeprefix(f"{prefix}."): value for key, value in weights.items()}
        parts[name] = getattr(state.model, prefix), weights
    learnt = nn.ParameterDict({key: value for key, value in state.score.named_parameters() if value.requires_grad})
    parts["score"] = learnt, {key: value for key, value in checkpoint.get("score", {}).items() if key in learnt}
    loaded, left = [], []
    for name, (module, weights) in parts.items():
        if weights or module.state_dict():
            (loaded if _load(module, weights) else left).append(name)
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
