"""A finished run as a model to use: found by folder, name or hash, and refused where it is not what it says it is."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from common.compute import Compute
from common.data.packed import PackedSet, open_part
from common.failures import Refused
from common.files import digest_of
from common.models.load import load_model
from common.run.finished import open_run
from common.run.run_dir import RunDir
from common.settings.entries import ComputeSettings
from common.training.predict import infer
from train import train_cnn, train_vit

CPU = Compute(torch.device("cpu"), ComputeSettings())
TINY = {
    "train_cnn": (train_cnn.main, ""),
    "train_vit": (train_vit.main, "model.width=24 model.depth=2 model.heads=2 model.patch=4 model.stem_width=8"),
    "timm": (train_cnn.main, "model.name=timm/test_resnet model.input_size=32"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, digits_dir: Path) -> Path:
    """A root with three finished runs of an epoch each."""
    root = tmp_path_factory.mktemp("runs")
    for main, words in TINY.values():
        common = f"recipe.epochs=1 recipe.batch_size=256 compute.threads=1 log.progress=off data_dir={digits_dir}"
        assert main([*common.split(), f"root={root}", *words.split()]) == 0
    return root


@pytest.fixture
def cnn(runs: Path, tmp_path: Path) -> RunDir:
    """A copy to damage."""
    (folder,) = runs.glob("train_cnn/*adaptive_cnn*")
    shutil.copytree(folder, tmp_path / "copy")
    return RunDir(tmp_path / "copy")


def refusal(given: str | Path, root: Path = Path("nowhere")) -> str:
    with pytest.raises(Refused) as refused:
        load_model(open_run(str(given), root), CPU)
    (problem,) = refused.value.problems
    return problem


@pytest.mark.parametrize("pattern", ["train_cnn/*adaptive_cnn*", "train_vit/*", "train_cnn/*test_resnet*"])
def test_the_loaded_model_answers_as_the_run_reported(pattern: str, runs: Path, digits_dir: Path) -> None:
    (folder,) = runs.glob(pattern)
    trained = open_run(str(folder), Path("nowhere"))
    model = load_model(trained, CPU)
    assert not model.training
    packed = PackedSet.open(digits_dir / "digits")
    logits, labels = infer(model, open_part(packed, trained.data, "test", batch_size=256, compute=CPU))
    assert (logits.argmax(1) == labels).mean() == pytest.approx(trained.result["test"]["accuracy"])


def test_a_run_goes_by_its_folder_its_name_and_its_hash(runs: Path) -> None:
    (folder,) = runs.glob("train_vit/*")
    for given in (str(folder), folder.name, folder.name.rpartition("-")[2]):
        assert open_run(given, runs).run.path == folder
    assert refusal(folder.name + "0", runs) == (
        f"run: given {folder.name}0, which is no folder and no run under {runs}, nearest: {folder.name}"
    )


def test_what_is_no_finished_run_is_refused(cnn: RunDir, tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"run: {tmp_path} is not a run folder (it has no config.yaml)"
    cnn.result.unlink()
    assert refusal(cnn.path) == (f"run: {cnn.path} is not finished (epoch 0 of 1); expected a run with a result.json")
    cnn.heartbeat.write_text('{"time": 0}')
    assert "is not finished (begun, but no step is done)" in refusal(cnn.path)
    cnn.failure.write_text(json.dumps({"class": "oom", "message": "too big"}))
    assert "is not finished (failed, oom: too big)" in refusal(cnn.path)
    cnn.result.write_text("{}")
    assert refusal(cnn.path) == f"run: {cnn.result} is not the result of a training"


def keep_digest(run: RunDir) -> None:
    """As if the damage had been there when the result was written."""
    result = json.loads(run.result.read_text())
    result["selection"]["digest"] = digest_of(run.best)
    run.result.write_text(json.dumps(result))


def of_another_architecture(path: Path) -> None:
    weights = safetensors.torch.load_file(path)
    weights["stem.0.weight"] = torch.zeros(7, 1, 3, 3)
    del weights["classifier.0.bias"]
    safetensors.torch.save_file(weights, path)


class RunsCode:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (Path.touch, (Path("ran"),))  # type: ignore[return-value]


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(RunsCode()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            of_another_architecture,
            "is a checkpoint of another architecture than adaptive_cnn: classifier.0.bias, stem.0.w",
        ),
        (a_pickle, "is not a whole safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "is not a whole safetensors file"),
    ],
)
def test_weights_that_are_not_the_runs_own_are_refused(
    cnn: RunDir, damage: Callable[[Path], object], message: str
) -> None:
    damage(cnn.best)
    assert refusal(cnn.path) == (
        f"run: {cnn.best} has changed since the run's result was written: damaged, or other weights"
    )
    keep_digest(cnn)
    assert message in refusal(cnn.path)
    assert not Path("ran").exists()
    cnn.best.unlink()
    assert refusal(cnn.path) == f"run: {cnn.best} is missing; the run has a result, but its weights are gone"


def test_settings_that_no_entry_has_are_refused(cnn: RunDir) -> None:
    tree = yaml.safe_load(cnn.config.read_text())
    cnn.config.write_text(yaml.safe_dump({**tree, "entry": "train_cnm"}))
    assert (
        "entry: given train_cnm, allowed: train_cnn, train_vit, distill_kd, distill_cst, nearest: train_cnn"
        in refusal(cnn.path)
    )
    cnn.config.write_text(yaml.safe_dump({**tree, "model": {"name": "adaptive_cnn", "dropout": 7}}))
    assert "model.dropout: given 7, allowed: number, at least 0 and below 1" in refusal(cnn.path)
