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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli.command import check
from common.cli.compose import compose
from common.cli.references import distillation_refused
from common.failures import Refused
from common.files import expanded
from common.settings import messages
from common.settings.entries import ENTRIES, RunSettings
from common.settings.yaml12 import load_yaml, read_mapping
from jobs.planning.cell import Cell, Sweep, built_on, key_of
from jobs.planning.sweep_check import (
    Axes,
    axis_of,
    condition_problems,
    include_problems,
    name_problems,
    override_problems,
    size_problems,
    stage_and_key,
    stage_problems,
    takes,
)
from jobs.planning.sweep_file import (
    SHARED_AXES,
    Case,
    Overrides,
    SweepWords,
    Values,
    as_text,
    flat,
    matches,
    unfit,
    values_of,
)

SWEEPS = Path(__file__).parents[1] / "sweeps"

Place = tuple[Any, ...]  # the values of a cell on its axes, as a key
CellsOfStage = Mapping[str, Mapping[Place, Cell]]


# --- reading ----------------------------------------------------------------------------------------------------


def sweep_names() -> list[str]:
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def open_sweep(name_or_path: str, overrides: Overrides, data_dir: Path, root: Path | None = None) -> Sweep:
    """Open a shipped sweep by name, or a file, as cells; Refused with every problem at once.

    root: the folder in which finished runs lie that words of the sweep name.
    """
    path = SWEEPS / f"{name_or_path}.yaml" if name_or_path in sweep_names() else expanded(name_or_path)
    if not path.is_file():
        raise Refused([_no_such_sweep(name_or_path)])
    if path.suffix not in {".yaml", ".yml"}:
        raise Refused([f"sweep: given {name_or_path}, allowed: a file whose name ends in .yaml"])
    tree = read_mapping(path)
    if problem := unfit(tree):
        raise Refused([f"{path.name}: {problem}"])
    words, problems = check(SweepWords, tree)
    if words is None:
        raise Refused(f"{path.name}: {problem}" for problem in problems.values())
    folders = [f"data_dir={data_dir}", *([f"root={root}"] if root else [])]
    return Compiler(path.stem, words, overrides, folders).sweep()


def _no_such_sweep(name_or_path: str) -> str:
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        return f"sweep: given {name_or_path}, which is no file; allowed: a YAML file, or {', '.join(sweep_names())}"
    problem = messages.unknown("sweep", name_or_path, sweep_names())
    return problem.replace(", allowed: ", ", allowed: FILE.yaml, ", 1)


# --- compiling --------------------------------------------------------------------------------------------------


class Compiler:
    """One pass over a sweep file gathers its problems, which are raised together at the end."""

    def __init__(self, name: str, words: SweepWords, overrides: Overrides, folders: Sequence[str]) -> None:
        self.name, self.words, self.overrides, self.folders = name, words, overrides, folders
        self.problems: dict[str, None] = {}  # in order, each once
        self.broken: set[tuple[str, Place]] = set()  # stages and places of cells with problems of their own
        self.composed: dict[tuple[str, ...], RunSettings | None] = {}
        self.unprepared: list[str] = []  # published sets, which can be planned with before they are there
        self.fitted: set[tuple[str, int]] = set()  # conditions that some cell fits: section, number
        self._conditions = {"cases": [case.when for case in words.cases], "exclude": words.exclude}

    def sweep(self) -> Sweep:
        axes = {stage: self._axes(stage) for stage in self.words.stages}
        wanted = self._wanted()
        for problem in self._wrong_names(wanted, axes):
            self._problem(problem)
        self._refuse()  # before there are cells: a wrong name would break many of them

        # Two stages may have the same cell: it has one key, and runs once.
        cells: dict[str, Cell] = {}
        of_stage: dict[str, dict[Place, Cell]] = {}
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
        self._refuse()
        keys = {stage: tuple(dict.fromkeys(cell.key for cell in of_stage[stage].values())) for stage in wanted}
        parents = {stage: self.words.stages[stage].parents for stage in wanted}
        unprepared = tuple(dict.fromkeys(self.unprepared))
        return Sweep(self.name, self.words.about, cells, keys, parents, tuple(self._notes()), unprepared)

    def _notes(self) -> Iterator[str]:
        """Yield which conditions fit no cell of the whole sweep: probably a value is misspelt."""
        if self.overrides.only or self.overrides.axes:
            return
        for section, conditions in self._conditions.items():
            for number, when in enumerate(conditions):
                if (section, number) not in self.fitted:
                    yield f"{section}: {messages.shown(when)} fits no cell"

    def _problem(self, text: str) -> None:
        self.problems[f"{self.name}: {text}"] = None

    def _refuse(self) -> None:
        if self.problems:
            raise Refused(self.problems)

    def _wrong_names(self, wanted: Sequence[str], axes: Axes) -> Iterator[str]:
        yield from name_problems(self.name, self.words)
        yield from stage_problems(self.words, axes)
        yield from condition_problems(self.words, axes)
        yield from include_problems(self.words)
        yield from override_problems(self.words, self.overrides, wanted, axes)
        yield from size_problems(self.words, [stage for stage in wanted if stage in axes], axes)

    # --- axes and stages --------------------------------------------------------------------------------------

    def _axes(self, stage: str) -> dict[str, list[Any]]:
        """Return the axes of a stage with their values: the sweep's, those of the command line, and its own."""
        words = self.words.stages[stage]
        for axis in [axis for axis in words.axes if axis in self.words.axes]:
            self._problem(f"stage {stage}: axes.{axis} is an axis of the sweep already; allowed: one of the two")

        # Seeds and data sets may be asked for where the file has no such axis. A stage that tests runs has their axes.
        asked = {axis: value for axis, value in self.overrides.axes.items() if axis in SHARED_AXES}
        shared = {} if words.of else {**self.words.axes, **asked}
        axes: dict[str, list[Any]] = {}
        for axis, values in {**shared, **words.axes}.items():
            if any(axis_of(key, [axis]) for key in flat(words.with_)):
                self._problem(f"stage {stage}: {axis} is an axis, and set in with too; allowed: one of the two")
            values = self.overrides.axes.get(axis, values)
            try:
                axes[axis] = values_of(axis, values)
            except ValueError as error:
                self._problem(f"axes.{axis}: given {messages.shown(values)}, {error}")
        return axes

    def _wanted(self) -> list[str]:
        """List the stages asked for and all that teach them, parents first."""
        stages = self.words.stages
        for name in self.overrides.only:
            if name not in stages:
                self._problem(messages.unknown("only", name, stages))

        # Depth first: a stage is listed when all that it builds on is listed.
        order: list[str] = []

        def visit(stage: str, path: tuple[str, ...]) -> None:
            if stage in path:
                circle = " -> ".join([*path[path.index(stage) :], stage])
                self._problem(f"stages build on each other in a circle: {circle}")
            elif stage in stages and stage not in order:
                for parent in stages[stage].parents:
                    if parent not in stages:
                        word = "of" if stages[stage].of else "teacher"
                        self._problem(f"stage {stage}: {messages.unknown(word, parent, stages)}")
                    visit(parent, (*path, stage))
                order.append(stage)

        for stage in self.overrides.only or stages:
            visit(stage, ())
        return order

    # --- cells ------------------------------------------------------------------------------------------------

    def _places(self, stage: str, axes: Mapping[str, list[Any]], of_stage: CellsOfStage) -> list[Values]:
        """List the axes' values of each cell of a stage."""
        places = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        words = self.words.stages[stage]
        if words.of:  # a cell for each run that is tested, with its values
            tested = [(parent, cell.at) for parent in words.parents for cell in of_stage[parent].values()]
            places = [{"of": parent, **at, **own} for parent, at in tested for own in places]

        # Including comes second: a cell that is excluded by a rule may be added by its values.
        places = [at for at in places if not self._fits("exclude", stage, at)]
        for extra in [extra for extra in self.words.include if extra.get("stage") == stage]:
            at = {axis: value for axis, value in extra.items() if axis != "stage"}
            if set(at) != set(axes):
                self._problem(f"include: a cell of {stage} needs a value for each of {', '.join(axes)}")
            elif at not in places:
                places.append({axis: at[axis] for axis in axes})
        return places

    def _fits(self, section: str, stage: str, at: Values) -> list[int]:
        """Return the numbers of the conditions of a section that a cell fits."""
        conditions = self._conditions[section]
        numbers = [number for number, when in enumerate(conditions) if matches(when, stage, at)]
        self.fitted |= {(section, number) for number in numbers}
        return numbers

    def _cell(self, stage: str, at: Values, of_stage: CellsOfStage, axes: Axes) -> Cell | None:
        """Make the cell of a stage at some values; None after a problem."""
        words = self.words.stages[stage]
        cases = [self.words.cases[number] for number in self._fits("cases", stage, at)]
        chosen = self._chosen(stage, {axis: at[axis] for axis in axes[stage]}, cases)
        settings = self._compose(stage, chosen)
        parent = self._parent(stage, at, of_stage, axes)
        if settings is None or (words.parents and not parent):
            return None

        # The weights of the parent are not known yet; its key stands in for their digest.
        if parent:
            entry = ENTRIES[words.entry]
            if entry.PARENT == "run":
                settings = settings.model_copy(update={name: dict(parent.settings)[name] for name in entry.FROM_PARENT})
            else:
                self._check_distillation(stage, settings, parent)
            settings = built_on(settings, parent.key)

        resources = words.resources
        for case in cases:
            resources = resources.model_copy(update=case.resources.model_dump(exclude_none=True))
        key, parent_key = key_of(settings, None), parent.key if parent else None
        return Cell(stage, at, words.entry, _as_words(chosen), settings, key, parent_key, resources)

    def _chosen(self, stage: str, axes: Values, cases: Sequence[Case]) -> Values:
        """Collect the settings of a cell; later sources overrule earlier ones, and the command line all of them."""
        words = self.words.stages[stage]
        entry = ENTRIES[words.entry]
        chosen = {key: value for key, value in flat(self.words.with_).items() if takes(entry, key)}
        chosen |= flat(words.with_)
        for case in cases:
            chosen |= {key: value for key, value in flat(case.with_).items() if takes(entry, key)}
        chosen |= axes

        for word in self.overrides.words:
            name, _, text = word.partition("=")
            only, key = stage_and_key(self.words, name)
            if only in {"", stage} and takes(entry, key):
                chosen[key] = load_yaml(text)
        return chosen

    def _compose(self, stage: str, chosen: Values) -> RunSettings | None:
        """Return the settings of a cell, or None after a problem.

        Cells that differ in their seed alone are checked once: a sweep of ten thousand takes seconds.
        """
        seed = chosen.get("seed", 0)
        words = _as_words({key: value for key, value in chosen.items() if key != "seed"})
        if not (isinstance(seed, int) and 0 <= seed < 2**32):  # a wrong one must be refused by the check
            words = (*words, f"seed={as_text(seed)}")

        place = (stage, *words)
        if place not in self.composed:
            stage_words = self.words.stages[stage]
            entry, later = ENTRIES[stage_words.entry], bool(stage_words.parents)
            try:
                composed = compose(entry, [*words, *self.folders], taught_later=later, unprepared=self.unprepared)
                self.composed[place] = composed.settings
            except Refused as refused:
                self.composed[place] = None
                for problem in refused.problems:
                    self._problem(f"stage {stage}: {problem}")
        settings = self.composed[place]
        return settings and settings.model_copy(update={"seed": seed})

    def _parent(self, stage: str, at: Values, of_stage: CellsOfStage, axes: Axes) -> Cell | None:
        """Find the cell that one builds on; None if it builds on none, or after a problem."""
        words = self.words.stages[stage]
        if not words.parents:
            return None

        name = at["of"] if words.of else words.parents[0]
        missing = [axis for axis in axes[name] if axis not in at and axis not in words.fixed]
        if missing:
            self._problem(
                f"stage {stage}: its teacher {name} has the axis {missing[0]}, which {stage} has not; "
                f"allowed: teacher: {{stage: {name}, {missing[0]}: VALUE}}, or the axis for both"
            )
            return None

        values = {axis: words.fixed.get(axis, at.get(axis)) for axis in axes[name]}
        parent = of_stage[name].get(_place(values))
        if parent is None and (name, _place(values)) not in self.broken:  # the problem of a broken one is told already
            there = " ".join(f"{axis}={value}" for axis, value in values.items())
            self._problem(f"stage {stage}: its teacher {name} has no cell {there}; exclude both, or include it")
        return parent

    def _check_distillation(self, stage: str, settings: RunSettings, parent: Cell) -> None:
        for problem in distillation_refused(settings, parent.settings, f"stage {parent.stage}").values():
            self._problem(f"stage {stage}: {problem}")


def _place(at: Mapping[str, Any]) -> Place:
    return tuple(sorted((axis, json.dumps(value)) for axis, value in at.items()))


def _as_words(settings: Values) -> tuple[str, ...]:
    return tuple(f"{key}={as_text(value)}" for key, value in settings.items())
