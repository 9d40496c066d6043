"""This module looks up what settings refer to on this machine: packed data sets, files of weights, finished runs.

Each function takes the settings that a command line has led to, adds the fingerprint of the files that they refer to
(so that other contents make another run), and returns what is wrong.
"""

import functools
import os
import shlex
from pathlib import Path
from typing import Any

from common.cli.command import Problems
from common.data.publishers.catalog import DATASETS
from common.failures import Refused
from common.files import digest_of, expanded, read_json
from common.run.finished import TrainedRun, find_folder, open_run
from common.run.run_dir import RunDir
from common.settings import messages
from common.settings.distillation import CSTSettings
from common.settings.entries import DistillCST, EvalShift, RunSettings
from common.settings.models import ViTSettings


def find_data(
    tree: dict[str, Any], data_dir: Path, given_dir: str | None, unprepared: list[str] | None = None
) -> Problems:
    """Check that a published set is prepared; add the manifest's digest of a set of the user's own.

    given_dir: data_dir as the command line has it, to be repeated in advice.
    unprepared: takes the names of published sets that are not prepared, where that is no problem yet.
    """
    data = tree.setdefault("data", {})
    name = data.get("name", "digits") if isinstance(data, dict) else None
    if not isinstance(name, str):
        return {}
    if name not in DATASETS:
        return _find_own_data(data, data_dir)

    # The name of a published set says which images it has; a digest would give the same run a second name.
    if data.get("digest") is not None:
        digest = messages.shown(data["digest"])
        return {"data.digest": f"data.digest: given {digest}, allowed: null, because {name} is a published set"}
    if data.get("validation") == "published" and not DATASETS[name].validation:
        return {"data.validation": _no_validation(name)}

    if name == "digits" or os.access(data_dir / name / "manifest.json", os.R_OK):  # digits packs itself
        return {}
    if unprepared is not None:
        unprepared.append(name)
        return {}
    return {"data": _not_prepared("data", name, data_dir, given_dir)}


def _not_prepared(word: str, name: str, data_dir: Path, given_dir: str | None) -> str:
    where = f" data_dir={shlex.quote(given_dir)}" if given_dir else ""
    return f"{word}: {name} is not prepared under {data_dir}; run: python jobs/prepare.py data={name}{where}"


def no_training_images(name: str) -> str:
    command = f"python eval/evaluate.py run=DIR data={name}"
    return f"data: {name} holds no images to train on; to measure a run on it: {command}"


def several_sets(names: list[Any]) -> str:
    given, sets = messages.shown(names), ",".join(map(str, names))
    return f"data: given {given}, allowed: one set; to train on several: python jobs/submit.py sweep=NAME data={sets}"


def _no_validation(name: str) -> str:
    return f"data.validation: given published, but {name} comes without validation images; allowed: split"


def _find_own_data(data: dict[str, Any], data_dir: Path) -> Problems:
    name, folder = data["name"], data_dir / data["name"]
    manifest = read_json(folder / "manifest.json") or {}
    digest, parts = manifest.get("digest"), manifest.get("sets", {"train": {}})
    if isinstance(digest, str):
        expected = data.get("digest") or digest  # a snapshot names the images that its run has learned from
        data["digest"] = digest
        if "train" not in parts:
            return {"data": no_training_images(name)}
        if data.get("validation") == "published" and "val" not in parts:
            return {"data.validation": _no_validation(name)}
        if expected == digest:
            return {}
        shown = messages.shown(expected)
        return {"data.digest": f"data.digest: given {shown}, but the images packed under {folder} have {digest}"}

    packed = sorted(path.parent.name for path in data_dir.glob("*/manifest.json"))
    if name in packed:
        return {"data": f"data: {folder}/manifest.json cannot be read as a manifest; prepare {name} again"}

    # A name has no comma, and the check of the whole would say only that.
    if "," in name:
        del data["name"]
        return {"data": several_sets(name.split(","))}

    # No set has this name. Without it in the tree, the check of the whole does not refuse it a second time.
    del data["name"]
    published = [known for known, dataset in DATASETS.items() if not dataset.evaluation_only]
    own = [known for known in packed if known not in DATASETS]
    problem = messages.unknown("data", name, [*published, *own])
    if not messages.nearest(name, [*published, *own]):
        problem += "; images of your own: python jobs/prepare.py data=image_folder"
    return {"data": problem}


def find_weights(tree: dict[str, Any]) -> Problems:
    """Add the digest of a file of weights: where the file lies does not matter, what is in it does."""
    model = tree.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("weights"), str):
        return {}
    model.setdefault("pretrained", True)
    return _find_file(model, "model")


def _find_file(group: dict[str, Any], word: str) -> Problems:
    if not isinstance(group.get("weights"), str):
        return {}
    path, expected = expanded(group["weights"]), group.get("weights_digest")

    try:
        digest = _digest_of(path, path.stat().st_mtime_ns)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return {f"{word}.weights": f"{word}.weights: {path} cannot be read: {reason}"}

    group["weights_digest"] = digest
    return {} if expected is None else _other_digest(f"{word}.weights_digest", expected, path, digest)


def _other_digest(key: str, expected: Any, path: Path, digest: str) -> Problems:
    """Refuse a fingerprint in the settings that is not that of the file."""
    if expected == digest:
        return {}
    return {key: f"{key}: given {messages.shown(expected)}, but {path} has {digest}"}


@functools.cache
def _digest_of(path: Path, _changed: int) -> str:
    """Compute a digest once for all runs of a sweep, and again if the file has changed."""
    return digest_of(path)


def find_teacher(entry: type[RunSettings], tree: dict[str, Any], root: Path, data_dir: Path) -> Problems:
    """Add the digest of a teacher's weights; check that a run that teaches knows the same classes and images."""
    if "teacher" not in entry.model_fields:
        return {}
    teacher = tree.setdefault("teacher", {})
    if not isinstance(teacher, dict):
        return {}  # the check of the whole refuses it

    # A network of timm has no run folder: of it, only a file of weights can be looked up.
    run, name = teacher.get("run"), teacher.get("name")
    if run and name:
        return {"teacher": f"teacher: given the run {run} and {name}, allowed: one of them"}
    if name:
        return _find_file(teacher, "teacher")
    if not isinstance(run, str):
        return {"teacher": "teacher: missing; a finished run (its folder, name or hash), or timm/NAME"}

    try:
        trained = open_run(run, root, "teacher")
    except Refused as refused:
        return {"teacher": "; ".join(refused.problems)}
    digest, expected = trained.result["selection"]["digest"], teacher.get("digest")
    teacher["digest"] = digest
    if expected not in (None, digest):  # no set: a snapshot may hold a list here
        changed = _other_weights("teacher", trained, expected)
        return {"teacher": f"{changed}: the teacher has changed; allowed: teacher.digest=null with another teacher"}
    return _check_distillation(entry, tree, trained, data_dir)


def _other_weights(word: str, trained: TrainedRun, expected: Any) -> str:
    digest = trained.result["selection"]["digest"]
    return f"{word}: {trained.run.path} has the weights {digest}, but the settings name {messages.shown(expected)}"


def _check_distillation(
    entry: type[RunSettings], tree: dict[str, Any], trained: TrainedRun, data_dir: Path
) -> Problems:
    data = tree.get("data", {}).get("name", "digits")
    manifest = read_json(data_dir / str(data) / "manifest.json") or {}
    theirs = trained.data
    if theirs["name"] != data or manifest.get("digest", theirs["digest"]) != theirs["digest"]:
        here = f"{data} ({manifest.get('digest', 'not packed')})"
        return {"teacher": f"teacher: {trained.name} learned {theirs['name']} ({theirs['digest']}), not {here}"}

    if entry.model_fields["distill"].annotation is not CSTSettings:
        return {}
    layer = (tree.get("distill") or {}).get("teacher_layer", -1)
    return _tokens_refused(trained.name, trained.settings, layer)


def distillation_refused(settings: RunSettings, teacher: RunSettings, name: str) -> Problems:
    """Check a teacher that is not trained yet by the settings alone."""
    if (settings.data.name, settings.data.digest) != (teacher.data.name, teacher.data.digest):
        return {"teacher": f"teacher: {name} learns {teacher.data.name}, not {settings.data.name}"}
    if not isinstance(settings, DistillCST):
        return {}
    return _tokens_refused(name, teacher, settings.distill.teacher_layer)


def find_run(tree: dict[str, Any], root: Path) -> Problems:
    """Add the seed, the data and the network of the run that is tested, and the digest of its weights."""
    group = tree.setdefault("run", {})
    if not isinstance(group, dict):
        return {}  # the check of the whole refuses it
    if not isinstance(group.get("run"), str):
        return {"run": "run: missing; a finished run (its folder, name or hash)"}
    try:
        trained = open_run(group["run"], root)
    except Refused as refused:
        return {"run": "; ".join(refused.problems)}

    digest = trained.result["selection"]["digest"]
    if group.get("digest") not in (None, digest):
        return {"run": _other_weights("run", trained, group["digest"])}
    group["digest"] = digest
    tree |= trained.settings.model_dump(include=set(EvalShift.FROM_PARENT))
    return {}


def find_sets(
    tree: dict[str, Any], root: Path, data_dir: Path, given_dir: str | None, unprepared: list[str] | None = None
) -> Problems:
    """Add the digests of further sets to test on, which must be prepared, and that of the baseline run.

    unprepared: as in find_data. A set's digest is in the run's name, so the name changes when the set is prepared.
    """
    shift = tree.setdefault("shift", {})
    if not isinstance(shift, dict):
        return {}  # the check of the whole refuses it
    sets, expected = shift.get("sets", []), shift.get("digests")
    names = [name for name in sets if isinstance(name, str)] if isinstance(sets, list) else []

    problems: Problems = {}
    digests = {}
    for name in names:
        digest = (read_json(data_dir / name / "manifest.json") or {}).get("digest")
        if digest is not None:
            digests[name] = digest
        elif unprepared is not None and name in DATASETS:
            unprepared.append(name)
        else:
            problems[f"shift.sets {name}"] = _no_such_set(name, data_dir, given_dir)
    if isinstance(shift.get("baseline"), str):
        problems |= _find_baseline(shift, root)

    # Digests in the settings come from a snapshot: its run was measured on images that may have changed since.
    if not problems and isinstance(expected, dict | None):
        shift["digests"] = digests
        changed = [name for name, digest in digests.items() if (expected or {}).get(name, digest) != digest]
        if changed:
            problems["shift.digests"] = f"shift.digests: the images of {', '.join(changed)} have changed"
    return problems


def _no_such_set(name: str, data_dir: Path, given_dir: str | None) -> str:
    if name in DATASETS:
        return _not_prepared("shift.sets", name, data_dir, given_dir)
    packed = sorted(path.parent.name for path in data_dir.glob("*/manifest.json"))
    return messages.unknown("shift.sets", name, dict.fromkeys([*packed, *DATASETS]))


def _find_baseline(shift: dict[str, Any], root: Path) -> Problems:
    try:
        path, _ = open_shift_run(shift["baseline"], root)
    except Refused as refused:
        return {"shift.baseline": "; ".join(refused.problems)}
    digest, expected = digest_of(RunDir(path).result), shift.get("baseline_digest")
    shift["baseline_digest"] = digest
    return {} if expected is None else _other_digest("shift.baseline_digest", expected, path, digest)


def open_shift_run(name: str, root: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the result of a finished test under shift; refuse anything else."""
    path = find_folder(name, root, "shift.baseline")
    result = RunDir(path).finished()
    if result is None or "shift" not in result:
        raise Refused([f"shift.baseline: {path} is no finished run of eval_shift"])
    return path, result


def _tokens_refused(name: str, teacher: RunSettings, layer: Any) -> Problems:
    """Refuse a teacher that has no tokens, or not the layer that they are to come from."""
    model = teacher.model
    if isinstance(model, ViTSettings):
        if isinstance(layer, int) and not -model.depth <= layer < model.depth:
            allowed = f"0 to {model.depth - 1}, or -{model.depth} to -1 from the end"
            return {
                "distill.teacher_layer": f"distill.teacher_layer: given {layer}, allowed with this teacher: {allowed}"
            }
        return {}
    if any(word in model.name for word in ("vit", "deit")):
        return {}
    article = "an" if model.name[0] in "aeiou" else "a"
    return {"teacher": f"teacher: {name} is {article} {model.name}, allowed: a vision transformer, which has tokens"}
