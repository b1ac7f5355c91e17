"""Compile the pretend device's shared library, once for each version of PyTorch and of the source."""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

SOURCE = Path(__file__).resolve().with_name("device.cpp")
COMPILER = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-shared", "-s"]


def torch_folder() -> Path:
    """PyTorch's folder, found without importing it: the library has to be loaded first."""
    spec = importlib.util.find_spec("torch")
    if spec is None:
        sys.exit("pretend_cuda: this Python has no torch")
    folder = Path(spec.origin).parent
    if (folder / "lib" / "libtorch_cuda.so").exists():
        sys.exit("pretend_cuda: this PyTorch is a CUDA build; the pretend device needs a CPU build")
    return folder


def library() -> Path:
    """The shared library; compiled first if the cache lacks it."""
    key = hashlib.sha256("\n".join([platform.machine(), *FLAGS]).encode() + SOURCE.read_bytes()).hexdigest()
    path = _cache() / f"torch-{version('torch')}-{key[:16]}.so"
    if not path.exists():
        _compile(path)
    return path


def _cache() -> Path:
    """A folder in the user's cache, or in the temporary folder if that is not writable."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pretend_cuda"
    temporary = Path(tempfile.gettempdir()) / f"pretend_cuda-{os.getuid()}"
    for folder in (home, temporary):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    sys.exit(f"pretend_cuda: neither {home} nor {temporary} is writable; set XDG_CACHE_HOME")


def _compile(path: Path) -> None:
    if shutil.which(COMPILER) is None:
        sys.exit(f"pretend_cuda: no C++ compiler ({COMPILER}); install g++")
    print(f"pretend_cuda: compiling {path} (about a minute)", file=sys.stderr, flush=True)
    torch = torch_folder()
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    includes = [f"-I{torch / 'include'}", f"-I{torch / 'include/torch/csrc/api/include'}"]
    links = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]  # no path to them inside: the program has loaded them
    try:
        done = subprocess.run([COMPILER, *FLAGS, *includes, SOURCE, *links, "-o", temporary])
        if done.returncode:
            sys.exit("pretend_cuda: the compilation failed (the source is for PyTorch 2.13)")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
