"""These functions check that a run fits a packed set, and put the numbers of its evaluation into words and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.run.finished import TrainedRun
from common.settings import messages

if TYPE_CHECKING:
    import numpy as np

CLASSES_NAMED = 3


# --- may this run be evaluated on these images? -----------------------------------------------------------------


def differences(manifest: Mapping[str, Any], trained: Mapping[str, Any], part: str) -> list[str]:
    """List why a model of a set (`trained`: the data of its result) cannot be evaluated on a part of a packed one."""
    name, problems = manifest["name"], []
    if manifest["task"] != trained["task"]:
        problems.append(f"data: {name} is of the task {manifest['task']}, the run was trained on {trained['task']}")
    if manifest["classes"] != trained["classes"]:
        problems.append(f"data: {_class_differences(name, manifest['classes'], trained['classes'])}")
    if list(manifest["shape"]) != list(trained["shape"]):
        shapes = [_shape_text(facts["shape"]) for facts in (manifest, trained)]
        problems.append(f"data: {name} holds images of {shapes[0]}, the run was trained on {shapes[1]}")

    # Among other images of that name, test images may be some that the run was trained on.
    if not problems and name == trained["name"] and manifest["digest"] != trained["digest"]:
        problems.append(
            f"data: the images packed as {name} have the digest {manifest['digest']}, but the run was trained on a "
            f"{name} of {trained['digest']}: what is a test image now may have been a training image then; expected "
            "the same images, or images that are new to the run packed under another name"
        )
    if part not in manifest["sets"]:
        problems.append(messages.unknown("part", part, manifest["sets"]))
    return problems


def _class_differences(name: str, theirs: Sequence[str], expected: Sequence[str]) -> str:
    if sorted(theirs) == sorted(expected):
        return f"{name} has the classes of the run in another order"
    lists = {
        f"only {name} has": [label for label in theirs if label not in expected],
        "only the run has": [label for label in expected if label not in theirs],
    }
    parts = [f"{whose} {_some(names)}" for whose, names in lists.items() if names]
    return f"{name} has {len(theirs)} classes, the run {len(expected)}; {', '.join(parts)}"


def _some(names: Sequence[str]) -> str:
    hidden = len(names) - CLASSES_NAMED
    return ", ".join(names[:CLASSES_NAMED]) + (f" and {hidden} more" if hidden > 0 else "")


def _shape_text(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{height}x{width} pixels in {'grey' if channels == 1 else 'colour' if channels == 3 else channels}"


def note_on(manifest: Mapping[str, Any], part: str, trained: TrainedRun) -> str | None:
    """Say what a reader of the numbers must know: images that the run has learned from say little of new ones."""
    if manifest["digest"] != trained.data["digest"]:
        return None
    if part == "train":
        return "the run was trained on these images"
    if part == "val" and trained.settings.data.validation == "published":
        return "the run's weights were selected on these images"
    return None


# --- what is said -----------------------------------------------------------------------------------------------

SAID = {
    "accuracy": ("accuracy", "{:.2%}"),
    "f1_score": ("macro F1", "{:.2%}"),
    "macro_auc": ("macro AUC", "{:.4f}"),
    "mean_average_precision": ("mean average precision", "{:.4f}"),
    "quadratic_weighted_kappa": ("quadratic weighted kappa", "{:.4f}"),
    "mean_absolute_error": ("mean absolute error", "{:.4f} classes"),
    "nll": ("negative log likelihood", "{:.4f} nats"),
    "brier": ("Brier score", "{:.4f}"),
    "ece": ("calibration error (ECE)", "{:.2%}"),
}


def summary(content: Mapping[str, Any], trained: TrainedRun) -> str:
    """Shorten metrics.json for the terminal."""
    data, metrics = content["data"], content["metrics"]
    lines = [f"{content['run']} on the {data['part']} part of {data['name']}, n = {data['n']:,} images"]
    for key, (name, form) in SAID.items():
        if key in metrics:
            value = "not defined" if metrics[key] is None else form.format(metrics[key])
            lines.append(f"  {name:<26}{value}{_remark(key, metrics)}")

    if content["note"]:
        lines.append(f"  note: {content['note']}")

    # On another device or with other precision, two logits that nearly tie may change places.
    reported = trained.result["test"]["accuracy"]
    if data["part"] == "test" and data["digest"] == trained.data["digest"] and metrics["accuracy"] != reported:
        lines.append(f"  note: the run itself reported an accuracy of {reported:.2%}, computed elsewhere or otherwise")
    return "\n".join(lines)


def _remark(key: str, metrics: Mapping[str, Any]) -> str:
    if key != "accuracy":
        return ""
    if "confusion_matrix" in metrics:
        right = sum(row[label] for label, row in enumerate(metrics["confusion_matrix"]))
        return f" ({right:,} right)"
    return " of all yes or no decisions"


# --- what is drawn ----------------------------------------------------------------------------------------------


def draw(
    folder: Path,
    metrics: Mapping[str, Any],
    logits: "np.ndarray",
    labels: "np.ndarray",
    data: Mapping[str, Any],
    title: str,
) -> list[str]:
    """Save the figures and return their names."""
    from common.figures import predictions
    from common.figures.roc import roc_curves
    from common.metrics import one_label, several_labels

    # With several labels, each label of an image is a decision; else each image is one.
    classes, several = data["classes"], data["task"] == "multi-label"
    bins = (several_labels if several else one_label).reliability(logits, labels)
    n, unit = (labels.size, "decisions") if several else (len(labels), "images")
    drawn = {
        "reliability.png": predictions.reliability_diagram(bins, metrics["ece"], n, title, unit),
        "roc.png": roc_curves(logits, labels, classes, title, data["task"]),
        "per_class.png": predictions.per_class_bars(metrics["per_class"], title),
    }
    if not several:  # labels that come together are not confused with each other
        drawn["confusion.png"] = predictions.confusion_matrix(metrics["confusion_matrix"], classes, title)

    for name, figure in drawn.items():
        predictions.save(figure, folder / name)
    return list(drawn)
