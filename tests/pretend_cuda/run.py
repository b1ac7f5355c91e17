"""Run a command of the project, or a module such as pytest, on the pretend CUDA device, from the repository's root.

python -m tests.pretend_cuda.run [--watch] SCRIPT [ARGUMENT ...]
python -m tests.pretend_cuda.run [--watch] -m MODULE [ARGUMENT ...]

--watch: at the end, print kernels, host synchronisations and pageable copies by line of the project on standard error.
"""

import runpy
import sys
from contextlib import nullcontext
from pathlib import Path

from tests.pretend_cuda.pretend import Watch  # before torch


def main() -> None:
    args = sys.argv[1:]
    watch = Watch() if args[:1] == ["--watch"] else None
    args = args[1:] if watch else args
    as_module = args[:1] == ["-m"]
    sys.argv = args[1:] if as_module else args
    if not sys.argv or sys.argv[0].startswith("-"):
        sys.exit(__doc__)
    try:
        with watch or nullcontext():
            if as_module:
                runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
            else:
                sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
                runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        if watch:
            print(watch.report(), file=sys.stderr)


if __name__ == "__main__":
    main()
