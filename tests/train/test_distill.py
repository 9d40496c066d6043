"""Distillation as commands: a teacher, its student, their student; killed, over two processes, and refused."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import yaml

from common.files import digest_of, read_json
from common.run.run_dir import RunDir
from train import distill_cst, distill_kd, train_cnn, train_vit

MAINS = {
    "train_cnn": train_cnn.main,
    "train_vit": train_vit.main,
    "distill_kd": distill_kd.main,
    "distill_cst": distill_cst.main,
}
VIT = "model.width=24 model.depth=2 model.heads=2 model.patch=2 model.stem_width=8 model.drop_path=0.1"
QUICK = "recipe.epochs=2 recipe.batch_size=256 compute.threads=1 log.progress=lines"


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, digits_dir: Path) -> Path:
    """A root with a finished CNN and a finished ViT."""
    root = tmp_path_factory.mktemp("teachers")
    for entry, words in (("train_cnn", ""), ("train_vit", VIT)):
        common = f"{QUICK} recipe.epochs=3 data_dir={digits_dir} root={root}"
        assert MAINS[entry]([*common.split(), *words.split()]) == 0
    return root


@pytest.fixture
def root(teachers: Path, tmp_path: Path) -> Path:
    """A copy to work in."""
    shutil.copytree(teachers, tmp_path / "runs")
    return tmp_path / "runs"


def only_run(root: Path, entry: str) -> RunDir:
    (folder,) = (path for path in (root / entry).iterdir() if "aside" not in path.name)
    return RunDir(folder)


def run(entry: str, words: str, digits_dir: Path, root: Path) -> tuple[int, str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = MAINS[entry]([*QUICK.split(), f"data_dir={digits_dir}", f"root={root}", *words.split()])
    return code, printed.getvalue()


def hash_of(run: RunDir) -> str:
    return run.path.name.rpartition("-")[2]


# --- one student ------------------------------------------------------------------------------------------------


def test_a_student_says_who_taught_it_and_how_far_they_agree(root: Path, digits_dir: Path) -> None:
    teacher = only_run(root, "train_cnn")
    before = {path: path.read_bytes() for path in teacher.path.rglob("*") if path.is_file()}
    code, printed = run("distill_kd", f"teacher={hash_of(teacher)} {VIT} model.dist_token=true", digits_dir, root)
    assert code == 0, printed
    student = only_run(root, "distill_kd")
    result, taught = read_json(student.result), read_json(teacher.result)
    assert result is not None
    assert taught is not None
    assert result["teacher"] == {
        "run": teacher.path.name,
        "digest": digest_of(teacher.best),
        "model": "adaptive_cnn",
        "val_accuracy": taught["val"]["accuracy"],
        "test_accuracy": taught["test"]["accuracy"],
    }
    agreed = result["distillation"]["agreement_on_validation"]
    assert agreed["teacher_accuracy"] == pytest.approx(taught["val"]["accuracy"])
    assert agreed["decisions"] == result["data"]["val_images"]
    mine, theirs = (np.load(each.predictions("val"), allow_pickle=False)["logits"] for each in (student, teacher))
    assert agreed["all"] == pytest.approx((mine.argmax(1) == theirs.argmax(1)).mean())
    rows = student.read_history()
    assert [float(row["alpha"]) for row in rows] == pytest.approx([0.7, 0.7])
    for row in rows:
        expected = 0.3 * float(row["label_loss"]) + 0.7 * float(row["kd_loss"])
        assert float(row["train_loss"]) == pytest.approx(expected, rel=1e-5)
    assert (student.figures / "distillation.png").read_bytes().startswith(b"\x89PNG")
    assert {path: path.read_bytes() for path in before} == before  # the teacher's folder is as it was
    assert run("distill_kd", f"teacher={teacher.path} {VIT} model.dist_token=true", digits_dir, root)[1].startswith(
        "fini"
    )


def test_a_course_of_alpha_moves_the_loss_from_labels_to_teacher(root: Path, digits_dir: Path) -> None:
    words = (
        f"teacher={hash_of(only_run(root, 'train_cnn'))} model=adaptive_cnn distill.schedule=linear distill.labels=hard"
    )
    assert run("distill_kd", f"{words} distill.alpha=1.0", digits_dir, root)[0] == 0
    rows = only_run(root, "distill_kd").read_history()
    steps = 1292 // 256
    assert [float(row["alpha"]) for row in rows] == pytest.approx(
        [sum((epoch + step / steps) / 2 for step in range(steps)) / steps for epoch in (0, 1)]
    )


def test_tokens_teach_and_the_projector_is_not_kept(root: Path, digits_dir: Path) -> None:
    teacher = only_run(root, "train_vit")
    code, printed = run("distill_cst", f"teacher={hash_of(teacher)} {VIT} distill.relation_from=0.5", digits_dir, root)
    assert code == 0, printed
    student = only_run(root, "distill_cst")
    result = read_json(student.result)
    assert result is not None
    assert result["distillation"]["student_layers"] == [1, 1]
    assert result["distillation"]["relation"] == "token"
    assert (student.figures / "distillation.png").exists()
    kept = safetensors.torch.load_file(student.best)
    assert set(kept) == set(safetensors.torch.load_file(teacher.best))
    first, second = student.read_history()
    for row, relation in ((first, 0.0), (second, 0.1)):
        taught_loss = float(row["token_loss"]) + relation * float(row["relation_loss"])
        assert float(row["kd_loss"]) == pytest.approx(taught_loss, rel=1e-5)
        assert float(row["train_loss"]) == pytest.approx(float(row["label_loss"]) + taught_loss, rel=1e-5)
        assert float(row["token_deviation"]) > 0
        assert float(row["token_directions"]) >= 1


@pytest.mark.parametrize("relation", ["sample", "random"])
def test_other_relations_run(relation: str, root: Path, digits_dir: Path) -> None:
    words = f"teacher={hash_of(only_run(root, 'train_vit'))} {VIT} distill.relation={relation} distill.token_weight=0"
    assert run("distill_cst", f"{words} recipe.epochs=1", digits_dir, root)[0] == 0


# --- a cascade, killed ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_cascade_of_three_ends_bit_identical_however_it_is_killed(
    root: Path, digits_dir: Path, tmp_path: Path
) -> None:
    """Teacher, assistant, student: each stage killed at random moments and resumed, then it teaches the next."""
    teacher = only_run(root, "train_cnn")
    for stage, words in (("assistant", "model.dropout=0.2"), ("student", "model.dropout=0.1")):
        work = tmp_path / stage
        command = [sys.executable, str(Path(__file__).parent / "kills.py"), "distill_kd", "0", "2", str(digits_dir)]
        given = f"teacher={teacher.path} model=adaptive_cnn {words} recipe.epochs=2"
        done = subprocess.run([*command, str(work), *given.split()], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count(": identical") == 2
        teacher = only_run(work / "killed-1", "distill_kd")


@pytest.mark.slow
def test_tokens_killed_anywhere_end_bit_identical(root: Path, digits_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent / "kills.py"), "distill_cst", "0", "2", str(digits_dir)]
    given = f"teacher={only_run(root, 'train_vit').path} {VIT} distill.relation=random recipe.epochs=2"
    done = subprocess.run([*command, str(tmp_path / "work"), *given.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": identical") == 2


def test_two_processes_learn_tokens_like_one(root: Path, digits_dir: Path, tmp_path: Path) -> None:
    """Gradients of the student and of its projectors are those of the whole batch: nothing goes around forward."""
    still = "model.drop_path=0 model.cls_dropout=0 recipe.optimizer=sgd recipe.lr=0.02 recipe.batch_size=128"
    teacher = only_run(root, "train_vit").path
    words = f"teacher={teacher} {VIT} {still}"
    assert run("distill_cst", words, digits_dir, tmp_path / "one")[0] == 0
    script = Path(__file__).parents[2] / "train" / "distill_cst.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    given = f"{QUICK} data_dir={digits_dir} root={tmp_path / 'two'} {words}"
    done = subprocess.run([*command, *given.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (only_run(tmp_path / name, "distill_cst") for name in ("one", "two"))
    for mine, theirs in zip(one.read_history(), two.read_history(), strict=True):
        for name in ("train_loss", "token_loss", "relation_loss"):
            assert float(theirs[name]) == pytest.approx(float(mine[name]), rel=1e-4), name
    logits = [np.load(each.predictions("test"), allow_pickle=False)["logits"] for each in (one, two)]
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-2, atol=1e-2)


# --- refusals, all before any training --------------------------------------------------------------------------


def refusal(entry: str, words: str, digits_dir: Path, root: Path) -> str:
    code, printed = run(entry, words, digits_dir, root)
    assert code == 2, printed
    assert not (root / entry).exists()
    return printed.strip()


def test_no_teacher(root: Path, digits_dir: Path) -> None:
    expected = "teacher: missing; a finished run (its folder, name or hash), or timm/NAME"
    assert refusal("distill_kd", "", digits_dir, root) == expected
    given = refusal("distill_kd", "teacher=timm/test_vit teacher.run=x", digits_dir, root)
    assert given == "teacher: given the run x and timm/test_vit, allowed: one of them"


def test_a_teacher_that_is_not_there_not_finished_or_not_itself(root: Path, digits_dir: Path) -> None:
    teacher = only_run(root, "train_cnn")
    words = f"teacher={hash_of(teacher)}"
    assert "teacher: given nobody, which is no folder and no run under" in refusal(
        "distill_kd", "teacher=nobody", digits_dir, root
    )
    digest = digest_of(teacher.best)
    changed = refusal("distill_kd", f"{words} teacher.digest=0f3a", digits_dir, root)
    assert f"has the weights {digest}, but the settings name 0f3a: the teacher has changed" in changed
    assert "but the settings name [1]: " in refusal("distill_kd", f"{words} teacher.digest=[1]", digits_dir, root)
    content = teacher.best.read_bytes()
    teacher.best.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "has changed since the run's result was written" in refusal("distill_kd", words, digits_dir, root)
    teacher.best.unlink()
    assert "is missing; the run has a result, but its weights are gone" in refusal(
        "distill_kd", words, digits_dir, root
    )
    teacher.result.unlink()
    assert "is not finished (epoch " in refusal("distill_kd", words, digits_dir, root)
    shutil.rmtree(teacher.path)
    assert "which is no folder and no run under" in refusal("distill_kd", words, digits_dir, root)


def test_a_teacher_of_other_images(root: Path, digits_dir: Path) -> None:
    teacher = only_run(root, "train_cnn")
    result = json.loads(teacher.result.read_text())
    result["data"] |= {"name": "mnist", "digest": "0f3a"}
    teacher.result.write_text(json.dumps(result))
    printed = refusal("distill_kd", f"teacher={teacher.path}", digits_dir, root)
    assert f"teacher: {teacher.path.name} learned mnist (0f3a), not digits (" in printed


def test_a_teacher_without_tokens_and_layers_out_of_range(root: Path, digits_dir: Path) -> None:
    cnn, vit = only_run(root, "train_cnn"), only_run(root, "train_vit")
    assert refusal("distill_cst", f"teacher={hash_of(cnn)}", digits_dir, root) == (
        f"teacher: {cnn.path.name} is an adaptive_cnn, allowed: a vision transformer, which has tokens"
    )
    assert refusal("distill_cst", f"teacher={hash_of(vit)} distill.teacher_layer=2", digits_dir, root) == (
        "distill.teacher_layer: given 2, allowed with this teacher: 0 to 1, or -2 to -1 from the end"
    )
    assert refusal("distill_cst", f"teacher={hash_of(vit)} distill.student_layers=[2,6,-7]", digits_dir, root) == (
        "distill.student_layers: given 6, -7, allowed: 0 to 5, or -6 to -1 from the end"
    )


def test_a_weak_teacher_is_stopped_at_the_gate_if_wanted(root: Path, digits_dir: Path) -> None:
    """The ViT alone is the student alone; a CNN that is worse may not teach it."""
    cnn, vit = only_run(root, "train_cnn"), only_run(root, "train_vit")
    for run_dir, accuracy in ((cnn, 0.5), (vit, 0.6)):
        result = json.loads(run_dir.result.read_text())
        result["val"]["accuracy"] = accuracy
        run_dir.result.write_text(json.dumps(result))
    words = f"teacher={hash_of(cnn)} {VIT} model.dist_token=true model.inference=avg"
    printed = refusal("distill_kd", f"{words} distill.gate=stop", digits_dir, root)
    assert "the teacher has 50.00% on validation, the same student alone 60.00% (n=1)" in printed
    code, printed = run("distill_kd", words, digits_dir, root)
    assert code == 0
    assert "weak teacher: the teacher has 50.00% on validation" in printed


def test_a_snapshot_goes_on_where_its_teacher_lies_elsewhere(root: Path, digits_dir: Path, tmp_path: Path) -> None:
    """The same teacher in another folder: the same student, to the last bit of its weights."""
    teacher = only_run(root, "train_cnn")
    assert run("distill_kd", f"teacher={teacher.path} model=adaptive_cnn", digits_dir, root)[0] == 0
    student = only_run(root, "distill_kd")
    tree = yaml.safe_load(student.config.read_text())
    assert tree["teacher"]["digest"] == digest_of(teacher.best)
    moved = tmp_path / "elsewhere"
    shutil.copytree(root / "train_cnn", moved / "train_cnn")
    tree["teacher"]["run"] = hash_of(teacher)
    (tmp_path / "snapshot.yaml").write_text(yaml.safe_dump(tree))
    assert run("distill_kd", f"config={tmp_path / 'snapshot.yaml'}", digits_dir, moved)[0] == 0
    again = only_run(moved, "distill_kd")
    assert again.path.name == student.path.name
    assert again.best.read_bytes() == student.best.read_bytes()
