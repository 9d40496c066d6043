"""How fast the parts of a run are on this machine: `make bench`, or `python tests/bench/bench.py device=cuda`.

Prints a Markdown table. Each row is the median of several timings; no row is a promise for another machine.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from common.cli.compose import compose
from common.compute import Draws
from common.data.augment import augment, mix
from common.metrics.one_label import evaluate
from common.models.adaptive_cnn import AdaptiveCNN
from common.settings.entries import AugmentSettings, TrainCNN, run_name
from common.settings.shift import COMMON_CORRUPTIONS
from eval.corruptions import corrupted

REPEATS = 5
BATCH = 512
CIFAR = AugmentSettings(crop_padding=4, flip=0.5, policy="autoaugment", cutout=8, cutmix=1.0)
NETWORKS = {"MNIST": ((1, 28, 28), 10), "CIFAR-10": ((3, 32, 32), 10), "Tiny ImageNet": ((3, 64, 64), 200)}


def median_seconds(work: Callable[[], object], device: torch.device) -> float:
    work()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def training_step(shape: tuple[int, int, int], classes: int, batch: int, device: torch.device) -> Callable[[], None]:
    model = AdaptiveCNN(shape, classes).to(device, memory_format=torch.channels_last)
    images = torch.randn(batch, *shape, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    return lambda: F.cross_entropy(model(images), labels).backward()


def rows(device: torch.device) -> list[tuple[str, str]]:
    words = "data=digits recipe.lr=1e-3 seed=7".split()
    composing = median_seconds(lambda: [run_name(compose(TrainCNN, words).settings) for _ in range(100)], device) / 100
    raw = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, device=device)
    fill = torch.full((3,), 128, dtype=torch.uint8, device=device)
    targets = torch.eye(10, device=device)[torch.zeros(BATCH, dtype=torch.int64)]

    def augmented() -> None:
        changed = augment(raw, CIFAR, Draws(0, "augment", 0, 0, total=BATCH), fill)
        mix(changed.float(), targets, CIFAR, Draws(0, "mix", 0, 0, total=BATCH))

    places = torch.arange(BATCH)
    each = [median_seconds(partial(corrupted, raw, places, name, 3, 0), device) for name in COMMON_CORRUPTIONS]
    corrupting = BATCH * len(each) / sum(each)
    logits = np.random.default_rng(0).normal(size=(10_000, 10))
    scoring = median_seconds(lambda: evaluate(logits, np.arange(10_000) % 10, [str(i) for i in range(10)]), device)
    table = [
        ("compose and name one run", f"{composing * 1e3:.2f} ms"),
        (
            f"augment {BATCH} CIFAR images (crop, flip, AutoAugment, cutout, cutmix)",
            f"{median_seconds(augmented, device) * 1e3:.0f} ms",
        ),
        ("corrupt CIFAR images, mean over 15 corruptions at severity 3", f"{corrupting:,.0f} images/s"),
        ("all metrics of 10,000 predictions over 10 classes", f"{scoring * 1e3:.0f} ms"),
    ]
    for name, (shape, classes) in NETWORKS.items():
        batch = 512 if device.type == "cuda" else 32
        seconds = median_seconds(training_step(shape, classes, batch, device), device)
        table.append((f"AdaptiveCNN for {name}: forward and backward, fp32", f"{batch / seconds:,.0f} images/s"))
    return table


if __name__ == "__main__":
    wanted = dict(word.split("=") for word in sys.argv[1:]).get(
        "device", "cuda" if torch.cuda.is_available() else "cpu"
    )
    device = torch.device(wanted)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, median of {REPEATS}\n\n| what | measured |\n|---|---|")
    for what, measured in rows(device):
        print(f"| {what} | {measured} |", flush=True)
