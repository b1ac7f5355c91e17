"""Worker processes that share tasks with this process.

Each worker is a fresh Python, since forking a process that has threads can hang. This process starts no thread for
them: where the system refuses a process or a thread, the command must fail rather than wait for ever.
"""

import ctypes
import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from multiprocessing.sharedctypes import Synchronized
from typing import Any, TypeVar

from utils.common.counts import counted
from utils.common.errors import UserError

T = TypeVar("T")
Task = Callable[[], T]

SPAWN = multiprocessing.get_context("spawn")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@contextmanager
def results_of(tasks: Sequence[Task[T]], workers: int, advice: str) -> Iterator[Iterator[T]]:
    """Yield the tasks' results, in order. The workers, this process among them, take one task after another.

    Ctrl-C ends the workers at once; an error ends them after their current tasks.

    Args:
        tasks: functions that can be pickled.
        workers: how many; at most one per task is started.
        advice: what to do if a worker is killed.

    Raises UserError where a worker was killed, and what a task raised.
    """
    if min(workers, len(tasks)) < 2:
        yield (task() for task in tasks)
        return
    team = _Team(tasks, advice)
    try:
        team.start(min(workers, len(tasks)) - 1)
        yield team.results()
    except (KeyboardInterrupt, SystemExit):
        team.terminate()
        raise
    finally:
        team.end()


class _Team:
    """This process and its workers."""

    def __init__(self, tasks: Sequence[Task[Any]], advice: str):
        self.tasks, self.advice = tasks, advice
        self.pickled = SPAWN.RawArray("c", bytes(ForkingPickler.dumps(tasks)))  # writing to a pipe waits for its reader
        self.next_task = SPAWN.Value("q", 0)
        self.processes: dict[Connection, multiprocessing.Process] = {}
        self.ready: set[Connection] = set()  # these workers have finished their imports
        self.outcomes: dict[int, Any] = {}  # results, or errors, by the task's number

    def start(self, workers: int) -> None:
        """Start worker processes. They take seconds to import what they need."""
        with for_a_worker():
            for _ in range(workers):
                pipe, end = SPAWN.Pipe()
                process = SPAWN.Process(target=_work, args=(end, self.pickled, self.next_task), daemon=True)
                try:
                    process.start()
                except OSError as error:
                    pipe.close()
                    count = counted(len(self.processes) + 1, "worker")
                    warnings.warn(f"{count}, since no more can be started ({error.strerror})", stacklevel=1)
                    return
                finally:
                    end.close()
                self.processes[pipe] = process

    def results(self) -> Iterator[Any]:
        """Yield the results in order. This process works, too, until no task is left, and then waits."""
        working = set(self.processes)
        for number in range(len(self.tasks)):
            while number not in self.outcomes:
                if (taken := _take(self.next_task)) < len(self.tasks):
                    self.outcomes[taken] = _outcome(self.tasks[taken])
                for pipe in wait(working, 0 if taken < len(self.tasks) else None):
                    if not self._receive(pipe):
                        working.remove(pipe)
            outcome = self.outcomes.pop(number)
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome

    def _receive(self, pipe: Connection) -> bool:
        """Receive a worker's outcomes. Returns whether more will follow."""
        try:
            outcomes = pipe.recv()
        except (EOFError, ConnectionError):
            if pipe not in self.ready:  # it failed to import what it needs, and has no task
                warnings.warn("a worker could not start; the others do its share", stacklevel=1)
                return False
            self.terminate()
            raise UserError(f"a process was killed, perhaps for want of memory; {self.advice}") from None
        self.ready.add(pipe)
        self.outcomes |= outcomes or {}
        return outcomes is not None

    def terminate(self) -> None:
        for process in self.processes.values():
            process.terminate()

    def end(self) -> None:
        """Wait until the workers have finished their current tasks. Those that are still importing have none."""
        for pipe, process in self.processes.items():
            if pipe not in self.ready and not pipe.poll():
                process.terminate()
        for pipe, process in self.processes.items():
            pipe.close()  # a worker that has an outcome to send ends
            process.join()


@contextmanager
def for_a_worker() -> Iterator[None]:
    """Start processes within the block with one thread each and ctrl-C blocked: this process ends them."""
    before = dict(os.environ)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _work(pipe: Connection, pickled: ctypes.Array, next_task: Synchronized) -> None:
    """A worker: do tasks and send their outcomes, until no task is left or nobody listens."""
    with suppress(EOFError, ConnectionError):
        if _end_with_parent():  # else the other workers do all tasks
            pipe.send({})
            tasks = ForkingPickler.loads(pickled.raw)
            while (number := _take(next_task)) < len(tasks):
                pipe.send({number: _outcome(tasks[number])})
        pipe.send(None)


def _take(next_task: Synchronized) -> int:
    with next_task.get_lock():
        next_task.value += 1
        return next_task.value - 1


def _outcome(task: Task[T]) -> T | Exception:
    """What a task returns or raises; a bug's traceback becomes a note of the error."""
    try:
        return task()
    except Exception as error:
        if not isinstance(error, UserError):
            error.add_note(traceback.format_exc())
        return error


def _end_with_parent() -> bool:
    """End this process when its parent ends or is killed. Returns False where the thread for this cannot be started."""
    parent = multiprocessing.parent_process()

    def end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    try:
        threading.Thread(target=end, daemon=True).start()
    except RuntimeError:
        return False
    return True
