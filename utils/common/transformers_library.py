"""The optional library `transformers`, imported where it is needed and kept quiet."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

from utils.common.errors import UserError

REQUIREMENTS = "requirements-pretrained.txt"


@cache
def transformers_library(needed_by: str) -> ModuleType:
    """Import `transformers` without its progress bars and log messages.

    Raises UserError where it cannot be imported: "NEEDED_BY needs the package ...".
    """
    try:
        with _hidden("torchaudio"):
            import transformers

            transformers.utils.is_torchaudio_available()  # it asks once, and keeps the answer
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{needed_by} needs the package transformers ({reason:.200}); pip install -r {REQUIREMENTS}"
        ) from None
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Drop warnings within the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Let a module seem absent within the block.

    Without torchaudio, the library computes log-mels by code of its own: the same numbers whether or not torchaudio can
    be loaded. One that does not fit torch cannot, and would stop every import of the library.
    """
    module = sys.modules.get(name)
    sys.modules[name] = None
    try:
        yield
    finally:
        del sys.modules[name]
        if module is not None:
            sys.modules[name] = module
