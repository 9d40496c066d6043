"""Evaluate a finished run on a part of a packed set: every metric, figures, the logits.

python eval/evaluate.py run=digits-adaptive_cnn-s0-29bc5fb048    # the test images of the set it was trained on
python eval/evaluate.py run=DIR data=cifar10_1_v6                # another set of the same classes
python eval/evaluate.py run=DIR data=cifar10_c part=fog          # a part of it, here 5 severities x 10,000 images

Writes metrics.json, per_class.csv, predictions.npz (logits, labels) and figures to evaluation/<data>-<part> in the
run's folder. Images are normalised as the training images were, thresholds of labels are those of the run's validation.
"""

import csv
import io
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.cli.command import DONE, FAILED, answer, data_root, parse, runs_root
from common.data.integrity import MANIFEST
from common.data.prepare import prepare, read_manifest
from common.data.publishers.catalog import DATASETS
from common.failures import Refused
from common.files import atomic_write, expanded, read_json, write_json
from common.run.finished import TrainedRun, open_run
from common.settings import messages
from common.settings.entries import ComputeSettings
from common.settings.field import Group, setting
from eval.evaluation import differences, draw, note_on, summary


class EvaluateWords(Group):
    run: str = setting(..., "finished run: its folder, or its name or hash under root")
    data: str | None = setting(None, "packed set of the same classes; null is the one the run was trained on")
    part: str = setting("test", "which of its images; most sets have train and test, some val")
    batch_size: int | None = setting(None, "images at a time; null is as many as the run was trained with", ge=1)
    out: str | None = setting(None, "folder to write to; null is evaluation/<data>-<part> in the run's folder")
    root: str | None = setting(None, "folder of the run folders; null is $STILLHOUSE_RUNS, else ./runs")
    data_dir: str | None = setting(None, "folder of the packed data sets; null is $STILLHOUSE_DATA, else ./data")
    compute: ComputeSettings = ComputeSettings()


def main(argv: list[str] | None = None) -> int:
    return answer(_evaluate, argv, script="eval/evaluate.py", about=__doc__, models=[EvaluateWords])


def _evaluate(argv: list[str]) -> int:
    words = parse(EvaluateWords, argv)
    trained = open_run(words.run, runs_root(words.root))
    packed_folder = data_root(words.data_dir) / (words.data or trained.data["name"])
    manifest = _manifest(packed_folder, words, trained)
    problems = differences(manifest, trained.data, words.part)
    if problems:
        raise Refused(problems)

    # Torch is loaded after the door.
    import numpy as np

    from common.compute import start
    from common.data.packed import PackedSet, open_part
    from common.metrics import one_label
    from common.models.load import load_model
    from common.training.predict import infer

    recipe, task, classes = trained.settings.recipe, trained.data["task"], trained.data["classes"]
    batch_size = words.batch_size or recipe.batch_size
    with start(words.compute) as compute:
        model = load_model(trained, compute)
        folder = _folder(words, trained, manifest["name"])
        packed = PackedSet.open(packed_folder)
        images = open_part(packed, trained.data, words.part, batch_size=batch_size, compute=compute)
        logits, labels = infer(model, images, recipe.precision)
        device = str(compute)

    if not np.isfinite(logits).all():
        print("failed (nan): the model's answer is not a number for some of these images", file=sys.stderr)
        return FAILED

    # Nothing is chosen on these images: the thresholds of a task with several labels are those of validation.
    thresholds = (trained.result["val"] or {}).get("thresholds")
    metrics = one_label.evaluate(logits, labels, classes, task, thresholds)
    title = f"{trained.name} on {manifest['name']}, {words.part} part"
    with atomic_write(folder / "predictions.npz") as file:
        np.savez_compressed(file, logits=logits, labels=labels)
    _write_table(folder / "per_class.csv", metrics["per_class"])
    drawn = draw(folder, metrics, logits, labels, trained.data, title)

    # metrics.json comes last: with it the evaluation is whole.
    content = {
        "run": trained.name,
        "selection": trained.result["selection"],
        "data": {"name": manifest["name"], "digest": manifest["digest"], "part": words.part, "n": metrics["n"]},
        "trained_on": {"name": trained.data["name"], "digest": trained.data["digest"]},
        "note": note_on(manifest, words.part, trained),
        "computed": {"device": device, "precision": recipe.precision, "batch_size": batch_size},
        "metrics": metrics,
    }
    write_json(folder / "metrics.json", content)
    print(summary(content, trained))
    print(f"written to {folder}: metrics.json, per_class.csv, predictions.npz, {', '.join(drawn)}")
    return DONE


def _manifest(folder: Path, words: EvaluateWords, trained: TrainedRun) -> Mapping[str, Any]:
    """Read the manifest of the packed set, or refuse with the command that prepares it; digits packs itself."""
    if folder.name == "digits":
        prepare("digits", folder.parent)
    manifest = read_json(folder / MANIFEST)
    if manifest is not None:
        return read_manifest(folder)  # which says what is wrong with it
    if (folder / MANIFEST).exists():
        raise Refused([f"data: {folder / MANIFEST} cannot be read as a manifest; prepare {folder.name} again"])

    # A name without a publisher is a folder of images that the user packed, if the run was trained on it.
    command = f"python jobs/prepare.py data={folder.name}"
    if folder.name not in DATASETS:
        if folder.name != trained.data["name"]:
            packed = [path.parent.name for path in sorted(folder.parent.glob(f"*/{MANIFEST}"))]
            raise Refused([messages.unknown("data", words.data, dict.fromkeys([*packed, *DATASETS]))])
        channels, size, _ = trained.data["shape"]
        command = f"python jobs/prepare.py data=image_folder name={folder.name} source=DIR size={size}"
        command += f" channels={channels}" if channels == 1 else ""
    where = f" data_dir={shlex.quote(words.data_dir)}" if words.data_dir else ""
    raise Refused([f"data: {folder.name} is not prepared under {folder.parent}; run: {command}{where}"])


def _folder(words: EvaluateWords, trained: TrainedRun, data_name: str) -> Path:
    """Make the folder to write to, and try it, before any work is done."""
    folder = expanded(words.out) if words.out else trained.run.evaluation(f"{data_name}-{words.part}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused([f"out: {folder} cannot be made: {error.strerror}"]) from None
    if not os.access(folder, os.W_OK):
        raise Refused([f"out: {folder} cannot be written to; out=DIR writes elsewhere"])
    return folder


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


if __name__ == "__main__":
    sys.exit(main())
