"""This module opens a finished run, so that it can be evaluated, make predictions, be explained, or teach.

Its folder is enough: the settings say how the network is built, and the result says what it was trained on and which
weights were chosen. Torch is not loaded here; common/models/load.py makes the model.
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
        """Return what describes its training set: name, digest, task, classes, shape, mean, std, dark_background."""
        return self.result["data"]

    def predictions(self, name: str) -> "tuple[np.ndarray, np.ndarray] | None":
        """Return the logits (n, classes) and labels that the run left for a part of its data, or None."""
        import numpy as np

        path = self.run.predictions(name)
        if not path.is_file():
            return None
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # numpy leaves a damaged one open
            return arrays["logits"], arrays["labels"]


def open_run(name: str, root: Path, word: str = "run") -> TrainedRun:
    """Open a finished run by its folder, or by its name or hash under root; refuse it if its files are not whole.

    word: the word of the command line that a refusal is about.
    """
    run = RunDir(find_folder(name, root, word))
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


def find_folder(name: str, root: Path, word: str) -> Path:
    """Return the folder of a run that is named by its folder, its name or its hash."""
    path = expanded(name)
    if path.is_dir():
        if RunDir(path).config.is_file():
            return path
        raise Refused([f"{word}: {path} is not a run folder (it has no config.yaml)"])

    # A hash is the last part of a name; a run and a copy of it may share one.
    folders = {path.name: path for entry in ENTRIES for path in sorted(root.glob(f"{entry}/*")) if path.is_dir()}
    matches = [path for full, path in folders.items() if name in {full, full.rpartition("-")[2]}]
    if len(matches) == 1:
        return matches[0]

    if matches:
        raise Refused([f"{word}: given {name}, which is {len(matches)} runs: {', '.join(map(str, matches))}"])
    advice = messages.nearest(name, folders)
    raise Refused([f"{word}: given {name}, which is no folder and no run under {root}{advice}"])


def _standing(run: RunDir) -> str:
    failure, beat = read_json(run.failure), read_json(run.heartbeat)
    if failure:
        return f"failed, {failure.get('class')}: {failure.get('message')}"
    if beat and {"epoch", "epochs"} <= beat.keys():
        return f"epoch {beat['epoch']} of {beat['epochs']}"
    return "begun, but no step is done" if beat else "not begun"


def _settings(run: RunDir, word: str) -> TrainingSettings:
    tree = read_mapping(run.config)
    entry = tree.get("entry")
    if entry not in TRAININGS:
        raise Refused([f"{word}: {run.config}: {messages.unknown('entry', entry, TRAININGS)}"])
    try:
        return TRAININGS[entry].model_validate(tree)
    except ValidationError as error:
        problems = [messages.problem(TRAININGS[entry], item) for item in error.errors(include_url=False)]
        raise Refused([f"{word}: {run.config}: {problem}" for problem in problems]) from None
