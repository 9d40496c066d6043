"""Every backbone of the list: trained two steps, stopped after the first and resumed, and asked for a prediction."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.cli.attempt import Attempt
from common.compute import Compute
from common.data.packing import Part, pack
from common.models.load import load_model
from common.run.finished import open_run
from common.run.run_dir import RunDir
from common.settings.entries import ComputeSettings
from common.settings.models import CNN_BACKBONES, VIT_BACKBONES
from train import train_cnn, train_vit

LISTED = [*CNN_BACKBONES, *VIT_BACKBONES]
BIG = {"vit_base_patch16_224", "vit_small_patch16_224"}
QUICK = (
    "data=specks recipe.epochs=1 recipe.batch_size=4 recipe.optimizer=sgd recipe.momentum=0 recipe.lr=0.001 "
    "recipe.swa=0 augment=none data.val_fraction=0 compute.threads=1 log.progress=off"
).split()


@pytest.fixture(scope="module")
def specks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with eight training images of noise and two test images."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.RandomState(0)
    parts = {
        name: Part.of(random.randint(0, 256, (n, 3, 16, 16)).astype(np.uint8), np.arange(n) % 2)
        for name, n in (("train", 8), ("test", 2))
    }
    (folder / "specks").mkdir()
    about = {"name": "specks", "task": "multi-class", "dark_background": False}
    pack(folder / "specks", parts, ["a", "b"], about)
    return folder


def words_of(name: str) -> list[str]:
    return [f"model={name}", "model.input_size=32"]


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) if name in BIG else name for name in LISTED),
        "resnet18_small",
    ],
)
def test_two_steps_a_stop_between_and_a_prediction(
    name: str, specks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = train_vit.main if "vit" in name or "deit" in name else train_cnn.main
    words = [*QUICK, f"data_dir={specks}", *words_of(name)]
    assert main([*words, f"root={tmp_path / 'whole'}"]) == 0

    with monkeypatch.context() as patch:  # as if a signal had come before the first step
        patch.setattr(
            Attempt, "stop_reason", property(lambda _: "stopped by a test", lambda _self, _value: None), raising=False
        )
        assert main([*words, f"root={tmp_path / 'stopped'}"]) == 1
    (folder,) = (tmp_path / "stopped").glob("*/*")
    assert json.loads((folder / "failure.json").read_text())["class"] == "preempted"
    at = torch.load(RunDir(folder).last, weights_only=True)["at"]
    assert (at["epoch"], at["step"]) == (0, 1)
    assert main([*words, f"root={tmp_path / 'stopped'}"]) == 0

    (whole,) = (tmp_path / "whole").glob("*/*")
    assert RunDir(whole).best.read_bytes() == RunDir(folder).best.read_bytes()
    compute = Compute(torch.device("cpu"), ComputeSettings())
    with torch.no_grad():
        logits = load_model(open_run(str(folder), tmp_path), compute)(torch.zeros(1, 3, 16, 16))
    assert logits.shape == (1, 2)
    assert logits.isfinite().all()
