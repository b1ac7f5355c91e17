"""Tasks of several processes: in order, with errors, kills, ctrl-C, and where no process or thread can be started."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from utils.common.errors import UserError, run_command
from utils.common.workers import SPAWN, results_of

ROOT = Path(__file__).resolve().parents[2]  # tests.helpers would be imported by each worker: torch, pandas
ADVICE = "run it again"
NO_THREADS = """
import threading
def refuse(thread):
    raise RuntimeError("can't start new thread")
threading.Thread.start = refuse
"""


def _square(number: int) -> int:
    time.sleep(0.01)
    return number**2


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _pid(folder: Path, processes: int) -> int:
    """Wait until so many processes have begun this. Returns the process number."""
    (folder / str(os.getpid())).touch()
    wait_until(lambda: len(list(folder.iterdir())) >= processes)
    return os.getpid()


def _touch(path: Path) -> None:
    time.sleep(0.05)
    path.touch()


def _refuse(path: Path) -> None:
    raise UserError(f"{path}: no")


def _wait_in(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def _killed_unless(pid: int) -> None:
    """Kill the process, except the one with this number."""
    if os.getpid() != pid:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)


def wait_in(folder: str) -> None:
    """A command whose three workers have long tasks."""

    def main() -> None:
        with results_of([partial(_wait_in, Path(folder))] * 9, 3, ADVICE) as results:
            list(results)

    run_command(main)


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_results_come_in_order(workers):
    with results_of([partial(_square, number) for number in range(4)], workers, ADVICE) as results:
        assert next(results) == 0
        assert list(results) == [1, 4, 9]
    with results_of([], workers, ADVICE) as results:
        assert list(results) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_as_many_processes_work_as_requested_without_a_thread_here(tmp_path, workers):
    environment, threads = dict(os.environ), threading.active_count()
    with results_of([partial(_pid, tmp_path, workers)] * 8, workers, ADVICE) as results:
        pids = set(results)
        assert threading.active_count() == threads
    assert len(pids) == workers and os.getpid() in pids
    assert dict(os.environ) == environment


def test_after_an_error_no_task_is_begun(tmp_path):
    tasks = [partial(_refuse, tmp_path / "x"), *(partial(_touch, tmp_path / f"{i}") for i in range(200))]
    for workers in (1, 2):
        with pytest.raises(UserError, match="x: no"), results_of(tasks, workers, ADVICE) as results:
            list(results)
    assert len(list(tmp_path.iterdir())) < 100


def test_a_bug_in_a_worker_keeps_its_traceback():
    tasks = [partial(_square, "x" if number == 299 else 0) for number in range(300)]
    with pytest.raises(TypeError) as error, results_of(tasks, 2, ADVICE) as results:
        list(results)
    assert "in _square" in "".join(error.value.__notes__)


def test_a_killed_worker_is_one_line():
    tasks = [partial(_killed_unless, os.getpid())] * 200
    with pytest.raises(UserError, match=rf"^a process was killed, perhaps for want of memory; {ADVICE}$"), results_of(
        tasks, 2, ADVICE
    ) as results:
        list(results)


@pytest.fixture
def waiting(tmp_path):
    """A command whose workers wait; each leaves a file named by its process number in the folder."""
    code = f"from tests.common.test_workers import wait_in; wait_in({str(tmp_path)!r})"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **streams) as process:
        yield process
        process.kill()


def pids_in(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def test_workers_end_with_a_killed_parent(waiting, tmp_path):
    wait_until(lambda: len(pids_in(tmp_path)) == 3)
    waiting.kill()
    wait_until(lambda: not any(map(_is_alive, pids_in(tmp_path))))


@pytest.mark.parametrize("processes", [1, 3], ids=["while the workers import", "while they work"])
def test_an_interrupt_ends_the_workers_at_once_and_silently(waiting, tmp_path, processes):
    wait_until(lambda: len(pids_in(tmp_path)) >= processes)
    os.killpg(waiting.pid, signal.SIGINT)
    assert (waiting.communicate(timeout=30)[0], waiting.returncode) == ("", 130)
    assert not any(map(_is_alive, pids_in(tmp_path)))


def test_where_no_process_can_be_started_the_others_do_the_work(monkeypatch):
    start = SPAWN.Process.start

    def start_one(process):
        monkeypatch.setattr(SPAWN.Process, "start", refuse)
        start(process)

    def refuse(process):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(SPAWN.Process, "start", start_one)
    tasks = [partial(_square, number) for number in range(9)]
    warning = r"^2 workers, since no more can be started \(Resource temporarily unavailable\)$"
    with pytest.warns(UserWarning, match=warning), results_of(tasks, 4, ADVICE) as results:
        assert list(results) == [number**2 for number in range(9)]


def test_where_no_thread_can_be_started_the_others_do_the_work(tmp_path):
    """A worker needs one, to end with its parent."""
    (tmp_path / "sitecustomize.py").write_text(NO_THREADS)
    command = """
from functools import partial
from tests.common.test_workers import _square
from utils.common.workers import results_of
with results_of([partial(_square, number) for number in range(100)], 3, "") as results:
    assert list(results) == [number**2 for number in range(100)]
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
