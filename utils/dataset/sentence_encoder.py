"""Vectors of sentences, by a model of sentence-transformers."""

import json
from functools import cached_property
from pathlib import Path

import numpy as np

from utils.common.errors import UserError
from utils.common.hub import model_folder, quiet, sentence_transformers_library
from utils.common.processes import pick_device

KEY = "sentence_embeddings.model"
AT_ONCE = 64  # sentences
WEIGHTS = (".safetensors", ".bin")  # the preferred form first; the other is read with weights_only=True


class SentenceEncoder:
    """A model of sentence-transformers, loaded when it first encodes.

    Args:
        name: on the Hugging Face hub, or a directory.
    """

    def __init__(self, name: str):
        self.name = name

    def encode(self, texts: list[str]) -> np.ndarray:
        """Encode sentences: (N, E) float32. Raises UserError without such a model, or where a vector is not finite."""
        vectors = self._model.encode(texts, batch_size=AT_ONCE, show_progress_bar=False, convert_to_numpy=True)
        vectors = vectors.astype(np.float32).reshape(len(texts), -1)
        if not np.isfinite(vectors).all():
            raise UserError(f"{KEY}: {self.name} gives vectors that are not finite: it is damaged; get a new copy")
        return vectors

    @cached_property
    def _model(self):
        library = sentence_transformers_library(f"{KEY}: is {self.name}, which")
        # as sentence-transformers reads a name
        name = self.name if "/" in self.name or Path(self.name).exists() else f"sentence-transformers/{self.name}"
        choices = ([f"*{ending}", "*.json", "*.txt", "*.model"] for ending in WEIGHTS)  # no code
        directory = model_folder(KEY, name, choices, _require_weights)
        _require_own_modules(directory)
        try:
            with quiet():
                return library.SentenceTransformer(str(directory), device=pick_device().type, local_files_only=True)
        except Exception as error:  # damaged files raise many types
            reason = " ".join((str(error) or type(error).__name__).split())
            raise UserError(
                f"{directory}: not a model that sentence-transformers can load ({reason:.200}); get a new copy, or "
                f"name another in {KEY}"
            ) from None


def _require_weights(directory: Path) -> None:
    """Raise UserError where a directory has no weights: a download was cut short."""
    if not any(path.suffix in WEIGHTS for path in directory.rglob("*")):
        raise UserError(f"{directory}: holds no weights; get a new copy of the model")


def _require_own_modules(directory: Path) -> None:
    """Raise UserError where a model names other classes than the library's: it could run code of its directory."""
    path = directory / "modules.json"
    if not path.exists():
        return
    try:
        types = [str(module["type"]) for module in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{path}: damaged; get a new copy of the model") from None
    for name in types:
        if not name.startswith("sentence_transformers."):
            raise UserError(f"{path}: names the class {name:.80}, which is not the library's; choose another model")
