from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

import aggregate.tables.comparisons
from aggregate.inference.verdicts import holm
from aggregate.runs.collect import collect
from aggregate.runs.methods import Method, group
from aggregate.tables.comparisons import comparisons, right_answers

MakeRun = Callable[..., Path]


def methods_of(make_run: MakeRun, *accuracies: Sequence[float], **given: Any) -> list[Method]:
    """Each with its own number of epochs, over seeds from 0."""
    folders = [
        make_run(seed=seed, accuracy=accuracy, recipe={"epochs": place + 1}, **given)
        for place, values in enumerate(accuracies)
        for seed, accuracy in enumerate(values)
    ]
    return group(collect(folders)[0])


def rows_of(methods: Sequence[Method]) -> list[Any]:
    table = comparisons(methods)
    return list(table.rows) if table else []


HIGH, LOW = (0.95, 0.951, 0.949, 0.952), (0.90, 0.902, 0.899, 0.90)


def test_a_pair_is_compared_by_seed(make_run: MakeRun) -> None:
    (row,) = rows_of(methods_of(make_run, HIGH, LOW))
    expected = scipy.stats.ttest_rel(HIGH, LOW)
    assert row["p_t"] == row["p_holm"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((interval.low, interval.high))
    assert row["p_signs"] == 2 / 16
    assert (row["n"], row["verdict"], row["more_seeds"]) == (4, "better", None)


def test_seeds_that_one_side_lacks_are_not_counted(make_run: MakeRun) -> None:
    (row,) = rows_of(methods_of(make_run, (*HIGH, 0.1), LOW))
    assert row["n"] == 4
    assert row["difference"] == pytest.approx(np.mean(HIGH) - np.mean(LOW))


def test_one_common_seed_is_no_verdict(make_run: MakeRun) -> None:
    (row,) = rows_of(methods_of(make_run, HIGH, LOW[:1]))
    assert (row["n"], row["p_t"], row["verdict"]) == (1, None, "?")


def test_no_common_seed_is_no_verdict(make_run: MakeRun) -> None:
    folders = [make_run(seed=0), make_run(seed=1, recipe={"epochs": 1})]
    (row,) = rows_of(group(collect(folders)[0]))
    assert (row["n"], row["difference"], row["verdict"]) == (0, None, "?")


def test_all_pairs_of_a_table_are_corrected_together(make_run: MakeRun) -> None:
    rows = rows_of(methods_of(make_run, (0.95, 0.93, 0.96), (0.94, 0.93, 0.95), (0.90, 0.92, 0.91)))
    assert len(rows) == 3
    assert [row["p_holm"] for row in rows] == pytest.approx(holm([row["p_t"] for row in rows]))
    assert any(row["p_holm"] > row["p_t"] for row in rows)
    assert all(row["more_seeds"] is not None for row in rows if row["verdict"] == "≈")


def test_other_images_are_not_compared(make_run: MakeRun) -> None:
    data = {"name": "digits", "digest": "d2", "task": "multi-class", "split_digest": "s1"}
    folders = [make_run(seed=0), make_run(seed=1, parts={"data": data})]
    assert rows_of(group(collect(folders)[0])) == []


def test_a_comparison_across_commits_says_so(make_run: MakeRun) -> None:
    folders = [make_run(seed=0), make_run(seed=0, recipe={"epochs": 1}, commit="f" * 40)]
    (row,) = rows_of(group(collect(folders)[0]))
    assert row["differ"] == "commit"


def test_of_too_many_methods_each_is_compared_with_the_best_on_validation(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregate.tables.comparisons, "MOST_PAIRS", 2)
    validation = {"n": 100, "accuracy": 1.0}
    folders = [make_run(accuracy=0.99, recipe={"epochs": epochs}) for epochs in (1, 2)]
    folders.append(make_run(accuracy=0.5, recipe={"epochs": 3}, parts={"val": validation}))
    table = comparisons(group(collect(folders)[0]))
    assert table
    assert [row["first"] for row in table.rows] == ["train_cnn adaptive_cnn recipe.epochs=3"] * 2
    assert "the highest validation accuracy" in table.caption


# --- on the test images -----------------------------------------------------------------------------------------


def right(n: int, wrong: Sequence[int]) -> np.ndarray:
    answers = np.ones(n, dtype=bool)
    answers[list(wrong)] = False
    return answers


def test_mcnemar_counts_what_only_one_got_right(make_run: MakeRun) -> None:
    one = make_run(right=right(40, [0, 1, 2]))
    other = make_run(right=right(40, [2, *range(10, 20)]), recipe={"epochs": 1})
    (row,) = rows_of(group(collect([one, other])[0]))
    assert row["p_images"] == pytest.approx(scipy.stats.binomtest(2, 12).pvalue)


def test_without_the_predictions_of_every_common_seed_there_is_no_p(make_run: MakeRun) -> None:
    folders = [make_run(seed=s, recipe={"epochs": e}, right=right(9, [s])) for s in (0, 1) for e in (1, 2)]
    assert rows_of(group(collect(folders)[0]))[0]["p_images"] == 1.0
    right_answers.cache_clear()
    (folders[0] / "predictions" / "test.npz").write_bytes(b"PK\x03\x04 and then nothing")
    assert rows_of(group(collect(folders)[0]))[0]["p_images"] is None


def test_other_test_images_have_no_common_answers(make_run: MakeRun) -> None:
    folders = [make_run(recipe={"epochs": n}, right=right(n, [])) for n in (8, 9)]
    assert rows_of(group(collect(folders)[0]))[0]["p_images"] is None


@pytest.mark.parametrize("labels", [np.zeros((4, 2), dtype=int), np.zeros(3, dtype=int)])
def test_answers_that_cannot_be_right_or_wrong(labels: np.ndarray, make_run: MakeRun) -> None:
    folder = make_run(right=right(4, []))
    np.savez(folder / "predictions" / "test.npz", logits=np.zeros((4, 2)), labels=labels)
    assert right_answers(folder) is None
