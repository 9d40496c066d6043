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
from common.data.packed import PackedSet, split_rows
from common.files import read_json
from common.models.fast_cnn import Whitening
from common.models.load import load_model
from common.run.finished import open_run
from common.run.run_dir import RunDir
from common.settings.entries import ComputeSettings
from train import distill_kd, train_cnn, train_vit

MAINS = {"train_cnn": train_cnn.main, "train_vit": train_vit.main, "distill_kd": distill_kd.main}
TINY_VIT = "model.width=24 model.depth=2 model.heads=2 model.patch=2 model.stem_width=8"
FAST = "model.channels=8 augment=digits augment.flip=0.5 augment.flip_alternates=true augment.crop_border=reflect"
CASES = {
    "adaptive_cnn": ("train_cnn", ""),
    "fast_cnn": ("train_cnn", f"model=fast_cnn recipe=cifar_fast {FAST}"),
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


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_killed_anywhere_the_fast_network_ends_bit_identical(optimizer: str, digits_dir: Path, tmp_path: Path) -> None:
    """Whitened images and alternating flips are functions of the data and the seed; Muon has states of two kinds."""
    rates = "recipe.lr=0.05 recipe.bias_lr=0.2" if optimizer == "muon" else "recipe.lr=0.5 recipe.bias_lr=8"
    words = f"model=fast_cnn {FAST} recipe.epochs=3 recipe.precision=bf16 recipe.optimizer={optimizer} {rates}"
    kills("train_cnn", 3, digits_dir, tmp_path, *words.split())


def test_the_fast_network_is_used_without_the_images_that_it_learned_from(digits_dir: Path, tmp_path: Path) -> None:
    """Its first layer is made from the run's own training images, and lies among its weights."""
    entry, words = CASES["fast_cnn"]
    assert run(entry, words, digits_dir, tmp_path / "runs")[0] == 0
    folder = only_run(tmp_path / "runs", entry)
    compute = Compute(torch.device("cpu"), ComputeSettings())
    trained = open_run(str(folder.path), tmp_path)
    model: Any = load_model(trained, compute)

    packed = PackedSet.open(digits_dir / "digits")
    rows = split_rows(packed.labels("train"), 0.1, 0).train
    images = (
        torch.from_numpy(packed.images("train")[rows]).float() / 255 - packed.manifest["mean"][0]
    ) / packed.manifest["std"][0]
    expected = Whitening(1)
    expected.learn(images)
    torch.testing.assert_close(model.whitening.axes, expected.axes, rtol=1e-4, atol=1e-4)


def test_two_processes_train_the_fast_network_like_one(digits_dir: Path, tmp_path: Path) -> None:
    """Norms without a scale see the whole batch too, and each process knows the flips of its images."""
    words = f"model=fast_cnn {FAST} recipe=cifar_fast recipe.lr=0.1 recipe.precision=fp32 recipe.batch_size=256"
    assert run("train_cnn", words, digits_dir, tmp_path / "one")[0] == 0
    script = Path(__file__).parents[2] / "train" / "train_cnn.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    given = f"{words} recipe.epochs=2 compute.threads=1 data_dir={digits_dir} root={tmp_path / 'two'}"
    done = subprocess.run([*command, *given.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (only_run(tmp_path / name, "train_cnn") for name in ("one", "two"))
    assert one.path.name == two.path.name
    for mine, theirs in zip(one.read_history(), two.read_history(), strict=True):
        assert float(theirs["train_loss"]) == pytest.approx(float(mine["train_loss"]), rel=1e-4)


def test_a_fast_student_whitens_too(digits_dir: Path, tmp_path: Path) -> None:
    entry, words = CASES["fast_cnn"]
    assert run(entry, words, digits_dir, tmp_path)[0] == 0
    teacher = only_run(tmp_path, entry)
    assert run("distill_kd", f"teacher={teacher.path} {words} recipe.epochs=1", digits_dir, tmp_path)[0] == 0
    compute = Compute(torch.device("cpu"), ComputeSettings())
    models: list[Any] = [
        load_model(open_run(str(folder.path), tmp_path), compute)
        for folder in (teacher, only_run(tmp_path, "distill_kd"))
    ]
    assert torch.equal(models[0].whitening.axes, models[1].whitening.axes)
    assert not torch.equal(models[1].whitening.axes.flatten(1), torch.eye(4))


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
