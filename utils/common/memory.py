"""Free memory, and whether glibc keeps what is freed."""

import ctypes
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # holds a container's limit


def free_memory() -> float:
    """Bytes of memory that a process can still take; infinite where the system does not say."""
    return min(_free_of_machine(), _free_of_container())


def _free_of_machine() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return float("inf")


def _free_of_container() -> float:
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return float(limit - used + int(statistics["inactive_file"]))  # the system frees cached files on demand
    except (OSError, ValueError, KeyError):  # "max" is no limit
        return float("inf")


def keep_freed_memory(keep: bool = True) -> None:
    """Have glibc keep freed memory, or restore its defaults; other C libraries are left alone.

    By default glibc returns large blocks to the system at once. A training step frees and allocates hundreds of them,
    and faulting them in again takes a quarter of its time on a CPU.
    """
    try:
        set_option = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    set_option(-1, 2**31 - 1 if keep else 2**26)  # M_TRIM_THRESHOLD, bytes; glibc raises the default to about 2**26
    set_option(-3, 2**25)  # M_MMAP_THRESHOLD, bytes; likewise
    set_option(-4, 0 if keep else 2**16)  # M_MMAP_MAX, blocks
