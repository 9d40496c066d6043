"""A sweep file becomes cells: one run each, with its parent, its words and what it needs.

    axes: {seed: 0-4, data: [mnist, cifar10]}            every stage runs once for each combination
    with: {recipe.precision: bf16}                       settings of every stage that has them
    stages:
      cnn:  {entry: train_cnn}
      deit: {entry: distill_kd, teacher: cnn, with: {model: deit_cifar}, axes: {distill.alpha: [0.3, 0.7]}}
      shift: {entry: eval_shift, of: [cnn, deit]}                    one run for each run of those stages
    cases:   [{when: {data: mnist}, with: {recipe.epochs: 5}, resources: {time_min: 20}}]
    exclude: [{stage: deit, data: mnist}]
    include: [{stage: cnn, seed: 7, data: cifar10}]

A child meets its parent cell by cell: the one with the same values on all of the parent's axes.
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.cli.command import check
from common.cli.compose import compose, presets_of
from common.cli.references import distillation_refused
from common.failures import Refused
from common.files import expanded
from common.settings import messages
from common.settings.entries import ENTRIES, RunSettings
from common.settings.field import every_setting
from common.settings.yaml12 import load_yaml, read_mapping
from jobs.planning.cell import Cell, Sweep, built_on, key_of
from jobs.planning.sweep_file import SweepWords, Values, as_text, flat, listed, matches, values_of

SWEEPS = Path(__file__).parents[1] / "sweeps"


@dataclass(frozen=True)
class Overrides:
    """What the command line changes of a sweep file."""

    axes: Values = field(default_factory=dict)
    only: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # key=value, for every stage that has the setting; STAGE.key=value for one


# --- reading ----------------------------------------------------------------------------------------------------


def sweep_names() -> list[str]:
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def open_sweep(given: str, overrides: Overrides, data_dir: Path, root: Path | None = None) -> Sweep:
    """A shipped sweep by name, or a file, as cells; Refused with every problem at once.

    root: where finished runs lie that words of the sweep name.
    """
    path = SWEEPS / f"{given}.yaml" if given in sweep_names() else expanded(given)
    if path.suffix not in {".yaml", ".yml"} or not path.is_file():
        raise Refused([messages.unknown("sweep", given, [*sweep_names(), "FILE.yaml"])])
    tree = read_mapping(path)
    words, problems = check(SweepWords, tree)
    if words is None:
        raise Refused(f"{path.name}: {problem}" for problem in problems.values())
    folders = [f"data_dir={data_dir}", *([f"root={root}"] if root else [])]
    return Compiler(path.stem, words, overrides, folders).sweep()


# --- compiling --------------------------------------------------------------------------------------------------


class Compiler:
    """One pass over a sweep file: problems are gathered, and raised together at the end."""

    def __init__(self, name: str, words: SweepWords, overrides: Overrides, folders: Sequence[str]) -> None:
        self.name, self.words, self.overrides, self.folders = name, words, overrides, folders
        self.problems: dict[str, None] = {}  # in order, each once
        self.broken: set[tuple[Any, ...]] = set()  # stage and place of cells with problems of their own
        self.composed: dict[tuple[str, ...], RunSettings | None] = {}

    def sweep(self) -> Sweep:
        axes = {stage: self._axes(stage) for stage in self.words.stages}
        wanted = self._wanted()
        self._check_names(axes)
        self._check_conditions(axes)
        self._check_overrides(wanted)
        if self.problems:
            raise Refused(self.problems)
        cells: dict[str, Cell] = {}
        of_stage: dict[str, dict[tuple[Any, ...], Cell]] = {}
        for stage in wanted:
            of_stage[stage] = {}
            for at in self._places(stage, axes[stage], of_stage):
                cell = self._cell(stage, at, of_stage, axes)
                if cell is None:
                    self.broken.add((stage, _place(at)))
                else:
                    of_stage[stage][_place(at)] = cell
                    cells.setdefault(cell.key, cell)
        if not self.problems and not cells:
            self._problem("no cell is left; exclude and only leave nothing to run")
        if self.problems:
            raise Refused(self.problems)
        stages = {stage: tuple(cell.key for cell in found.values()) for stage, found in of_stage.items()}
        return Sweep(self.name, self.words.about, cells, stages, {stage: self._parents(stage) for stage in wanted})

    def _problem(self, text: str) -> None:
        self.problems[f"{self.name}: {text}"] = None

    def _parents(self, stage: str) -> tuple[str, ...]:
        """The stage that teaches this one, or those whose runs it tests."""
        words = self.words.stages[stage]
        teacher = words.teacher.get("stage", "") if isinstance(words.teacher, dict) else words.teacher
        return tuple(listed(teacher or words.of or []))

    def _fixed(self, stage: str) -> Values:
        """The axes of the teacher that are fixed."""
        given = self.words.stages[stage].teacher
        return {axis: value for axis, value in given.items() if axis != "stage"} if isinstance(given, dict) else {}

    def _axes(self, stage: str) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        own = self.words.stages[stage].axes
        for axis in [axis for axis in own if axis in self.words.axes]:
            self._problem(f"stage {stage}: axes.{axis} is an axis of the sweep already; allowed: one of the two")
        shared = {} if self.words.stages[stage].of else {**self.words.axes, **self._sweep_wide()}
        for axis, given in {**shared, **own}.items():
            if axis in flat(self.words.stages[stage].with_):
                self._problem(f"stage {stage}: {axis} is an axis, and set in with too; allowed: one of the two")
            try:
                found[axis] = values_of(axis, self.overrides.axes.get(axis, given))
            except ValueError as error:
                self._problem(f"axes.{axis}: given {messages.shown(self.overrides.axes.get(axis, given))}, {error}")
        return found

    def _sweep_wide(self) -> Values:
        """Seeds and data sets may be asked for where the file has no such axis."""
        return {axis: value for axis, value in self.overrides.axes.items() if axis in {"seed", "data"}}

    def _wanted(self) -> list[str]:
        """The stages asked for and all that teach them, parents first."""
        stages = self.words.stages
        for name in self.overrides.only:
            if name not in stages:
                self._problem(messages.unknown("only", name, stages))
        order: list[str] = []

        def visit(stage: str, path: tuple[str, ...]) -> None:
            if stage in path:
                circle = " -> ".join([*path[path.index(stage) :], stage])
                self._problem(f"stages build on each other in a circle: {circle}")
            elif stage in stages and stage not in order:
                for parent in self._parents(stage):
                    if parent not in stages:
                        word = "of" if stages[stage].of else "teacher"
                        self._problem(f"stage {stage}: {messages.unknown(word, parent, stages)}")
                    visit(parent, (*path, stage))
                order.append(stage)

        for stage in self.overrides.only or stages:
            visit(stage, ())
        return [stage for stage in order if stage in stages]

    # --- names ------------------------------------------------------------------------------------------------

    def _check_names(self, axes: Mapping[str, Mapping[str, Any]]) -> None:
        for name, stage in self.words.stages.items():
            where = f"stage {name}"
            if stage.entry not in ENTRIES:
                self._problem(f"{where}: {messages.unknown('entry', stage.entry, ENTRIES)}")
                continue
            entry = ENTRIES[stage.entry]
            if stage.teacher is not None and entry.PARENT != "teacher":
                self._problem(f"{where}: {stage.entry} has no teacher; allowed: an entry that distils")
            if stage.of is not None and entry.PARENT != "run":
                self._problem(f"{where}: {stage.entry} tests no runs; allowed: an entry that evaluates")
            if stage.of is None and entry.PARENT == "run":
                self._problem(f"{where}: of is missing: the stages whose runs {stage.entry} tests")
                continue
            for key in [*flat(stage.with_), *axes[name]]:
                if not _takes(entry, key):
                    self._problem(f"{where}: {_not_taken(entry, key)}")
        shared = [*flat(self.words.with_), *(key for case in self.words.cases for key in flat(case.with_))]
        self._check_taken("with", shared, list(self.words.stages))

    def _check_conditions(self, axes: Mapping[str, Mapping[str, Any]]) -> None:
        """What cases, exclude and include name must be there."""
        tested = ["of"] if any(stage.of for stage in self.words.stages.values()) else []
        known = sorted({"stage", *tested, *itertools.chain.from_iterable(axes.values())})
        cases = [case.when for case in self.words.cases]
        sections = {"cases": cases, "exclude": self.words.exclude, "include": self.words.include}
        for section, conditions in sections.items():
            for axis in [axis for when in conditions for axis in when if axis not in known]:
                self._problem(f"{section}: {messages.unknown('axis', axis, known)}")
            for stage in [stage for when in conditions for stage in listed(when.get("stage", []))]:
                if stage not in self.words.stages:
                    self._problem(f"{section}: {messages.unknown('stage', stage, self.words.stages)}")

    def _check_overrides(self, wanted: Sequence[str]) -> None:
        for axis in self.overrides.axes:
            if axis not in {"seed", "data"} and not any(axis in self._axes(stage) for stage in wanted):
                self._problem(f"{axis}: no axis of this sweep")
        for word in self.overrides.words:
            stage, key = self._meant(word.partition("=")[0])
            self._check_taken("", [key], [stage] if stage else wanted or list(self.words.stages))

    def _meant(self, key: str) -> tuple[str, str]:
        """STAGE.key is for that stage alone; but shift.severities is a setting, though a stage may be called shift."""
        stage, _, rest = key.partition(".")
        if stage not in self.words.stages:
            return "", key
        entries = [ENTRIES[each.entry] for each in self.words.stages.values() if each.entry in ENTRIES]
        own = ENTRIES.get(self.words.stages[stage].entry)
        if own and not _takes(own, rest) and any(_takes(entry, key) for entry in entries):
            return "", key
        return stage, rest

    def _check_taken(self, where: str, keys: Iterable[str], stages: Sequence[str]) -> None:
        """A setting that is meant for all must be one of at least one."""
        entries = [
            ENTRIES[self.words.stages[stage].entry] for stage in stages if self.words.stages[stage].entry in ENTRIES
        ]
        for key in keys:
            if entries and not any(_takes(entry, key) for entry in entries):
                self._problem(f"{where}: ".lstrip(": ") + _not_taken(entries[0], key))

    # --- cells ------------------------------------------------------------------------------------------------

    def _places(
        self, stage: str, axes: Mapping[str, list[Any]], of_stage: Mapping[str, Mapping[tuple[Any, ...], Cell]]
    ) -> list[Values]:
        places = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        if self.words.stages[stage].of:
            tested = [(parent, cell.at) for parent in self._parents(stage) for cell in of_stage[parent].values()]
            places = [{"of": parent, **at, **own} for parent, at in tested for own in places]
        places = [at for at in places if not any(matches(when, stage, at) for when in self.words.exclude)]
        for extra in [extra for extra in self.words.include if extra.get("stage") == stage]:
            at = {axis: value for axis, value in extra.items() if axis != "stage"}
            if set(at) != set(axes):
                self._problem(f"include: a cell of {stage} needs a value for each of {', '.join(axes)}")
            elif at not in places:
                places.append({axis: at[axis] for axis in axes})
        return places

    def _cell(
        self,
        stage: str,
        at: Values,
        of_stage: Mapping[str, Mapping[tuple[Any, ...], Cell]],
        axes: Mapping[str, Mapping[str, Any]],
    ) -> Cell | None:
        words = self.words.stages[stage]
        entry = ENTRIES[words.entry]
        cases = [case for case in self.words.cases if matches(case.when, stage, at)]
        shared = {key: value for key, value in flat(self.words.with_).items() if _takes(entry, key)}
        chosen = shared | flat(words.with_)
        for case in cases:
            chosen |= {key: value for key, value in flat(case.with_).items() if _takes(entry, key)}
        chosen |= {axis: at[axis] for axis in axes[stage]} | self._overriding(stage, entry)
        settings = self._compose(stage, words.entry, chosen)
        parent, found = self._find_parent(stage, at, of_stage, axes)
        if settings is None or not found:
            return None
        if parent:
            if entry.PARENT == "run":
                settings = settings.model_copy(update={name: dict(parent.settings)[name] for name in entry.FROM_PARENT})
            else:
                self._check_distillation(stage, settings, parent)
            settings = built_on(settings, parent.key)
        resources = words.resources
        for case in cases:
            resources = resources.model_copy(update=case.resources.model_dump(exclude_none=True))
        given = tuple(f"{key}={as_text(value)}" for key, value in chosen.items())
        return Cell(
            stage, at, words.entry, given, settings, key_of(settings, None), parent.key if parent else None, resources
        )

    def _overriding(self, stage: str, entry: type[RunSettings]) -> Values:
        chosen: Values = {}
        for word in self.overrides.words:
            key, _, text = word.partition("=")
            only, key = self._meant(key)
            if only in {"", stage} and _takes(entry, key):
                chosen[key] = load_yaml(text)
        return chosen

    def _compose(self, stage: str, entry: str, chosen: Values) -> RunSettings | None:
        """Cells that differ in their seed alone are checked once: a sweep of ten thousand takes seconds."""
        seed = chosen.get("seed", 0)
        words = tuple(f"{key}={as_text(value)}" for key, value in chosen.items() if key != "seed")
        if not (isinstance(seed, int) and 0 <= seed < 2**32):
            words = (*words, f"seed={as_text(seed)}")
        place = (stage, *words)
        if place not in self.composed:
            later = bool(self._parents(stage))
            try:
                given = [*words, *self.folders]
                self.composed[place] = compose(ENTRIES[entry], given, taught_later=later).settings
            except Refused as refused:
                self.composed[place] = None
                for problem in refused.problems:
                    self._problem(f"stage {stage}: {problem}")
        settings = self.composed[place]
        return settings and settings.model_copy(update={"seed": seed})

    def _find_parent(
        self,
        stage: str,
        at: Values,
        of_stage: Mapping[str, Mapping[tuple[Any, ...], Cell]],
        axes: Mapping[str, Mapping[str, Any]],
    ) -> tuple[Cell | None, bool]:
        parents, fixed = self._parents(stage), self._fixed(stage)
        if not parents:
            return None, True
        name = at["of"] if self.words.stages[stage].of else parents[0]
        missing = [axis for axis in axes[name] if axis not in at and axis not in fixed]
        if missing:
            self._problem(
                f"stage {stage}: its teacher {name} has the axis {missing[0]}, which {stage} has not; "
                f"allowed: teacher: {{stage: {name}, {missing[0]}: VALUE}}, or the axis for both"
            )
            return None, False
        place = {axis: fixed.get(axis, at.get(axis)) for axis in axes[name]}
        parent = of_stage[name].get(_place(place))
        if parent is None and (name, _place(place)) not in self.broken:
            there = " ".join(f"{axis}={value}" for axis, value in place.items())
            self._problem(f"stage {stage}: its teacher {name} has no cell {there}; exclude both, or include it")
        return parent, parent is not None

    def _check_distillation(self, stage: str, settings: RunSettings, parent: Cell) -> None:
        for problem in distillation_refused(settings, parent.settings, f"stage {parent.stage}").values():
            self._problem(f"stage {stage}: {problem}")


def _place(at: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted((axis, json.dumps(value)) for axis, value in at.items()))


def _takes(entry: type[RunSettings], key: str) -> bool:
    if key.partition(".")[0] in entry.FROM_PARENT:
        return False
    return key in presets_of(entry) or (bool(key) and key == entry.PARENT) or key in every_setting(entry)


def _not_taken(entry: type[RunSettings], key: str) -> str:
    if key.partition(".")[0] in entry.FROM_PARENT:
        return f"{key}: that of the run that is tested; allowed: settings of the test itself"
    return messages.no_such_setting(key, [entry])
