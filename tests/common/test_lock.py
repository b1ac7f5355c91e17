import os
import signal
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from utils.common.errors import UserError
from utils.common.lock import held
from utils.common.workers import SPAWN

HOLD = """
import sys, time
from utils.common.lock import held
with held(sys.argv[1], "taken"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A lock and a process that has it."""
    command = [sys.executable, "-c", HOLD, tmp_path / "lock"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield tmp_path / "lock", process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lock_is_refused_until_its_holder_is_killed(holder):
    lock, process = holder
    with pytest.raises(UserError, match="taken"), held(lock, "taken"):
        raise AssertionError("not to be entered")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with held(lock, "taken"):
        pass


def test_a_child_process_does_not_inherit_the_lock(tmp_path):
    """An orphan may outlive its parent by some seconds."""
    go_on = SPAWN.Event()
    with held(tmp_path / "lock", "taken"):
        child = SPAWN.Process(target=go_on.wait, daemon=True)
        child.start()
    done = subprocess.run([sys.executable, "-c", HOLD.replace("60", "0"), tmp_path / "lock"], cwd=ROOT, timeout=30)
    go_on.set()
    child.join()
    assert done.returncode == 0 and (tmp_path / "lock").exists()


def test_a_lock_that_is_no_plain_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("target")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match=f"{name}: is a link or not a file"), held(tmp_path / name, "taken"):
            raise AssertionError("not to be entered")
    assert not (tmp_path / "target").exists()
