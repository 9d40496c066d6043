"""Predict the classes of image files with a finished run.

python eval/predict.py run=digits-adaptive_cnn-s0-29bc5fb048 photo.jpg scans/ 'drawings/*.png'
python eval/predict.py run=DIR photos/ views=flip out=photos.csv     # or out=photos.json

Images are made like those that the run was trained on: upright, resized, grey or colour, and for bright objects on
black (digits, MNIST, Fashion-MNIST) inverted where the background is light. If any of them cannot be read, nothing is
predicted. A terminal shows a table; a pipe gets the same between tabs, under a line of names.
"""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import DONE, FAILED, answer, parse, runs_root
from common.data.image_files import find_images, load_all_outside
from common.failures import Refused
from common.files import expanded
from common.run.finished import TrainedRun, open_run
from common.settings.entries import ComputeSettings
from common.settings.field import Group, setting
from eval.predictions import Predictions, as_lines, as_table, thresholds_of, write
from eval.views import VIEWS, predict_with_views

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from common.compute import Compute


class PredictWords(Group):
    run: str = setting(..., "finished run: its folder, or its name or hash under root")
    images: list[str] = setting(
        ...,
        "every word without =: files, folders (all files in them and in their folders, but for hidden ones), patterns",
        form="names of files and folders, each a word of its own",
        min_length=1,
    )
    views: str = setting(
        "none",
        "what a prediction is the mean over: the image alone, or its mirror image, shifts or crops as well",
        pattern=f"^({'|'.join(VIEWS)})$",
        form=tuple(VIEWS),
    )
    top: int = setting(3, "classes that are shown of each image, the most probable first", ge=1)
    out: str | None = setting(
        None,
        "write to this file instead, with the probability of every class",
        pattern=r"(?s)^.*\.(csv|json)$",
        form="a name that ends in .csv or .json, or null",
    )
    batch_size: int | None = setting(None, "images at a time; null is as many as the run was trained with", ge=1)
    root: str | None = setting(None, "folder of the run folders; null is $STILLHOUSE_RUNS, else ./runs")
    compute: ComputeSettings = ComputeSettings()


def main(argv: list[str] | None = None) -> int:
    return answer(_predict, argv, script="eval/predict.py", about=__doc__, models=[PredictWords])


def _predict(argv: list[str]) -> int:
    words = parse(PredictWords, argv, loose="images")
    trained, paths = _asked(words)
    images = load_all_outside(paths, trained.data)

    # Torch is loaded after the door.
    import numpy as np

    from common.compute import start
    from common.models.load import load_model

    with start(words.compute) as compute:
        model = load_model(trained, compute)
        out = _out_path(words)
        probabilities = _probabilities(model, images, words, trained, compute)

    if not np.isfinite(probabilities).all():
        print("failed (nan): the model's answer is not a number for some of these images", file=sys.stderr)
        return FAILED

    files = [str(path) for path in paths]
    predictions = Predictions(files, trained.data["classes"], probabilities, thresholds_of(trained))
    if out is None:
        print(as_table(predictions, words.top) if sys.stdout.isatty() else as_lines(predictions, words.top))
        return DONE
    write(
        out, predictions, {"run": trained.name, "weights": trained.result["selection"]["digest"], "views": words.views}
    )
    print(f"written to {out}: predictions of {len(paths):,} image{'s' * (len(paths) > 1)}")
    return DONE


def _asked(words: PredictWords) -> tuple[TrainedRun, list[Path]]:
    """Open the run and find the files, or refuse with all that is wrong with either."""
    problems: list[str] = []
    trained, paths = None, []

    # What is wrong with one does not hide what is wrong with the other.
    try:
        trained = open_run(words.run, runs_root(words.root))
    except Refused as refused:
        problems += refused.problems
    try:
        paths = find_images(words.images)
    except Refused as refused:
        problems += refused.problems
    if problems or trained is None:
        raise Refused(problems)
    return trained, paths


def _out_path(words: PredictWords) -> Path | None:
    """Make the folder of the file to write, and try it, before any work is done."""
    if words.out is None:
        return None
    out = expanded(words.out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused([f"out: {out.parent} cannot be made: {error.strerror}"]) from None
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise Refused([f"out: {out} cannot be written"])
    return out


def _probabilities(
    model: "nn.Module", images: "np.ndarray", words: PredictWords, trained: TrainedRun, compute: "Compute"
) -> "np.ndarray":
    import numpy as np

    from common.data.packed import Batches, StreamedImages

    # Files have no labels, which batches must have: these are read by nobody.
    recipe, several = trained.settings.recipe, trained.data["task"] == "multi-label"
    rows, unknown = np.arange(len(images)), np.zeros(len(images), dtype=np.int64)
    size, source = words.batch_size or recipe.batch_size, StreamedImages(images, compute.device)
    parts = []
    for batch in Batches(source, unknown, rows, trained.data, size, compute).in_order():
        with compute.autocast(recipe.precision):
            part = predict_with_views(model, batch.images, VIEWS[words.views], multi_label=several)
        parts.append(part.cpu().numpy())
    return np.concatenate(parts)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ends quietly where `| head` has seen enough
    sys.exit(main())
