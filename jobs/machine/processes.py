"""Which processes of this machine still live: who runs a sweep here.

Of another machine nothing can be said from here, and the answer is None.
"""

import os
import signal
import socket
from pathlib import Path
from typing import Any

PROCESSES = Path("/proc")


def this_process() -> dict[str, Any]:
    """Names this process for ever: a number alone is given to another one some day."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "started": _started(os.getpid())}


def lives(process: dict[str, Any]) -> bool | None:
    """Whether the process that once described itself so is still there."""
    if process.get("boot") != _boot():
        return None
    started = _started(int(process["pid"]))
    return started is not None and started == process.get("started")


def tell(pid: int) -> bool:
    """Ask a process to stop behind its next step; whether it was still there."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True


def _boot() -> str:
    try:
        return (PROCESSES / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """In clock ticks since the machine started; None where there is no such process, or no /proc."""
    try:
        facts = (PROCESSES / str(pid) / "stat").read_text()
    except OSError:
        return None
    return facts.rpartition(")")[2].split()[19]  # the program's name, in brackets, may hold anything
