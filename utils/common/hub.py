"""The Hugging Face hub: its optional libraries, imported where they are needed and kept quiet, and its models."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from utils.common.errors import UserError, reason_of

REQUIREMENTS = "requirements-pretrained.txt"


@cache
def transformers_library(needed_by: str) -> ModuleType:
    """Import `transformers` without its progress bars and log messages.

    Raises UserError where it cannot be imported: "NEEDED_BY needs the package ...".
    """
    with _hidden("torchaudio"):
        library = _imported("transformers", needed_by)
        library.utils.is_torchaudio_available()  # it asks once, and keeps the answer
    library.logging.set_verbosity(library.logging.CRITICAL)
    library.logging.disable_progress_bar()
    return library


def sentence_transformers_library(needed_by: str) -> ModuleType:
    """Import `sentence_transformers` likewise."""
    transformers_library(needed_by)
    return _imported("sentence_transformers", needed_by)


def _imported(name: str, needed_by: str) -> ModuleType:
    try:
        return import_module(name)
    except (ImportError, OSError) as error:
        reason = f"{reason_of(error):.200}"
        raise UserError(f"{needed_by} needs the package {name} ({reason}); pip install -r {REQUIREMENTS}") from None


def model_folder(key: str, name: str, choices: Sequence[list[str]], check: Callable[[Path], object]) -> Path:
    """The directory of a model: `name` itself, or that of a name on the hub, in whose cache a missing one is put.

    Args:
        key: the setting that names the model.
        choices: patterns of the files to download; the first choice that brings what is needed counts.
        check: raises UserError where a directory lacks what is needed.

    Raises UserError where there is no such model, or it cannot be downloaded.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars

    try:
        for patterns in choices:  # without them, the hub's library takes its cache for incomplete
            with suppress(LocalEntryNotFoundError, UserError):
                folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=patterns))
                check(folder)
                return folder
        print(f"{name}: downloading it from the hub", file=sys.stderr)  # a search prints its results alone
        if not sys.stderr.isatty() and not are_progress_bars_disabled():
            disable_progress_bars()
        for patterns in choices:
            folder = Path(snapshot_download(name, allow_patterns=patterns))
            with suppress(UserError):
                check(folder)
                break
        return folder
    except Exception as error:  # of the hub's, of its HTTP library's, of the system's
        raise UserError(
            f"{key}: {name} is no directory, and could not be downloaded ({reason_of(error):.200}); download the model "
            "elsewhere, and give its directory"
        ) from None


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
