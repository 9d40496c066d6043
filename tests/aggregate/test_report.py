import csv
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from aggregate import report
from aggregate.figures.style import Picture
from aggregate.runs.material import STATUS, Material, about, of_pattern
from aggregate.runs.methods import group
from common.cli.command import DONE, FAILED, REFUSED
from common.settings.entries import TrainCNN, run_name
from jobs.planning.ledger import Ledger

MakeRun = Callable[..., Path]


def make_two_methods(make_run: MakeRun) -> None:
    for seed in range(3):
        make_run(seed=seed, accuracy=0.90 + seed / 1000, recipe={"epochs": 4})
        make_run(seed=seed, accuracy=0.95 + seed / 2000, recipe={"epochs": 8})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


OF_TWO_METHODS = ("summary", "comparisons", "overfitting", "efficiency", "cost", "confusion")


def test_whole_command(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_two_methods(make_run)
    assert report.main(["runs=runs/*/*"]) == DONE
    out = tmp_path / "results" / "runs"
    assert {path.name for path in out.iterdir()} == {
        *("runs.csv", "report.md", "report.html", "report-files.json", "figures"),
        *(f"{name}.{ending}" for name in OF_TWO_METHODS for ending in ("csv", "md", "tex")),
    }
    for name in set(OF_TWO_METHODS) - {"cost"}:
        assert "Weights: highest validation accuracy" in (out / f"{name}.md").read_text(), "how they were selected"
    said = capsys.readouterr().out
    assert said.endswith("report: results/runs/report.html\n")
    assert "95.05 ± 0.05" in said
    runs = rows(out / "runs.csv")
    assert [run["recipe.epochs"] for run in runs] == ["4"] * 3 + ["8"] * 3
    assert "recipe.lr" not in runs[0], "the same in all"
    assert runs[0]["test.accuracy"] == "0.9"
    assert runs[0]["cost.train_seconds"] == "20.0"
    assert runs[0]["commit"].startswith("3a71f28")
    (pair,) = rows(out / "comparisons.csv")
    assert pair["verdict"] == "worse"
    assert pair["runs"].split() == [run["run"] for run in runs]
    first, second = (row["runs"].split() for row in rows(out / "summary.csv"))
    assert first + second == pair["runs"].split()
    text = (out / "report.md").read_text()
    assert not [name for name in first if name in text], "for CSV and the page, not for print"
    assert "6 runs counted, 0 folders left out" in text
    assert "## Comparisons" in text


def test_every_row_says_which_runs_it_is_of(make_run: MakeRun, tmp_path: Path) -> None:
    make_two_methods(make_run)
    assert report.main(["runs=runs/*/*"]) == DONE
    out = tmp_path / "results" / "runs"
    known = {run["run"] for run in rows(out / "runs.csv")}
    for name in OF_TWO_METHODS:
        for row in rows(out / f"{name}.csv"):
            assert set(row["runs"].split(" ")) <= known, name
            assert row["runs"], name


def test_a_later_report_leaves_no_tables_of_an_earlier_one(make_run: MakeRun, tmp_path: Path) -> None:
    make_two_methods(make_run)
    assert report.main(["runs=runs/*/*", "out=there"]) == DONE
    assert (tmp_path / "there" / "comparisons.csv").exists()
    (tmp_path / "there" / "mine.txt").write_text("stays")
    assert report.main(["runs=runs/*/*-s0-*", "out=there"]) == DONE
    only = next((tmp_path / "runs" / "train_cnn").iterdir())
    assert report.main([f"runs={only}", "out=there"]) == DONE
    assert not (tmp_path / "there" / "comparisons.csv").exists()
    assert (tmp_path / "there" / "mine.txt").exists()


def test_a_folder_with_a_users_own_files_keeps_all_of_them(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their names are those of tables and figures that this report does not have."""
    make_run()
    own = [tmp_path / "paper" / name for name in ("claims.tex", "comparisons.md", "figures/cost-2025.svg")]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    assert report.main(["runs=runs/*/*", "out=paper"]) == DONE
    assert [path.read_text() for path in own] == ["mine"] * 3
    assert (tmp_path / "paper" / "summary.csv").exists()

    (tmp_path / "paper" / "summary.md").write_text("my words")
    assert report.main(["runs=runs/*/*", "out=paper"]) == REFUSED
    assert "out: paper has a summary.md that no report has written, or" in capsys.readouterr().err
    assert (tmp_path / "paper" / "summary.md").read_text() == "my words"
    assert report.main(["runs=runs/*/*", "out=paper", "force=true"]) == DONE
    assert "Weights:" in (tmp_path / "paper" / "summary.md").read_text()


def test_a_name_is_no_html_in_markdown() -> None:
    attack = "<img src=x onerror=alert(1)>\n# x"
    picture = Picture("cost-a b", attack, f"{attack} is the best.", Figure())
    text = report.report_text(Material(attack, f"sweep {attack}", [], []), [], [picture])
    assert not re.search(r"(?<!\\)<", text)
    assert len(re.findall(r"^#", text, flags=re.MULTILINE)) == 3, "headings are ours alone"
    assert "](figures/cost-a%20b.png)" in text


def test_every_table_that_can_be_made_is_listed() -> None:
    texts = [path.read_text() for path in (Path(report.__file__).parent / "tables").glob("*.py")]
    names = {name for text in texts for name in re.findall(r"return Table\(\s*\"(\w+)\"", text)}
    assert len(names) > 10
    assert names == set(report.TABLES)


def test_a_table_has_the_name_that_it_is_listed_under(make_run: MakeRun) -> None:
    make_two_methods(make_run)
    material = of_pattern("runs/*/*")
    methods = group(material.runs)
    tables = {name: make(methods, material) for name, make in report.TABLES.items()}
    assert {name: table.name for name, table in tables.items() if table} == {name: name for name in OF_TWO_METHODS}


def test_folders_that_do_not_count_are_listed(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(seed=0)
    (make_run(seed=1) / "result.json").write_text("{")
    (make_run(seed=2).parent / "notes").mkdir()
    assert report.main(["runs=runs/*/*"]) == DONE
    (broken, foreign) = rows(Path("results/runs/unfinished.csv"))
    assert broken["why"] == "result.json is not whole JSON"
    assert foreign["why"] == "no run folder: it has no config.yaml"
    assert "not whole JSON" in capsys.readouterr().out
    assert rows(Path("results/runs/summary.csv"))[0]["n"] == "2"


def test_nothing_that_counts_is_a_failure(make_run: MakeRun) -> None:
    (make_run() / "result.json").unlink()
    assert report.main(["runs=runs/*/*"]) == FAILED
    assert "not finished" in Path("results/runs/report.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "allowed: one of them"),
        (["sweep=a", "runs=b"], "allowed: one of them"),
        (["runs=nowhere/*"], "runs: nowhere/* matches no folder"),
        (["swep=a"], "nearest: sweep"),
        (["sweep=never_asked"], "sweep: never_asked was never submitted"),
        (["runs=3"], "runs: given 3"),
    ],
)
def test_wrong_words_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(words) == REFUSED
    assert said in capsys.readouterr().err
    assert not Path("results").exists()


def test_a_place_that_cannot_be_written_is_refused(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    make_run()
    Path("taken").write_text("")
    assert report.main(["runs=runs/*/*", "out=taken"]) == REFUSED
    assert "out: taken cannot be written" in capsys.readouterr().err


def test_a_sweep_shows_what_is_missing(make_run: MakeRun, tmp_path: Path, digits_dir: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(
        "about: what <b>it</b> is for\naxes: {seed: 0-2, data: [digits]}\nstages:\n  cnn: {entry: train_cnn}\n"
    )
    root = tmp_path / "runs"
    Ledger(root).remember("tiny", [f"sweep={file}", f"data_dir={digits_dir}"])
    told = told_by_status(root)
    for number, facts in enumerate(told[:2]):
        settings = settings_of(facts["run"], digits_dir)
        make_run(root=root, seed=number, **settings)
    (Path(told[1]["run"]) / "result.json").unlink()
    (Path(told[1]["run"]) / "failure.json").write_text('{"class": "oom", "message": "too large"}')
    assert report.main(["sweep=tiny", f"root={root}"]) == DONE
    (row,) = rows(Path("results/tiny/summary.csv"))
    assert (row["method"], row["n"], row["unfinished"]) == ("cnn", "1", "1 failed, 1 waiting")
    assert row["network"] == "adaptive_cnn"
    assert "| digits | cnn | adaptive\\_cnn | 1 |" in Path("results/tiny/summary.md").read_text(), "beside the stage"
    assert r"what \<b\>it\</b\> is for" in Path("results/tiny/report.md").read_text()
    assert "<dt>About</dt><dd>what &lt;b&gt;it&lt;/b&gt; is for</dd>" in Path("results/tiny/report.html").read_text()
    left = rows(Path("results/tiny/unfinished.csv"))
    assert [(each["what"], each["state"]) for each in left] == [
        ("cnn data=digits seed=1", "failed"),
        ("cnn data=digits seed=2", "waiting"),
    ]
    assert left[0]["why"] == "(oom) too large"
    assert "2 of 3 cells without a usable result" in Path("results/tiny/report.md").read_text()


def test_a_shipped_sweep_and_one_whose_file_is_gone_have_their_about_or_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.remember("quickstart", ["sweep=quickstart"])
    assert about("quickstart", tmp_path).startswith("digits, a CNN")
    ledger.remember("gone", [f"sweep={tmp_path}/gone.yaml"])
    (ledger.folder / "sweeps" / "strange.yaml").write_text("words: 3")
    assert [about(name, tmp_path) for name in ("gone", "strange", "never")] == [""] * 3


def told_by_status(root: Path) -> list[dict[str, Any]]:
    command = [sys.executable, str(STATUS), "sweep=tiny", f"root={root}", "json=true"]
    return list(json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout))


def settings_of(run: str, data_dir: Path) -> dict[str, Any]:
    """What the entry would resolve for that run of the sweep."""
    from common.cli.compose import compose

    seed = run.rpartition("-s")[2].partition("-")[0]
    settings = compose(TrainCNN, ["data=digits", f"seed={seed}", f"data_dir={data_dir}"]).settings
    assert run_name(settings) == Path(run).name
    return {name: value for name, value in settings.model_dump().items() if name not in {"entry", "seed"}}


def test_without_torch(make_run: MakeRun) -> None:
    make_run()
    code = "import sys; sys.modules['torch'] = None; from aggregate import report; sys.exit(report.main())"
    done = subprocess.run([sys.executable, "-c", code, "runs=runs/*/*"], capture_output=True, text=True, check=False)
    assert done.returncode == DONE, done.stderr


# --- ten thousand runs ------------------------------------------------------------------------------------------

HISTORY_HEAD = "epoch,train_loss,train_accuracy,val_loss,val_accuracy"
BOTH = (  # getrusage would tell of the process that started this one
    "import pathlib, sys; from aggregate import report; code = report.main()\n"
    "status = pathlib.Path('/proc/self/status').read_text()\n"
    "print(status.partition('VmHWM:')[2].split()[0]); sys.exit(code)"
)


@pytest.mark.slow
def test_ten_thousand_runs(make_run: MakeRun, tmp_path: Path) -> None:
    """2,000 methods of five seeds, in under a minute and a gigabyte."""
    template = make_run(seed=0, recipe={"epochs": 30, "lr": 0.1})
    files = {
        name: (template / name).read_text() for name in ("config.yaml", "result.json", "provenance.json", "history.csv")
    }
    lines = [
        f"{epoch},{2 / epoch:.6f},{1 - 1 / epoch:.6f},{1.9 / epoch:.6f},{1 - 1 / epoch:.6f}" for epoch in range(1, 31)
    ]
    files["history.csv"] = "\n".join([HISTORY_HEAD, *lines, ""])
    root = tmp_path / "many" / "train_cnn"
    base = TrainCNN.model_validate({"recipe": {"epochs": 30, "lr": 0.1}})
    for number in range(10_000):
        lr = round(0.1 + (number // 5) / 10_000, 4)
        settings = base.model_copy(update={"seed": number % 5, "recipe": base.recipe.model_copy(update={"lr": lr})})
        folder = root / run_name(settings)
        folder.mkdir(parents=True)
        config = (
            files["config.yaml"].replace("lr: 0.1\n", f"lr: {lr}\n").replace("seed: 0\n", f"seed: {number % 5}\n", 1)
        )
        result = (
            files["result.json"]
            .replace(template.name, folder.name)
            .replace('"accuracy": 0.9', f'"accuracy": 0.9{number % 977:03}')
        )
        for name, text in {**files, "config.yaml": config, "result.json": result}.items():
            (folder / name).write_text(text)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", BOTH, f"runs={root}/*"], capture_output=True, text=True, check=False)
    assert done.returncode == DONE, done.stderr
    assert time.monotonic() - began < 60
    assert int(done.stdout.split()[-1]) < 1_000_000  # kilobytes
    assert len(rows(Path("results/runs/runs.csv"))) == 10_000
    assert {row["n"] for row in rows(Path("results/runs/summary.csv"))} == {"5"}
