"""Explain a trained model in pictures: where it looks, what its layers hold, how its gradients flow.

python eval/explain.py run=digits-adaptive_cnn-s0-29bc5fb048     # all that this model can, of 8 test images
python eval/explain.py run=DIR what=gradcam,features images=16 seed=1
python eval/explain.py run=DIR what=gradcam label=cat photo.jpg  # what in the photo speaks for a cat
python eval/explain.py run=DIR what=attention block=0            # a transformer's heads, in its first block

Writes PNG pictures and their numbers (explain.json, *.npz) to evaluation/explain in the run's folder.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.command import DONE, answer, data_root, parse, runs_root
from common.data.image_files import find_images
from common.failures import Refused
from common.files import atomic_write, expanded, write_json
from common.run.finished import TrainedRun, open_run
from common.settings import messages
from common.settings.entries import ComputeSettings
from common.settings.field import Group, setting

if TYPE_CHECKING:
    from common.compute import Compute
    from eval.explanations import Found
    from eval.explanations.subject import Subject

KINDS = ("gradcam", "attention", "features", "filters", "gradients", "embeddings")
MOST_IMAGES = 64  # more are no figure


class ExplainWords(Group):
    run: str = setting(..., "finished run: its folder, or its name or hash under root")
    what: str | None = setting(
        None, f"some of {','.join(KINDS)}; null is all that the model offers, of files only what shows them"
    )
    files: list[str] = setting(
        [], "images to explain in place of test images: files, folders, patterns; every word without ="
    )
    images: int = setting(8, "test images to show", ge=1, le=MOST_IMAGES)
    label: str | None = setting(None, "gradcam: the class that is explained; null is each image's most probable")
    layer: str | None = setting(None, "features: the layer that is shown; null is a few that tell most")
    block: int = setting(-1, "attention: the block whose heads are shown; negative from the end")
    points: int = setting(2000, "embeddings: most test images that are used", ge=5)
    seed: int = setting(0, "seed of the choice of test images and of t-SNE", ge=0, lt=2**32)
    out: str | None = setting(None, "folder to write to; null is evaluation/explain in the run's folder")
    root: str | None = setting(None, "folder of the run folders; null is $STILLHOUSE_RUNS, else ./runs")
    data_dir: str | None = setting(None, "folder of the packed data sets; null is $STILLHOUSE_DATA, else ./data")
    compute: ComputeSettings = ComputeSettings()


def main(argv: list[str] | None = None) -> int:
    return answer(_explain, argv, script="eval/explain.py", about=__doc__, models=[ExplainWords])


def _explain(argv: list[str]) -> int:
    words = parse(ExplainWords, argv, loose="files")
    asked = _asked(words)
    trained = open_run(words.run, runs_root(words.root))
    paths = find_images(words.files)
    if len(paths) > MOST_IMAGES:
        raise Refused([f"files: given {len(paths):,} images, allowed: at most {MOST_IMAGES}"])
    folder = expanded(words.out) if words.out else trained.run.evaluation("explain")

    # Torch is loaded after the door.
    from common.compute import start
    from eval.explanations import EXPLANATIONS, Wanted

    wanted = Wanted(words.layer, words.block, words.points, words.seed)
    with start(words.compute) as compute:
        subject = _subject(words, paths, trained, compute)
        facts: dict[str, Any] = {"run": trained.name, "images": subject.said}
        for kind in _offered(subject, asked):
            explained = EXPLANATIONS[kind].find(subject, wanted)
            facts[kind] = explained.facts
            for path in _write(explained, folder, kind):
                print(path, flush=True)

    # explain.json comes last: with it all pictures that it speaks of are there.
    write_json(folder / "explain.json", facts)
    print(folder / "explain.json")
    return DONE


def _asked(words: ExplainWords) -> list[str]:
    """List the kinds that are asked for; an empty list stands for all that there are."""
    asked = [kind.strip() for kind in words.what.split(",")] if words.what is not None else []
    wrong = [messages.unknown("what", kind, KINDS) for kind in asked if kind not in KINDS]
    if wrong:
        raise Refused(wrong)
    return list(dict.fromkeys(asked))


def _subject(words: ExplainWords, paths: list[Path], trained: TrainedRun, compute: "Compute") -> "Subject":
    from eval.explanations.subject import class_named, of_files, of_test

    chosen, data_dir = class_named(words.label, trained), data_root(words.data_dir)
    if paths:
        return of_files(trained, compute, data_dir, paths, chosen=chosen)
    return of_test(trained, compute, data_dir, count=words.images, seed=words.seed, chosen=chosen)


def _offered(subject: "Subject", asked: list[str]) -> list[str]:
    """List what was asked for, in that order, or all that the model offers for images like these."""
    from eval.explanations import EXPLANATIONS

    offered = [kind for kind in KINDS if EXPLANATIONS[kind].offered(subject)]
    model = subject.trained.settings.model.name
    refused = {kind: EXPLANATIONS[kind].why_not(subject) for kind in asked if kind not in offered}
    wrong = [
        f"what: given {kind}, which {model} does not offer{why and f' ({why})'}; it offers {', '.join(offered)}"
        for kind, why in refused.items()
    ]
    if wrong:
        raise Refused(wrong)

    # Of files, what shows them is explained; what shows the model and its test set must be asked for by name.
    return asked or [kind for kind in offered if EXPLANATIONS[kind].of_images or subject.labels is not None]


def _write(explained: "Found", folder: Path, kind: str) -> list[Path]:
    import numpy as np

    from common.figures.predictions import save

    paths = []
    for name, figure in explained.figures.items():
        paths.append(folder / f"{name}.png")
        save(figure, paths[-1])

    # The numbers in the figures are kept, so that they can be drawn otherwise.
    if explained.arrays:
        paths.append(folder / f"{kind}.npz")
        with atomic_write(paths[-1]) as file:
            np.savez_compressed(file, allow_pickle=False, **explained.arrays)
    return paths


if __name__ == "__main__":
    sys.exit(main())
