import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aggregate.runs.collect import collect, read_run
from aggregate.runs.methods import group
from aggregate.tables.costs import cost, efficiency, fronts, lost_seconds, spent_seconds
from aggregate.tables.table import Table

MakeRun = Callable[..., Path]
LOG = """\
2026-11-21 10:00:00,000 INFO run /runs/a
2026-11-21 10:00:10,000 INFO 2700 training and 300 validation images, on CPU, threads: 1
2026-11-21 10:00:30,000 INFO epoch 1/3: training loss 1.5943 accuracy 26.53%, 20.0 s
2026-11-21 10:00:50,000 INFO epoch 2/3: training loss 1.5943 accuracy 26.53%, 20.0 s
2026-11-21 10:01:00,000 ERROR failed (oom): out of memory
2026-11-21 11:00:00,000 INFO run /runs/a
2026-11-21 11:00:20,000 INFO epoch 2/3: training loss 1.5943 accuracy 26.53%, 15.0 s
2026-11-21 11:00:40,000 INFO epoch 3/3: training loss 1.5943 accuracy 26.53%, 15.0 s
"""


def table_of(make: Callable[..., Table | None], *folders: Path) -> Table:
    table = make(group(collect(folders)[0]))
    assert table
    return table


def tell(folder: Path, **facts: Any) -> Path:
    path = folder / "provenance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    return folder


# --- what was spent ---------------------------------------------------------------------------------------------


def test_cost_by_hand(make_run: MakeRun) -> None:
    parts = ({"epochs": 4, "train_seconds": 20.0}, {"epochs": 4, "train_seconds": 40.0})
    (row,) = table_of(cost, *(make_run(seed=seed, parts={"cost": part}) for seed, part in enumerate(parts))).rows
    assert row["seconds_mean"] == 30
    assert (row["device_hours"], row["lost_device_hours"]) == pytest.approx((60 / 3600, 0))
    assert row["train_images_per_sec"] == pytest.approx((200 + 100) / 2)
    assert (row["device"], row["attempts"]) == ("cpu", 2)


def test_devices_that_share_a_run_all_count(make_run: MakeRun) -> None:
    run = tell(make_run(), processes=4, device="cuda:0", gpu="H100")
    table = table_of(cost, run)
    assert table.rows[0]["device_hours"] == pytest.approx(4 * 20 / 3600)
    assert table.rows[0]["device"] == "H100"
    assert table.notes[0].startswith("In all 0.022 GPU-hours: 0.022 of the runs that count")


def test_what_a_failed_attempt_cost(make_run: MakeRun) -> None:
    """60 seconds, of which 20 were those of the first epoch: the second was done again."""
    folder = tell(make_run(), earlier_attempts=[{"started": "then"}], processes=2)
    (folder / "log.txt").write_text(LOG)
    table = table_of(cost, folder)
    assert lost_seconds(read_run(folder)) == 40
    assert table.rows[0]["lost_device_hours"] == pytest.approx(80 / 3600)
    assert table.rows[0]["attempts"] == 2


def test_runs_without_a_result_cost_all_of_their_time(make_run: MakeRun) -> None:
    failed = make_run(seed=1)
    (failed / "result.json").unlink()
    (failed / "log.txt").write_text(LOG)
    assert spent_seconds(failed) == 100
    table = cost(group(collect([make_run(seed=0)])[0]), [failed, failed.parent / "never"])
    assert table
    assert table.notes == [
        "In all 0.033 CPU-hours: 0.006 of the runs that count, tests under shift included, and 0.028 of failed "
        "attempts and of runs without a result."
    ]


@pytest.mark.parametrize(
    "log",
    [
        "",
        "no log at all\n",
        "2026-99-99 10:00:00,000 INFO run /runs/a\n",
        "2026-11-21 10:00:00,000 INFO run /a\n2026-11-21 09:00:00,000 INFO the clock was set back\n",
        "2026-11-21 10:00:00,000 INFO an end without a beginning\n2026-11-21 10:05:00,000 INFO more\n",
    ],
)
def test_a_log_that_tells_nothing_costs_nothing(log: str, make_run: MakeRun) -> None:
    folder = tell(make_run(), earlier_attempts=[{}])
    (folder / "log.txt").write_text(log)
    assert (spent_seconds(folder), lost_seconds(read_run(folder))) == (0, 0)


def test_a_run_that_never_failed_is_not_read_again(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "log.txt").write_text(LOG)
    assert lost_seconds(read_run(folder)) == 0


@pytest.mark.parametrize("facts", [{"processes": "two"}, {"processes": -1}, {"earlier_attempts": "many"}])
def test_foreign_provenance_does_no_harm(facts: dict[str, Any], make_run: MakeRun) -> None:
    (row,) = table_of(cost, tell(make_run(), **facts)).rows
    assert (row["device_hours"], row["attempts"]) == (pytest.approx(20 / 3600), 1)


# --- what it is worth -------------------------------------------------------------------------------------------


def made(make_run: MakeRun, epochs: int, accuracy: float, seconds: float, flops: int) -> Path:
    return make_run(
        accuracy=accuracy,
        recipe={"epochs": epochs},
        parts={
            "cost": {"epochs": 4, "train_seconds": seconds, "peak_gpu_memory_mb": 0.0},
            "model": {"name": "adaptive_cnn", "parameters": 1000, "flops": flops},
            "speed": {"latency_ms": 2.5, "images_per_sec": 400.0},
        },
    )


def test_efficiency_by_hand(make_run: MakeRun) -> None:
    folders = [
        made(make_run, 2, 0.90, 10.0, 900),
        made(make_run, 4, 0.95, 20.0, 800),
        made(make_run, 8, 0.94, 40.0, 100),
    ]
    table = table_of(efficiency, *folders)
    rows = {row["accuracy_mean"]: row for row in table.rows}
    assert {accuracy: row["front_in_training"] for accuracy, row in rows.items()} == {
        0.90: "yes",
        0.95: "yes",
        0.94: "",
    }
    assert {accuracy: row["front_in_use"] for accuracy, row in rows.items()} == {0.90: "", 0.95: "yes", 0.94: "yes"}
    best = rows[0.95]
    assert (best["latency_ms"], best["images_per_sec"], best["seconds_mean"]) == (2.5, 400, 20)
    assert best["device_hours_mean"] == pytest.approx(20 / 3600)
    assert best["peak_gpu_memory_mb"] is None, "none was used"
    assert all(table.cells())


def test_times_of_other_devices_are_not_on_one_front(make_run: MakeRun) -> None:
    slow = made(make_run, 2, 0.90, 100.0, 100)
    fast = tell(made(make_run, 4, 0.95, 1.0, 100), gpu="H100")
    assert [row["front_in_training"] for row in table_of(efficiency, slow, fast).rows] == ["yes", "yes"]


def test_without_a_known_cost_there_is_no_place_on_a_front() -> None:
    rows = [{"data": "a", "flops": None, "accuracy_mean": 1.0}, {"data": "a", "flops": 3, "accuracy_mean": 0.5}]
    assert fronts(rows, ("data",), "flops") == {1}
    assert fronts([*rows, {"data": "b", "flops": 9, "accuracy_mean": 0.1}], ("data",), "flops") == {1, 2}


@pytest.mark.parametrize("model", [{"name": "adaptive_cnn"}, {"name": "adaptive_cnn", "parameters": "many"}])
def test_a_result_of_few_words_leaves_gaps(model: dict[str, Any], make_run: MakeRun) -> None:
    (row,) = table_of(efficiency, make_run(parts={"model": model, "speed": None})).rows
    assert (row["parameters"], row["flops"], row["latency_ms"]) == (None, None, None)
