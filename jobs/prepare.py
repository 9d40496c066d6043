"""Pack a data set once, so that training only maps it: a published one, or your own folder of images. Or fetch weights.

    python jobs/prepare.py data=mnist                           download, check, pack into ./data/mnist
    python jobs/prepare.py data=cifar10 source=/downloads       from files that are here already
    python jobs/prepare.py data=cifar10 verify=true             check every packed file again
    python jobs/prepare.py data=image_folder name=flowers source=photos size=64
    python jobs/prepare.py weights=resnet18                     download published weights into the hub's cache

A folder of images holds <class>/* or train/<class>/* and test/<class>/*. A set that is packed already is left as it is.
"""

import re
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any, Literal

from common.cli.command import DONE, FAILED, answer, data_root, parse
from common.data.image_folder import FolderSettings
from common.data.integrity import MANIFEST
from common.data.packing import differences, is_packed
from common.data.prepare import prepare, prepare_folder
from common.data.publishers.catalog import DATASETS
from common.data.publishers.download import DownloadFailed
from common.data.publishers.medmnist import MEDMNIST, SIZES, set_name
from common.failures import Refused
from common.files import read_json
from common.settings import messages
from common.settings.field import Group, setting

IMAGE_FOLDER = "image_folder"
OWN_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
GENERAL = [name for name, published in DATASETS.items() if not published.family.startswith("medmnist")]
LARGER = ", ".join(set_name("", size) for size in SIZES[1:])


class PrepareWords(Group):
    """Words for a data set."""

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
    """A word that stands alone: it fetches weights for model.pretrained=true, from HF_ENDPOINT into HF_HOME."""

    weights: str = setting(..., "network of timm, or NAME.TAG for others of its weights")


def main(argv: list[str] | None = None) -> int:
    return answer(_prepare, argv, script="jobs/prepare.py", about=__doc__, models=[PrepareWords, WeightsWords])


def _prepare(argv: list[str]) -> int:
    if any(word.startswith("weights=") for word in argv):
        return _fetch(parse(WeightsWords, argv).weights)
    words = parse(PrepareWords, argv)
    problems = _problems(words)
    if problems:
        raise Refused(problems)

    folder = data_root(words.data_dir) / (words.name or words.data)
    if words.verify:
        return _verify(words, folder)

    # What fails here is the network, a disk or a publisher's file, not this command: a line, no traceback.
    try:
        return _pack(words, folder)
    except (DownloadFailed, OSError) as error:
        print(f"{folder.name}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        again = "the same command starts again, downloads go on where they were"
        print(f"{folder.name}: interrupted; {again}", file=sys.stderr)
        return FAILED


# --- what is refused --------------------------------------------------------------------------------------------------

OWN_WORDS = ("name", "size", "channels", "test_fraction", "split_seed", "licence")


def _problems(words: PrepareWords) -> list[str]:
    """Return what is wrong with words that are right each by itself."""
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
        problems.append(messages.unknown("data", words.data, [*DATASETS, IMAGE_FOLDER]))
        return problems

    # For a published set these words would do nothing, and a mistake would go unnoticed.
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


# --- packing ----------------------------------------------------------------------------------------------------------

PART_WORDS = {"train": "training", "val": "validation"}
PARTS_LISTED = 3


def _pack(words: PrepareWords, folder: Path) -> int:
    was_packed, started = is_packed(folder) and not words.force, time.monotonic()
    source = Path(words.source) if words.source else None

    # Both leave a set that is packed already as it is.
    if words.data == IMAGE_FOLDER:
        assert source and words.size  # noqa: PT018 - for the type checker; _problems has refused everything else
        settings = FolderSettings(words.size, words.channels, words.test_fraction, words.split_seed)
        prepare_folder(
            folder.name, folder.parent, source=source, settings=settings, licence=words.licence, force=words.force
        )
    else:
        prepare(words.data, folder.parent, source=source, mirror=words.mirror, force=words.force)

    if was_packed:
        print(f"{folder.name}: already prepared in {folder}; verify=true checks it, force=true packs it again")
    else:
        print(_summary(folder, read_json(folder / MANIFEST) or {}, time.monotonic() - started))
    return DONE


def _summary(folder: Path, manifest: dict[str, Any], seconds: float) -> str:
    mean, std = (" ".join(f"{value:.4f}" for value in manifest[name]) for name in ("mean", "std"))
    return (
        f"{folder.name}: packed into {folder} in {seconds:.1f} s\n"
        f"  {_counts(manifest['sets'])} images of {'x'.join(map(str, manifest['shape']))}, "
        f"{len(manifest['classes'])} classes\n"
        f"  mean {mean}, std {std}\n"
        f"  licence: {manifest['licence']}"
    )


def _counts(sets: dict[str, Any]) -> str:
    if len(sets) > PARTS_LISTED:
        return f"{len(sets)} parts of together {sum(entry['n'] for entry in sets.values()):,}"
    *others, last = [f"{entry['n']:,} {PART_WORDS.get(name, name)}" for name, entry in sets.items()]
    return " and ".join([", ".join(others), last] if others else [last])


# --- checking ---------------------------------------------------------------------------------------------------------


def _verify(words: PrepareWords, folder: Path) -> int:
    again = f"python jobs/prepare.py data={words.data}"
    if words.data == IMAGE_FOLDER:
        again += f" name={words.name} source=DIR size=N"
    if words.data_dir:
        again += f" data_dir={shlex.quote(words.data_dir)}"

    # Every answer but "ok" ends with the command that mends it.
    if not is_packed(folder):
        raise Refused([f"data: {folder.name} is not prepared under {folder.parent}; run: {again}"])
    problems = differences(folder)
    if not problems:
        print(f"{folder.name}: ok, every file of {folder} is as its manifest says")
        return DONE
    for line in problems:
        print(line, file=sys.stderr)
    print(f"{folder.name}: damaged; to pack it again: {again} force=true", file=sys.stderr)
    return FAILED


# --- published weights ------------------------------------------------------------------------------------------------


def _fetch(name: str) -> int:
    from common.models.weights import FetchFailed, fetch_weights
    from common.settings.models import refuse_unknown

    # Settings call such a network timm/NAME; here the prefix may be left out.
    try:
        refuse_unknown(f"timm/{name.removeprefix('timm/')}")
        print(f"{name}: {fetch_weights(name)}")
    except ValueError as error:
        raise Refused([f"weights: {error}"]) from None
    except FetchFailed as error:
        print(f"{name}: {error}", file=sys.stderr)
        return FAILED
    return DONE


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cancelled job tidies up as after Ctrl-C
    sys.exit(main())
