"""Tabulate what every network costs: parameters, FLOPs, and its speed on this machine.

python eval/model_table.py                                     # images like CIFAR-10's
python eval/model_table.py data=mnist models=adaptive_cnn,vit_mnist
python eval/model_table.py shape=3,224,224 models=resnet50,timm/convnext_tiny out=costs.csv

Networks of timm resize the images to their own input. All twelve of the zoo take half a minute on one CPU core.
"""

import sys
from collections.abc import Sequence
from typing import Any, Literal, cast

from common.cli.command import DONE, answer, check, data_root, parse
from common.cli.compose import presets_of
from common.failures import Refused
from common.files import atomic_write, expanded, read_json
from common.settings import entries, messages, models
from common.settings.field import Group, setting
from common.settings.yaml12 import PRESETS, read_mapping

ZOO = (*models.OWN, *models.CNN_BACKBONES, *models.VIT_BACKBONES)


class TableWords(Group):
    models: str | None = setting(None, f"presets of model or timm/NAME, joined by commas; null is {','.join(ZOO)}")
    data: str | None = setting(None, "packed data set whose shape and number of classes to take")
    shape: str = setting(
        "3,32,32", "size of an image", pattern=r"^[1-9]\d*(,[1-9]\d*){2}$", form="channels,height,width"
    )
    classes: int = setting(10, "number of classes", ge=2)
    precision: Literal["fp32", "bf16", "fp16"] = setting("fp32", "arithmetic")
    budget_s: float = setting(60.0, "seconds to measure a network's speed in; slower ones get none", gt=0)
    out: str | None = setting(
        None, "write the table to this file too", pattern=r"\.(md|csv)$", form="a name that ends in .md or .csv"
    )
    data_dir: str | None = setting(None, "folder of the packed data sets; null is $STILLHOUSE_DATA, else ./data")
    compute: entries.ComputeSettings = entries.ComputeSettings()


def main(argv: list[str] | None = None) -> int:
    return answer(_tabulate, argv, script="eval/model_table.py", about=__doc__, models=[TableWords])


def _tabulate(argv: list[str]) -> int:
    words = parse(TableWords, argv)
    like = _like(words)
    chosen = _chosen(ZOO if words.models is None else [name.strip() for name in words.models.split(",")])

    # Torch is loaded after the door.
    import torch

    from common.compute import start
    from eval.costs import as_csv, as_markdown, costs_of

    rows = []
    with start(words.compute) as compute:
        for number, (name, settings) in enumerate(chosen.items(), 1):
            print(f"{name} ({number} of {len(chosen)})", file=sys.stderr, flush=True)
            costs = costs_of(settings, like, compute, precision=words.precision, budget_s=words.budget_s)
            rows.append({"model": name, **costs})
        where = f"{words.precision} on {compute}, torch {torch.__version__}"
    text = f"{_caption(like, where)}\n\n{as_markdown(rows)}"
    print(text)

    if words.out:
        with atomic_write(expanded(words.out)) as file:
            file.write((as_csv(rows) if words.out.endswith(".csv") else text + "\n").encode())
    return DONE


# --- what to measure --------------------------------------------------------------------------------------------


def _like(words: TableWords) -> dict[str, Any]:
    """Return what a network has to know of a data set; the statistics of its pixels change no cost."""
    shape, classes = [int(side) for side in words.shape.split(",")], [str(number) for number in range(words.classes)]
    if words.data is not None:
        twice = sorted({"shape", "classes"} & words.model_fields_set)
        if twice:
            raise Refused([f"{key}: given with data={words.data}, allowed: one of them" for key in twice])
        folder = data_root(words.data_dir) / words.data
        manifest = read_json(folder / "manifest.json")
        if manifest is None:
            raise Refused([f"data: {words.data} is not prepared under {folder.parent}; allowed: shape= and classes="])
        shape, classes = manifest["shape"], manifest["classes"]
    return {"shape": shape, "classes": classes, "mean": [0.5] * shape[0], "std": [0.5] * shape[0]}


def _chosen(names: Sequence[str]) -> dict[str, models.AnyModel]:
    chosen: dict[str, models.AnyModel] = {}
    problems: list[str] = []
    for name in names:
        settings, wrong = _settings(name)
        chosen |= {name: settings} if settings else {}
        problems += wrong
    if problems:
        raise Refused(problems)
    return chosen


def _settings(name: str) -> tuple[models.AnyModel | None, list[str]]:
    presets = presets_of(entries.TrainCNN)["model"] + presets_of(entries.TrainViT)["model"]
    if name not in presets and not name.startswith("timm/"):
        return None, [messages.unknown("models", name, [*presets, "timm/NAME"])]
    tree = read_mapping(PRESETS / "model" / f"{name}.yaml") if name in presets else {"name": name}
    settings, wrong = check(models.OWN.get(tree["name"], models.TimmSettings), tree)
    return cast("models.AnyModel | None", settings), [f"models: {problem}" for problem in wrong.values()]


# --- the table --------------------------------------------------------------------------------------------------


def _caption(like: dict[str, Any], where: str) -> str:
    return (
        f"Images of {'x'.join(map(str, like['shape']))}, {len(like['classes'])} classes; {where}. "
        "FLOPs: of one image, two per multiplication and addition, in matrix products and convolutions. "
        "Latency: of one image. Images/s: in batches. –: slower than budget_s allows."
    )


if __name__ == "__main__":
    sys.exit(main())
