"""Describe processes of this machine so that others can tell later whether they still live, and tell them to stop.

Nothing can be said of the processes of another machine: the answer is None.
"""

import os
import signal
import socket
from pathlib import Path
from typing import Any

PROCESSES = Path("/proc")


def this_process() -> dict[str, Any]:
    """Describe this process for ever; its number alone will belong to another process some day."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "started": _started(os.getpid())}


def lives(process: dict[str, Any]) -> bool | None:
    """Say whether the process that once described itself so is still there."""
    if process.get("boot") != _boot():
        return None
    started = _started(int(process["pid"]))
    return started is not None and started == process.get("started")


def tell(pid: int) -> bool:
    """Tell a process to stop after its next step; say whether it was still there."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True


def memory_kills() -> int:
    """Count the processes that the kernel has killed for their memory since it started; 0 where it does not say."""
    try:
        lines = (PROCESSES / "vmstat").read_text().splitlines()
    except OSError:
        return 0
    counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(counts[0]) if counts else 0


def _boot() -> str:
    try:
        return (PROCESSES / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """Return its start in clock ticks since the machine's; None where there is no such process, or no /proc."""
    try:
        facts = (PROCESSES / str(pid) / "stat").read_text()
    except OSError:
        return None
    return facts.rpartition(")")[2].split()[19]  # the program's name, in brackets, may hold anything
