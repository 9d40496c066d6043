import errno

import pytest
import torch

from common.failures import CLASSES, DataError, Interrupted, NotFinite, classify


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Interrupted("stopped by SIGTERM"), "preempted"),
        (NotFinite("nan"), "nan"),
        (DataError("rows"), "data"),
        (MemoryError(), "oom"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "oom"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"), "oom"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (OSError(errno.ESTALE, "Stale file handle"), "node"),
        (OSError(errno.EIO, "Input/output error"), "node"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "node"),
        (RuntimeError("NCCL communicator was aborted"), "node"),
        (RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1234"), "node"),
        (PermissionError(errno.EACCES, "Permission denied"), "config"),
        (KeyboardInterrupt(), "preempted"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "bug"),
        (RuntimeError("shape mismatch"), "bug"),
        (ZeroDivisionError(), "bug"),
    ],
)
def test_every_failure_has_the_class_that_says_what_to_do(error: BaseException, expected: str) -> None:
    assert classify(error) == expected
    assert expected in CLASSES
