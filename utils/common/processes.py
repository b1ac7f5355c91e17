"""Several processes that train one model (torchrun); with one process, every function here leaves things as they are.

Each rank holds the whole data set, draws the same batches, and encodes the clips of its own shard of each. So it knows
a batch's captions without being told. What travels in a step is the (N, N) score matrix, the gradients and, for the
strategies that compare clips with clips, what the clips were encoded to. Each rank computes the whole batch's loss and
follows its gradient through its own clips alone; added up, the gradients are those of one process.

torch.distributed's collectives do this in a few lines. Its DistributedDataParallel would not fit: it averages gradients
where these are parts of a sum, and hooks into a `forward` that training does not call.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.common.errors import UserError, report_error
from utils.common.sigterm import call_on_sigterm

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)  # of one collective: longer than rank zero works alone while the other ranks wait
SILENCE = timedelta(minutes=4)  # after which a process that nothing is heard of counts as dead
BEAT = 5  # seconds between two signs of life
FAILED = "failed"  # the shared store's key for how many processes have failed
KILLED = (
    "one of this run's processes was killed or cannot be reached, or torchrun was told to stop; go on from the last "
    "whole epoch with --resume TRIAL_DIR, with any number of processes"
)


# --- processes -------------------------------------------------------------------------------------------


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's rank among them; rank zero prints, sums up evaluations and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def process_group() -> Iterator[None]:
    """Within it, the processes that torchrun started are one group, and only rank zero prints.

    An error in one of them ends all, with exit status 2: the first to fail reports why, the others leave in silence.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    store, place, processes = next(dist.rendezvous("env://"))
    failures = store.clone()  # a connection of its own: the first may be busy waiting for another process
    leaving = threading.Lock()  # held by whoever ends this process
    call_on_sigterm(partial(_report_being_ended, failures, leaving))
    try:
        with _silence() if place > 0 else ExitStack():
            dist.init_process_group(store=store, rank=place, world_size=processes, timeout=TIMEOUT, **_backend())
            with _heartbeat(partial(_report_being_ended, failures, leaving)):
                yield
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        leaving.acquire()
        leave(report_error(error) if _first_to_fail(failures) else 2)
    dist.destroy_process_group()


def pick_device() -> torch.device:
    """The CPU, or a GPU where there is one; each rank has its own."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if world_size() == 1 else torch.device("cuda", torch.cuda.current_device())


def describe(device: torch.device) -> str:
    """The device and the processes, for the log."""
    if world_size() == 1:
        return str(device)
    if device.type == "cuda":
        return f"{world_size()} processes, a GPU each"
    return f"{world_size()} processes on the CPU, where batch norm goes by each process's own share of a batch"


def require_pair_each(batch_size: int) -> None:
    """Raise UserError where a batch has fewer pairs than there are processes."""
    if batch_size < world_size():
        raise UserError(
            f"param_conf.batch_size: is {batch_size}, but {world_size()} processes share a batch and each needs a pair "
            "of it; raise it, or start fewer processes"
        )


def require_one_process(what: str) -> None:
    """Raise UserError where several processes were started for something that starts its own."""
    if world_size() > 1:
        raise UserError(f"{what}: starts its own processes; run it with python instead of torchrun")


@contextmanager
def _heartbeat(lost: Callable[[], None]) -> Iterator[None]:
    """Within it, `lost` is called, in a thread of its own, once a process has ended or is silent for SILENCE.

    A connection to a machine that died stays open, and a collective may well have hours of rank zero's work to wait
    for. So a thread of each process meets the others' every few seconds, until all are through.
    """
    group, through = dist.new_group(backend="gloo", timeout=SILENCE), threading.Event()

    def beat() -> None:
        ended = torch.zeros(1)
        try:
            while ended < world_size():
                ended.fill_(through.wait(BEAT))
                dist.all_reduce(ended, group=group)
        except RuntimeError:
            lost()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    except SystemExit as end:
        if end.code:  # else --help, in each of them
            raise
    through.set()
    thread.join()


def _backend() -> dict[str, Any]:
    """What the process group is made of: NCCL and this process's own GPU, or gloo on the CPU."""
    if not torch.cuda.is_available():
        return {"backend": "gloo"}
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= gpus:
        raise UserError(f"process {local} has no GPU: this machine has {gpus}; start at most so many, one each")
    torch.cuda.set_device(local)
    return {"backend": "nccl", "device_id": torch.device("cuda", local)}


@contextmanager
def _silence() -> Iterator[None]:
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _report_being_ended(failures: dist.Store, leaving: threading.Lock) -> None:
    """What SIGTERM does: the first process to be ended reports it, and each leaves, unless it is leaving already."""
    if leaving.acquire(blocking=False):
        if _first_to_fail(failures):
            with redirect_stderr(sys.__stderr__), suppress(OSError):  # nobody may read it
                report_error(UserError(KILLED))
        leave(2)


def _first_to_fail(failures: dist.Store) -> bool:
    """Whether no process has failed before this one."""
    try:
        return failures.add(FAILED, 1) == 1
    except RuntimeError:  # the store has gone with the process that kept it
        return True


def leave(status: int) -> None:
    """End this process at once, with what was printed.

    At the usual end Python no longer handles SIGTERM, and threads of a library that was stopped half-way may abort:
    either would set the exit status.
    """
    for stream in (sys.__stdout__, sys.__stderr__):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


# --- collectives -----------------------------------------------------------------------------------------


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over ranks, in place; contiguous. Adding zeros elsewhere makes it a gathering of unequal parts."""
    if world_size() > 1:
        _collective(dist.all_reduce, tensor)
    return tensor


def on_rank_zero(function: Callable[[], T]) -> T:
    """What the function returns on rank zero, which alone runs it, broadcast to the ranks that wait for it."""
    if world_size() == 1:
        return function()
    result = [function() if rank() == 0 else None]
    _collective(dist.broadcast_object_list, result)
    return result[0]


def broadcast_weights(model: nn.Module) -> None:
    """Give every rank the weights of rank zero, and wait until all have them."""
    if world_size() > 1:
        model.load_state_dict(on_rank_zero(lambda: {name: value.cpu() for name, value in model.state_dict().items()}))
        _collective(dist.barrier)


def broadcast_buffers(model: nn.Module) -> None:
    """Give every rank rank zero's running statistics, which are what a checkpoint keeps; on CPUs they are its own."""
    if world_size() > 1:
        for buffer in model.buffers():
            _collective(dist.broadcast, buffer, 0)


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their sums over ranks, in one collective."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.requires_grad]
    sums = all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, sums.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _collective(collective: Callable, *args: object) -> None:
    """Run a collective; raises UserError where a process is missing."""
    try:
        collective(*args)
    except RuntimeError as error:
        reason = str(error).partition(". ")[0]
        raise UserError(f"{KILLED} ({reason})") from None


# --- sharing out -----------------------------------------------------------------------------------------


def own_share(items: Sequence[T]) -> Sequence[T]:
    """This rank's share of what is there to do: every so many, which is even where the work grows along them.

    What comes of each, written into zeros, is everyone's after `all_reduce_sum`.
    """
    return items[rank() :: world_size()]


# --- shards of a batch -----------------------------------------------------------------------------------


def shard(items: int) -> slice:
    """This rank's part of a batch's items: as many as the others', give or take one.

    A batch with fewer items than ranks is not sharded: each rank has all of it.
    """
    if items < world_size():
        return slice(0, items)
    return slice(items * rank() // world_size(), items * (rank() + 1) // world_size())


def gather_rows(rows: Tensor, items: int) -> Tensor:
    """The rows (n, ...) of this rank's shard -> all (N, ...) rows, where the other ranks' have no gradient.

    Added up over ranks, the gradient of whatever is computed from them is that of one process with all rows.
    """
    if world_size() == 1:
        return rows
    if items < world_size():  # each rank has all rows: the same numbers, with a part of the gradient
        return torch.lerp(rows.detach(), rows, 1 / world_size())
    own = shard(items)
    everyones = rows.new_zeros(items, *rows.shape[1:])
    everyones[own] = rows.detach()
    all_reduce_sum(everyones)
    return torch.cat([everyones[: own.start], rows, everyones[own.stop :]])


def seeded_apart(batches: Iterable[T]) -> Iterator[T]:
    """The batches; once the first is there, and so their order drawn alike, each rank draws numbers of its own.

    Otherwise dropout would drop the same values of every rank's first clip, and so on.
    """
    for number, batch in enumerate(batches):
        if number == 0 and rank() > 0:
            torch.manual_seed(torch.initial_seed() + rank())
        yield batch
