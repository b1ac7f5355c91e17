"""Run a command of the project, or a module such as pytest, on the pretend CUDA device, from the repository's root.

python -m tests.pretend_cuda.run SCRIPT [ARGUMENT ...]
python -m tests.pretend_cuda.run -m MODULE [ARGUMENT ...]
"""

import runpy
import sys
from pathlib import Path

import tests.pretend_cuda.pretend  # noqa: F401  before torch


def main() -> None:
    args = sys.argv[1:]
    as_module = args[:1] == ["-m"]
    sys.argv = args[1:] if as_module else args
    if not sys.argv or sys.argv[0].startswith("-"):
        sys.exit(__doc__)
    if as_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
