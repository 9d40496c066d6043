"""A finished run as a model to use: to evaluate, to predict, to explain, to teach.

Its folder is enough: the settings say how the network is built, the result what it was trained on and which weights
were chosen. Torch is loaded only where the model is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from common.failures import Refused
from common.files import digest_of, expanded, read_json
from common.run.run_dir import RunDir
from common.settings import messages
from common.settings.entries import ENTRIES, TRAININGS, TrainingSettings
from common.settings.yaml12 import read_mapping

if TYPE_CHECKING:
    import numpy as np


# --- the finished run: files alone ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedRun:
    run: RunDir
    settings: TrainingSettings
    result: dict[str, Any]

    @property
    def name(self) -> str:
        return self.run.path.name

    @property
    def data(self) -> Mapping[str, Any]:
        """Of the set it was trained on: name, digest, task, classes, shape, mean, std, dark_background."""
        return self.result["data"]

    def predictions(self, name: str) -> "tuple[np.ndarray, np.ndarray] | None":
        """Logits (n, classes) and labels of a part that the run predicted itself; None where it had none."""
        import numpy as np

        path = self.run.predictions(name)
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as kept:
            return kept["logits"], kept["labels"]


def open_run(given: str, root: Path, word: str = "run") -> TrainedRun:
    """The finished run of a folder, or of a run's name (or its hash) under root; else Refused, naming the word."""
    run = RunDir(find_folder(given, root, word))
    result = run.finished()
    if result is None:
        raise Refused([f"{word}: {run.path} is not finished ({_standing(run)}); expected a run with a result.json"])
    if not {"data", "selection", "model"} <= result.keys():
        raise Refused([f"{word}: {run.result} is not the result of a training"])
    if not run.best.is_file():
        raise Refused([f"{word}: {run.best} is missing; the run has a result, but its weights are gone"])
    if digest_of(run.best) != result["selection"].get("digest"):
        raise Refused([f"{word}: {run.best} has changed since the run's result was written: damaged, or other weights"])
    return TrainedRun(run, _settings(run, word), result)


def find_folder(given: str, root: Path, word: str) -> Path:
    """Of a run, by its folder, its name or its hash."""
    path = expanded(given)
    if path.is_dir():
        if RunDir(path).config.is_file():
            return path
        raise Refused([f"{word}: {path} is not a run folder (it has no config.yaml)"])
    names = {folder.name: folder for entry in ENTRIES for folder in sorted(root.glob(f"{entry}/*")) if folder.is_dir()}
    found = [folder for name, folder in names.items() if given == name or given == name.rpartition("-")[2]]
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused([f"{word}: given {given}, which is {len(found)} runs: {', '.join(map(str, found))}"])
    raise Refused(
        [f"{word}: given {given}, which is no folder and no run under {root}" + messages.nearest(given, names)]
    )


def _standing(run: RunDir) -> str:
    failure, beat = read_json(run.failure), read_json(run.heartbeat)
    if failure:
        return f"failed, {failure.get('class')}: {failure.get('message')}"
    return f"epoch {beat.get('epoch')} of {beat.get('epochs')}" if beat else "not begun"


def _settings(run: RunDir, word: str) -> TrainingSettings:
    tree = read_mapping(run.config)
    entry = tree.get("entry")
    if entry not in TRAININGS:
        raise Refused([f"{word}: {run.config}: {messages.unknown('entry', entry, TRAININGS)}"])
    try:
        return TRAININGS[entry].model_validate(tree)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        kind = TRAININGS[entry]
        raise Refused([f"{word}: {run.config}: {messages.problem(kind, each)}" for each in problems]) from None


# --- its model: torch and the networks --------------------------------------------------------------------------
