"""The file of an exported model: safetensors, with what the tensors do not say as JSON in its metadata.

Tensors are named model.KEY and score.KEY, by the keys of the state dicts.
"""

import hashlib
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from utils.audio_input import encoder_class
from utils.common.errors import UserError
from utils.common.io import require_file
from utils.common.processes import pick_device
from utils.common.steps import EXPORTING
from utils.conf.load import apply_override, checked
from utils.conf.schema import Conf, role_of
from utils.search.scorer import Scorer
from utils.search.sounds import Features, Heard, LogMels
from utils.trial.checkpoint import Trained, first_line, trained_of

FORMAT = 1
KEY = "retrieval_model"  # of the metadata
PLACES = ("audio_features.weights", "sentence_embeddings.model")  # settings that say where networks are


class _Version(BaseModel):
    format: int


class Content(_Version, strict=True, extra="forbid"):
    """What a file says beside its tensors."""

    sha256: str  # of the tensors, see `digest`
    conf: dict[str, Any]
    words: list[str]  # V, the vocabulary's first; of sentences, the padding and one sentence, to know the encoder by
    extra_words: int  # how many of them no caption has
    epoch: int
    sample_rate: int | None  # Hz, see Heard
    weights_sha256: str | None
    metrics: dict[str, Any] | None  # of the evaluation split
    caveat: str | None  # of a trial that diverged or is unfinished
    digests: dict[str, str]  # SHA-256 of the checkpoint, and of the data
    versions: dict[str, Any]  # of the packages, and the commit, at the export


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors by name."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}\n".encode())
        found.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def tensors_of(trained: Trained) -> dict[str, Tensor]:
    """A model's tensors, by their names in the file."""
    states = {"model": trained.model.state_dict(), "score": trained.score.state_dict()}
    return {
        f"{part}.{name}": value.cpu().contiguous() for part, state in states.items() for name, value in state.items()
    }


def write_model(path: Path, tensors: dict[str, Tensor], content: Content) -> None:
    """Write a model's file."""
    from safetensors.torch import save  # not save_file, which reports a full disk by an error of its own

    path.write_bytes(save(tensors, {KEY: content.model_dump_json()}))


class ExportedScorer(Scorer):
    """The model of a file.

    Args:
        settings: section.key=value in place of the file's: where networks are (audio_features.weights,
            sentence_embeddings.model), and how commands run, such as clotho_dataset.on_bad_data=skip.
        device: to score on; None is the GPU, or the CPU where there is none.

    Raises UserError where the file is missing, damaged, or of another format, its parts do not fit each other, or a
    setting would change results.
    """

    def __init__(self, path: Path, settings: Sequence[str] = (), device: torch.device | str | None = None):
        content, tensors = _read(path)
        if digest(tensors) != content.sha256:
            raise UserError(f"{path}: its tensors are not what their digest says: it is damaged; get a new copy")
        conf = _with_settings(content.conf, settings, path)
        states = _part(tensors, "model."), _part(tensors, "score.")
        trained = trained_of(path, states, conf.score.model_dump(), content.words, content.epoch)
        if not all(value.isfinite().all() for value in trained.model.state_dict().values()):
            raise UserError(f"{path}: holds weights that are not finite: it cannot be used; get a new copy")
        if not _fits(trained, conf):
            raise UserError(f"{path}: its weights are not of the encoders in its configuration; get a new copy")
        if len(content.words) < 2 or len(set(content.words)) < len(content.words):
            raise UserError(f"{path}: its vocabulary holds no word, or one twice; get a new copy")
        super().__init__(str(path), conf, trained, [content.sha256, content.words])
        device = pick_device() if device is None else torch.device(device)
        self.model.to(device), self.score.to(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = conf.param_conf.tf32
        self.content, self.extra = content, content.extra_words
        self.heard = Heard(self.name, content.sample_rate, content.weights_sha256)
        if content.caveat:
            warnings.warn(f"{path}: {content.caveat}", stacklevel=2)

    @cached_property
    def sounds(self) -> LogMels | Features:
        """Reads sounds. UserError says which weights are needed where those are missing."""
        try:
            sounds = super().sounds
        except UserError as error:
            needed = f"{self.name} needs the weights of SHA-256 {self.content.weights_sha256}"
            raise UserError(f"{error} ({needed}; audio_features.weights says where they are)") from None
        if isinstance(sounds, Features) and sounds.model.size != self.model.audio_enc.in_dim:
            raise UserError(f"{self.name}: its weights are not of the features that it names; get a new copy")
        return sounds


def _fits(trained: Trained, conf: Conf) -> bool:
    """Whether a model has the encoders of a configuration."""
    audio, vectors = trained.model.audio_enc, trained.model.text_enc.embedding.weight
    bands = audio.in_dim if conf.data_conf.audio == "features" else conf.audio_logmel.n_mels
    return type(audio) is encoder_class(conf) and audio.in_dim == bands and vectors.dtype == torch.float32


def _with_settings(tree: dict[str, Any], settings: Sequence[str], path: Path) -> Conf:
    """A file's configuration with other settings; UserError where one decides results, or is none."""
    conf = checked(tree, str(path))
    for setting in settings:
        apply_override(tree, setting)
        conf = checked(tree, repr(setting))
    for key in (setting.partition("=")[0].strip() for setting in settings):
        if key == "word2vec_embeddings.extra_words":
            raise UserError(f"{key}: adds words when a model is exported (6_export.py --extra-words N); leave it out")
        if key not in PLACES and not role_of(key).may_change_afterwards:
            raise UserError(f"{key}: decides what {path} was trained to do; leave the setting out")
    return conf


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read(path: Path) -> tuple[Content, dict[str, Tensor]]:
    from safetensors import safe_open

    require_file(path, EXPORTING)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # of safetensors, and of torch for types that it lacks
        raise UserError(f"{path}: not a safetensors file, or damaged ({first_line(error)}); get a new copy") from None
    if text is None:
        raise UserError(f"{path}: not a model that {EXPORTING} wrote; name one")
    try:
        version = _Version.model_validate_json(text).format
        if version != FORMAT:
            raise UserError(f"{path}: of format {version}, but this version reads format {FORMAT}; export it again")
        return Content.model_validate_json(text), tensors
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        what = f"{'.'.join(map(str, first['loc'])) or 'the metadata'!r:.80}: {first['msg']:.200}"
        raise UserError(f"{path}: not as {EXPORTING} writes it ({what}); get a new copy") from None
