"""Pack a data set once, so that training only maps it: a published one, or your own folder of images. Or fetch weights.

    python jobs/prepare.py data=mnist                           download, check, pack into ./data/mnist
    python jobs/prepare.py data=cifar10 source=/downloads       from files that are here already
    python jobs/prepare.py data=cifar10 verify=true             check every packed file again
    python jobs/prepare.py data=image_folder name=flowers source=photos size=64
    python jobs/prepare.py weights=resnet18                     download published weights into the hub's cache

A folder of images holds <class>/* or train/<class>/* and test/<class>/*. A set that is packed already is left as it is.
"""

import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

from common.compose import DONE, FAILED, answer, data_root, parse
from common.data.download import DownloadFailed
from common.data.image_folder import FolderSettings
from common.data.packing import MANIFEST, differences, is_packed
from common.data.prepare import prepare, prepare_folder
from common.failures import Refused
from common.run_dir import read_json
from jobs.prepare_words import IMAGE_FOLDER, PrepareWords, WeightsWords, problems_of

PART_WORDS = {"train": "training", "val": "validation"}
PARTS_LISTED = 3


def main(argv: list[str] | None = None) -> int:
    return answer(_prepare, argv, script="jobs/prepare.py", about=__doc__, models=[PrepareWords, WeightsWords])


def _prepare(argv: list[str]) -> int:
    if any(word.startswith("weights=") for word in argv):
        return _fetch(parse(WeightsWords, argv).weights)
    words = parse(PrepareWords, argv)
    problems = problems_of(words)
    if problems:
        raise Refused(problems)
    folder = data_root(words.data_dir) / (words.name or words.data)
    if words.verify:
        return _verify(words, folder)
    try:
        return _pack(words, folder)
    except (DownloadFailed, OSError) as error:
        print(f"{folder.name}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        again = "the same command starts again, downloads go on where they were"
        print(f"{folder.name}: interrupted; {again}", file=sys.stderr)
        return FAILED


def _fetch(name: str) -> int:
    from common.models.timm_names import refuse_unknown
    from common.models.weights import FetchFailed, fetch_weights

    try:
        refuse_unknown(f"timm/{name.removeprefix('timm/')}")
        print(f"{name}: {fetch_weights(name)}")
    except ValueError as error:
        raise Refused([f"weights: {error}"]) from None
    except FetchFailed as error:
        print(f"{name}: {error}", file=sys.stderr)
        return FAILED
    return DONE


def _pack(words: PrepareWords, folder: Path) -> int:
    before, started = is_packed(folder) and not words.force, time.monotonic()
    source = Path(words.source) if words.source else None
    if words.data == IMAGE_FOLDER:
        assert source and words.size  # noqa: PT018 - for the type checker; _problems has refused everything else
        settings = FolderSettings(words.size, words.channels, words.test_fraction, words.split_seed)
        prepare_folder(
            folder.name, folder.parent, source=source, settings=settings, licence=words.licence, force=words.force
        )
    else:
        prepare(words.data, folder.parent, source=source, mirror=words.mirror, force=words.force)
    if before:
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


def _verify(words: PrepareWords, folder: Path) -> int:
    again = f"python jobs/prepare.py data={words.data}"
    if words.data == IMAGE_FOLDER:
        again += f" name={words.name} source=DIR size=N"
    if words.data_dir:
        again += f" data_dir={shlex.quote(words.data_dir)}"
    if not is_packed(folder):
        raise Refused([f"data: {folder.name} is not prepared under {folder.parent}; run: {again}"])
    found = differences(folder)
    if not found:
        print(f"{folder.name}: ok, every file of {folder} is as its manifest says")
        return DONE
    for line in found:
        print(line, file=sys.stderr)
    print(f"{folder.name}: damaged; to pack it again: {again} force=true", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cancelled job tidies up as after Ctrl-C
    sys.exit(main())
