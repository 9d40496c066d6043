from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregate.runs.histories import NO_TURN, Learning, Losses, pattern, read_learning, smoothed, turning_point

FALLS = [2.0, 1.6, 1.3, 1.1, 0.9, 0.7, 0.6, 0.5, 0.4, 0.3]


def losses(val: Sequence[float], train: Sequence[float] = FALLS) -> Losses:
    return dict(enumerate(zip(train, val, strict=False), start=1))


HAND_MADE = {  # validation loss beside FALLS -> turning point, pattern
    "turns": ([2.0, 1.5, 1.2, 1.0, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4], 5, "diverging"),
    "follows": ([2.0, 1.7, 1.4, 1.2, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6], NO_TURN, "falling"),
    "stays": ([2.0, 1.5, 1.2, 1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9], NO_TURN, "level"),
    "rises by less than 5 %": ([2.0, 1.5, 1.2, 1.0, 0.9, 0.9, 0.91, 0.92, 0.93, 0.93], NO_TURN, "level"),
    "one epoch astray": ([2.0, 1.5, 1.2, 1.0, 0.9, 5.0, 0.9, 0.9, 0.9, 0.9], NO_TURN, "level"),
    "the last epoch astray": ([2.0, 1.5, 1.2, 1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 5.0], NO_TURN, "level"),
    "rises and comes back": ([1.0, 0.9, 0.8, 1.2, 1.4, 1.2, 0.9, 0.8, 0.8, 0.8], NO_TURN, "level"),
    "turns twice": ([1.0, 0.8, 1.2, 1.4, 1.2, 0.8, 0.7, 0.9, 1.0, 1.1], 7, "diverging"),
    "near 0": ([0.1, 0.05, 0.02, 0.01, 0.004, 0.004, 0.005, 0.006, 0.007, 0.008], NO_TURN, "level"),
    "rises from the first": ([0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4], 1, "diverging"),
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_histories(name: str) -> None:
    val, turn, said = HAND_MADE[name]
    assert turning_point(losses(val)) == turn
    assert pattern(losses(val), turn) == said


def test_training_that_fell_apart_did_not_leave_validation_behind() -> None:
    both = [2.0, 1.5, 1.2, 1.0, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4]
    assert turning_point(losses(both, both)) == NO_TURN


@given(st.floats(0, 5))
def test_a_training_loss_that_augmentation_raises_changes_nothing(raised: float) -> None:
    """Nor do mixed labels: only whether it falls is looked at."""
    for val, turn, _ in HAND_MADE.values():
        assert turning_point(losses(val, [loss + raised for loss in FALLS])) == turn


@given(st.lists(st.floats(0.1, 5), min_size=5, max_size=40))
def test_the_turning_point_is_an_epoch_that_the_end_lies_above(val: list[float]) -> None:
    train = [1.0 - epoch / 100 for epoch in range(len(val))]
    turn = turning_point(losses(val, train))
    assert turn is not None
    if turn != NO_TURN:
        assert turn <= len(val)
        assert val[turn - 1] < sorted(val[-3:])[1]


@pytest.mark.parametrize("epochs", [0, 1, 4])
def test_too_short_to_tell(epochs: int) -> None:
    short = losses([1.0, 2.0, 3.0, 4.0][:epochs])
    assert turning_point(short) is None
    assert pattern(short, None) is None


def test_medians_of_three_by_hand() -> None:
    assert smoothed([5, 1, 4, 2, 9]) == [4, 4, 2, 4, 4]
    assert smoothed([3, 1]) == [2, 2]
    assert smoothed([]) == []


# --- files ------------------------------------------------------------------------------------------------------


def write(path: Path, rows: Sequence[str]) -> Path:
    path.write_text("\n".join(["epoch,train_loss,val_loss,val_accuracy", *rows]) + "\n")
    return path


TURNS = [f"{epoch},{train},{val},0.5" for epoch, (train, val) in losses(HAND_MADE["turns"][0]).items()]


def test_read_from_a_file(tmp_path: Path) -> None:
    learning = read_learning(write(tmp_path / "h.csv", TURNS), 5)
    assert (learning.turning_point, learning.pattern) == (5, "diverging")
    assert learning.chosen == {"epoch": 5, "train_loss": 0.9, "val_loss": 0.9, "val_accuracy": 0.5}
    assert learning.last["val_loss"] == 1.4


def test_epochs_that_were_done_again_count_as_the_later_attempt_did_them(tmp_path: Path) -> None:
    lost = ["4,1.1,9.0,0.1", "5,0.9,9.0,0.1"]
    assert read_learning(write(tmp_path / "h.csv", [*TURNS[:3], *lost, *TURNS[3:]]), 5).turning_point == 5


def test_epochs_without_validation_are_passed_over(tmp_path: Path) -> None:
    most = [row if place not in {1, 6} else f"{place + 1},0.5,," for place, row in enumerate(TURNS)]
    assert read_learning(write(tmp_path / "h.csv", most), 5).turning_point == 5
    none = read_learning(write(tmp_path / "h.csv", [f"{epoch},0.5,," for epoch in range(9)]), 5)
    assert (none.turning_point, none.pattern) == (None, None)
    assert none.last == {"epoch": 8, "train_loss": 0.5}


@pytest.mark.parametrize("row", ["6,nan,0.2,0.5", "6,0.7,inf,0.5", "six,0.7,0.2,0.5", "6", ""])
def test_rows_that_are_no_numbers_are_passed_over(row: str, tmp_path: Path) -> None:
    rows = [*TURNS[:5], row, *TURNS[6:]]
    assert read_learning(write(tmp_path / "h.csv", rows), 5).turning_point == 5


def test_no_file_tells_nothing(tmp_path: Path) -> None:
    assert read_learning(tmp_path / "none.csv", 5) == Learning()
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    assert read_learning(tmp_path / "bytes.csv", 5) == Learning()
    assert read_learning(write(tmp_path / "h.csv", TURNS), None).chosen == {}
