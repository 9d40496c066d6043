"""These tables are of eval_shift runs: what corruption and other sets cost each method, what adaptation brings back."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aggregate.runs.collect import Run
from aggregate.runs.methods import Method, estimate, mean_of, run_names
from aggregate.runs.origins import row_notes
from aggregate.tables.runs import unfinished_text
from aggregate.tables.table import Column, Table, footnotes, number, percent_interval, percent_spread, text

CORRUPTED = "corrupted"
INTERVAL = (
    "Mean ± standard deviation over n runs; 95 % interval of the mean by Student's t (none for n = 1, or where all "
    "runs are equal)."
)
EXTRAPOLATED = "clean accuracy outside the 82 to 97 % that the published line was fitted on: do not rely on it"


def _tested(methods: Sequence[Method]) -> list[Method]:
    return [method for method in methods if method.entry == "eval_shift"]


# --- on shifted images ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shifted:
    """The results of one run on shifted images, as shares; what the file does not tell is None."""

    run: Run
    clean: float | None
    accuracy: float | None
    drop: float | None
    robustness: float | None = None  # accuracy beyond that of published models of this clean accuracy
    expected: float | None = None  # theirs
    extrapolated: bool = False


def shift(methods: Sequence[Method]) -> Table | None:
    tested = _tested(methods)
    if not tested:
        return None

    # A row for each method and set of images; its notes depend on all rows.
    groups = [(method, images, shifted) for method in tested for images, shifted in _by_images(method).items()]
    origin_notes = row_notes([[result.run for result in shifted] for _, _, shifted in groups])
    marks, notes = footnotes(
        [[*of_row, *_warnings(shifted)] for (_, _, shifted), of_row in zip(groups, origin_notes, strict=True)]
    )
    rows = [{**_shift_row(*group), "notes": mark} for group, mark in zip(groups, marks, strict=True)]

    caption = (
        "Accuracy in % on the clean test images and on shifted ones, and the drop between them in points. Corrupted: "
        "mean over corruptions and severities; other sets by their names. Effective robustness: on CIFAR-10.1, what "
        "lies above the accuracy of published models that are as good on CIFAR-10, in points (30 models, by a line in "
        f"probits). {INTERVAL} Weights as the method's own run chose them."
    )
    return Table("shift", "Under shift", caption, _columns(rows), rows, notes)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns that are printed: those that no row fills are left out."""

    def if_any(key: str, *columns: Column) -> Sequence[Column]:
        return columns if any(row[key] not in {None, ""} for row in rows) else ()

    robustness = percent_spread("effective robustness", "robustness")
    return [
        *(text("data", "data"), text("method", "method"), text("images", "images"), number("n", "n", "d")),
        *if_any("unfinished", text("not finished", "unfinished")),
        percent_spread("clean", "clean"),
        percent_spread("shifted", "shifted"),
        percent_interval("95 % interval", "shifted"),
        percent_spread("drop", "drop"),
        percent_interval("95 % interval", "drop"),
        *if_any("robustness_mean", robustness, percent_interval("95 % interval", "robustness")),
        *if_any("corruptions", number("corruptions", "corruptions", "d"), text("severities", "severities")),
        *if_any("notes", text("notes", "notes")),
    ]


def _by_images(method: Method) -> dict[str, list[Shifted]]:
    """Group results by the images that they are of; clean ones alone, or none at all, have no name."""
    groups: dict[str, list[Shifted]] = {}
    for run in method.runs:
        if isinstance(run.fact("shift.corrupted"), Mapping):
            groups.setdefault(CORRUPTED, []).append(_corrupted(run))
        for cell in _cells(run, "shift.sets"):
            groups.setdefault(_set_name(cell), []).append(_set(run, cell))
    untested = [Shifted(run, _share(run.fact("shift.clean.accuracy")), None, None) for run in method.runs]
    return groups or {"": untested}


def _corrupted(run: Run) -> Shifted:
    corrupted = run.fact("shift.corrupted")
    clean = _share(run.fact("shift.clean.accuracy"))
    return Shifted(run, clean, _share(corrupted.get("accuracy")), _share(corrupted.get("drop")))


def _set(run: Run, cell: Mapping[str, Any]) -> Shifted:
    line = cell.get("effective_robustness")
    robust: Mapping[str, Any] = line if isinstance(line, Mapping) else {}
    return Shifted(
        run,
        _share(run.fact("shift.clean.accuracy")),
        _share(cell.get("accuracy")),
        _share(cell.get("drop")),
        _share(robust.get("value")),
        _share(robust.get("expected")),
        robust.get("extrapolated") is True,
    )


def _share(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1 else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _spaced(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else ""


def _set_name(cell: Mapping[str, Any]) -> str:
    at = f" {cell.get('corruption')} {cell['severity']}" if cell.get("severity") else ""
    return f"{cell.get('images')}{at}"


def _warnings(shifted: Sequence[Shifted]) -> list[str]:
    outside = sum(result.extrapolated for result in shifted)
    of = "" if outside == len(shifted) else f"{outside} of {len(shifted)} runs: "
    return [f"{of}{EXTRAPOLATED}"] if outside else []


def _shift_row(method: Method, images: str, shifted: Sequence[Shifted]) -> dict[str, Any]:
    corrupted = shifted[0].run.fact("shift.corrupted") if images == CORRUPTED else {}
    return {
        "data": method.data,
        "method": method.label,
        "images": images,
        "n": len(shifted),
        "unfinished": unfinished_text(method),
        # Drops and robustness may be negative, so that only accuracies are bounded.
        **estimate("clean", _known(result.clean for result in shifted), bounded=True),
        **estimate("shifted", _known(result.accuracy for result in shifted), bounded=True),
        **estimate("drop", _known(result.drop for result in shifted)),
        **estimate("robustness", _known(result.robustness for result in shifted)),
        "expected": mean_of([result.expected for result in shifted]),
        "extrapolated": sum(result.extrapolated for result in shifted),
        "corruptions": _whole(corrupted.get("corruptions")),
        "severities": _spaced(corrupted.get("severities")),
        "runs": run_names(result.run for result in shifted),
    }


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


# --- adaptation -------------------------------------------------------------------------------------------------


def adaptations(methods: Sequence[Method]) -> Table | None:
    rows = [row for method in _tested(methods) for row in _adaptation_rows(method)]
    if not rows:
        return None

    caption = (
        "What adapting to the test images, without their labels, brings at the highest severity it was tried at: "
        f"accuracy in %, and the gain over the source model in points. {INTERVAL}"
    )

    columns = [
        text("data", "data"),
        text("method", "method"),
        text("adaptation", "adaptation"),
        number("batch", "batch_size", "d"),
        number("severity", "severity", "d"),
        number("n", "n", "d"),
        percent_spread("accuracy", "accuracy"),
        percent_spread("gain", "gain"),
        percent_interval("95 % interval", "gain"),
    ]
    return Table("adaptation", "Adaptation", caption, columns, rows)


def _adaptation_rows(method: Method) -> Iterator[dict[str, Any]]:
    # What each run reached: an adaptation counts by itself at every size of batch and every severity.
    groups: dict[tuple[Any, ...], list[tuple[Run, float, float]]] = {}
    for run in method.runs:
        for cell in _cells(run, "shift.adaptations"):
            accuracy, gain = _share(cell.get("accuracy")), _share(cell.get("gain"))
            severity = _whole(cell.get("severity"))
            if severity and accuracy is not None and gain is not None:
                key = (str(cell.get("adaptation")), _whole(cell.get("batch_size")), severity)
                groups.setdefault(key, []).append((run, accuracy, gain))

    # The source model is what the gain is measured from, so it has no row of its own.
    for (adaptation, batch_size, severity), results in groups.items():
        highest = max(key[2] for key in groups if key[:2] == (adaptation, batch_size))
        if adaptation == "source" or severity < highest:
            continue

        runs, accuracies, gains = zip(*results, strict=True)
        yield {
            "data": method.data,
            "method": method.label,
            "adaptation": adaptation,
            "batch_size": batch_size,
            "severity": severity,
            "n": len(runs),
            **estimate("accuracy", accuracies, bounded=True),
            **estimate("gain", gains),
            "runs": run_names(runs),
        }


def _cells(run: Run, dotted: str) -> Iterator[Mapping[str, Any]]:
    cells = run.fact(dotted)
    yield from (cell for cell in (cells if isinstance(cells, list) else ()) if isinstance(cell, dict))
