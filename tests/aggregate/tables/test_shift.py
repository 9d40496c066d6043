import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from aggregate.runs.cells import AskedRun
from aggregate.runs.collect import collect
from aggregate.runs.methods import Method, group
from aggregate.tables.shift import adaptations, shift
from aggregate.tables.table import Table

MakeRun = Callable[..., Path]


def shift_tables(methods: Sequence[Method]) -> list[Table]:
    return [table for table in (shift(methods), adaptations(methods)) if table]


def adapted(name: str, severity: int, gain: float) -> dict[str, Any]:
    batch = None if name == "source" else 200
    return {"adaptation": name, "batch_size": batch, "severity": severity, "accuracy": 0.6 + gain, "gain": gain}


def shift_run(
    make_run: MakeRun, subject: Path, seed: int, corrupted: float, gain: float, extrapolated: bool = False
) -> Path:
    robust = {"expected": 0.68, "value": 0.02, "extrapolated": extrapolated}
    found = {
        "clean": {"n": 360, "accuracy": 0.9, "ece": 0.05},
        "corrupted": {"corruptions": 5, "severities": [1, 5], "accuracy": corrupted, "drop": 0.9 - corrupted},
        "adaptations": [adapted("source", 5, 0.0), adapted("tent", 1, 0.01), adapted("tent", 5, gain)],
        "sets": [
            {"images": "cifar10_1_v6", "severity": 0, "accuracy": 0.7, "drop": 0.2, "effective_robustness": robust}
        ],
    }
    digest = f"w-{subject.name}"
    return make_run(
        entry="eval_shift",
        seed=seed,
        run={"run": subject.name, "digest": digest},
        parts={"subject": {"run": subject.name, "digest": digest}, "shift": found},
    )


def test_shift_by_hand(make_run: MakeRun) -> None:
    subjects = [make_run(seed=seed) for seed in (0, 1)]
    tests = [
        shift_run(make_run, s, n, c, g)
        for n, (s, c, g) in enumerate(zip(subjects, (0.6, 0.7), (0.1, 0.3), strict=True))
    ]
    shift, adaptation = shift_tables(group(collect([*subjects, *tests])[0]))
    row, other = shift.rows
    assert (row["method"], row["n"], row["severities"]) == ("train_cnn adaptive_cnn", 2, "1 5")
    assert row["runs"] == " ".join(test.name for test in tests)
    assert (row["images"], row["corruptions"]) == ("corrupted", 5)
    assert (row["clean_mean"], row["shifted_mean"], row["drop_mean"]) == pytest.approx((0.9, 0.65, 0.25))
    assert (other["images"], other["corruptions"]) == ("cifar10_1_v6", None)
    assert (other["shifted_mean"], other["drop_mean"], other["robustness_mean"]) == pytest.approx((0.7, 0.2, 0.02))
    (row,) = adaptation.rows
    assert (row["adaptation"], row["severity"], row["n"]) == ("tent", 5, 2), "the highest severity, and not the source"
    assert (row["gain_mean"], row["gain_std"]) == pytest.approx((0.2, 0.02**0.5))
    assert all(table.cells() for table in (shift, adaptation))


@pytest.mark.parametrize(
    ("extrapolated", "said"),
    [
        ((False, False), None),
        ((True, True), "a: clean accuracy outside the 82 to 97 %"),
        ((True, False), "a: 1 of 2 runs: clean accuracy outside"),
    ],
)
def test_extrapolated_robustness_is_marked(extrapolated: Any, said: str | None, make_run: MakeRun) -> None:
    subjects = [make_run(seed=seed) for seed in (0, 1)]
    tests = [shift_run(make_run, s, n, 0.6, 0.1, extrapolated[n]) for n, s in enumerate(subjects)]
    table, _ = shift_tables(group(collect([*subjects, *tests])[0]))
    assert [row["notes"] for row in table.rows] == ["", "a" if said else ""]
    assert [note.startswith(str(said)) for note in table.notes] == ([True] if said else [])


@pytest.mark.parametrize("cell", [{"images": "x"}, {"images": "x", "accuracy": "high", "effective_robustness": [1]}, 3])
def test_cells_of_no_sense_do_no_harm(cell: Any, make_run: MakeRun) -> None:
    subject = make_run()
    folder = shift_run(make_run, subject, 0, 0.6, 0.2)
    result = json.loads((folder / "result.json").read_text())
    result["shift"] |= {"sets": [cell], "adaptations": [cell], "corrupted": "none"}
    (folder / "result.json").write_text(json.dumps(result))
    (table,) = shift_tables(group(collect([subject, folder])[0]))
    assert table.rows[0]["shifted_mean"] is None
    assert table.cells()


def test_what_is_not_tested_yet_is_shown(make_run: MakeRun) -> None:
    subject = make_run()
    cells = [AskedRun("cnn", (), 0, subject, "done"), AskedRun("shift", (("of", "cnn"),), 0, None, "queued")]
    (shift,) = shift_tables(group(collect([subject])[0], cells))
    assert (shift.rows[0]["method"], shift.rows[0]["n"], shift.rows[0]["unfinished"]) == ("cnn", 0, "1 queued")


def test_runs_without_corruption_leave_gaps(make_run: MakeRun) -> None:
    subject = make_run()
    folder = shift_run(make_run, subject, 0, 0.6, 0.2)
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text.replace('"corrupted": {', '"corrupted": null, "unread": {'))
    shift, *_ = shift_tables(group(collect([subject, folder])[0]))
    assert shift.rows[0]["images"] == "cifar10_1_v6"


def test_without_tests_under_shift_there_are_no_tables(make_run: MakeRun) -> None:
    assert shift_tables(group(collect([make_run()])[0])) == []
