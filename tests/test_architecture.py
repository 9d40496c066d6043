"""The laws of the house, read off the source: who may import whom, how long things may be, and what is never called.

A law of a module is a function from that module to the places that break it; a law of the house, from all modules.
Each is one test, which lists every offender, and is first shown what breaks it and what does not. The order of the
floors, and what is counted how, stand in tests/house.py; `python tests/house.py` prints the figures.
"""

import ast
import functools
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

from common import locks
from common.locks import LOCK
from common.run.run_dir import RunDir
from jobs.planning.cell import Cell
from tests.house import (
    ORDER,
    PACKAGES,
    REPOSITORY,
    House,
    Module,
    arrows_up,
    blank_share,
    checkout,
    circles,
    comment_share,
    folders,
    graph_of,
    imports,
    long_bodies,
    mid_sentences,
    poor_bodies,
    room_graph,
    rooms,
)

HOUSE = checkout()

# Only files cross between stages. (jobs starts the entries and may know everyone.)
MAY_IMPORT = {
    "aggregate": {"aggregate", "common"},
    "common": {"common"},
    "eval": {"common", "eval"},
    "slurm": {"common", "slurm"},
    "train": {"common", "train"},
}
TOP_LEVEL = {
    *("jobs", "train", "eval", "common", "containers", "slurm", "aggregate", "tests", "README.md"),
    *("pyproject.toml", "requirements.lock", "Makefile", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md"),
    *(".ci", ".gitignore"),
}
# What a login node loads: these folders and modules, and the entries, which load torch after the door.
WITHOUT_TORCH = (
    *("jobs", "aggregate", "common/failures.py", "common/files.py", "common/locks.py", "common/settings"),
    *("common/metrics", "common/figures", "common/run", "common/cli", "common/data/publishers/catalog.py"),
)
LOOP = "common/training/loop.py"

# Run folders, locks and cells have one owner each, wherever that lives.
OWNER_OF_RUNS, OWNER_OF_LOCKS, OWNER_OF_CELLS = (
    Path(inspect.getfile(owner)).relative_to(REPOSITORY).as_posix() for owner in (RunDir, locks, Cell)
)
TORCH_HUB = {"common/models/weights.py": "checkpoints"}  # it keeps its weights in a folder of that name

MOST_ROOMS = 16  # of a folder
MOST_LINES = 349  # of a module
MOST_LINES_OF_ENTRY = 150
MOST_LINES_OF_FUNCTION = 60
MOST_LINES_OF_LOOP = 30
FEWEST_LINES = 40  # of a module
FEWEST_BLANK, FEWEST_COMMENTS = 5.0, 3.0  # percent of the lines of long bodies
PLAIN = {r"lessons?|learners?": "distillation", r"exams?|examiners?": "a measurement"}  # what a stranger looks for
FORBIDDEN_NAMES = {"utils", "util", "misc", "helpers", "helper", "tools"}


def is_entry(module: Module) -> bool:
    """Tell whether it is a script of train/ or eval/."""
    folder = module.path.rpartition("/")[0]
    return folder in {"train", "eval"} and any(
        isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.tree.body
    )


def entries(house: House) -> list[Module]:
    return [module for module in house if is_entry(module)]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(node: ast.FunctionDef) -> int:
    """Count the lines without the signature and the docstring."""
    statements = node.body[1:] if ast.get_docstring(node) else node.body
    assert statements[-1].end_lineno
    return statements[-1].end_lineno - statements[0].lineno + 1


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield calls with the text of what is called: `np.load`, `open`."""
    return ((ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def keyword(call: ast.Call, name: str) -> str:
    return next((ast.unparse(word.value) for word in call.keywords if word.arg == name), "")


# --- laws of one module: sizes and names ------------------------------------------------------------------------


def too_long_functions(module: Module) -> list[str]:
    """Lines of code count: not blank lines, comments, the docstring, or imports that wait for torch."""
    return [node.name for node in functions(module.tree) if code_lines(module, node) > MOST_LINES_OF_FUNCTION]


def code_lines(module: Module, function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function that somebody must read to know what it does."""
    assert function.end_lineno
    apart = {line for node in ast.walk(function) if is_import(node) for line in range(node.lineno, end_of(node) + 1)}
    if ast.get_docstring(function):
        apart |= set(range(function.body[0].lineno, end_of(function.body[0]) + 1))
    numbers = set(range(function.lineno, function.end_lineno + 1)) - apart
    texts = [module.lines[number - 1].strip() for number in numbers]
    return len([text for text in texts if text and not text.startswith("#")])


def is_import(node: ast.AST) -> TypeGuard[ast.Import | ast.ImportFrom]:
    return isinstance(node, ast.Import | ast.ImportFrom)


def end_of(node: ast.stmt) -> int:
    assert node.end_lineno
    return node.end_lineno


def too_long_module(module: Module) -> list[str]:
    most = MOST_LINES_OF_ENTRY if is_entry(module) else MOST_LINES
    return [f"{len(module.lines)} lines, at most {most}"] if len(module.lines) > most else []


SMALL = {"jobs/engines/steward.py": "a queued job names it by its path"}


def too_short_module(module: Module) -> list[str]:
    """A module of a few lines is a door without a room, but for entries and for tables of literals, as presets are."""
    excused = module.is_init or is_entry(module) or is_table(module) or module.path in SMALL
    return [] if excused or len(module.lines) >= FEWEST_LINES else [f"{len(module.lines)} lines"]


def is_table(module: Module) -> bool:
    """Tell whether it holds nothing but constants and what they are made of."""
    return all(
        isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.Expr)
        for node in module.tree.body
    )


def empty_names(module: Module) -> list[str]:
    """A name must say what a module holds."""
    return sorted(FORBIDDEN_NAMES & set(module.name.split(".")))


def names_of_pythons_own(module: Module) -> list[str]:
    """A script's folder comes first on the path: a jobs/profile.py would be what cProfile imports."""
    stem = Path(module.path).stem
    return [stem] if stem in sys.stdlib_module_names - {"__init__"} else []


def no_purpose(module: Module) -> list[str]:
    """A module says what it is for."""
    return [] if ast.get_docstring(module.tree) or (module.is_init and not module.text) else ["no docstring"]


def docstrings_that_begin_mid_sentence(module: Module) -> list[str]:
    return [f"line {place.line}: {place.text}" for place in mid_sentences(module)]


def words_of_our_own(module: Module) -> list[str]:
    """A stranger looks for distillation, and finds nothing under lesson."""
    return [
        f"line {number}: say {plain}"
        for number, line in enumerate(module.lines, start=1)
        for words, plain in PLAIN.items()
        if re.search(rf"\b(?:{words})\b", line, re.IGNORECASE)
    ]


# --- laws of one module: what is never called -------------------------------------------------------------------


def unsafe_loads(module: Module) -> list[str]:
    """Files come from other people: none may run code when it is read."""
    places = []
    for called, call in calls(module.tree):
        place = f"line {call.lineno}: {ast.unparse(call)}"
        if called == "torch.load" and keyword(call, "weights_only") != "True":
            places.append(place)
        if called in {"np.load", "numpy.load"} and keyword(call, "allow_pickle") != "False":
            places.append(place)
        if called in {"yaml.full_load", "yaml.unsafe_load", "yaml.full_load_all", "yaml.unsafe_load_all"}:
            places.append(place)
        if called in {"yaml.load", "yaml.load_all"} and keyword(call, "Loader") not in safe_loaders(module.tree):
            places.append(place)
        if called.rpartition(".")[0] in {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"} and (
            called.rpartition(".")[2] in {"load", "loads", "Unpickler", "open"}
        ):
            places.append(place)
    imported = {"pickle.load", "pickle.loads", "torch.load", "numpy.load", "yaml.load"}
    return places + [f"imported bare: {name}" for name in imports(module.tree) if name in imported]


def safe_loaders(tree: ast.Module) -> set[str]:
    subclasses = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} == {"yaml.SafeLoader"}
    }
    return {"yaml.SafeLoader", *subclasses}


def open_unpicklers(module: Module) -> list[str]:
    """An unpickler of our own must say what it finds."""
    return [
        node.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith("Unpickler") for base in node.bases)
        and not any(isinstance(inner, ast.FunctionDef) and inner.name == "find_class" for inner in node.body)
    ]


def shells(module: Module) -> list[str]:
    return [
        f"line {call.lineno}: {ast.unparse(call)}"
        for called, call in calls(module.tree)
        if keyword(call, "shell") not in {"", "False"}
        or called in {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "eval", "exec"}
    ]


def names_looked_up(module: Module) -> list[str]:
    """No code is found by a computed name: getattr on a module, globals()[...], importing by a variable."""
    modules = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    modules |= {
        alias.asname or alias.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.islower() and is_module(f"{node.module}.{alias.name}")
    }
    places = []
    for called, call in calls(module.tree):
        constant = call.args and isinstance(call.args[-1 if called.endswith("import_module") else 0], ast.Constant)
        if called == "getattr" and ast.unparse(call.args[0]).partition(".")[0] in modules:
            constant = isinstance(call.args[1], ast.Constant)
        elif called not in {"importlib.import_module", "import_module", "__import__", "globals", "locals"}:
            continue
        if not constant:
            places.append(f"line {call.lineno}: {ast.unparse(call)}")
    return places


def is_module(dotted: str) -> bool:
    """Tell whether this repository has a module, or a folder, of that name."""
    path = REPOSITORY / dotted.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def registering_decorators(module: Module) -> list[str]:
    return [
        ast.unparse(decorator)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        for decorator in node.decorator_list
        if "register" in ast.unparse(decorator).lower()
    ]


def swallowed_errors(module: Module) -> list[str]:
    """There is no bare except, and no error of any kind is taken for nothing."""
    return [
        f"line {node.lineno}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or (
                ast.unparse(node.type) in {"Exception", "BaseException"}
                and all(isinstance(inner, ast.Pass | ast.Continue) for inner in node.body)
            )
        )
    ] + [
        f"line {call.lineno}"
        for called, call in calls(module.tree)
        if called.endswith("suppress") and suppresses_all(call)
    ]


def suppresses_all(call: ast.Call) -> bool:
    return any(ast.unparse(argument) in {"Exception", "BaseException"} for argument in call.args)


@functools.cache
def run_files() -> set[str]:
    """Name what lies in a run folder, as its owner says."""
    run = RunDir(Path())
    paths = [*vars(run).values(), run.predictions("test"), run.evaluation("explain"), Path(LOCK)]
    return {path.parts[0] for path in paths if isinstance(path, Path) and path.parts} | {
        path.name for path in (run.last, run.previous, run.best)
    }


def run_files_named(module: Module) -> list[str]:
    """No other module names a file of a run folder: with a suffix anywhere, without one where it is part of a path."""
    in_paths = {id(inner) for node in ast.walk(module.tree) if is_path(node) for inner in ast.walk(node)}
    places = [
        (node, node.value.rpartition("/")[2])
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) == 1
    ]
    return [
        f"line {node.lineno}: {node.value}"
        for node, name in places
        if name in run_files()
        and ("." in name or id(node) in in_paths)
        and module.path != OWNER_OF_RUNS
        and TORCH_HUB.get(module.path) != name
    ]


def is_path(node: ast.AST) -> bool:
    """Tell whether it is joined to a path by / or by a method of paths."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).rpartition(".")[2] in {"Path", "joinpath", "with_name", "glob", "rglob"}
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)


def locks_of_its_own(module: Module) -> list[str]:
    taken = [name for name in imports(module.tree) if name.partition(".")[0] == "fcntl"]
    return [] if module.path == OWNER_OF_LOCKS else taken


def cells_of_its_own(module: Module) -> list[str]:
    """A cell is one of a sweep; what a report asks about, and what is measured under shift, have names of their own."""
    cells = [node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef) and node.name == "Cell"]
    return [] if module.path == OWNER_OF_CELLS else [f"line {cell.lineno}" for cell in cells]


def futures(module: Module) -> list[str]:
    return [name for name in imports(module.tree) if name == "__future__"]


def strangers(module: Module) -> list[str]:
    """Only files cross between stages."""
    package = module.path.partition("/")[0]
    known = MAY_IMPORT.get(package, set(PACKAGES))
    return sorted({name.partition(".")[0] for name in imports(module.tree)} & set(PACKAGES) - known)


ROOM = "common/data/room.py"
LONG = "x = 1\n" * 150
LAWS: dict[Callable[[Module], list[str]], list[Module]] = {
    too_long_functions: [
        Module(ROOM, "def f():\n" + "    x = 1\n" * 60),
        Module(ROOM, "def f():\n    import torch\n\n    # why\n" + "    x = 1\n" * 60),
    ],
    too_long_module: [Module(ROOM, "x = 1\n" * 350), Module("eval/explain.py", "def main(): ...\n" + LONG)],
    too_short_module: [Module(ROOM, "def f():\n    return 1\n" + "# line\n" * 37)],
    empty_names: [Module("common/utils.py", ""), Module("common/helpers/loop.py", "")],
    names_of_pythons_own: [Module("jobs/profile.py", ""), Module("common/data/queue.py", "")],
    no_purpose: [Module(ROOM, "x = 1"), Module(ROOM, ""), Module("eval/blurs/__init__.py", "x = 1")],
    docstrings_that_begin_mid_sentence: [
        Module(ROOM, '"""Of the rooms."""'),
        Module(ROOM, 'def f():\n    """What a room is for."""'),
        Module(ROOM, 'class C:\n    """A room without an end"""'),
    ],
    words_of_our_own: [
        Module(ROOM, "# The lesson of the teacher."),
        Module(ROOM, "class Learner: ..."),
        Module("eval/shift/measure.py", "def sit(exam): ..."),
    ],
    unsafe_loads: [
        Module(ROOM, "torch.load(path)"),
        Module(ROOM, "torch.load(path, weights_only=False)"),
        Module(ROOM, "np.load(path)"),
        Module(ROOM, "np.load(path, allow_pickle=True)"),
        Module(ROOM, "yaml.load(text)"),
        Module(ROOM, "yaml.load(text, Loader=yaml.Loader)"),
        Module(ROOM, "class L(yaml.Loader): ...\nyaml.load(text, Loader=L)"),
        Module(ROOM, "yaml.unsafe_load(text)"),
        Module(ROOM, "pickle.load(file)"),
        Module(ROOM, "pickle.Unpickler(file).load()"),
        Module(ROOM, "from pickle import loads"),
    ],
    open_unpicklers: [Module(ROOM, "class Mine(pickle.Unpickler):\n    x = 1")],
    shells: [
        Module(ROOM, "subprocess.run(text, shell=True)"),
        Module(ROOM, "os.system(text)"),
        Module(ROOM, "eval(text)"),
    ],
    names_looked_up: [
        Module(ROOM, "import torch\ngetattr(torch.optim, name)"),
        Module(ROOM, "from common import compute\ngetattr(compute, name)"),
        Module(ROOM, "importlib.import_module(name)"),
        Module(ROOM, "globals()[name]"),
        Module(ROOM, "__import__(name)"),
    ],
    registering_decorators: [
        Module(ROOM, "@register('x')\ndef f(): ..."),
        Module(ROOM, "@MODELS.register\nclass C: ..."),
    ],
    swallowed_errors: [
        Module(ROOM, "try:\n    f()\nexcept:\n    g()"),
        Module(ROOM, "try:\n    f()\nexcept Exception:\n    pass"),
        Module(ROOM, "with contextlib.suppress(Exception):\n    f()"),
    ],
    run_files_named: [
        Module(ROOM, 'path / "lock"'),
        Module(ROOM, 'folder.glob("predictions")'),
        Module(ROOM, 'pattern = f"{entry}/*/result.json"'),
        Module(ROOM, 'NAME = "log.txt"'),
        Module("common/models/weights.py", 'path / "predictions"'),
    ],
    locks_of_its_own: [Module(ROOM, "import fcntl"), Module(ROOM, "from fcntl import flock")],
    cells_of_its_own: [Module(ROOM, "class Cell: ..."), Module("eval/shift/measure.py", "class Cell:\n    x: int")],
    futures: [Module(ROOM, "from __future__ import annotations")],
    strangers: [
        Module("common/data/room.py", "def f():\n    from train import train_cnn"),
        Module("train/train_cnn.py", "import eval.evaluate, common.training.fit"),
        Module("aggregate/report.py", "if TYPE_CHECKING:\n    from jobs import submit"),
    ],
}
LAWFUL = (
    '''"""A room of the house."""
import torch, json
import common, slurm, train.train_cnn
torch.load(path, weights_only=True), np.load(path, allow_pickle=False), yaml.safe_load(text)
class _Loader(yaml.SafeLoader): ...
yaml.load(text, Loader=_Loader)
class Numbers(pickle.Unpickler):
    def find_class(self, module, name): ...
getattr(settings, name), getattr(torch, "compile"), importlib.import_module("wandb")
subprocess.run(["ls"], check=True)
FOLDER = "figures"
{"tensorboard": on}
print("result.json has no test")
folder / "manifest.json"
examine(lessened, "an example")
try:
    f()
except OSError:
    pass
def g():
    """Nothing is kept."""
'''
    + "    x = 1\n" * 58
)
LAWFUL_MODULES = (
    Module("jobs/planning/plan.py", LAWFUL + "x = 1\n" * 269),
    Module("eval/explain.py", '"""An entry of a few lines."""\ndef main(): ...\n'),
    Module("eval/explain.py", '"""An entry of many lines."""\ndef main(): ...\n' + LONG[: 6 * 148]),
    Module("common/data/table.py", '"""A table of few lines."""\nimport re\nSIDES: dict[str, int] = {"digits": 8}\n'),
    Module("common/data/__init__.py", ""),
    Module(OWNER_OF_RUNS, '"""The owner of run folders."""\nRESULT = "result.json"\n'),
    Module(OWNER_OF_CELLS, '"""The owner of cells."""\nclass Cell: ...\n' + LONG),
    Module(OWNER_OF_LOCKS, '"""The owner of locks."""\nimport fcntl\n'),
    Module("common/models/weights.py", '"""A folder of weights."""\nHUB = Path("hub") / "checkpoints"\n'),
)


@pytest.mark.parametrize("law", LAWS)
def test_every_module_keeps_the_law(law: Callable[[Module], list[str]]) -> None:
    assert [breaker.text for breaker in LAWS[law] if not law(breaker)] == [], "the law does not see them"
    assert [module.path for module in LAWFUL_MODULES if law(module)] == [], "the law blames the innocent"
    assert {module.path: law(module) for module in HOUSE if law(module)} == {}


def test_pages_and_presets_use_plain_words_too() -> None:
    pages = [*REPOSITORY.glob("*.md"), *(path for name in PACKAGES for path in (REPOSITORY / name).rglob("*.md"))]
    pages += (REPOSITORY / "common" / "presets").rglob("*.yaml")
    texts = [Module(path.relative_to(REPOSITORY).as_posix(), path.read_text()) for path in pages]
    assert {page.path for page in texts} >= {"README.md", "common/presets/defaults.yaml"}
    assert {page.path: words_of_our_own(page) for page in texts if words_of_our_own(page)} == {}


# --- laws of the house ------------------------------------------------------------------------------------------


def import_circles(house: House) -> list[str]:
    """No module imports itself by way of others, and in no folder a room does."""
    graph = graph_of(house)
    of_rooms = [circle for folder in folders(house) for circle in circles(room_graph(house, graph, folder))]
    return [" <-> ".join(circle) for circle in [*circles(graph), *of_rooms]]


def ways_up(house: House) -> list[str]:
    """A room imports only from floors before its own."""
    graph = graph_of(house)
    return [
        f"{folder}: {arrow}"
        for folder, floors in ORDER.items()
        for arrow in arrows_up(room_graph(house, graph, folder), floors)
    ]


def rooms_without_floor(house: House) -> list[str]:
    """Of a folder that has an order every room has a floor, and every room that has a floor is there."""
    return [
        f"{folder}: {room}"
        for folder, floors in ORDER.items()
        for room in sorted(rooms(house, folder) ^ set().union(*floors))
    ]


def crowded_folders(house: House) -> list[str]:
    numbers = {folder: len(rooms(house, folder)) for folder in folders(house)}
    return [f"{folder}: {number} rooms" for folder, number in numbers.items() if number > MOST_ROOMS]


def entries_that_import_entries(house: House) -> list[str]:
    names = {entry.name for entry in entries(house)}
    return [
        f"{entry.path}: {name}"
        for entry in entries(house)
        for name in imports(entry.tree)
        if name in names - {entry.name}
    ]


def what_the_loop_must_not_know(house: House) -> list[str]:
    """The training loop is there, is short, and knows no method and no file."""
    modules = {module.path: module for module in house}
    if LOOP not in modules:
        return [f"{LOOP} is missing"]
    tree = modules[LOOP].tree
    (loop,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train_epoch")
    words = [word for word in ("teacher", "student", "distil", "kd", "cnn", "vit") if word in ast.unparse(loop)]
    words += [name for name in imports(tree) if name.startswith(("os", "pathlib", "common.files", "common.run"))]
    return words + ([f"{body_lines(loop)} lines"] if body_lines(loop) > MOST_LINES_OF_LOOP else [])


def airless_bodies(house: House) -> list[str]:
    """Longer bodies have paragraphs."""
    bodies = [body for module in house for body in long_bodies(module)]
    return list(poor_bodies(house)) if blank_share(bodies) < FEWEST_BLANK else []


def bodies_without_reasons(house: House) -> list[str]:
    """Longer bodies have comments of purpose; tests/house.py counts none that narrates, and lists all to be read."""
    bodies = [body for module in house for body in long_bodies(module)]
    return list(poor_bodies(house)) if comment_share(bodies) < FEWEST_COMMENTS else []


def floors_as_they_are(folder: str, **texts: str) -> House:
    """Build a folder that has every room of its order, and these texts in some of them."""
    return [Module(f"{folder}/{room}.py", texts.get(room, "")) for floor in ORDER[folder] for room in sorted(floor)]


FLOORS = [module for folder in ORDER for module in floors_as_they_are(folder)]
BODY = "def f():\n" + "    x = 1\n" * 11
AIR = BODY + "\n    # Reasons are given here.\n    return 1\n"
A_LOOP = 'def train_epoch(model, batches):\n    """Take one step for each batch; any teacher is the caller\'s."""\n'
HOUSE_LAWS: dict[Callable[[House], list[str]], tuple[list[House], House]] = {
    import_circles: (
        [
            [Module("common/a.py", "import common.b"), Module("common/b.py", "def f():\n    from common import a")],
            [
                *(Module("jobs/a/one.py", "import jobs.b.one"), Module("jobs/a/two.py", "")),
                *(Module("jobs/b/one.py", ""), Module("jobs/b/two.py", "import jobs.a.two")),
            ],
        ],
        [
            Module(
                "common/a.py", "from typing import TypeGuard, TYPE_CHECKING\nif TYPE_CHECKING:\n    import common.b"
            ),
            Module("common/b.py", "from common import a"),
        ],
    ),
    ways_up: (
        [
            floors_as_they_are("common", settings="from common.cli import parse"),
            floors_as_they_are("common", compute="def f():\n    import common.run"),
            floors_as_they_are("jobs", machine="from jobs import planning"),
            floors_as_they_are("aggregate", tables="from aggregate.report import all_tables"),
            floors_as_they_are("eval", shift="import eval.eval_shift"),
        ],
        floors_as_they_are("common", cli="from common import data\nimport common.files, common.settings.field"),
    ),
    rooms_without_floor: ([[], FLOORS[1:], [*FLOORS, Module("common/annex.py", "")]], FLOORS),
    crowded_folders: (
        [[Module(f"common/data/room{number}.py", "") for number in range(17)]],
        [Module(f"common/data/room{number}.py", "") for number in range(16)] + [Module("common/data/__init__.py", "")],
    ),
    entries_that_import_entries: (
        [
            [
                Module("train/train_vit.py", "from train import train_cnn\ndef main(): ..."),
                Module("train/train_cnn.py", "def main(): ..."),
            ],
        ],
        [
            Module("eval/explain.py", "from eval import views\ndef main(): ..."),
            Module("eval/views.py", "import eval.predictions"),
        ],
    ),
    what_the_loop_must_not_know: (
        [
            [],
            [Module(LOOP, A_LOOP + "    x = 1\n" * 31)],
            [Module(LOOP, "def train_epoch(model, batches, teacher):\n    return 1")],
            [Module(LOOP, 'def train_epoch(model):\n    """Step."""\n    return distil(model)')],
            [Module(LOOP, "from common.run.run_dir import RunDir\ndef train_epoch(model):\n    return model")],
            [Module(LOOP, "def train_epoch(model):\n    return model\ndef save(path):\n    import pathlib")],
        ],
        [Module(LOOP, A_LOOP.replace("; any teacher is the caller's", "") + "    x = 1\n" * 30)],
    ),
    airless_bodies: ([[Module(ROOM, BODY + "    # Reasons are given here.\n    return 1\n")]], [Module(ROOM, AIR)]),
    bodies_without_reasons: (
        [
            [Module(ROOM, BODY + "\n    return 1\n")],
            [Module(ROOM, BODY + "\n    # write the results here\n    write_results_here()\n")],
        ],
        [Module(ROOM, AIR)],
    ),
}


@pytest.mark.parametrize("law", HOUSE_LAWS)
def test_the_house_keeps_the_law(law: Callable[[House], list[str]]) -> None:
    breakers, lawful = HOUSE_LAWS[law]
    assert [number for number, breaker in enumerate(breakers) if not law(breaker)] == [], "the law does not see them"
    assert law(lawful) == [], "the law blames the innocent"
    assert law(HOUSE) == []


def test_run_files_are_known() -> None:
    assert {"result.json", "config.yaml", "lock", "predictions", "checkpoints", "last.pt", "log.txt"} <= run_files()


def test_packages_and_entries_are_where_the_laws_look_for_them() -> None:
    """A law must not hold because nothing is there."""
    assert {module.path.partition("/")[0] for module in HOUSE} == set(PACKAGES)
    of_eval = {f"eval.{name}" for name in ORDER["eval"][-1]}
    of_train = {module.name for module in HOUSE if module.path.startswith("train/") and not module.is_init}
    assert "train.train_cnn" in of_train
    assert {entry.name for entry in entries(HOUSE)} == of_eval | of_train


def test_body_lines_are_counted_without_signature_and_docstring() -> None:
    (function,) = ast.parse(
        'def f(\n    a,\n    b,\n):\n    """Doc.\n\n    More.\n    """\n    x = 1\n\n    return x'
    ).body
    assert isinstance(function, ast.FunctionDef)
    assert body_lines(function) == 3


# --- without torch ----------------------------------------------------------------------------------------------

IMPORT_ALL = """
import importlib, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm"}:
            raise ImportError(f"{name} is wanted")

sys.meta_path.insert(0, NoTorch())
failed = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed.append(f"{name}: {error}")
print(*failed, sep="\\n")
"""


def fail_without_torch(names: list[str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


def test_what_answers_on_a_login_node_imports_without_torch() -> None:
    """`jobs`, `aggregate`, the door, and the entries themselves, which load torch after it."""
    assert fail_without_torch(["common.compute", "common.failures"]) == ["common.compute: torch is wanted"]
    names = {
        place: [module.name for module in HOUSE if module.path == place or module.path.startswith(f"{place}/")]
        for place in WITHOUT_TORCH
    }
    assert [place for place in names if not names[place]] == [], "nothing is there"
    modules = [name for inside in names.values() for name in inside]
    assert fail_without_torch([*modules, *(entry.name for entry in entries(HOUSE))]) == []


# --- the top of the repository ----------------------------------------------------------------------------------


def test_nothing_else_lies_at_the_top() -> None:
    git = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    if git.returncode:
        pytest.skip("not a git checkout")
    tracked = git.stdout.splitlines()
    assert {path.partition("/")[0] for path in tracked} <= TOP_LEVEL
    assert {path for path in tracked if path.startswith(".ci/")} <= {".ci/run"}
