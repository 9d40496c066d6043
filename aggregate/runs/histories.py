"""This module reads history.csv: the numbers of the chosen and of the last epoch, and the turning point of validation.

Training and validation loss are not compared with each other. Strong augmentation, mixed labels and distillation raise
only the training loss, which may then lie above the validation loss from beginning to end. What can be seen is whether
validation loss still falls when training loss does.
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
    "Turning point: the epoch of the lowest validation loss, if by the end that loss is higher by more than 5 % and "
    "0.01 nats although the training loss fell further (medians of 3 epochs); -1: none; –: fewer than 5 epochs, or no "
    "validation. Pattern: diverging, with a turning point; falling, if validation loss fell by as much in the last "
    "fifth of the epochs, so that longer training may help; level, neither; mixed, if none of these holds for more "
    "than half of the runs."
)


@dataclass(frozen=True)
class Learning:
    """The history of one run, as far as tables need it; what the file does not tell is empty, or None."""

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
    """Return the columns of KEPT by epoch; if an epoch is there twice, its later row counts."""
    rows: dict[int, dict[str, float]] = {}
    try:
        with path.open(newline="") as file:
            lines = csv.reader(file)
            heads = next(lines, [])
            places = [(name, heads.index(name)) for name in KEPT if name in heads]

            # The last line may be half written: cells that are missing or no number are left out of its row.
            for line in lines:
                texts = {name: line[place] for name, place in places if place < len(line)}
                row = {name: number for name, text in texts.items() if (number := _number(text)) is not None}
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
    """Return the epoch from which validation loss no longer follows training loss, by RULE; None if it is too early."""
    if len(losses) < FEWEST_EPOCHS:
        return None

    epochs = sorted(losses)
    train = [losses[epoch][0] for epoch in epochs]
    val = [losses[epoch][1] for epoch in epochs]
    smooth_train, smooth_val = smoothed(train), smoothed(val)

    # Medians decide whether there is a turn, but they are flat: the raw losses name its epoch.
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
    windows = [_window(place, len(values)) for place in range(len(values))]
    return [statistics.median(values[window.start : window.stop]) for window in windows]


def _window(place: int, n: int) -> range:
    """Return the WINDOW places around one; at the ends, the first or the last ones."""
    start = min(max(0, place - WINDOW // 2), max(0, n - WINDOW))
    return range(start, min(n, start + WINDOW))
