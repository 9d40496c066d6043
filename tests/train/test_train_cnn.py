"""The whole command, tiny, as a user runs it: once, again, interrupted, damaged, over two processes."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from common.files import read_json
from common.run.run_dir import RunDir
from train.train_cnn import main

SCRIPT = Path(__file__).parent.parent.parent / "train" / "train_cnn.py"
TINY = "recipe.epochs=2 recipe.batch_size=256 augment=digits compute.threads=1 log.progress=lines".split()


@pytest.fixture
def words(digits_dir: Path, tmp_path: Path) -> list[str]:
    return [*TINY, f"data_dir={digits_dir}", f"root={tmp_path / 'runs'}"]


def only_run(tmp_path: Path) -> RunDir:
    (folder,) = (path for path in (tmp_path / "runs" / "train_cnn").iterdir() if "aside" not in path.name)
    return RunDir(folder)


def test_a_run_leaves_everything_the_contract_names(words: list[str], tmp_path: Path) -> None:
    assert main(words) == 0
    run = only_run(tmp_path)
    result = read_json(run.result)
    assert result is not None
    assert result["model"].keys() == {"name", "parameters", "flops"}
    assert (result["model"]["name"], result["model"]["parameters"]) == ("adaptive_cnn", 172_874)
    assert result["speed"]["latency_ms"] > 0
    assert result["selection"]["digest"] == hashlib.sha256(run.best.read_bytes()).hexdigest()[:16]
    assert result["data"]["train_images"] + result["data"]["val_images"] == 1437
    assert result["selection"]["rule"].startswith("highest validation accuracy")
    assert result["cost"]["epochs"] == 2
    assert result["test"]["n"] == 360
    assert yaml.safe_load(run.config.read_text())["recipe"]["epochs"] == 2
    provenance = read_json(run.provenance)
    assert provenance is not None
    assert {"commit", "dirty", "host", "command", "packages", "slurm", "device", "processes"} <= provenance.keys()
    with run.history.open(newline="") as file:
        columns = next(csv.reader(file))
    assert columns == [
        *("epoch", "train_loss", "train_accuracy", "train_precision", "train_recall", "train_f1_score"),
        *("val_loss", "val_accuracy", "val_precision", "val_recall", "val_f1_score"),
        *("kd_loss", "learning_rate", "epoch_time_sec", "images_per_sec", "gpu_memory_mb", "grad_norm"),
    ]
    assert "epoch 2/2" in run.log.read_text()
    assert not run.failure.exists()


def test_the_reported_accuracy_is_that_of_the_stored_logits_and_of_the_stored_weights(
    words: list[str], tmp_path: Path, digits_dir: Path
) -> None:
    assert main(words) == 0
    run = only_run(tmp_path)
    result = read_json(run.result)
    assert result is not None
    stored = np.load(run.predictions("test"), allow_pickle=False)
    accuracy = (stored["logits"].argmax(1) == stored["labels"]).mean()
    assert result["test"]["accuracy"] == pytest.approx(accuracy)

    from common.models.adaptive_cnn import AdaptiveCNN

    manifest = json.loads((digits_dir / "digits" / "manifest.json").read_text())
    model = AdaptiveCNN((1, 8, 8), 10).eval()
    model.load_state_dict(safetensors.torch.load_file(run.best))
    images = torch.from_numpy(np.load(digits_dir / "digits" / "test_images.npy", allow_pickle=False)).float() / 255
    with torch.no_grad():
        logits = model((images - manifest["mean"][0]) / manifest["std"][0])
    np.testing.assert_allclose(logits.numpy(), stored["logits"], rtol=1e-3, atol=1e-4)


def test_a_finished_run_says_so_within_a_second_and_without_torch(words: list[str], tmp_path: Path) -> None:
    assert main(words) == 0
    before = only_run(tmp_path).log.read_bytes()
    timed = f"import sys, runpy; sys.argv = [{str(SCRIPT)!r}, *{words!r}]; sys.modules['torch'] = None\n"
    timed += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True)
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("finished: ")
    assert "test accuracy" in done.stdout
    assert seconds < (1 if os.cpu_count() == 1 or not os.environ.get("PYTEST_XDIST_WORKER") else 3)
    assert only_run(tmp_path).log.read_bytes() == before


def test_dry_run_prints_the_settings_and_writes_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "dry_run=true"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["recipe"]["batch_size"] == 256
    assert "# folder: " in printed
    assert not (tmp_path / "runs").exists()


def test_force_starts_anew_and_keeps_the_old_folder(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    first = only_run(tmp_path).best.read_bytes()
    assert main([*words, "force=true"]) == 0
    assert "starting anew; the old folder is" in capsys.readouterr().out
    assert len([*(tmp_path / "runs" / "train_cnn").iterdir()]) == 2
    assert only_run(tmp_path).best.read_bytes() == first  # the same settings give the same weights


def test_without_validation_the_last_epoch_is_taken(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "data.val_fraction=0", "recipe.swa=0"]) == 0
    result = read_json(only_run(tmp_path).result)
    assert result is not None
    assert result["selection"].items() >= {"rule": "last epoch", "epoch": 2, "weights": "raw"}.items()
    assert result["data"]["train_images"] == 1437
    assert result["val"] is None
    assert only_run(tmp_path).read_history()[0]["val_loss"] == ""


@pytest.mark.parametrize("extra", ["recipe.precision=bf16", "recipe.ema=0.9", "compute.data_budget_gb=0"])
def test_options_run(words: list[str], tmp_path: Path, extra: str) -> None:
    assert main([*words, extra, "recipe.epochs=1"]) == 0
    result = read_json(only_run(tmp_path).result)
    assert result is not None
    assert result["test"]["nll"] < 2.4


def test_streamed_and_resident_images_give_the_same_weights(words: list[str], tmp_path: Path) -> None:
    assert main(words) == 0
    resident = only_run(tmp_path).best.read_bytes()
    assert main([*words, "compute.data_budget_gb=0", "force=true"]) == 0
    assert only_run(tmp_path).best.read_bytes() == resident


# --- interruptions ----------------------------------------------------------------------------------------------


def started(words: list[str], until: str = "epoch 1/") -> subprocess.Popen[str]:
    """The command in a process of its own, which has printed that."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if until in line:
            return process
    pytest.fail(process.communicate()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_stops_behind_a_checkpoint_and_the_same_command_goes_on(
    words: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    long = [*words, "recipe.epochs=40", "recipe.batch_size=32"]
    process = started(long)
    process.send_signal(number)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert f"stopped by {number.name}; the same command goes on from here" in printed
    assert ("failed (preempted): stopped" in printed) == (number != signal.SIGINT)
    run = only_run(tmp_path)
    failure = read_json(run.failure)
    assert failure is not None
    assert (failure["class"], "Traceback" in printed) == ("preempted", False)
    at = torch.load(run.last, weights_only=True)["at"]
    assert at["epoch"] >= 1
    if number == signal.SIGTERM:
        process = started(long, f"resuming after epoch {at['epoch']}, step {at['step']}")
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_while_the_first_works(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [*words, "recipe.epochs=40", "recipe.batch_size=32"]
    process = started(long)
    try:
        assert main(long) == 2
        assert f"is locked by pid {process.pid} on " in capsys.readouterr().err
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == 1


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "truncated":
        path.write_bytes(content[:middle])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    words: list[str], tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    run = only_run(tmp_path)
    expected = run.best.read_bytes(), run.predictions("test").read_bytes()
    run.result.unlink()  # as if killed before its result: both checkpoints as they were after epoch 2
    run.previous.write_bytes(run.last.read_bytes())
    damaged(run.last, how)
    capsys.readouterr()
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "last.pt cannot be read (" in printed
    assert "resuming after epoch 2" in printed
    assert (run.best.read_bytes(), run.predictions("test").read_bytes()) == expected


def test_a_damaged_best_starts_again_and_ends_the_same(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    run = only_run(tmp_path)
    expected = run.best.read_bytes()
    run.result.unlink()
    damaged(run.best, "truncated")
    assert main(words) == 0
    assert "is missing or cannot be read: starting again" in capsys.readouterr().out
    assert run.best.read_bytes() == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "last", "recipe"),
    [(0, 5, []), (5, 10, []), (10, 15, []), (15, 20, []), (0, 2, ["recipe.precision=fp16", "recipe.epochs=2"])],
    ids=lambda value: str(value) if isinstance(value, int) else "-".join(value) or "fp32",
)
def test_killed_anywhere_it_ends_bit_identical(
    first: int, last: int, recipe: list[str], digits_dir: Path, tmp_path: Path
) -> None:
    """At least twenty kills at random moments; in parts, so that they run side by side."""
    command = [sys.executable, str(Path(__file__).parent / "kills.py"), "train_cnn", str(first), str(last)]
    done = subprocess.run([*command, str(digits_dir), str(tmp_path), *recipe], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": identical") == last - first


# --- failures ---------------------------------------------------------------------------------------------------


def test_a_diverging_run_fails_as_nan_and_keeps_its_last_good_checkpoint(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = ["recipe.lr=1e30", "recipe.clip_norm=null", "recipe.optimizer=sgd", "recipe.warmup=0"]
    assert main([*words, *wild]) == 1
    failure = read_json(only_run(tmp_path).failure)
    assert failure is not None
    assert failure["class"] == "nan"
    assert "Try a lower recipe.lr" in failure["message"]
    assert "Traceback" in failure["traceback"]
    assert "Traceback" not in capsys.readouterr().out
    assert not only_run(tmp_path).last.exists()


def test_damaged_data_fail_as_data(digits_dir: Path, tmp_path: Path, words: list[str]) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(digits_dir, broken)
    labels = np.load(broken / "digits" / "train_labels.npy", allow_pickle=False)
    np.save(broken / "digits" / "train_labels.npy", labels[:-1], allow_pickle=False)
    assert main([*words, f"data_dir={broken}"]) == 1
    failure = read_json(only_run(tmp_path).failure)
    assert failure is not None
    assert failure["class"] == "data"
    assert "train_labels.npy: holds <i8 (1436,), expected <i8 (1437,)" in failure["message"]
    assert "to prepare digits again: python jobs/prepare.py data=digits" in failure["message"]


def test_a_later_success_removes_the_failure(words: list[str], tmp_path: Path) -> None:
    assert main(words) == 0
    run = only_run(tmp_path)
    run.result.unlink()
    run.failure.write_text("{}")
    assert main(words) == 0
    assert not run.failure.exists()


FULL_DISK = """
set -e
mount -t tmpfs -o size={size_kb}k none {disk}
set +e
{python} {script} {words} root={disk}/runs
code=$?
find {disk} -name failure.json -exec cp {{}} {out}/ \\;
find {disk} -name last.pt -exec cp {{}} {out}/ \\;
find {disk} -name '*.tmp' -exec cp {{}} {out}/ \\;
exit $code
"""


def may_mount() -> bool:
    test = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(test, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not may_mount(), reason="needs unshare and the right to mount a tmpfs in a user namespace")
def test_a_full_disk_fails_as_disk_and_keeps_the_last_good_checkpoint(digits_dir: Path, tmp_path: Path) -> None:
    """A file system of 6 MB: the first checkpoint (2.9 MB) fits beside the best one, the second does not."""
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    script = FULL_DISK.format(
        size_kb=6000,
        disk=disk,
        out=out,
        python=sys.executable,
        script=SCRIPT,
        words=" ".join([*TINY, f"data_dir={digits_dir}"]),
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "failed (disk): [Errno 28] No space left on device" in done.stdout
    failure = read_json(out / "failure.json")
    assert failure is not None
    assert failure["class"] == "disk"
    assert torch.load(out / "last.pt", weights_only=True)["at"]["epoch"] == 1
    assert not [*out.glob("*.tmp")]


# --- two processes ----------------------------------------------------------------------------------------------


def test_two_processes_end_like_one(words: list[str], tmp_path: Path) -> None:
    """Same global batch: shares, shared batch norm and averaged gradients give one process's training.

    Equal up to the order of sums in single precision; plain SGD, because AdamW blows such differences up.
    """
    settings = [*words, *"model.dropout=0 recipe.batch_size=128 recipe.optimizer=sgd recipe.lr=0.02".split()]
    settings += ["augment.cutmix=1.0", "recipe.ema=0.5"]
    assert main(settings) == 0
    alone = only_run(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    done = subprocess.run([*command, *settings, f"root={tmp_path / 'pair'}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "pair" / "train_cnn").iterdir()
    pair = RunDir(folder)
    assert folder.name == alone.path.name
    provenance = read_json(pair.provenance)
    assert provenance is not None
    assert provenance["processes"] == 2
    for mine, theirs in zip(alone.read_history(), pair.read_history(), strict=True):
        for name, tolerance in (("train_loss", 1e-5), ("val_loss", 1e-5), ("grad_norm", 1e-3)):
            assert float(theirs[name]) == pytest.approx(float(mine[name]), rel=tolerance), name
        assert theirs["val_accuracy"] == mine["val_accuracy"]
    one, two = (np.load(run.predictions("test"), allow_pickle=False) for run in (alone, pair))
    np.testing.assert_allclose(two["logits"], one["logits"], rtol=1e-3, atol=1e-3)
    assert np.array_equal(two["labels"], one["labels"])


def test_a_batch_that_processes_cannot_share_is_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    done = subprocess.run([*command, *words, "recipe.batch_size=33"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "recipe.batch_size: given 33, allowed: a multiple of 2 for 2 processes" in done.stderr
    assert not (tmp_path / "runs" / "train_cnn").exists() or not [*(tmp_path / "runs" / "train_cnn").iterdir()]
