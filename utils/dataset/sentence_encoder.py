"""Vectors of sentences, by a model of sentence-transformers."""

import json
import warnings
from functools import cached_property
from pathlib import Path

import numpy as np

from utils.common.errors import UserError, reason_of
from utils.common.hub import model_folder, sentence_transformers_library
from utils.common.processes import pick_device

KEY = "sentence_embeddings.model"
AT_ONCE = 64  # sentences
MODULES = "modules.json"
WEIGHTS = (".safetensors", ".bin")  # the preferred form first; the other is read with weights_only=True
SETTINGS = (".json", ".txt", ".model")


class SentenceEncoder:
    """A model of sentence-transformers, by its name on the Hugging Face hub or its directory.

    It is loaded when it first encodes. No code of a model runs.
    """

    def __init__(self, name: str):
        self.name, self._needed_by = name, f"{KEY}: is {name}, which"

    def encode(self, texts: list[str]) -> np.ndarray:
        """Encode sentences: (N, E) float32. Raises UserError without such a model, or where a vector is not finite."""
        vectors = self._model.encode(texts, batch_size=AT_ONCE, show_progress_bar=False, convert_to_numpy=True)
        vectors = vectors.astype(np.float32).reshape(len(texts), -1)
        if not np.isfinite(vectors).all():
            raise UserError(f"{KEY}: {self.name} gives vectors that are not finite: it is damaged; get a new copy")
        return vectors

    @property
    def files(self) -> list[Path]:
        """The files that decide its vectors."""
        return sorted(path for path in self._directory.rglob("*") if path.suffix in (*WEIGHTS, *SETTINGS))

    @cached_property
    def _directory(self) -> Path:
        # as sentence-transformers reads a name
        name = self.name if "/" in self.name or Path(self.name).exists() else f"sentence-transformers/{self.name}"
        sentence_transformers_library(self._needed_by)
        choices = [[f"*{ending}" for ending in (weights, *SETTINGS)] for weights in WEIGHTS]
        directory = model_folder(KEY, name, choices, _require_model)
        _require_model(directory)
        return directory

    @cached_property
    def _model(self):
        library, directory, device = sentence_transformers_library(self._needed_by), self._directory, pick_device()
        try:
            with warnings.catch_warnings(action="ignore"):
                return library.SentenceTransformer(str(directory), device=device.type, local_files_only=True)
        except Exception as error:  # damaged files raise many types
            raise UserError(
                f"{directory}: not a model that sentence-transformers can load ({reason_of(error):.200}); get a new "
                f"copy, or name another in {KEY}"
            ) from None


def _require_model(directory: Path) -> None:
    """Raise UserError where a directory lacks weights, or modules.json, which says how vectors are pooled."""
    if not any(path.suffix in WEIGHTS for path in directory.rglob("*")) or not (directory / MODULES).is_file():
        raise UserError(f"{directory}: lacks weights, or {MODULES} of sentence-transformers; get a new copy")
    try:
        for module in json.loads((directory / MODULES).read_text(encoding="utf-8")):
            settings = directory / module["path"] / "config.json"
            if module["type"].endswith((".Transformer", ".Pooling")) and not settings.is_file():
                raise UserError(f"{settings}: no such file; get a new copy of the model")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{directory / MODULES}: damaged; get a new copy of the model") from None
