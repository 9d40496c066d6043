"""What a cold start costs: the packages that a run may import, and its CPU time against that of importing torch."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

REPOSITORY = Path(__file__).parents[2]

# Beside Python's own modules and all that `import torch` brings. Another name here is time of every start of a run.
MAY_BE_IMPORTED = {
    *("common", "train", "numpy"),
    *("annotated_types", "pydantic", "pydantic_core", "typing_inspection"),
    *("_yaml", "yaml"),
    "safetensors",
    "tqdm",
}
TO_DRAW = {
    *("PIL", "contourpy", "cycler", "dateutil", "fontTools", "kiwisolver"),
    *("matplotlib", "mpl_toolkits", "packaging", "pyparsing"),
}
OF_TORCH = {"torch.nested"}

TINY_VIT = "model.width=24 model.depth=2 model.heads=2 model.patch=2 model.stem_width=8"
SHIFT = "shift.corruptions=[gaussian_noise] shift.severities=[1] shift.adaptations=[source,tent] shift.adapt_at=[1]"

LIST_MODULES = """
import json, runpy, sys
sys.argv = sys.argv[1:]
code = 0
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    code = stop.code
print("" if code else json.dumps(sorted(sys.modules)))
sys.exit(code)
"""


def parts(modules: list[str]) -> set[str]:
    """Packages; of torch, which `import torch` loads a part of, its parts: torch.nn, torch.fx.

    What Cython's compiled modules share is left out: its name has a version in it.
    """
    packages = {".".join(name.split(".")[: 2 if name.startswith("torch.") else 1]) for name in modules}
    return {name for name in packages if not name.startswith("_cython_")}


def imported_by(*command: str) -> set[str]:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    return parts(json.loads(done.stdout.splitlines()[-1])) - {"__main__"}


@pytest.fixture(scope="module")
def with_torch() -> set[str]:
    return imported_by("-c", "import json, sys, torch; print(json.dumps(sorted(sys.modules)))")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cold")


def start(script: str, words: str, work: Path) -> set[str]:
    """What a run imports beyond torch; a first run on this machine, for which digits are not packed yet."""
    given = [*words.split(), f"data_dir={work / 'data'}", f"root={work / 'runs'}"]
    return imported_by("-c", LIST_MODULES, str(REPOSITORY / script), *given)


def only_run(work: Path, entry: str) -> str:
    (folder,) = (work / "runs" / entry).iterdir()
    return folder.name


@pytest.fixture(scope="module")
def imports(work: Path) -> dict[str, set[str]]:
    """Of a run of each entry, each started by itself."""
    found = {"train_cnn": start("train/train_cnn.py", "recipe.epochs=1", work)}
    found["train_vit"] = start("train/train_vit.py", f"recipe.epochs=1 {TINY_VIT}", work)
    cnn, vit = only_run(work, "train_cnn"), only_run(work, "train_vit")
    student = f"recipe.epochs=1 distill.gate=off {TINY_VIT}"
    found["distill_kd"] = start("train/distill_kd.py", f"teacher={cnn} {student}", work)
    found["distill_cst"] = start("train/distill_cst.py", f"teacher={vit} {student}", work)
    found["eval_shift"] = start("eval/eval_shift.py", f"run={cnn} {SHIFT}", work)
    return found


@pytest.mark.parametrize(
    ("entry", "more"),
    [
        ("train_cnn", set()),
        ("train_vit", set()),
        ("distill_kd", TO_DRAW),
        ("distill_cst", TO_DRAW),
        ("eval_shift", {*TO_DRAW, "eval"}),
    ],
)
def test_a_run_imports_what_it_may_and_nothing_else(
    imports: dict[str, set[str]], with_torch: set[str], entry: str, more: set[str]
) -> None:
    beyond_torch = {name for name in imports[entry] - with_torch if name not in sys.stdlib_module_names}
    assert beyond_torch - MAY_BE_IMPORTED - OF_TORCH - more == set()


def test_what_is_slow_would_be_seen(with_torch: set[str]) -> None:
    """`import torch` alone does not bring the compiler, so a call that imports it is found."""
    late = "import json, sys, torch\ntorch.use_deterministic_algorithms(False)\nprint(json.dumps(sorted(sys.modules)))"
    assert {"torch._dynamo", "torch._inductor", "sympy"} <= imported_by("-c", late) - with_torch


def cpu_seconds(*command: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=REPOSITORY)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_run_of_one_epoch_costs_little_more_than_importing_torch(tmp_path: Path) -> None:
    """CPU time, not wall time, of medians of three that alternate; the run packs digits too."""
    torch_alone, run = [], []
    for trial in map(str, range(3)):
        torch_alone.append(cpu_seconds("-c", "import torch"))
        places = [f"data_dir={tmp_path / trial / 'data'}", f"root={tmp_path / trial / 'runs'}"]
        run.append(cpu_seconds("train/train_cnn.py", "recipe.epochs=1", *places))
    assert median(run) <= 1.7 * median(torch_alone), f"{run} against {torch_alone} s"
