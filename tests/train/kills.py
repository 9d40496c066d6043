"""Kill a training with SIGKILL again and again, let it resume, and compare its ending with an undisturbed one.

    python tests/train/kills.py ENTRY FIRST LAST DATA_DIR WORK_DIR [key=value ...]

Trials FIRST to LAST - 1 draw their own moments, and the odd ones are killed twice and write checkpoints inside epochs.
Prints a line for each and exits 1 at the first difference. Children are forked after torch is loaded, so that a trial
takes seconds; the recipe uses everything that has a state: momentum, EMA, SWA, patience, mixing. The loss scaler has
one too, with recipe.precision=fp16, which is slow on a CPU.
"""

import contextlib
import csv
import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

import common.training.fit  # noqa: F401 - loaded before the children are forked
from train import distill_cst, distill_kd, train_cnn, train_vit

RECIPE = (
    "data=digits recipe.epochs=4 recipe.batch_size=128 recipe.optimizer=sgd recipe.lr=0.05 "
    "recipe.ema=0.9 recipe.swa=0.5 recipe.patience=3 recipe.accumulate=2 augment=digits augment.mixup=0.4 "
    "augment.cutmix=1.0 augment.cutout=2 compute.threads=1 log.progress=off"
).split()
MAINS = {
    "train_cnn": train_cnn.main,
    "train_vit": train_vit.main,
    "distill_kd": distill_kd.main,
    "distill_cst": distill_cst.main,
}
MEASURED = {"epoch_time_sec", "images_per_sec", "gpu_memory_mb"}


def start(root: Path, data_dir: str, *words: str) -> int:
    child = os.fork()
    if child:
        return child
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        os._exit(MAINS[sys.argv[1]]([*RECIPE, f"root={root}", f"data_dir={data_dir}", *words]))


def finish(root: Path, data_dir: str, *words: str) -> float:
    began = time.monotonic()
    _, status = os.waitpid(start(root, data_dir, *words), 0)
    assert status == 0, f"exit status {status}"
    return time.monotonic() - began


def ending(root: Path) -> dict[str, object]:
    """Everything a run leaves that is not a measurement of time."""
    (folder,) = (root / sys.argv[1]).iterdir()
    with (folder / "history.csv").open(newline="") as file:
        history = [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(file)]
    result = json.loads((folder / "result.json").read_text())
    del result["cost"]["train_seconds"], result["cost"]["peak_ram_mb"], result["speed"]
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    return {
        "history": history,
        "result": result,
        "best": (folder / "checkpoints" / "best.safetensors").read_bytes(),
        "test logits": (folder / "predictions" / "test.npz").read_bytes(),
        "last": {name: digest(value) for name, value in state.items() if name != "totals"},
    }


def digest(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: digest(item) for key, item in value.items()}
    return [digest(item) for item in value] if isinstance(value, list | tuple) else value


def trial(
    number: int, seconds: float, data_dir: str, work: Path, recipe: list[str], expected: dict[str, object]
) -> None:
    """One or two kills at random moments, with and without checkpoints inside epochs, then a quiet end."""
    draw = random.Random(number)
    root = work / f"killed-{number}"
    words = [*recipe, "compute.save_minutes=0.0001"] if number % 2 else recipe
    moments = []
    for _ in range(1 + number % 2):
        child = start(root, data_dir, *words)
        moments.append(draw.uniform(0, seconds))
        time.sleep(moments[-1])
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    finish(root, data_dir, *words)
    found = ending(root)
    different = [name for name, value in expected.items() if found[name] != value]
    print(f"kill {number}: after {', '.join(f'{m:.2f} s' for m in moments)}: {different or 'identical'}", flush=True)
    if different:
        sys.exit(1)


if __name__ == "__main__":
    first, last, data_dir, work, recipe = (
        int(sys.argv[2]),
        int(sys.argv[3]),
        sys.argv[4],
        Path(sys.argv[5]),
        sys.argv[6:],
    )
    seconds = finish(work / "undisturbed", data_dir, *recipe)
    expected = ending(work / "undisturbed")
    print(f"undisturbed: {seconds:.1f} s", flush=True)
    for number in range(first, last):
        trial(number, seconds, data_dir, work, recipe, expected)
