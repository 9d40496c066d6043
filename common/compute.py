"""This module chooses the device, joins the processes of a run, and draws its random numbers.

Randomness is a function of (seed, purpose, epoch, step), so no state of it is saved: a resumed run draws what the
killed one would have drawn, and so does each of several processes for its share of a batch. Draws are made on the
CPU from Philox counters, so a GPU run sees the same crops as a CPU run.
"""

import contextlib
import ctypes
import logging
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.failures import Refused
from common.settings.entries import ComputeSettings

log = logging.getLogger("stillhouse")

# Of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD_BYTES = 64 * 2**20

PURPOSES = {"order": 0, "augment": 1, "mix": 2, "model": 3, "weights": 4, "flip": 5}


class Draws:
    """Draws are random numbers for some rows of a batch of `total` rows: the same for a row, whoever asks for it."""

    def __init__(
        self, seed: int, purpose: str, epoch: int, step: int, *, total: int, rows: slice = slice(None)
    ) -> None:
        counter = np.array([0, PURPOSES[purpose], step, epoch], dtype=np.uint64)
        self._generator = np.random.Generator(np.random.Philox(key=seed, counter=counter))
        self.total, self.rows = total, rows

    def _take(self, draw: Callable[..., Any], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(draw(size=(self.total, *shape))[self.rows]).to(dtype)

    def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw from [low, high) in single precision: numbers rounded from doubles would be `high` itself at times."""
        unit = self._take(lambda size: self._generator.random(size, dtype=np.float32), shape, torch.float32)
        return low + (high - low) * unit

    def integers(self, high: int, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw whole numbers from 0 to high - 1."""
        return self._take(lambda size: self._generator.integers(high, size=size), shape, torch.int64)

    def beta(self, alpha: float) -> Tensor:
        return self._take(lambda size: self._generator.beta(alpha, alpha, size), (), torch.float32)

    def permutation(self) -> Tensor:
        return torch.from_numpy(self._generator.permutation(self.total))[self.rows]


def seed_model(seed: int, purpose: str, epoch: int = 0, step: int = 0, rank: int = 0) -> None:
    """Seed torch's own generators on every device; initial weights and dropout are drawn from them."""
    torch.manual_seed(int(Draws(seed, purpose, epoch, step, total=rank + 1).integers(2**62)[rank]))


@dataclass(frozen=True)
class Compute:
    """Compute knows the device, and this process's rank among the processes of the run: 0 of 1 without torchrun."""

    device: torch.device
    settings: ComputeSettings
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Say whether this process is the one that writes and prints."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """Return this process's rows of a batch. The last shares may be short; those of a training batch are equal."""
        size = -(-total // self.world)
        return slice(min(self.rank * size, total), min((self.rank + 1) * size, total))

    def gather(self, rows: Tensor, total: int) -> Tensor:
        """Return all processes' shares as one tensor of `total` rows, in order."""
        if self.world == 1:
            return rows

        size = -(-total // self.world)
        padded = rows.new_zeros((size, *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.cat(parts)[:total]

    def sum(self, value: Tensor) -> Tensor:
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        if self.world == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag), device=self.device)).item())

    def autocast(self, precision: str) -> AbstractContextManager[None]:
        if precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision])

    def free_memory_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return _free_ram_bytes()

    def facts(self) -> dict[str, Any]:
        """Return what provenance says about the device."""
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        return {"device": str(self.device), "gpu": gpu, "processes": self.world, "threads": torch.get_num_threads()}

    def __str__(self) -> str:
        facts = self.facts()
        name = facts["gpu"] or f"CPU, threads: {facts['threads']}"
        return name if self.world == 1 else f"{name}, {self.world} processes"

    def peak_memory_mb(self) -> float:
        return torch.cuda.max_memory_allocated(self.device) / 2**20 if self.device.type == "cuda" else 0.0

    def peak_ram_mb(self) -> float:
        """Return the peak of this process since it began, including what it did before this run."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _free_ram_bytes() -> int:
    """Return the memory that is free or held by caches that can shrink; if the system is not Linux, half of it all."""
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return int(facts["MemAvailable"].split()[0]) * 1024


@contextlib.contextmanager
def start(settings: ComputeSettings) -> Iterator[Compute]:
    """Choose the device, join the other processes if torchrun started several, and set torch's global options."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = _choose_device(settings.device, int(os.environ.get("LOCAL_RANK", "0")))

    if settings.threads:
        torch.set_num_threads(settings.threads)
    if device.type == "cpu":
        _keep_freed_memory()
    else:
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = not settings.deterministic

    # cuBLAS repeats its results only with this workspace. The call below imports torch's compiler, which takes
    # seconds, so it is left out where it would change nothing.
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if settings.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(settings.deterministic)

    if world == 1:
        yield Compute(device, settings)
        return

    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Compute(device, settings, rank, world)
    finally:
        dist.destroy_process_group()


def _keep_freed_memory() -> None:
    """Make the C library keep what is freed for the next step, instead of giving it back to the system at once.

    Otherwise every large tensor of every step consists of pages that the kernel has to find and fill with zeros.
    Other C libraries than glibc have no such switch, and stay as they are.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_TOP_PAD, TOP_PAD_BYTES)


def _choose_device(wanted: str, local_rank: int) -> torch.device:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        wanted = "cuda" if gpus else "cpu"
    if wanted == "cpu":
        return torch.device("cpu")
    number = int(wanted.partition(":")[2] or local_rank)
    if number >= gpus:
        raise Refused([f"compute.device: given {wanted}, but torch finds {gpus} GPUs here; allowed: auto, cpu"])
    return torch.device("cuda", number)


# --- one model over several processes ---------------------------------------------------------------------------


def place(model: nn.Module, compute: Compute) -> nn.Module:
    """Move the model to its device, with batch norms that see the whole batch however many processes share it."""
    layout = torch.channels_last if compute.settings.channels_last else torch.contiguous_format
    return _share_batchnorm(model, compute).to(compute.device, memory_format=layout)  # type: ignore[call-overload]


def distribute(model: nn.Module, compute: Compute, example: Tensor) -> nn.Module:
    """Return what training calls in place of the model: it may be compiled, and averages gradients over processes.

    The model itself stays the owner of the weights.
    """
    running = _try_compile(model, example) if compute.settings.compile else model
    if compute.world == 1:
        return running
    devices = [compute.device.index] if compute.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(running, device_ids=devices)


def _share_batchnorm(model: nn.Module, compute: Compute) -> nn.Module:
    """Replace batch norms by ones that see all processes. Torch's own needs a GPU, so a CPU gets ours."""
    if compute.world == 1:
        return model
    if compute.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SharedBatchNorm2d
    return model


class _SumOverProcesses(torch.autograd.Function):
    """This function sums a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return _SumOverProcesses.forward(_, *gradients)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """This batch norm covers the batches of all processes, on any backend that can sum, such as gloo."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)

        # The variance is that of distances from the mean: the mean of squares less the square of the mean loses digits.
        count = x.numel() / x.shape[1] * dist.get_world_size()
        mean = _SumOverProcesses.apply(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))

        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:  # a norm may have a shift alone
            scale = self.weight * scale
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running averages as torch's own batch norm does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def _try_compile(model: nn.Module, example: Tensor) -> nn.Module:
    """Return the model compiled, or as it is: where torch.compile fails, the run is slower but goes on."""
    training = model.training

    try:
        compiled = cast(nn.Module, torch.compile(model))
        with torch.no_grad():
            compiled.eval()(example)
    except Exception as error:  # noqa: BLE001 - a compiler may fail in any way: no C compiler, no Triton, a Python too new
        log.warning("compute.compile is off: %s", str(error).strip().splitlines()[0])
        return model
    finally:
        model.train(training)
    return compiled
