"""Run folders as a training leaves them, without the training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.settings.entries import ENTRIES, run_name
from common.settings.yaml12 import dump_yaml

MakeRun = Callable[..., Path]
COMMIT = "3a71f2886013906c0f29052671236e59ba677067"
RULE = "highest validation accuracy, then lowest validation loss"


def result_of(entry: str, name: str, settings: Any, accuracy: float, **parts: Any) -> dict[str, Any]:
    scores = {"n": 360, "accuracy": accuracy, "f1_score": accuracy, "macro_auc": 0.99, "nll": 0.1, "ece": 0.05}
    return {
        "entry": entry,
        "run": name,
        "model": {"name": settings.model.name, "parameters": 1000, "flops": 2000},
        "data": {
            "name": settings.data.name,
            "digest": "d1",
            "task": "multi-class",
            "split_digest": "s1",
            "train_images": 1000,
        },
        "selection": {"rule": RULE, "epoch": 2, "weights": "raw", "digest": f"w-{name}"},
        "cost": {"epochs": 4, "train_seconds": 20.0},
        "val": {**scores, "per_class": [{"class": "0"}]},
        "test": {**scores, "confusion_matrix": [[1, 2], [3, 4]]},
        "speed": {"images_per_sec": 5000.0},
        **parts,
    }


HISTORY = "epoch,train_loss,train_accuracy,val_loss,val_accuracy\n1,2.0,0.5,1.9,0.5\n2,1.0,0.8,1.1,0.7\n"


def write_run(
    root: Path,
    entry: str = "train_cnn",
    seed: int = 0,
    accuracy: float = 0.9,
    commit: str | None = COMMIT,
    dirty: bool = False,
    container: "str | dict[str, Any]" = "",
    right: "np.ndarray | None" = None,
    parts: dict[str, Any] | None = None,
    **groups: Any,
) -> Path:
    """A finished run; groups are settings, parts replace those of the result."""
    settings = ENTRIES[entry].model_validate({"entry": entry, "seed": seed, **groups})
    folder = root / entry / run_name(settings)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(settings.model_dump()))
    result = result_of(entry, folder.name, settings, accuracy, **(parts or {}))
    (folder / "result.json").write_text(json.dumps(result))
    image = {"digest": container} if isinstance(container, str) else container
    origin = {"commit": commit, "dirty": dirty, "container": image}
    (folder / "provenance.json").write_text(json.dumps({**origin, "device": "cpu", "packages": {"torch": "2.15.0"}}))
    (folder / "history.csv").write_text(HISTORY)
    if right is not None:
        (folder / "predictions").mkdir()
        labels = np.arange(len(right)) % 2
        logits = np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)]
        np.savez(folder / "predictions" / "test.npz", logits=logits, labels=labels)
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(*, root: Path | None = None, **given: Any) -> Path:
        return write_run(root or tmp_path / "runs", **given)

    return make


@pytest.fixture(scope="session")
def write_a_run() -> MakeRun:
    """For fixtures that outlive a test: write_run(root, ...)."""
    return write_run
