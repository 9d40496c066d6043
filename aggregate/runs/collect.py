"""This module reads run folders: those that can be counted become runs, the others get a reason. It trusts no folder.

Folders may be half written, edited, renamed, of an older version, or made by a stranger.
"""

import functools
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from aggregate.runs.histories import Learning, read_learning
from common.failures import Refused
from common.files import read_json
from common.run.run_dir import DEAD_AFTER_SECONDS, RunDir
from common.settings import messages
from common.settings.entries import ENTRIES, TRAININGS, RunSettings, run_name
from common.settings.field import identity
from common.settings.yaml12 import load_yaml, read_mapping

FINGERPRINTS = ("seed", "teacher.digest", "run.digest")  # differ between the runs of one method
BULKY = ("per_class", "confusion_matrix")  # of a result; ten thousand runs of them would fill the memory
RATES = ("accuracy", "precision", "recall", "f1_score", "macro_auc")
NEEDED: dict[str, dict[str, type]] = {  # dotted places of a result, and what is there
    "training": {
        **dict.fromkeys(("data.digest", "data.task", "selection.rule", "selection.digest", "model.name"), str),
        "test.n": int,
        "test.accuracy": float,
        "cost.train_seconds": float,
    },
    "eval_shift": {
        **dict.fromkeys(("data.digest", "data.task", "subject.digest"), str),
        "shift.clean": dict,
    },
}
KNOWN: dict[str, type] = {  # dotted places that tables can do without, and what is there if anything is
    **dict.fromkeys(("teacher", "subject", "distillation", "shift", "val", "test", "cost", "speed"), dict),
    "data.classes": list,
}
ORIGIN: dict[str, type] = {  # what provenance.json holds; a fact of another type is as good as unknown
    **dict.fromkeys(("commit", "started", "command", "host", "device", "gpu"), str),
    "dirty": bool,
    "packages": dict,
    "container": dict,
}
LARGEST = 1e30  # no number of a run is larger, and the squares of larger ones may not be finite


@dataclass(frozen=True)
class Run:
    """A finished run, as far as tables need it."""

    path: Path
    entry: str
    seed: int
    settings: Mapping[str, Any]  # dotted; those that can change the result, but for FINGERPRINTS
    result: Mapping[str, Any]
    provenance: Mapping[str, Any]
    learning: Learning = field(default_factory=Learning)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def data(self) -> str:
        return str(self.settings["data.name"])

    @property
    def is_training(self) -> bool:
        return self.entry in TRAININGS

    @property
    def parent(self) -> str | None:
        """The fingerprint of the weights of the run that this one builds on."""
        facts = self.result.get("teacher" if self.is_training else "subject") or {}
        digest = facts.get("digest")
        return str(digest) if digest else None

    def fact(self, dotted: str) -> Any:
        """Return what the result has at a dotted place, None if it has nothing there."""
        return _at(self.result, dotted)


@dataclass(frozen=True)
class LeftOut:
    path: Path
    reason: str


class Unusable(Exception):
    """The reason why a folder does not count."""


def collect(folders: Iterable[Path]) -> tuple[list[Run], list[LeftOut]]:
    """Return the finished runs, each once, and the folders that were left out."""
    runs: dict[str, Run] = {}
    left_out: list[LeftOut] = []
    for folder in dict.fromkeys(folders):
        try:
            run = read_run(folder)
        except Unusable as reason:
            left_out.append(LeftOut(folder, messages.one_line(str(reason))))
            continue
        except OSError as error:
            left_out.append(LeftOut(folder, f"cannot be read: {error.strerror}"))
            continue

        # A name holds a hash of the settings: a second folder of that name is a copy, or the same run made again.
        if run.name in runs:
            left_out.append(LeftOut(folder, _twice(run, runs[run.name])))
        else:
            runs[run.name] = run
    return list(runs.values()), left_out


def _twice(run: Run, counted: Run) -> str:
    alike = run.fact("test.accuracy") == counted.fact("test.accuracy")
    return f"the same run as {counted.path}, which is counted" + ("" if alike else "; their results differ")


def read_run(folder: Path) -> Run:
    run = RunDir(folder)
    if not run.config.is_file():
        raise Unusable("no run folder: it has no config.yaml")
    settings = _settings(run.config)
    result = _result(run)

    # Folder, settings and result each name the run; if they disagree, somebody has edited or moved one of them.
    if run_name(settings) != folder.name:
        raise Unusable(f"its settings are those of {run_name(settings)}: edited, renamed, or of another version")
    if (result.get("entry"), result.get("run")) != (settings.entry, folder.name):
        raise Unusable(f"its result.json is that of {messages.shown(result.get('run'))}")
    check_result(result, settings.entry)

    return Run(
        folder,
        settings.entry,
        settings.seed,
        _method_settings(settings),
        _without_bulk(result),
        _provenance(run.provenance),
        read_learning(run.history, _at(result, "selection.epoch")),
    )


def _provenance(path: Path) -> dict[str, Any]:
    facts = read_json(path) or {}
    return {name: value for name, value in facts.items() if isinstance(value, ORIGIN.get(name, object))}


# --- settings ---------------------------------------------------------------------------------------------------


def _settings(path: Path) -> RunSettings:
    try:
        tree = _read_config(path)
        entry = tree.get("entry")
        if not isinstance(entry, str) or entry not in ENTRIES:
            raise Unusable(f"config.yaml: {messages.unknown('entry', entry, ENTRIES)}")
        return ENTRIES[entry].model_validate(tree)

    # The first problem is enough: whoever makes a report is not about to repair the file.
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Unusable(f"config.yaml: {messages.problem(ENTRIES[str(entry)], first)}") from None
    except Refused as refused:
        raise Unusable(str(refused).removeprefix(f"{path.parent}/")) from None
    except RecursionError:
        raise Unusable("config.yaml: it is nested too deeply") from None


def _read_config(path: Path) -> dict[str, Any]:
    """Read a file by its top-level blocks, most of which runs share; a whole file takes 10 milliseconds."""
    try:
        blocks = re.split(r"^(?=[a-z_]+:)", path.read_text(), flags=re.MULTILINE)
        parts = [_read_block(block) for block in blocks if block]
    except (OSError, ValueError):
        return read_mapping(path)
    tree = {name: value for part in parts for name, value in part.items()}
    return tree if len(tree) == sum(map(len, parts)) else read_mapping(path)


@functools.lru_cache(maxsize=4096)
def _read_block(text: str) -> dict[str, Any]:
    content = load_yaml(text)
    if not isinstance(content, dict):
        raise ValueError("not a mapping")  # noqa: TRY004 - wrong YAML is a ValueError here, as load_yaml's is
    return content


def _method_settings(settings: RunSettings) -> dict[str, Any]:
    flat = flatten(identity(settings))
    return {name: value for name, value in flat.items() if name not in FINGERPRINTS}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Open nested mappings into dotted names; lists stay as they are."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value.model_dump() if isinstance(value, BaseModel) else value
    return flat


# --- results ----------------------------------------------------------------------------------------------------


def _result(run: RunDir) -> dict[str, Any]:
    if not run.result.exists():
        raise Unusable(_unfinished(run))
    try:
        result = run.finished()
    except RecursionError:
        result = None
    if result is None:
        raise Unusable("result.json is not whole JSON")
    return result


def _unfinished(run: RunDir) -> str:
    if failure := read_json(run.failure):
        return f"failed ({failure.get('class')}): {messages.shown(failure.get('message'))}"
    beat = read_json(run.heartbeat) or {}
    last = beat.get("time")
    alive = isinstance(last, int | float) and time.time() - last < DEAD_AFTER_SECONDS
    at = f", epoch {beat['epoch']} of {beat['epochs']}" if {"epoch", "epochs"} <= beat.keys() else ""
    return f"running{at}" if alive else f"not finished{at}"


def check_result(result: Mapping[str, Any], entry: str) -> None:
    """Raise Unusable if a value is absent, of a wrong type, or impossible."""
    _check_kinds(result, entry)
    _check_numbers(result)
    if entry in TRAININGS and _at(result, "test.n") < 1:
        raise Unusable("result.json: tested on no images")


def _check_kinds(result: Mapping[str, Any], entry: str) -> None:
    needed = NEEDED["training" if entry in TRAININGS else entry]
    for dotted, kind in {**KNOWN, **needed}.items():
        value = _at(result, dotted)
        if value is None and dotted in needed:
            raise Unusable(f"result.json has no {dotted}: it is of an older version, or no result of {entry}")
        kinds = (int, float) if kind is float else (kind,)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
            raise Unusable(f"result.json: {dotted} is {messages.shown(value)}, expected {kind.__name__}")


def _check_numbers(result: Mapping[str, Any]) -> None:
    # One value that is not finite would make every mean so; a rate that is no share would be printed as a percentage.
    for dotted, value in flatten(_without_bulk(result)).items():
        if isinstance(value, int | float) and not abs(value) <= LARGEST:
            raise Unusable(f"result.json: {dotted} is {str(value)[:20]}")

    for part in ("val", "test", "shift.clean"):
        for name in RATES:
            value = _at(result, f"{part}.{name}")
            if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
                raise Unusable(f"result.json: {part}.{name} is {messages.shown(value)}, expected 0 to 1")


def _at(tree: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def _without_bulk(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_bulk(value) if isinstance(value, Mapping) else value
        for name, value in tree.items()
        if name not in BULKY
    }


# --- arrays of a run --------------------------------------------------------------------------------------------


NUMBERS = "biuf"  # kinds of dtype


def read_arrays(path: Path, names: Sequence[str]) -> list[np.ndarray] | None:
    """Return the arrays of these names; None if the file is absent, damaged, or lacks one of them as numbers."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:  # numpy leaves a damaged one open
            arrays = [kept[name] for name in names]
    except Exception:  # noqa: BLE001 - a few bytes changed make numpy and zipfile raise any of a dozen, and memory end
        return None
    if not all(isinstance(array, np.ndarray) and array.dtype.kind in NUMBERS for array in arrays):
        return None
    return arrays
