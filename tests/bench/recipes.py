"""Train whole recipes within a time budget and write the rows that RESULTS.md shows.

    python tests/bench/recipes.py minutes=25 seeds=0,1,2 data=digits
    python tests/bench/recipes.py minutes=90 seeds=0,1,2 data=mnist recipe=cnn_mnist_12 compute.threads=1
    python tests/bench/recipes.py minutes=25 seeds=0,1,2 data=cifar10 compute.deterministic=false
    python tests/bench/recipes.py minutes=25 entry=train_vit data=cifar10 recipe=vit_cifar_tuned augment=vit_tuned

Every other word goes to the entry (train_cnn). A run that the budget does not reach is left out, one that it stops can
be gone on with by the same command; finished ones are only read. The row has mean and deviation over the seeds.
"""

import os
import signal
import statistics
import sys
import threading
import time
from typing import Any

from common.cli.compose import compose
from common.files import read_json
from common.run.run_dir import RunDir
from common.settings.entries import ENTRIES, run_name
from train import train_cnn, train_vit

MAINS = {"train_cnn": train_cnn.main, "train_vit": train_vit.main}


def results(entry: str, seeds: list[int], words: list[str], deadline: float) -> list[dict[str, Any]]:
    found = []
    for seed in seeds:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        timer = threading.Timer(left, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        MAINS[entry]([*words, f"seed={seed}"])
        timer.cancel()
        command = compose(ENTRIES[entry], [*words, f"seed={seed}"])
        result = read_json(RunDir(command.root / entry / run_name(command.settings)).result)
        found += [result] if result else []
    return found


def spread(values: list[float], form: str) -> str:
    deviation = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{deviation}"


def row(words: list[str], found: list[dict[str, Any]]) -> str:
    test = spread([100 * result["test"]["accuracy"] for result in found], ".2f")
    val = spread([100 * result["val"]["accuracy"] for result in found if result["val"]], ".2f")
    seconds = spread([result["cost"]["train_seconds"] for result in found], ".0f")
    return f"| `{' '.join(words)}` | {len(found)} | {test} | {val} | {seconds} s |"


if __name__ == "__main__":
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    minutes, seeds = float(given.pop("minutes", "25")), given.pop("seeds", "0,1,2")
    entry = given.pop("entry", "train_cnn")
    words = [f"{key}={value}" for key, value in given.items()]
    found = results(entry, [int(seed) for seed in seeds.split(",")], words, time.monotonic() + 60 * minutes)
    shown = [word for word in words if not word.startswith(("root=", "data_dir="))]
    print("| run | n | test accuracy, % | validation accuracy, % | training time |\n|---|---|---|---|---|")
    print(row(shown, found) if found else f"| `{' '.join(shown)}` | 0 | | | |")
