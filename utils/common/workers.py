"""Processes that share out tasks with this one.

Each is a fresh Python, since a fork of a process that has threads can hang. Nor does this process start a thread for
them: where the system refuses a process or a thread, that is an error here, and no wait without an end.
"""

import ctypes
import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from multiprocessing.sharedctypes import Synchronized
from typing import Any, TypeVar

from utils.common.errors import UserError

T = TypeVar("T")
Task = Callable[[], T]

SPAWN = multiprocessing.get_context("spawn")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # of a worker


@contextmanager
def results_of(tasks: Sequence[Task[T]], workers: int, killed: str) -> Iterator[Iterator[T]]:
    """Within it, the tasks' results, in order: the workers, of which this process is one, take a task after the other.

    Ctrl-C ends all at once, an error once each has done the task that it is at.

    Args:
        tasks: functions that can be pickled.
        workers: how many; no more are started than there are tasks.
        killed: the advice where a worker was killed.

    Raises UserError where one was, and what a task raised.
    """
    if min(workers, len(tasks)) < 2:
        yield (task() for task in tasks)
        return
    team = _Team(tasks)
    try:
        team.start(min(workers, len(tasks)) - 1)
        yield team.results()
    except (_Killed, KeyboardInterrupt, SystemExit) as error:
        team.terminate(team.processes)
        if isinstance(error, _Killed):
            raise UserError(f"a process was killed, perhaps for want of memory; {killed}") from None
        raise
    finally:
        team.end()


class _Killed(Exception):
    """A worker has ended that had not done its share."""


class _Team:
    """This process and its workers.

    Args:
        tasks: what there is to do.
    """

    def __init__(self, tasks: Sequence[Task[Any]]):
        self.tasks = tasks
        self.told = SPAWN.RawArray("c", bytes(ForkingPickler.dumps(tasks)))  # a pipe would wait until a worker reads it
        self.following = SPAWN.Value("q", 0)  # the number of the task that whoever is free takes
        self.processes: dict[Connection, multiprocessing.Process] = {}
        self.ready: set[Connection] = set()  # these have begun
        self.done: dict[int, Any] = {}  # results, or errors, by the task's number

    def start(self, workers: int) -> None:
        """Start worker processes, which take seconds to be ready."""
        with for_a_worker():
            for _ in range(workers):
                pipe, end = SPAWN.Pipe()
                process = SPAWN.Process(target=_work, args=(end, self.told, self.following), daemon=True)
                try:
                    process.start()
                except OSError as error:
                    pipe.close()
                    why = f"{len(self.processes) + 1} workers, since no more can be started ({error.strerror})"
                    warnings.warn(why, stacklevel=1)
                    return
                finally:
                    end.close()
                self.processes[pipe] = process

    def results(self) -> Iterator[Any]:
        """Work as the others do, and wait for their results at the end."""
        working = set(self.processes)
        for number in range(len(self.tasks)):
            while number not in self.done:
                if (own := _take(self.following)) < len(self.tasks):
                    self.done[own] = _outcome(self.tasks[own])
                for pipe in wait(working, 0 if own < len(self.tasks) else None):
                    if not self._listen(pipe):
                        working.remove(pipe)
            result = self.done.pop(number)
            if isinstance(result, Exception):
                raise result
            yield result

    def _listen(self, pipe: Connection) -> bool:
        """Take what a worker tells; whether there is more to come."""
        try:
            results = pipe.recv()
        except (EOFError, ConnectionError):
            raise _Killed from None
        self.ready.add(pipe)
        self.done |= results or {}
        return results is not None

    def terminate(self, pipes: Iterable[Connection]) -> None:
        """End workers in the middle of what they are at."""
        for pipe in pipes:
            self.processes[pipe].terminate()

    def end(self) -> None:
        """Let the workers do the task that they are at; those that are not ready yet have none."""
        self.terminate(pipe for pipe in self.processes if pipe not in self.ready and not pipe.poll())
        for pipe, process in self.processes.items():
            pipe.close()  # who has a result to tell, ends
            process.join()


@contextmanager
def for_a_worker() -> Iterator[None]:
    """Within it, processes start with one thread and without ctrl-C, which comes to all: this process sees to it."""
    before = dict(os.environ)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _work(pipe: Connection, told: ctypes.Array, following: Synchronized) -> None:
    """A worker: do tasks, and tell what came of each, until none is left or nobody listens."""
    with suppress(EOFError, ConnectionError):
        if _ends_with_parent():  # else the others do its share
            pipe.send({})
            tasks = ForkingPickler.loads(told.raw)
            while (number := _take(following)) < len(tasks):
                pipe.send({number: _outcome(tasks[number])})
        pipe.send(None)


def _take(following: Synchronized) -> int:
    with following.get_lock():
        following.value += 1
        return following.value - 1


def _outcome(task: Task[T]) -> T | Exception:
    """What a task returns, or raises; where that is a fault of ours, with its traceback."""
    try:
        return task()
    except Exception as error:
        if not isinstance(error, UserError):
            error.add_note(traceback.format_exc())
        return error


def _ends_with_parent() -> bool:
    """Have this process end with its parent, even where that is killed; whether there can be a thread to see to it."""
    parent = multiprocessing.parent_process()

    def end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    try:
        threading.Thread(target=end, daemon=True).start()
    except RuntimeError:
        return False
    return True
