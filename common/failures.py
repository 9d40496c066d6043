"""Failures of runs belong to a few classes, and the class decides what to do next.

oom        needs more memory, or a smaller batch        retry with more
timeout    the time limit came                          resume
preempted  stopped by a signal                          resume
node       the machine's fault: device, link, file server   resume elsewhere
disk       no space or quota left                       free some, resume
nan        the loss is no longer a number               change the recipe
data       packed data are not what they should be      prepare again
config     settings that this machine cannot serve      change them
bug        everything else                              read the traceback
"""

import errno
from collections.abc import Iterable

NAN_ADVICE = (
    "the last checkpoint is from before it. Try a lower recipe.lr, more recipe.warmup, or recipe.precision=fp32"
)
CLASSES = ("oom", "timeout", "preempted", "node", "disk", "nan", "data", "config", "bug")


class Refused(Exception):
    """The user can mend this, and no work has begun: it becomes one line per problem and exit code 2."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(self.problems))


class Failure(Exception):
    """A failure whose class is known where it happens."""

    kind = "bug"


class Interrupted(Failure):
    """The run was asked to stop, and did so after writing a checkpoint."""

    kind = "preempted"


class NotFinite(Failure):
    kind = "nan"


class FolderLost(Failure):
    """The run folder was removed, renamed or replaced while the run worked in it."""

    kind = "node"


class DataError(Failure):
    """The packed data are not what their manifest says."""

    kind = "data"


DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NODE_ERRORS = {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO, errno.ETIMEDOUT}
OOM_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory")
NODE_WORDS = ("cuda error", "cudnn error", "cublas_status", "nccl", "gloo", "connection closed by peer", "ecc error")


def classify(error: BaseException) -> str:
    """Return the class of a failure."""
    if isinstance(error, Failure):
        return error.kind
    if isinstance(error, MemoryError):
        return "oom"
    if isinstance(error, KeyboardInterrupt):
        return "preempted"
    if isinstance(error, OSError):
        return _classify_os_error(error)

    # Torch reports most faults of memory, disk and machine as RuntimeError, so that only the message tells them apart.
    if isinstance(error, RuntimeError):
        text = str(error).lower()
        if any(words in text for words in OOM_WORDS):
            return "oom"
        if "no space left" in text or "file write failed" in text or "unexpected pos" in text:
            return "disk"  # torch.save's own words for a write that came back short
        if any(words in text for words in NODE_WORDS):
            return "node"

    return "bug"


def _classify_os_error(error: OSError) -> str:
    if error.errno in DISK_ERRORS:
        return "disk"
    if error.errno == errno.ENOMEM:
        return "oom"
    if error.errno in NODE_ERRORS:
        return "node"
    return "config" if isinstance(error, PermissionError) else "bug"
