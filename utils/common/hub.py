"""Models of the Hugging Face hub: by a directory, or by a name, downloaded once."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from utils.common.errors import UserError

WEIGHTS = (".safetensors", ".bin")  # the latter is read with weights_only=True
READ = (".json", ".txt", ".model")  # settings and vocabularies; no code


def hub_directory(key: str, name: str) -> Path:
    """The directory of a model, which is given or in the hub's cache; a missing one is downloaded.

    Raises UserError, which names the setting `key`, where there is no such model, or no internet.
    """
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") > 1 or name.startswith((".", "~")) or Path(name).exists():
        raise UserError(f"{key}: no such directory: {name}; name a model of the Hugging Face hub, or its directory")
    hub_library(key, "transformers")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return _downloaded(key, name)
    except ValueError as error:  # no name that the hub has
        raise UserError(f"{key}: {name!r} is no name of a model ({_reason(error)})") from None


def _downloaded(key: str, name: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    print(f"{name}: downloading it from the Hugging Face hub")
    try:
        files = [file.rfilename for file in HfApi().model_info(name, timeout=20).siblings]  # asks once, without retries
        suffix = next((suffix for suffix in WEIGHTS if any(file.endswith(suffix) for file in files)), WEIGHTS[0])
        return Path(snapshot_download(name, allow_patterns=[f"*{end}" for end in (suffix, *READ)]))
    except RepositoryNotFoundError:
        raise UserError(f"{key}: the Hugging Face hub has no public model {name}; correct the name") from None
    except Exception as error:  # of the network, of many types
        raise UserError(
            f"{key}: {name} could not be downloaded ({_reason(error)}); download it elsewhere (hf download {name} "
            f"--local-dir DIR), and set {key} to that directory"
        ) from None


def hub_library(key: str, name: str) -> ModuleType:
    """Import a library of the hub, quiet; UserError, which names the setting `key`, where it is not installed."""
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        # transformers imports it wherever it is installed, and a CUDA build cannot be imported beside a CPU torch
        sys.modules["torchaudio"] = None
    try:
        import huggingface_hub.utils
        import transformers.utils.logging

        library = import_module(name)
    except ImportError as error:
        raise UserError(
            f"{key}: {name} cannot be imported ({error}); pip install -r requirements-pretrained.txt"
        ) from None
    transformers.utils.logging.set_verbosity(50)  # CRITICAL: what fails is raised
    transformers.utils.logging.disable_progress_bar()  # of loading
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()  # of a download
    return library


def _reason(error: Exception) -> str:
    return f"{' '.join((str(error) or type(error).__name__).split()):.200}"
