"""How much memory there is, and whether what is freed is kept."""

import ctypes
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # of a container: its limit is not the machine's


def free_memory() -> float:
    """Bytes of memory that a process can still take; infinite where the system does not tell."""
    return min(_free_of_machine(), _free_of_container())


def _free_of_machine() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return float("inf")


def _free_of_container() -> float:
    try:
        limit, taken = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        parts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return float(limit - taken + int(parts["inactive_file"]))  # files that were read: given back where asked for
    except (OSError, ValueError, KeyError):  # "max" is no limit
        return float("inf")


def keep_freed_memory(keep: bool = True) -> None:
    """Let glibc keep the memory that is freed, or go back to its own ways; other C libraries are left alone.

    By itself it gives large blocks back to the system at once. A training step frees and takes hundreds of them, and
    faulting them in anew is a quarter of its time on a CPU.
    """
    try:
        set_option = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    set_option(-1, 2**31 - 1 if keep else 2**26)  # M_TRIM_THRESHOLD, bytes; otherwise what it grows to by itself
    set_option(-3, 2**25)  # M_MMAP_THRESHOLD, bytes, likewise
    set_option(-4, 0 if keep else 2**16)  # M_MMAP_MAX, blocks
