"""The predictions of a model are shown on a terminal, piped to other programs, and written to files."""

import csv
import io
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import atomic_write, write_json
from common.run.finished import TrainedRun
from common.settings import messages

if TYPE_CHECKING:
    import numpy as np

SHORTEST_NAME = 20  # of a file, where the terminal is narrow
GAP = "  "


@dataclass(frozen=True)
class Predictions:
    files: Sequence[str]
    classes: Sequence[str]
    probabilities: "np.ndarray"  # (n, classes)
    thresholds: "np.ndarray | None"  # (classes,) above which a label is given; None: one class for each image

    def __iter__(self) -> Iterator[tuple[str, list[int], list[int], "np.ndarray"]]:
        """Yield each file, the classes it is given and the others, both most probable first, and all probabilities."""
        for file, row in zip(self.files, self.probabilities, strict=True):
            falling = (-row).argsort(kind="stable").tolist()
            chosen = falling[:1] if self.thresholds is None else [c for c in falling if row[c] > self.thresholds[c]]
            yield file, chosen, [c for c in falling if c not in chosen], row


def thresholds_of(trained: TrainedRun) -> "np.ndarray | None":
    """Return a multi-label task's thresholds, as chosen on validation, else a half for each; None of other tasks."""
    import numpy as np

    if trained.data["task"] != "multi-label":
        return None
    halves = [0.5] * len(trained.data["classes"])
    return np.asarray((trained.result["val"] or {}).get("thresholds", halves))


def as_table(predictions: Predictions, top: int) -> str:
    """Align the columns, as wide as the terminal where the names of the files allow it."""
    several = predictions.thresholds is not None
    heads = ["labels", "next guesses"] if several else ["class", "probability", "next guesses"]
    rows = []
    for _, chosen, others, row in predictions:
        best = [predictions.classes[chosen[0]], f"{row[chosen[0]]:.1%}"] if not several else []
        labels = [_named(predictions, chosen, row)] if several else []
        rows.append([*best, *labels, _named(predictions, others[: max(top - len(chosen), 0)], row)])

    # Names of files get the room that the other columns leave.
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    room = shutil.get_terminal_size().columns - sum(widths) - len(GAP) * len(widths)
    files = ["file", *_shortened(predictions.files, max(room, SHORTEST_NAME))]
    widths = [max(map(len, files)), *widths]
    lines = ([file, *texts] for file, texts in zip(files, [heads, *rows], strict=True))
    return "\n".join(GAP.join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _named(predictions: Predictions, classes: Iterable[int], row: "np.ndarray") -> str:
    return ", ".join(f"{predictions.classes[c]} ({row[c]:.1%})" for c in classes) or "-"


def _shortened(files: Sequence[str], longest: int) -> list[str]:
    names = [messages.one_line(file) for file in files]
    return [name if len(name) <= longest else f"…{name[1 - longest :]}" for name in names]


def as_lines(predictions: Predictions, top: int) -> str:
    """Put fields between tabs under a line of names, nothing shortened: for cut, sort and awk."""
    several, top = predictions.thresholds is not None, min(top, len(predictions.classes))
    heads = [f"{name}_{place}" for place in range(1, top + 1) for name in ("class", "probability")]
    lines = [["file", *(["labels"] if several else []), *heads]]
    for file, chosen, others, row in predictions:
        falling = sorted([*chosen, *others], key=lambda c: -row[c])[:top]
        guesses = [text for c in falling for text in (predictions.classes[c], f"{row[c]:.6f}")]
        labels = ["; ".join(predictions.classes[c] for c in chosen)] if several else []
        lines.append([file, *labels, *guesses])
    return "\n".join("\t".join(map(messages.one_line, line)) for line in lines)


def write(path: Path, predictions: Predictions, about: Mapping[str, Any]) -> None:
    """Write every probability, as CSV or as JSON."""
    if path.suffix == ".csv":
        with atomic_write(path) as file:
            file.write(_as_csv(predictions))
    else:
        write_json(path, {**about, **_as_tree(predictions)})


def _as_csv(predictions: Predictions) -> bytes:
    several = predictions.thresholds is not None
    heads = ["file", "labels"] if several else ["file", "class", "probability"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*heads, *(f"p({name})" for name in predictions.classes)])
    for file, chosen, _, row in predictions:
        names = "; ".join(predictions.classes[c] for c in chosen)  # names of diseases have commas
        first = [] if several else [f"{row[chosen[0]]:.7g}"]
        writer.writerow([file, names, *first, *(f"{p:.7g}" for p in row)])
    return text.getvalue().encode(errors="surrogateescape")  # a file's name need not be text


def _as_tree(predictions: Predictions) -> dict[str, Any]:
    several = predictions.thresholds is not None
    images = []
    for file, chosen, _, row in predictions:
        names = [predictions.classes[c] for c in chosen]
        said = {"labels": names} if several else {"class": names[0], "probability": float(row[chosen[0]])}
        probabilities = dict(zip(predictions.classes, row.tolist(), strict=True))
        images.append({"file": file, **said, "probabilities": probabilities})
    thresholds = None if predictions.thresholds is None else predictions.thresholds.tolist()
    return {"thresholds": thresholds, "images": images}
