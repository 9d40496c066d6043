"""What history.csv tells of a run's learning: the chosen and the last epoch, and whether validation turned.

Training and validation loss are not compared with each other: strong augmentation, mixed labels and distillation raise
the first alone, so that it may lie above the second from beginning to end. What can be seen is whether validation still
follows where training goes.
"""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NO_TURN = -1
FEWEST_EPOCHS = 5  # of fewer, a rise and an accident look alike
WINDOW = 3  # epochs of the median: one that went astray makes no turn
TOLERANCE = 0.05  # of the lowest validation loss
LEAST = 0.01  # nats: of a loss near 0, 5 % are nothing
LAST_PARTS = 5  # a fifth of the epochs

DIVERGING, FALLING, LEVEL, MIXED = "diverging", "falling", "level", "mixed"
RULE = (
    "Turning point: the epoch of the lowest validation loss, where by the end that loss is higher by more than 5 % and "
    "0.01 nats although the training loss fell further (medians of 3 epochs); -1: none; –: fewer than 5 epochs, or no "
    "validation. Pattern: diverging, with a turning point; falling, where validation loss fell by as much in the last "
    "fifth of the epochs, so that longer training may help; level, neither; mixed, where no one holds for more than "
    "half of the runs."
)


@dataclass(frozen=True)
class Learning:
    """Empty, and None, where the history does not tell."""

    chosen: Mapping[str, float] = field(default_factory=dict)  # numbers of the epoch whose weights were kept
    last: Mapping[str, float] = field(default_factory=dict)
    turning_point: int | None = None  # NO_TURN: none
    pattern: str | None = None


Losses = Mapping[int, tuple[float, float]]  # epoch -> training, validation


def read_learning(path: Path, chosen_epoch: Any) -> Learning:
    rows = _read(path)
    if not rows:
        return Learning()
    losses = {
        int(row["epoch"]): (row["train_loss"], row["val_loss"])
        for row in rows.values()
        if {"train_loss", "val_loss"} <= row.keys()
    }
    chosen = rows.get(chosen_epoch, {}) if isinstance(chosen_epoch, int) else {}
    turn = turning_point(losses)
    return Learning(chosen, rows[max(rows)], turn, pattern(losses, turn))


KEPT = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")


def _read(path: Path) -> dict[int, dict[str, float]]:
    """Rows by epoch, of KEPT; of an epoch that is there twice, the later one."""
    rows: dict[int, dict[str, float]] = {}
    try:
        with path.open(newline="") as file:
            lines = csv.reader(file)
            heads = next(lines, [])
            places = [(name, heads.index(name)) for name in KEPT if name in heads]
            for line in lines:
                told = {name: line[place] for name, place in places if place < len(line)}
                row = {name: number for name, text in told.items() if (number := _number(text)) is not None}
                if "epoch" in row:
                    rows[int(row["epoch"])] = row
    except (OSError, ValueError, csv.Error):
        return {}
    return rows


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


# --- the turning point ------------------------------------------------------------------------------------------


def turning_point(losses: Losses) -> int | None:
    """The epoch after which validation loss leaves training loss for good, by RULE; None where it is too early."""
    if len(losses) < FEWEST_EPOCHS:
        return None
    epochs = sorted(losses)
    train, val = ([losses[epoch][part] for epoch in epochs] for part in (0, 1))
    smooth_train, smooth_val = smoothed(train), smoothed(val)
    lowest = smooth_val.index(min(smooth_val))
    rose = smooth_val[-1] - smooth_val[lowest] > _enough(smooth_val[lowest])
    if not rose or smooth_train[-1] >= smooth_train[lowest]:
        return NO_TURN
    return epochs[min(_window(lowest, len(val)), key=lambda place: val[place])]


def pattern(losses: Losses, turn: int | None) -> str | None:
    if turn is None:
        return None
    if turn != NO_TURN:
        return DIVERGING
    val = smoothed([losses[epoch][1] for epoch in sorted(losses)])
    before = val[-1 - max(WINDOW - 1, len(val) // LAST_PARTS)]  # at least so far that it is another median
    return FALLING if before - val[-1] > _enough(val[-1]) else LEVEL


def _enough(loss: float) -> float:
    return max(TOLERANCE * abs(loss), LEAST)


def smoothed(values: Sequence[float]) -> list[float]:
    return [statistics.median(values[each] for each in _window(place, len(values))) for place in range(len(values))]


def _window(place: int, n: int) -> range:
    """Of the places around that one; at the ends the first, or the last."""
    start = min(max(0, place - WINDOW // 2), max(0, n - WINDOW))
    return range(start, min(n, start + WINDOW))
