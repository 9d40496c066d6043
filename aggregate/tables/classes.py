"""These tables are about classes: how well each is recognised, and which are taken for which.

Runs are held in memory without numbers of each class, which are large; they are read again for the methods shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from aggregate.inference.estimates import deviation
from aggregate.runs.collect import Run
from aggregate.runs.methods import Method, by_data, by_validation, mean_of, run_names, trained
from aggregate.runs.origins import selection_sentence
from aggregate.tables.table import Row, Table, number, percent_spread, text
from common.files import read_json
from common.run.run_dir import RunDir

MOST_METHODS = 14  # of each data set
MOST_CLASSES = 20  # of each data set, that are printed
MOST_CONFUSIONS = 10
RATES = ("precision", "recall", "f1_score")


def bulk_of_test(run: Run, name: str) -> Any:
    """Read `per_class` or `confusion_matrix` from the run's result again."""
    test = (read_json(RunDir(run.path).result) or {}).get("test")
    return test.get(name) if isinstance(test, Mapping) else None


def leaders(methods: Sequence[Method]) -> dict[str, list[Method]]:
    """Return the leading methods of each data set, the best on validation first."""
    return {data: by_validation(members)[:MOST_METHODS] for data, members in by_data(trained(methods)).items()}


def _selection(methods: Sequence[Method]) -> str:
    leading = [method for members in leaders(methods).values() for method in members]
    return selection_sentence(run for method in leading for run in method.runs)


# --- each class -------------------------------------------------------------------------------------------------


def per_class(methods: Sequence[Method]) -> Table | None:
    """Make the table of classes; its first rows are printed, the CSV has all."""
    printed: list[Row] = []
    others: list[Row] = []
    for members in leaders(methods).values():
        # On paper a data set has room for one method, and of many classes for those that matter most.
        best, *rest = [list(_class_rows(method)) for method in members]
        hardest = sorted(best, key=lambda row: row["f1_score_mean"])[:MOST_CLASSES]
        kept = {row["class"] for row in hardest}
        printed += [row for row in best if row["class"] in kept]

        others += [row for row in best if row["class"] not in kept]
        others += [row for rows in rest for row in rows]
    if not printed:
        return None

    caption = (
        "Precision, recall and F1 of each class on the test images in %, mean ± standard deviation over n runs, of the "
        f"method of the highest validation accuracy on each data set; of more than {MOST_CLASSES} classes, those of "
        f"the lowest F1. The CSV has all classes of the {MOST_METHODS} methods of the highest validation accuracy. "
        f"{_selection(methods)}"
    )
    columns = [
        *(text("data", "data"), text("method", "method"), text("class", "class")),
        *(number("images", "images", "d"), number("n", "n", "d")),
        *(percent_spread(head, name) for head, name in zip(("precision", "recall", "F1"), RATES, strict=True)),
    ]
    return Table("per_class", "Classes", caption, columns, [*printed, *others], most=len(printed))


def _class_rows(method: Method) -> Iterator[dict[str, Any]]:
    for name, scores in class_scores(method).items():
        yield {
            "data": method.data,
            "method": method.label,
            "class": name,
            "images": max(score["n"] for _, score in scores),
            "n": len(scores),
            **{f"{rate}_mean": mean_of(_rates(scores, rate)) for rate in RATES},
            **{f"{rate}_std": deviation(_rates(scores, rate)) for rate in RATES},
            "runs": run_names(run for run, _ in scores),
        }


Scores = Sequence[tuple[Run, Mapping[str, Any]]]  # what each run's result says of one class


def _rates(scores: Scores, rate: str) -> list[float]:
    return [score[rate] for _, score in scores if isinstance(score.get(rate), int | float)]


def class_scores(method: Method) -> Mapping[str, Scores]:
    """Return the scores of each class, with the runs that they are of; classes without images have none."""
    by_class: dict[str, list[tuple[Run, Mapping[str, Any]]]] = {}
    for run in method.runs:
        scores = bulk_of_test(run, "per_class")
        for score in scores if isinstance(scores, list) else ():
            if isinstance(score, Mapping) and _is_score(score):
                by_class.setdefault(str(score.get("class")), []).append((run, score))
    return by_class


def _is_score(score: Mapping[str, Any]) -> bool:
    n = score.get("n")
    return isinstance(n, int) and n > 0 and isinstance(score.get("f1_score"), int | float)


# --- confusions -------------------------------------------------------------------------------------------------


def confusion(methods: Sequence[Method]) -> Table | None:
    """Make the table of confusions; its first rows are printed, the CSV has all."""
    by_data_set = [_confusion_rows(members[0]) for members in leaders(methods).values()]
    printed = [row for rows in by_data_set for row in rows[:MOST_CONFUSIONS]]
    others = [row for rows in by_data_set for row in rows[MOST_CONFUSIONS:]]
    if not printed:
        return None

    caption = (
        "What is most often taken for what on the test images, by the method of the highest validation accuracy on "
        f"each data set: the {MOST_CONFUSIONS} pairs with the largest share of the true class's images in %, mean ± "
        "standard deviation over n runs. The CSV has every pair that occurs. "
        f"{_selection(methods)}"
    )
    columns = [
        *(text("data", "data"), text("method", "method"), text("true", "true"), text("predicted", "predicted")),
        *(number("n", "n", "d"), percent_spread("share", "share"), number("images a run", "images_mean", ".1f")),
    ]
    return Table("confusion", "Confusions", caption, columns, [*printed, *others], most=len(printed))


def _confusion_rows(method: Method) -> list[dict[str, Any]]:
    """Return a row for each pair of classes, the most frequent confusion first."""
    counts, names = confusion_counts(method)
    if counts is None:
        return []

    # Shares of the true class's images: counts would show the large classes, not the difficult ones.
    images = counts.sum(axis=2, keepdims=True)
    shares = np.divide(counts, images, out=np.zeros(counts.shape), where=images > 0)
    means = shares.mean(axis=0)
    np.fill_diagonal(means, 0.0)
    order = np.argsort(-means, axis=None, kind="stable")[: np.count_nonzero(means)]

    return [
        {
            "data": method.data,
            "method": method.label,
            "true": names[true],
            "predicted": names[predicted],
            "n": len(counts),
            "share_mean": float(means[true, predicted]),
            "share_std": deviation(shares[:, true, predicted].tolist()),
            "images_mean": float(counts[:, true, predicted].mean()),
            "runs": method.run_names,
        }
        for true, predicted in zip(*np.unravel_index(order, means.shape), strict=True)
    ]


def confusion_counts(method: Method) -> tuple[np.ndarray | None, list[str]]:
    """Return counts (runs, classes, classes) and names of classes.

    The counts are None if a run has no matrix, or if runs have matrices of different classes.
    """
    names = [str(name) for name in method.first.fact("data.classes") or ()]
    try:
        counts = np.array([bulk_of_test(run, "confusion_matrix") for run in method.runs], dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        return None, names
    if counts.ndim != 3 or counts.shape[1] != counts.shape[2] or not counts.size or counts.min() < 0:
        return None, names
    return counts, names if len(names) == counts.shape[1] else [str(place) for place in range(counts.shape[1])]
