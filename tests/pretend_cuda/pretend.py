"""Load the pretend CUDA device, answer for `torch.cuda`, and count what the device does. Import it before torch.

The current directory at import time is the project whose lines `Watch` names.
"""

import ctypes
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType

from tests.pretend_cuda import build

if "torch" in sys.modules:
    raise ImportError("tests.pretend_cuda.pretend: import it before torch")
for library in (build.torch_folder() / "lib" / "libtorch_cpu.so", build.library()):
    ctypes.CDLL(str(library))

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves

ROOT = f"{Path.cwd()}{os.sep}"
FOREIGN = (f"{sys.prefix}{os.sep}", f"{Path(__file__).resolve().parent}{os.sep}")  # below ROOT perhaps, but not counted

# --- torch.cuda ------------------------------------------------------------------------------------------

ANSWERS = {
    "is_available": True,
    "is_initialized": True,
    "is_bf16_supported": True,
    "is_current_stream_capturing": False,
    "device_count": 1,
    "current_device": 0,
    "_exchange_device": 0,
    "_maybe_exchange_device": 0,
    "get_device_name": "pretend CUDA device",
    "memory_allocated": 0,
    "memory_reserved": 0,
    "max_memory_allocated": 0,
    "max_memory_reserved": 0,
}
SILENT = ("_lazy_init", "set_device", "empty_cache", "reset_peak_memory_stats", "manual_seed", "manual_seed_all")


def _always(answer: object) -> Callable:
    return lambda *args, **kwargs: answer


def _synchronize(device: object = None) -> None:
    for mode in _get_current_dispatch_mode_stack():
        if isinstance(mode, Watch):
            mode.syncs[mode.place(), "synchronize"] += 1


def _new_storage(cls: type, *args: object, **kwargs: object) -> torch.UntypedStorage:
    """Make a storage on the CUDA device, for torch.load and copy.deepcopy; the original needs a CUDA build."""
    if torch.device(kwargs.get("device") or "cpu").type == "cuda":
        return torch.empty(*args, dtype=torch.uint8, device="cuda").untyped_storage()
    return torch._C.StorageBase.__new__(cls, *args, **kwargs)


for name, answer in {**ANSWERS, **dict.fromkeys(SILENT)}.items():
    for module in (torch.cuda, torch.cuda.random):
        if hasattr(module, name):
            setattr(module, name, _always(answer))
torch.cuda.synchronize = _synchronize
torch.cuda.default_generators = (torch.default_generator,)
torch.backends.cudnn.is_acceptable = _always(False)  # the original warns at every call
torch.UntypedStorage.__new__ = _new_storage

# --- operators and rules that only CUDA has --------------------------------------------------------------


def _gru_cell(
    by_input: Tensor, by_state: Tensor, state: Tensor, input_bias: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """CUDA's operator for a step of a GRU: the new state (N, H), and what the backward pass needs (N, 5 H)."""
    if input_bias is not None:
        by_input, by_state = by_input + input_bias, by_state + bias
    input_r, input_z, input_n = by_input.chunk(3, 1)
    state_r, state_z, state_n = by_state.chunk(3, 1)
    r, z = torch.sigmoid(input_r + state_r), torch.sigmoid(input_z + state_z)
    n = torch.tanh(input_n + r * state_n)
    return n + z * (state - n), torch.cat([r, z, n, state, state_n], 1)


def _gru_cell_backward(grad: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    r, z, n, state, state_n = workspace.chunk(5, 1)
    grad_n = grad * (1 - z) * (1 - n * n)
    grad_z = grad * (state - n) * z * (1 - z)
    grad_r = grad_n * state_n * r * (1 - r)
    by_input, by_state = torch.cat([grad_r, grad_z, grad_n], 1), torch.cat([grad_r, grad_z, grad_n * r], 1)
    return by_input, by_state, grad * z, *((by_input.sum(0), by_state.sum(0)) if has_bias else (None, None))


_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("_thnn_fused_gru_cell", _gru_cell, "CUDA")
_LIBRARY.impl("_thnn_fused_gru_cell_backward", _gru_cell_backward, "CUDA")


def _as_cudnn(module: nn.Module, args: tuple, output: object) -> None:
    """Refuse a gradient through a recurrent layer in evaluation mode, as cuDNN does."""
    if not isinstance(module, nn.RNNBase) or module.training:
        return
    steps = output[0].data if isinstance(output[0], PackedSequence) else output[0]
    if steps.is_cuda and steps.requires_grad:
        steps.register_hook(_refuse)


def _refuse(grad: Tensor) -> None:
    raise RuntimeError("cudnn RNN backward can only be called in training mode")


nn.modules.module.register_module_forward_hook(_as_cudnn)

# --- counting --------------------------------------------------------------------------------------------

COPIES = ("_to_copy", "copy_")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
ALLOCATIONS = ("empty", "new_empty", "resize_", "set_", "_unsafe_view")  # beginnings of names; the last is a view
READS = (  # the host waits for a value, or for how large the result is
    "_local_scalar_dense",
    "equal",
    "nonzero",
    "masked_select",
    "bincount",
    "repeat_interleave",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
)


class Watch(TorchDispatchMode):
    """Counts, while active, by (line of the project, operator).

    kernels: operators that compute or copy on the device.
    syncs: host synchronisations, where the host waits for the device.
    pageable: copies to the device from memory that is not pinned, where the host waits as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[tuple[str, str]] = Counter()
        self.syncs: Counter[tuple[str, str]] = Counter()
        self.pageable: Counter[tuple[str, str]] = Counter()
        self.thread = threading.get_ident()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if any(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in tree_leaves((args, kwargs, result))):
            self._count(func, args, kwargs, result)
        return result

    def _count(self, func, args: tuple, kwargs: dict, result: object) -> None:
        operator = func._schema.name.removeprefix("aten::")
        key = (self.place(), operator)
        if operator in COPIES and self._is_transfer(key, args, kwargs, result):
            return
        if operator == "lift_fresh":  # the end of torch.tensor([...], device="cuda")
            self.pageable[key] += 1
        if operator in READS and kwargs.get("output_size") is None:
            self.syncs[key] += 1
        if operator in INDEXING:
            for index in (index for index in args[1] if index is not None):
                if not index.is_cuda:
                    self.pageable[key] += 1
                elif index.dtype in (torch.bool, torch.uint8):  # how many are true?
                    self.syncs[key] += 1
        if not (func.is_view or operator.startswith(ALLOCATIONS) or operator == "_local_scalar_dense"):
            self.kernels[key] += 1

    def _is_transfer(self, key: tuple[str, str], args: tuple, kwargs: dict, result: Tensor) -> bool:
        """Tell whether a copy is between host and device; count it if the host waits for it."""
        source, target = (args[0], result) if key[1] == "_to_copy" else (args[1], args[0])
        if source.is_cuda == target.is_cuda:
            return False
        non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        pinned = (source if target.is_cuda else target).is_pinned()
        if target.is_cuda and not pinned:
            self.pageable[key] += 1
        elif not (pinned and non_blocking):
            self.syncs[key] += 1
        return True

    def place(self) -> str:
        """The project's line that is running; in built-in parts of a backward pass, the line that called backward()."""
        line = _project_line(sys._getframe(1))
        if line is None and threading.get_ident() != self.thread:  # autograd has a thread for each device
            caller = _project_line(sys._current_frames().get(self.thread))
            line = caller and f"{caller} (backward)"
        return line or "elsewhere"

    def report(self, top: int = 20) -> str:
        """The counts, and the lines with the highest counts, as text."""
        counters = {"kernels": self.kernels, "host syncs": self.syncs, "pageable copies": self.pageable}
        lines = []
        for title, counter in counters.items():
            lines.append(f"{title}: {counter.total()}")
            lines += [f"  {count:8d}  {place} {operator}" for (place, operator), count in counter.most_common(top)]
        return "\n".join(lines)


def _project_line(frame: FrameType | None) -> str | None:
    while frame is not None:
        if name := _project_file(frame.f_code.co_filename):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return None


@cache
def _project_file(filename: str) -> str | None:
    """A source file's path from the project's root; None if it is not one of the project's."""
    path = os.path.normpath(ROOT + filename if not filename.startswith(os.sep) else filename)
    if filename.startswith("<") or path.startswith(FOREIGN) or not path.startswith(ROOT):
        return None
    return path[len(ROOT) :]
