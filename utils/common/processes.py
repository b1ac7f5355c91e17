"""Several processes that train one model (torchrun). With one process, every function here changes nothing.

Each rank holds the whole data set and draws the same batches, so it knows every batch's captions. It encodes the clips
of its own shard. The ranks exchange the (N, N) score matrix, the gradients and, for strategies that compare clips with
clips, the encoder's outputs. Each rank computes the loss of the whole batch and follows its gradient through its own
clips alone; the sum over ranks is the gradient of one process.

torch.distributed's DistributedDataParallel does not fit: it averages gradients where these are parts of a sum, and
hooks into a `forward` that training does not call.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.common.errors import UserError, report_error

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)  # of a collective: rank zero may work alone for long while the other ranks wait
SILENCE = timedelta(minutes=4)  # a process that is silent for longer counts as dead
BEAT = 5  # seconds between two signs of life
FAILED = "failed"  # the shared store's key for the number of failed processes
KILLED = (
    "one of this run's processes was killed or cannot be reached, or torchrun was told to stop; resume from the last "
    "whole epoch with --resume TRIAL_DIR, with any number of processes"
)


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's rank. Rank zero prints, evaluates and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started into one group within the block; only rank zero prints.

    An error in one process ends all, with exit status 2: the first to fail prints why, the others exit silently.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    store, this_rank, processes = next(dist.rendezvous("env://"))
    failures = store.clone()  # a second connection: the first may be waiting for another process
    leaving = threading.Lock()  # held by the thread that ends this process
    leave_killed = partial(_leave_killed, failures, leaving)
    _call_on_sigterm(leave_killed)
    try:
        with _silence() if this_rank > 0 else nullcontext():
            dist.init_process_group(store=store, rank=this_rank, world_size=processes, timeout=TIMEOUT, **_backend())
            with _heartbeat(leave_killed):
                yield
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        leaving.acquire()
        leave(report_error(error) if _first_to_fail(failures) else 2)
    dist.destroy_process_group()


def pick_device() -> torch.device:
    """This rank's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if world_size() == 1 else torch.device("cuda", torch.cuda.current_device())


def describe(device: torch.device) -> str:
    """Name the device and the processes for the log."""
    if world_size() == 1:
        return str(device)
    if device.type == "cuda":
        return f"{world_size()} processes, a GPU each"
    return f"{world_size()} processes on the CPU, where batch norm uses each process's own share of a batch"


def require_pair_each(batch_size: int) -> None:
    """Raise UserError where a batch has fewer pairs than there are processes."""
    if batch_size < world_size():
        raise UserError(
            f"param_conf.batch_size: is {batch_size}, but each of {world_size()} processes needs a pair of a batch; "
            "raise it, or start fewer processes"
        )


def require_one_process(what: str) -> None:
    """Raise UserError where torchrun started a command that starts its own processes."""
    if world_size() > 1:
        raise UserError(f"{what}: starts its own processes; run it with python instead of torchrun")


@contextmanager
def _heartbeat(lost: Callable[[], None]) -> Iterator[None]:
    """Call `lost` from a thread once a process has ended, or has been silent for SILENCE, within the block.

    A connection to a dead machine stays open, and a collective may wait for hours of rank zero's work. So a thread of
    each process meets those of the others every few seconds, until all processes have finished.
    """
    group, done = dist.new_group(backend="gloo", timeout=SILENCE), threading.Event()

    def beat() -> None:
        finished = torch.zeros(1)
        try:
            while finished < world_size():
                finished.fill_(done.wait(BEAT))
                dist.all_reduce(finished, group=group)
        except RuntimeError:
            lost()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    except SystemExit as end:
        if end.code:  # after --help, every process ends with status 0
            raise
    done.set()
    thread.join()


def _backend() -> dict[str, Any]:
    """init_process_group's arguments: NCCL and this process's GPU, or gloo on the CPU."""
    if not torch.cuda.is_available():
        return {"backend": "gloo"}
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= gpus:
        raise UserError(f"process {local} has no GPU: this machine has {gpus}; start one process per GPU")
    torch.cuda.set_device(local)
    return {"backend": "nccl", "device_id": torch.device("cuda", local)}


@contextmanager
def _silence() -> Iterator[None]:
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _call_on_sigterm(function: Callable[[], None]) -> None:
    """Call the function, which must end the process, in a thread as soon as torchrun sends SIGTERM.

    The main thread runs signal handlers between two instructions, so never while it waits in C code for a dead peer.
    But Python writes the signal's number to a pipe at once, where another thread reads it.
    """
    signals, pipe = os.pipe()
    os.set_blocking(pipe, False)
    signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)

    def wait() -> None:
        while os.read(signals, 1)[0] != signal.SIGTERM:
            pass
        function()

    threading.Thread(target=wait, daemon=True).start()


def _leave_killed(failures: dist.Store, leaving: threading.Lock) -> None:
    """End this process after a SIGTERM or the loss of another process; the first to do so prints why."""
    if leaving.acquire(blocking=False):
        if _first_to_fail(failures):
            with redirect_stderr(sys.__stderr__), suppress(OSError):  # its reader may have gone
                report_error(UserError(KILLED))
        leave(2)


def _first_to_fail(failures: dist.Store) -> bool:
    """Whether this process is the first to fail."""
    try:
        return failures.add(FAILED, 1) == 1
    except RuntimeError:  # the store ended with the process that kept it
        return True


def leave(status: int) -> None:
    """Flush the streams and end this process at once.

    A normal exit could change the status: Python no longer handles SIGTERM then, and a library's threads may abort.
    """
    for stream in (sys.__stdout__, sys.__stderr__):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


# --- collectives -----------------------------------------------------------------------------------------


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a contiguous tensor over ranks, in place. With zeros elsewhere, this gathers parts of unequal size."""
    if world_size() > 1:
        _collective(dist.all_reduce, tensor)
    return tensor


def on_rank_zero(function: Callable[[], T]) -> T:
    """Run the function on rank zero alone, and return its result on all ranks."""
    if world_size() == 1:
        return function()
    result = [function() if rank() == 0 else None]
    _collective(dist.broadcast_object_list, result)
    return result[0]


def broadcast_weights(model: nn.Module) -> None:
    """Copy the weights of rank zero to every rank."""
    if world_size() > 1:
        model.load_state_dict(on_rank_zero(lambda: {name: value.cpu() for name, value in model.state_dict().items()}))
        _collective(dist.barrier)


def broadcast_buffers(model: nn.Module) -> None:
    """Copy rank zero's running statistics, which a checkpoint keeps, to every rank; on CPUs each rank has its own."""
    if world_size() > 1:
        for buffer in model.buffers():
            _collective(dist.broadcast, buffer, 0)


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients over ranks, in one collective."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.requires_grad]
    sums = all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, total in zip(gradients, sums.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


def _collective(collective: Callable, *args: object) -> None:
    """Run a collective; raises UserError where a process is missing."""
    try:
        collective(*args)
    except RuntimeError as error:
        reason = str(error).partition(". ")[0]
        raise UserError(f"{KILLED} ({reason})") from None


# --- shards ----------------------------------------------------------------------------------------------


def own_share(items: Sequence[T]) -> Sequence[T]:
    """Every world_size()-th item: this rank's share of the work, even where later items need more of it."""
    return items[rank() :: world_size()]


def shard(items: int) -> slice:
    """This rank's slice of a batch; the ranks' slices differ in length by at most one.

    A batch with fewer items than ranks is not sharded: each rank has all of it.
    """
    if items < world_size():
        return slice(0, items)
    return slice(items * rank() // world_size(), items * (rank() + 1) // world_size())


def gather_rows(rows: Tensor, items: int) -> Tensor:
    """Gather the rows (n, ...) of every rank's shard into (N, ...). Only this rank's rows carry a gradient.

    Summed over ranks, the gradient of what is computed from them is that of one process with all rows.
    """
    if world_size() == 1:
        return rows
    if items < world_size():  # each rank has all rows: keep the values, divide the gradient
        return torch.lerp(rows.detach(), rows, 1 / world_size())
    own, gathered = shard(items), rows.new_zeros(items, *rows.shape[1:])
    gathered[own] = rows.detach()
    all_reduce_sum(gathered)
    return torch.cat([gathered[: own.start], rows, gathered[own.stop :]])


def seeded_apart(batches: Iterable[T]) -> Iterator[T]:
    """Yield the batches. After the first, whose order all ranks draw alike, each rank draws its own random numbers.

    Otherwise dropout would drop the same values of every rank's first clip, and so on.
    """
    for number, batch in enumerate(batches):
        if number == 0 and rank() > 0:
            torch.manual_seed(torch.initial_seed() + rank())
        yield batch
