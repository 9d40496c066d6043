"""The words of jobs/prepare.py, and what is wrong with them together."""

import re
from typing import Literal

from common import wording
from common.data.catalog import DATASETS
from common.data.medmnist import MEDMNIST, SIZES, set_name
from common.settings import Group, setting

IMAGE_FOLDER = "image_folder"
OWN_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
GENERAL = [name for name, published in DATASETS.items() if not published.family.startswith("medmnist")]
LARGER = ", ".join(set_name("", size) for size in SIZES[1:])


class PrepareWords(Group):
    data: str = setting(
        ...,
        f"{', '.join(GENERAL)}; of 28 pixels and, as NAME{LARGER}, of more {', '.join(MEDMNIST)}; "
        f"or {IMAGE_FOLDER} for images of your own",
    )
    source: str | None = setting(None, "folder of the publisher's files, or of your images; null downloads")
    mirror: str | None = setting(None, "download from this address instead, as in https://host/folder")
    data_dir: str | None = setting(None, "folder of the packed data sets; null is $STILLHOUSE_DATA, else ./data")
    verify: bool = setting(False, "check every file of a packed set against its manifest, change nothing")
    force: bool = setting(False, "pack again; the old set is replaced when the new one is whole")
    name: str | None = setting(None, f"{IMAGE_FOLDER}: what to call the set; lower case, digits, _ . -")
    size: int | None = setting(None, f"{IMAGE_FOLDER}: side of the packed images in pixels", ge=1, le=4096)
    channels: Literal[1, 3] = setting(3, f"{IMAGE_FOLDER}: 1 makes grey images, 3 colour")
    test_fraction: float = setting(
        0.2, f"{IMAGE_FOLDER}: share of every class held out as the test set, if there is no test folder", gt=0, lt=1
    )
    split_seed: int = setting(0, f"{IMAGE_FOLDER}: seed of that choice", ge=0, lt=2**32)
    licence: str = setting("not stated", f"{IMAGE_FOLDER}: licence of the images, for the record")


class WeightsWords(Group):
    """Alone: published weights for model.pretrained=true, into the hub's cache (HF_HOME), from HF_ENDPOINT."""

    weights: str = setting(..., "network of timm, or NAME.TAG for others of its weights")


OWN_WORDS = ("name", "size", "channels", "test_fraction", "split_seed", "licence")


def problems_of(words: PrepareWords) -> list[str]:
    """What one word alone does not show."""
    problems = []
    if words.verify and words.force:
        problems.append("verify: given with force, allowed: one of them (verify changes nothing, force packs again)")
    if words.source and words.mirror:
        problems.append("mirror: given with source, allowed: one of them")
    if words.mirror and not words.mirror.startswith(("http://", "https://")):
        problems.append(f"mirror: given {words.mirror}, allowed: an address that begins with http:// or https://")
    if words.data == IMAGE_FOLDER:
        return problems + _own_problems(words)
    if words.data not in DATASETS:
        problems.append(wording.unknown("data", words.data, [*DATASETS, IMAGE_FOLDER]))
        return problems
    problems += [
        f"{key}: given with data={words.data}, allowed: with data={IMAGE_FOLDER} only"
        for key in OWN_WORDS
        if key in words.model_fields_set
    ]
    if not DATASETS[words.data].files:
        problems += [
            f"{key}: given with data={words.data}, which comes with scikit-learn and needs no files"
            for key in ("source", "mirror")
            if getattr(words, key)
        ]
    return problems


def _own_problems(words: PrepareWords) -> list[str]:
    needed = ("name",) if words.verify else ("name", "source", "size")
    problems = [
        f"{key}: missing; {PrepareWords.model_fields[key].description}" for key in needed if getattr(words, key) is None
    ]
    if words.mirror:
        problems.append(f"mirror: given with data={IMAGE_FOLDER}, allowed: with a published data set only")
    if words.name is not None and not OWN_NAME.fullmatch(words.name):
        problems.append(f"name: given {words.name}, allowed: lower case, digits, _ . - and no mark first")
    if words.name in {*DATASETS, IMAGE_FOLDER}:
        problems.append(f"name: given {words.name}, which is a published data set; allowed: any other name")
    return problems
