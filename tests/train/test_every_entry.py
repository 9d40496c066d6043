"""Every entry with every kind of network, as a command, tiny: once, again, killed and resumed."""

import contextlib
import hashlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from common.compute import Compute
from common.config import ComputeSettings
from common.run_dir import RunDir, read_json
from common.trained import load_model, open_run
from train import train_cnn, train_vit

MAINS = {"train_cnn": train_cnn.main, "train_vit": train_vit.main}
TINY_VIT = "model.width=24 model.depth=2 model.heads=2 model.patch=2 model.stem_width=8"
CASES = {
    "adaptive_cnn": ("train_cnn", ""),
    "timm_cnn": ("train_cnn", "model.name=timm/test_efficientnet model.input_size=32"),
    "vit": ("train_vit", TINY_VIT),
    "deit": ("train_vit", f"{TINY_VIT} model.dist_token=true model.inference=avg"),
    "timm_vit": ("train_vit", "model.name=timm/test_vit model.input_size=32"),
}
EVERYTHING_THAT_MOVES = "recipe.ema=0.9 recipe.swa=0.5 augment.mixup=0.4 memory=small"


def run(entry: str, words: str, digits_dir: Path, root: Path) -> tuple[int, str]:
    common = f"recipe.epochs=2 recipe.batch_size=256 compute.threads=1 data_dir={digits_dir} root={root}"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = MAINS[entry]([*common.split(), *words.split()])
    return code, printed.getvalue()


def only_run(root: Path, entry: str) -> RunDir:
    (folder,) = (root / entry).iterdir()
    return RunDir(folder)


@pytest.mark.parametrize("case", CASES)
def test_once_and_again(case: str, digits_dir: Path, tmp_path: Path) -> None:
    entry, words = CASES[case]
    assert run(entry, words, digits_dir, tmp_path)[0] == 0
    folder = only_run(tmp_path, entry)
    result = read_json(folder.result)
    assert result is not None
    assert (result["entry"], result["test"]["n"]) == (entry, 360)
    assert result["model"]["flops"] > 2 * result["model"]["parameters"] / 100
    assert result["speed"]["images_per_sec"] > 0
    stored = np.load(folder.predictions("test"), allow_pickle=False)
    assert result["test"]["accuracy"] == pytest.approx((stored["logits"].argmax(1) == stored["labels"]).mean())
    before = folder.result.read_bytes()
    code, printed = run(entry, words, digits_dir, tmp_path)
    assert (code, printed.startswith("finished: ")) == (0, True)
    assert folder.result.read_bytes() == before


@pytest.mark.parametrize("case", CASES)
def test_less_memory_changes_little(case: str, digits_dir: Path, tmp_path: Path) -> None:
    entry, words = CASES[case]
    assert run(entry, f"{words} {EVERYTHING_THAT_MOVES}", digits_dir, tmp_path)[0] == 0
    result = read_json(only_run(tmp_path, entry).result)
    assert result is not None
    assert result["cost"]["parts"] == 4
    assert result["test"]["nll"] < 2.5


def kills(entry: str, trials: int, digits_dir: Path, work: Path, *words: str) -> None:
    command = [sys.executable, str(Path(__file__).parent / "kills.py"), entry, "0", str(trials)]
    done = subprocess.run([*command, str(digits_dir), str(work), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": identical") == trials


@pytest.mark.slow
@pytest.mark.parametrize("case", ["vit", "timm_vit"])
def test_killed_anywhere_it_ends_bit_identical(case: str, digits_dir: Path, tmp_path: Path) -> None:
    """Drop path, CLS dropout and checkpointing draw random numbers too."""
    entry, words = CASES[case]
    dropping = "model.drop_path=0.1 recipe.checkpointing=true recipe.epochs=2"
    kills(entry, 2, digits_dir, tmp_path, *words.split(), *dropping.split())


def test_two_processes_train_a_vit_like_one(digits_dir: Path, tmp_path: Path) -> None:
    """Its stem's batch norms see the whole batch. No drawing inside the model: each process draws for itself."""
    still = "model.drop_path=0 model.cls_dropout=0 recipe.optimizer=sgd recipe.lr=0.02 recipe.batch_size=128"
    words = f"{TINY_VIT} {still}"
    assert run("train_vit", words, digits_dir, tmp_path / "one")[0] == 0
    script = Path(__file__).parents[2] / "train" / "train_vit.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    given = f"recipe.epochs=2 compute.threads=1 data_dir={digits_dir} root={tmp_path / 'two'} {words}"
    done = subprocess.run([*command, *given.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (only_run(tmp_path / name, "train_vit") for name in ("one", "two"))
    assert one.path.name == two.path.name
    for mine, theirs in zip(one.read_history(), two.read_history(), strict=True):
        assert float(theirs["train_loss"]) == pytest.approx(float(mine["train_loss"]), rel=1e-5)
    logits: list[Any] = [np.load(each.predictions("test"), allow_pickle=False)["logits"] for each in (one, two)]
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-3, atol=1e-3)


def test_a_pretrained_run_says_what_it_started_from(digits_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "published.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    words = f"model.name=timm/test_resnet model.weights={path} model.input_size=32 recipe=finetune"
    assert run("train_cnn", words, digits_dir, tmp_path)[0] == 0
    folder = only_run(tmp_path, "train_cnn")
    result = read_json(folder.result)
    assert result is not None
    assert result["model"]["weights"]["file"] == str(path)
    assert result["model"]["weights"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()  # the run's own checkpoint is enough from here on
    compute = Compute(torch.device("cpu"), ComputeSettings())
    assert load_model(open_run(str(folder.path), tmp_path), compute)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
