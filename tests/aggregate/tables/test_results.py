from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from aggregate.runs.collect import collect
from aggregate.runs.methods import estimate, group
from aggregate.runs.origins import between, differences, mixed, row_notes
from aggregate.tables.costs import cost, efficiency
from aggregate.tables.overfitting import overfitting
from aggregate.tables.results import FEWEST_FOR_BOOTSTRAP, summary
from aggregate.tables.table import Table

MakeRun = Callable[..., Path]


def table_of(make: Callable[..., Table | None], *folders: Path) -> Table:
    table = make(group(collect(folders)[0]))
    assert table
    return table


def row_of(make: Callable[..., Table | None], *folders: Path) -> Any:
    (row,) = table_of(make, *folders).rows
    return row


def test_summary_by_hand(make_run: MakeRun) -> None:
    row = row_of(summary, *(make_run(seed=seed, accuracy=a) for seed, a in enumerate((0.90, 0.92, 0.94))))
    assert (row["n"], row["seeds"], row["test_images"]) == (3, "0 1 2", 360)
    assert row["accuracy_mean"] == pytest.approx(0.92)
    assert row["accuracy_std"] == pytest.approx(0.02)
    assert row["accuracy_low"] == pytest.approx(0.92 - 4.302653 * 0.02 / 3**0.5)
    assert row["test_set_error"] == pytest.approx((0.92 * 0.08 / 360) ** 0.5)
    assert row["iqm"] == pytest.approx(0.92)
    assert row["iqm_low"] is None, "three values are too few to draw from"
    assert row["parameters"] == 1000


def test_only_many_runs_have_a_bootstrap_interval(make_run: MakeRun) -> None:
    folders = [make_run(seed=seed, accuracy=0.90 + seed / 1000) for seed in range(FEWEST_FOR_BOOTSTRAP)]
    row = row_of(summary, *folders)
    assert 0.90 <= row["iqm_low"] < row["iqm"] < row["iqm_high"] <= 0.915
    assert row_of(summary, *folders[1:])["iqm_low"] is None, "one too few"


def test_one_run_has_no_spread_and_no_interval(make_run: MakeRun) -> None:
    table = table_of(summary, make_run())
    (row,) = table.rows
    assert (row["accuracy_std"], row["accuracy_low"], row["accuracy_high"]) == (None, None, None)
    assert "90.00" in table.cells()[0]
    assert "none for n = 1" in table.caption


def test_no_interval_leaves_what_is_possible() -> None:
    high = estimate("a", [0.99, 1.0], bounded=True)
    assert high["a_high"] == 1.0
    assert estimate("a", [0.99, 1.0])["a_high"] == pytest.approx(scipy.stats.t.interval(0.95, 1, 0.995, 0.005)[1])


def test_several_labels_have_no_error_of_one_share(make_run: MakeRun) -> None:
    data = {"name": "digits", "digest": "d1", "task": "multi-label", "split_digest": "s1"}
    assert row_of(summary, make_run(parts={"data": data}))["test_set_error"] is None


# --- nothing is mixed silently ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"commit": "f" * 40}, "differs in commit: 3a71f28860 (2), ffffffffff (1)"),
        ({"commit": None}, "differs in commit: 3a71f28860 (2), unknown (1)"),
        ({"dirty": True}, "differs in uncommitted changes: no (2), yes (1)"),
        ({"container": "sha256:1"}, "differs in container image: none (2), sha256:1 (1)"),
        ({"container": {"content": "ab" * 32}}, "differs in container image: none (2), ababababab (1)"),
    ],
)
def test_runs_of_different_origin_are_marked(odd: dict[str, Any], said: str, make_run: MakeRun) -> None:
    folders = [make_run(seed=0), make_run(seed=1), make_run(seed=2, **odd)]
    table = table_of(summary, *folders)
    assert table.notes == [f"a: {said}"]
    assert table.rows[0]["notes"] == "a"
    assert table.cells()[0][-1] == "a"


def test_images_are_told_apart_by_what_is_in_them(make_run: MakeRun) -> None:
    """Docker's image and the file made of it have the same content; a checkout bound over it has not."""
    image = {"content": "ab" * 32, "digest": "1", "image": "stillhouse"}
    folders = [make_run(seed=0, container=image), make_run(seed=1, container=image | {"digest": "2", "image": "a.sif"})]
    assert table_of(summary, *folders).notes == []
    bound = make_run(seed=2, container=image | {"bound_checkout": True})
    said = "a: differs in container image: ababababab (2), ababababab with a checkout's code (1)"
    assert table_of(summary, *folders, bound).notes == [said]


def test_runs_in_an_image_of_another_commit_are_marked(make_run: MakeRun) -> None:
    image = {"content": "c0ffee", "started_by": "b27d227" + "0" * 33}
    table = table_of(summary, make_run(seed=0, container=image), make_run(seed=1, container=image))
    said = "run in a container of commit 3a71f28860, started by a checkout of commit b27d227000 (2)"
    assert table.notes == [f"a: {said}"]


def test_runs_of_one_origin_are_not(make_run: MakeRun) -> None:
    table = table_of(summary, make_run(seed=0), make_run(seed=1))
    assert table.notes == []
    assert "notes" not in [column.heading for column in table.columns]


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ({"dirty": True}, "run from a working copy with uncommitted changes, which are in no commit"),
        ({"commit": None, "dirty": None}, "of unknown code: no commit is recorded"),
    ],
)
def test_code_that_nobody_can_look_up_is_marked(origin: dict[str, Any], said: str, make_run: MakeRun) -> None:
    assert mixed(collect([make_run(seed=0, **origin), make_run(seed=1, **origin)])[0]) == [said]


def test_methods_of_different_commits_are_told(make_run: MakeRun) -> None:
    one, other = collect([make_run(seed=0), make_run(seed=1, commit="f" * 40)])[0]
    assert between([[one], [other]]) == ["The rows differ in commit: 3a71f28860, ffffffffff."]
    assert between([[one], [one]]) == []
    assert differences([one], [other]) == ["commit"]
    assert differences([one], [one]) == []


def test_the_caption_states_the_rule_of_selection(make_run: MakeRun) -> None:
    one = make_run(seed=0)
    chosen = {"rule": "last epoch", "epoch": 4, "digest": "w"}
    other = make_run(seed=1, parts={"selection": chosen})
    assert "Weights: highest validation accuracy, then" in table_of(summary, one).caption
    both = table_of(summary, one, other)
    assert "Weights by different rules" in both.caption
    assert "weights: last epoch" in " ".join(both.notes)
    assert len(both.rows) == 2


def test_row_notes_of_no_runs() -> None:
    assert row_notes([()]) == [[]]


# --- other tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [summary, overfitting, cost, efficiency])
def test_no_methods_no_table(make: Callable[..., Table | None]) -> None:
    assert make([]) is None


@pytest.mark.parametrize("strange", [[], {"x": 1}, "many", None])
def test_a_strange_number_of_parameters_is_a_gap(strange: Any, make_run: MakeRun) -> None:
    table = summary(group(collect([make_run(parts={"model": {"name": "vit", "parameters": strange}})])[0]))
    assert table
    assert table.rows[0]["parameters"] is None
