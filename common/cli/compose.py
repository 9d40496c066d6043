"""This module turns the command line of a run into checked settings, or lists everything that is wrong with it.

`compose` starts from the defaults of the data set (presets/defaults.yaml) or from a snapshot (`config=FILE`), lays
`group=preset` over it, then `group.field=value`, and checks the whole. Later words win over earlier ones.
"""

import copy
import functools
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli.command import Problems, check, data_root, merged, plant, read_words, runs_root
from common.cli.references import (
    find_data,
    find_run,
    find_sets,
    find_teacher,
    find_weights,
    no_training_images,
    several_sets,
)
from common.data.publishers.catalog import DATASETS
from common.failures import Refused
from common.files import expanded
from common.settings import messages
from common.settings.entries import RunSettings
from common.settings.field import Group, every_setting, groups_of, setting
from common.settings.yaml12 import PRESETS, preset_names, read_mapping, read_preset

# --- a run ------------------------------------------------------------------------------------------------------

PRESET_GROUPS = ("data", "model", "recipe", "augment", "distill", "shift", "memory")
SPREAD = "memory"  # sets fields of other groups, so it comes last


class RunWords(Group):
    """These words of the command are not settings of the run."""

    root: str | None = setting(None, "folder of the run folders; null is $STILLHOUSE_RUNS, else ./runs")
    data_dir: str | None = setting(None, "folder of the packed data sets; null is $STILLHOUSE_DATA, else ./data")
    config: str | None = setting(None, "start from this snapshot (a run's config.yaml) instead of the defaults")
    force: bool = setting(False, "start anew even if finished; the old folder is kept aside")
    dry_run: bool = setting(False, "print the settings and the run folder, do nothing")


@dataclass(frozen=True)
class Command:
    settings: RunSettings
    root: Path
    data_dir: Path
    force: bool
    dry_run: bool


def compose(
    entry: type[RunSettings],
    argv: Iterable[str],
    *,
    taught_later: bool = False,
    unprepared: list[str] | None = None,
) -> Command:
    """Return the checked command, or refuse it with every problem at once.

    taught_later: a sweep trains the teacher first, so there is nothing to look at yet.
    unprepared: takes the names of published sets that are not prepared; without it they are refused.
    """
    presets = presets_of(entry)
    parent = [entry.PARENT] if entry.PARENT else []

    # Read the words, and take out those that are about the command and not about the run.
    values, problems = read_words(argv, (RunWords, entry), (*presets, *parent, *entry.FROM_PARENT))
    problems |= _taken_from_parent(entry, values)
    if isinstance(values.get("data.name"), str) and values["data.name"] in DATASETS:
        values["data"] = values.pop("data.name")  # with all that a published set brings
    words, wrong = _run_words(values)
    problems |= wrong
    root, data_dir = runs_root(words.root), data_root(words.data_dir)
    problems |= _check_folder("root", root) | _check_folder("data_dir", data_dir)

    # Make the tree of settings, and complete it with the fingerprints of the files that it refers to.
    tree, wrong = _base(entry, values, words.config)
    problems |= wrong | _lay_over(tree, values, presets, entry.PARENT)
    if entry.PARENT == "run":
        problems |= {} if taught_later else find_run(tree, root)
        problems |= find_sets(tree, root, data_dir, words.data_dir, unprepared)
    else:
        problems |= find_data(tree, data_dir, words.data_dir, unprepared) | find_weights(tree)
        problems |= {} if taught_later else find_teacher(entry, tree, root, data_dir)

    settings, wrong = check(entry, tree)
    if problems or settings is None:
        raise Refused(merged(problems, wrong).values())
    return Command(settings, root, data_dir, words.force, words.dry_run)


def _taken_from_parent(entry: type[RunSettings], values: dict[str, Any]) -> Problems:
    """Take out, and refuse, the words for settings that come from the run that is built on."""
    foreign = [key for key in values if key.partition(".")[0] in entry.FROM_PARENT]
    return {key: f"{key}: given {messages.shown(values.pop(key))}, but it is that of the run" for key in foreign}


# --- presets ----------------------------------------------------------------------------------------------------


@functools.cache
def presets_of(entry: type[RunSettings]) -> dict[str, tuple[str, ...]]:
    """Map each group to the presets that an entry takes; those of data are the published sets to train on."""
    groups = [
        group
        for group in PRESET_GROUPS
        if group not in entry.FROM_PARENT
        and (group in entry.model_fields or (group == SPREAD and "recipe" in entry.model_fields))
    ]
    named = {group: preset_names(group) for group in groups}

    # Leave out those that the entry would refuse: other sets, other networks, settings of another distillation.
    if "data" in named:
        named["data"] = [name for name, published in DATASETS.items() if not published.evaluation_only]
        named["model"] = [name for name in named["model"] if _preset("model", name)["name"] in entry.MODEL_NAMES]
    if "distill" in named:
        known = set(every_setting(groups_of(entry.model_fields["distill"])[""]))
        named["distill"] = [name for name in named["distill"] if _preset("distill", name).keys() <= known]

    return {group: tuple(names) for group, names in named.items()}


def _preset(group: str, name: str) -> dict[str, Any]:
    if group == "data":
        return {"name": name} | ({"validation": "published"} if DATASETS[name].validation else {})
    return read_preset(group, name)


@functools.cache
def _defaults() -> dict[str, Any]:
    return read_mapping(PRESETS / "defaults.yaml")


@functools.cache
def starting_points_of(entry: type[RunSettings]) -> dict[str, str]:
    """Map data sets, in words, to the presets that an entry takes for them; none if it takes them from another run."""
    table = _defaults().get(entry.model_fields["entry"].default, {})
    return {
        _in_words(data): " ".join(f"{group}={preset}" for group, preset in presets.items())
        for data, presets in table.items()
    }


def _in_words(data: str) -> str:
    """Say what a row of defaults.yaml is for: a data set, a family of them, or any other."""
    return f"data={data}" if data in DATASETS else "any other" if data == "any" else f"sets of {data}"


# --- composing --------------------------------------------------------------------------------------------------


def _run_words(values: dict[str, Any]) -> tuple[RunWords, Problems]:
    """Take these words out of the values. Each is checked alone, so that a wrong one does not hide the others."""
    words, problems = RunWords(), Problems()
    for key in [key for key in values if key in RunWords.model_fields]:
        checked, wrong = check(RunWords, {**words.model_dump(), key: values.pop(key)})
        words, problems = checked or words, problems | wrong
    return words, problems


def _base(entry: type[RunSettings], values: Mapping[str, Any], snapshot: str | None) -> tuple[dict[str, Any], Problems]:
    """Return the settings that the words are laid over: a snapshot, or the presets of the data set."""
    entry_name = entry.model_fields["entry"].default
    if snapshot is not None:
        try:
            tree = read_mapping(expanded(snapshot))
        except Refused as refused:
            return {}, {"config": f"config: {refused}"}
        if strangers := _strangers(entry, tree):
            return {}, {"config": f"config: {snapshot} is no snapshot of a run's settings: it has {strangers}"}
        if tree.get("entry", entry_name) != entry_name:
            other = messages.shown(tree["entry"])
            return {}, {"config": f"config: {snapshot} is a snapshot of {other}, allowed: one of {entry_name}"}
        return tree, {}

    # An entry that builds on another run starts with nothing, because that run is read later (find_run).
    if entry.FROM_PARENT:
        return {}, {}

    data = values.get("data.name", values.get("data", entry.model_fields["data"].default.name))
    chosen = _starting_point(entry_name, data if isinstance(data, str) else "any")
    return {group: copy.deepcopy(_preset(group, preset)) for group, preset in chosen.items()}, {}


def _strangers(entry: type[RunSettings], tree: dict[str, Any]) -> str:
    """Name some keys of a file that is about something else, as result.json is; nothing if most keys are settings."""
    unknown = [key for key in tree if key not in entry.model_fields]
    if len(unknown) <= len(tree) / 2:
        return ""
    return ", ".join(map(messages.shown, unknown[:3])) + (", ..." if len(unknown) > 3 else "")


def _starting_point(entry: str, data: str) -> dict[str, str]:
    """Map groups to presets: those of the data set itself, else of its family, else of any other."""
    table = _defaults()[entry]
    family = DATASETS[data].family if data in DATASETS else ""
    return table.get(data) or table.get(family) or table["any"]


def _lay_over(
    tree: dict[str, Any], values: Mapping[str, Any], presets: Mapping[str, Sequence[str]], parent: str
) -> Problems:
    """Lay presets over the tree first and single fields later, so that their order on the command line is free."""
    problems: Problems = {}

    for group in [group for group in presets if group in values]:
        name = values[group]
        if group == "data" and isinstance(name, str) and name not in DATASETS:
            tree["data"] = {"name": name}  # the user's own set; find_data looks for it
        elif not (isinstance(name, str) and name in presets[group]):
            problems[group] = _no_such_preset(group, name, presets[group])
        elif group == SPREAD:
            for key, value in _preset(group, name).items():
                plant(tree, key, value)
        else:
            tree[group] = copy.deepcopy(_preset(group, name))

    # teacher=RUN and run=RUN set a field of their group.
    if parent and parent in values:
        published = parent == "teacher" and str(values[parent]).startswith("timm/")
        tree[parent] = {"name" if published else "run": values[parent]}

    if "model.name" in values and "model" not in values:
        _start_from_name(tree, values["model.name"])
    for key, value in values.items():
        if key not in {*presets, parent}:
            plant(tree, key, value)
    return problems


def _start_from_name(tree: dict[str, Any], name: Any) -> None:
    """Drop the settings of the preset's network if the name is that of another one, which may have none of them."""
    model = tree.get("model")
    if isinstance(model, dict) and model.get("name", name) != name:
        tree["model"] = {}


def _no_such_preset(group: str, name: Any, options: Sequence[str]) -> str:
    if group == "data" and isinstance(name, str):
        return no_training_images(name)
    if group == "data" and isinstance(name, list):
        return several_sets(name)
    if group == "model" and isinstance(name, str) and name.startswith("timm/"):
        return f"model: given {name}, allowed: model.name={name}"
    return messages.unknown(group, name, options)


def _check_folder(key: str, folder: Path) -> Problems:
    """Refuse a path that cannot become a folder. One that is not there yet will be made."""
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        return {key: f"{key}: {folder} cannot be used: {getattr(error, 'strerror', None) or error}"}
    return {} if is_folder else {key: f"{key}: {folder} is not a folder"}
