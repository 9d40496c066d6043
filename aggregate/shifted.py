"""Finished eval_shift runs: what corruption and other sets cost each method, and what adaptation brings back."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aggregate.methods import Method
from aggregate.origins import row_notes
from aggregate.summarise import estimate, mean_of, unfinished_text
from aggregate.tables import Table, footnotes, number, percent_interval, percent_spread, text

INTERVAL = (
    "Mean ± standard deviation over n runs; 95 % interval of the mean by Student's t (none for n = 1, or where all "
    "runs are equal)."
)


def shift_tables(methods: Sequence[Method]) -> list[Table]:
    tested = [method for method in methods if method.entry == "eval_shift"]
    return [table for table in (shift(tested), adaptations(tested), other_sets(tested)) if table]


def shift(tested: Sequence[Method]) -> Table | None:
    if not tested:
        return None
    marks, notes = footnotes(row_notes([method.runs for method in tested]))
    rows = [{**_shift_row(method), "notes": mark} for method, mark in zip(tested, marks, strict=True)]
    caption = (
        "Accuracy in % on the clean test images, mean over corruptions and severities on the corrupted ones, and the "
        f"drop between them in points. {INTERVAL} Weights as the method's own run chose them."
    )
    columns = [
        text("data", "data"),
        text("method", "method"),
        number("n", "n", "d"),
        text("not finished", "unfinished"),
        percent_spread("clean", "clean"),
        percent_spread("corrupted", "corrupted"),
        percent_interval("95 % interval", "corrupted"),
        percent_spread("drop", "drop"),
        number("ECE, clean", "ece"),
        number("corruptions", "corruptions", "d"),
        text("severities", "severities"),
        text("notes", "notes"),
    ]
    return Table("shift", "Under corruption", caption, columns, rows, notes)


def _shift_row(method: Method) -> dict[str, Any]:
    asked: Mapping[str, Any] = (method.runs[0].fact("shift.corrupted") if method.runs else None) or {}
    return {
        "data": method.data,
        "method": method.label,
        "n": len(method.runs),
        "unfinished": unfinished_text(method),
        **estimate("clean", method.values("shift.clean.accuracy"), bounded=True),
        **estimate("corrupted", method.values("shift.corrupted.accuracy"), bounded=True),
        **estimate("drop", method.values("shift.corrupted.drop")),
        "ece": mean_of(method.values("shift.clean.ece")),
        "corruptions": asked.get("corruptions"),
        "severities": " ".join(map(str, asked.get("severities") or ())),
        "runs": method.run_names,
    }


# --- adaptation -------------------------------------------------------------------------------------------------


def adaptations(tested: Sequence[Method]) -> Table | None:
    rows = [row for method in tested for row in _adaptation_rows(method)]
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
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in _listed(method, "shift.adaptations"):
        if cell.get("severity") and isinstance(cell.get("gain"), int | float):
            key = (cell.get("adaptation"), cell.get("batch_size"), cell["severity"])
            found.setdefault(key, []).append(cell)
    for (adaptation, batch_size, severity), cells in found.items():
        if adaptation == "source" or severity < max(key[2] for key in found if key[:2] == (adaptation, batch_size)):
            continue
        yield {
            "data": method.data,
            "method": method.label,
            "adaptation": adaptation,
            "batch_size": batch_size,
            "severity": severity,
            "n": len(cells),
            **estimate("accuracy", [cell["accuracy"] for cell in cells], bounded=True),
            **estimate("gain", [cell["gain"] for cell in cells]),
            "runs": method.run_names,
        }


# --- other sets -------------------------------------------------------------------------------------------------


def other_sets(tested: Sequence[Method]) -> Table | None:
    rows = [row for method in tested for row in _set_rows(method)]
    if not rows:
        return None
    caption = f"Accuracy in % on sets made by others, and the drop from the clean test images in points. {INTERVAL}"
    columns = [
        text("data", "data"),
        text("method", "method"),
        text("set", "images"),
        number("n", "n", "d"),
        percent_spread("accuracy", "accuracy"),
        percent_interval("95 % interval", "accuracy"),
        percent_spread("drop", "drop"),
    ]
    return Table("other_sets", "Other sets", caption, columns, rows)


def _set_rows(method: Method) -> Iterator[dict[str, Any]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for cell in _listed(method, "shift.sets"):
        if isinstance(cell.get("accuracy"), int | float):
            found.setdefault(_set_name(cell), []).append(cell)
    for images, cells in found.items():
        yield {
            "data": method.data,
            "method": method.label,
            "images": images,
            "n": len(cells),
            **estimate("accuracy", [cell["accuracy"] for cell in cells], bounded=True),
            **estimate("drop", [cell["drop"] for cell in cells if isinstance(cell.get("drop"), int | float)]),
            "runs": method.run_names,
        }


def _set_name(cell: Mapping[str, Any]) -> str:
    at = f" {cell['corruption']} {cell['severity']}" if cell.get("severity") else ""
    return f"{cell.get('images')}{at}"


def _listed(method: Method, dotted: str) -> Iterator[Mapping[str, Any]]:
    for run in method.runs:
        cells = run.fact(dotted)
        yield from (cell for cell in (cells if isinstance(cells, list) else ()) if isinstance(cell, dict))
