"""The laws of the house, read off the source: who may import whom, how long things may be, and what is never called.

Each law is a function from a module's syntax tree to the places that break it, and is first shown a module that does.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("aggregate", "common", "eval", "jobs", "slurm", "train")
MODULES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))

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
WITHOUT_TORCH = (
    *("compose", "config", "wording", "yaml12", "attempt", "run_dir", "failures", "settings", "inputs", "trained"),
    *("metrics", "multilabel", "scoring", "figures", "roc_figure", "published_line", "data.catalog"),
    *("planes", "models.timm_names", "models.settings"),
)
FORBIDDEN_NAMES = {"utils", "util", "misc", "helpers", "helper", "tools"}


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno
    return node.end_lineno - node.lineno + 1


def body_lines(node: ast.FunctionDef) -> int:
    """Without the signature and the docstring."""
    statements = node.body[1:] if ast.get_docstring(node) else node.body
    assert statements[-1].end_lineno
    return statements[-1].end_lineno - statements[0].lineno + 1


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names of what is imported, wherever it is; of `from a import b` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_entry(path: Path) -> bool:
    """A script of train/ or eval/."""
    return path.parent.name in {"train", "eval"} and any(
        isinstance(node, ast.FunctionDef) and node.name == "main" for node in parse(path).body
    )


ENTRIES = [path for path in MODULES if is_entry(path)]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Calls by the text of what is called: `np.load`, `open`."""
    return ((ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def keyword(call: ast.Call, name: str) -> str:
    return next((ast.unparse(word.value) for word in call.keywords if word.arg == name), "")


# --- laws of one module -----------------------------------------------------------------------------------------


def too_long_functions(tree: ast.Module) -> list[str]:
    return [node.name for node in functions(tree) if lines(node) > 60]


def unsafe_loads(tree: ast.Module) -> list[str]:
    """Files come from other people: none may run code when it is read."""
    found = []
    for called, call in calls(tree):
        place = f"line {call.lineno}: {ast.unparse(call)}"
        if called == "torch.load" and keyword(call, "weights_only") != "True":
            found.append(place)
        if called in {"np.load", "numpy.load"} and keyword(call, "allow_pickle") != "False":
            found.append(place)
        if called in {"yaml.full_load", "yaml.unsafe_load", "yaml.full_load_all", "yaml.unsafe_load_all"}:
            found.append(place)
        if called in {"yaml.load", "yaml.load_all"} and keyword(call, "Loader") not in safe_loaders(tree):
            found.append(place)
        if called.rpartition(".")[0] in {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"} and (
            called.rpartition(".")[2] in {"load", "loads", "Unpickler", "open"}
        ):
            found.append(place)
    imported = {"pickle.load", "pickle.loads", "torch.load", "numpy.load", "yaml.load"}
    return found + [f"imported bare: {name}" for name in imports(tree) if name in imported]


def safe_loaders(tree: ast.Module) -> set[str]:
    subclasses = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} == {"yaml.SafeLoader"}
    }
    return {"yaml.SafeLoader", *subclasses}


def open_unpicklers(tree: ast.Module) -> list[str]:
    """An unpickler of our own that does not say what it finds."""
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith("Unpickler") for base in node.bases)
        and not any(isinstance(inner, ast.FunctionDef) and inner.name == "find_class" for inner in node.body)
    ]


def shells(tree: ast.Module) -> list[str]:
    return [
        f"line {call.lineno}: {ast.unparse(call)}"
        for called, call in calls(tree)
        if keyword(call, "shell") not in {"", "False"}
        or called in {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "eval", "exec"}
    ]


def names_looked_up(tree: ast.Module) -> list[str]:
    """Code found by a computed name: getattr on a module, globals()[...], importing by a variable."""
    modules = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    modules |= {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.islower() and is_module(f"{node.module}.{alias.name}")
    }
    found = []
    for called, call in calls(tree):
        constant = call.args and isinstance(call.args[-1 if called.endswith("import_module") else 0], ast.Constant)
        if called == "getattr" and ast.unparse(call.args[0]).partition(".")[0] in modules:
            constant = isinstance(call.args[1], ast.Constant)
        elif called not in {"importlib.import_module", "import_module", "__import__", "globals", "locals"}:
            continue
        if not constant:
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


def is_module(dotted: str) -> bool:
    """Of this repository."""
    path = REPOSITORY / dotted.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def registering_decorators(tree: ast.Module) -> list[str]:
    return [
        ast.unparse(decorator)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        for decorator in node.decorator_list
        if "register" in ast.unparse(decorator).lower()
    ]


def swallowed_errors(tree: ast.Module) -> list[str]:
    """A bare except, or any error at all taken for nothing."""
    return [
        f"line {node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or (
                ast.unparse(node.type) in {"Exception", "BaseException"}
                and all(isinstance(inner, ast.Pass | ast.Continue) for inner in node.body)
            )
        )
    ] + [f"line {call.lineno}" for called, call in calls(tree) if called.endswith("suppress") and suppresses_all(call)]


def suppresses_all(call: ast.Call) -> bool:
    return any(ast.unparse(argument) in {"Exception", "BaseException"} for argument in call.args)


def futures(tree: ast.Module) -> list[str]:
    return [name for name in imports(tree) if name == "__future__"]


LAWS: dict[Callable[[ast.Module], list[str]], list[str]] = {
    too_long_functions: ["def f():\n" + "    x = 1\n" * 60],
    unsafe_loads: [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "class L(yaml.Loader): ...\nyaml.load(text, Loader=L)",
        "yaml.unsafe_load(text)",
        "pickle.load(file)",
        "pickle.Unpickler(file).load()",
        "from pickle import loads",
    ],
    open_unpicklers: ["class Mine(pickle.Unpickler):\n    x = 1"],
    shells: ["subprocess.run(text, shell=True)", "os.system(text)", "eval(text)"],
    names_looked_up: [
        "import torch\ngetattr(torch.optim, name)",
        "from common import wording\ngetattr(wording, name)",
        "importlib.import_module(name)",
        "globals()[name]",
        "__import__(name)",
    ],
    registering_decorators: ["@register('x')\ndef f(): ...", "@MODELS.register\nclass C: ..."],
    swallowed_errors: [
        "try:\n    f()\nexcept:\n    g()",
        "try:\n    f()\nexcept Exception:\n    pass",
        "with contextlib.suppress(Exception):\n    f()",
    ],
    futures: ["from __future__ import annotations"],
}
LAWFUL = """
import torch, json
torch.load(path, weights_only=True), np.load(path, allow_pickle=False), yaml.safe_load(text)
class _Loader(yaml.SafeLoader): ...
yaml.load(text, Loader=_Loader)
class Numbers(pickle.Unpickler):
    def find_class(self, module, name): ...
getattr(settings, name), getattr(torch, "compile"), importlib.import_module("wandb")
subprocess.run(["ls"], check=True)
try:
    f()
except OSError:
    pass
"""


@pytest.mark.parametrize(("law", "text"), [(law, text) for law, texts in LAWS.items() for text in texts])
def test_the_law_finds_who_breaks_it(law: Callable[[ast.Module], list[str]], text: str) -> None:
    assert law(ast.parse(text))


@pytest.mark.parametrize("law", LAWS)
def test_the_law_leaves_others_alone(law: Callable[[ast.Module], list[str]]) -> None:
    assert law(ast.parse(LAWFUL)) == []


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_keeps_the_law(path: Path, law: Callable[[ast.Module], list[str]]) -> None:
    assert law(parse(path)) == []


# --- sizes and names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short_and_named_after_what_they_hold(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 350
    assert not FORBIDDEN_NAMES & set(path.relative_to(REPOSITORY).with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_hides_one_of_pythons_own(path: Path) -> None:
    """A script's folder comes first on the path: a jobs/profile.py would be what cProfile imports."""
    assert path.stem not in sys.stdlib_module_names - {"__init__"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    if path.name != "__init__.py":
        assert ast.get_docstring(parse(path))


def test_a_cell_is_one_thing() -> None:
    """Of a sweep: what a report asks about and what a test under shift measures have names of their own."""
    cells = [name_of(path) for path in MODULES for node in ast.walk(parse(path)) if _is_class(node, "Cell")]
    assert cells == ["jobs.cell"]


def _is_class(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.ClassDef) and node.name == name


PLAIN = {"distillation": r"lessons?|learners?", "a measurement": r"exams?|examiners?"}


@pytest.mark.parametrize("plain", PLAIN)
def test_plain_words_are_used(plain: str) -> None:
    """A stranger looks for distillation, and finds nothing under lesson."""
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "common" / "presets").rglob("*.yaml")]
    words = re.compile(rf"\b(?:{PLAIN[plain]})\b", re.IGNORECASE)
    wrong = [path.name for path in (*MODULES, *pages) if words.search(path.read_text())]
    assert wrong == [], f"say {plain}"


def test_there_are_entries() -> None:
    assert "train.train_cnn" in map(name_of, ENTRIES)


@pytest.mark.parametrize("path", ENTRIES, ids=name_of)
def test_entries_read_in_one_go(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 150


def test_the_training_loop_is_short_and_knows_no_method() -> None:
    tree = parse(REPOSITORY / "common" / "loop.py")
    (loop,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train_epoch")
    assert body_lines(loop) <= 30
    assert not [word for word in ("teacher", "student", "distil", "kd", "cnn", "vit") if word in ast.unparse(loop)]


def test_body_lines_are_counted_without_signature_and_docstring() -> None:
    (function,) = ast.parse(
        'def f(\n    a,\n    b,\n):\n    """Doc.\n\n    More.\n    """\n    x = 1\n\n    return x'
    ).body
    assert isinstance(function, ast.FunctionDef)
    assert body_lines(function) == 3


# --- who imports whom -------------------------------------------------------------------------------------------


def strangers(package: str, tree: ast.Module) -> set[str]:
    return {name.partition(".")[0] for name in imports(tree)} & set(PACKAGES) - MAY_IMPORT.get(package, set(PACKAGES))


def test_strangers_are_found() -> None:
    assert strangers("common", ast.parse("def f():\n    from train import train_cnn")) == {"train"}
    assert strangers("train", ast.parse("import eval.evaluate, common.fit")) == {"eval"}
    assert strangers("jobs", ast.parse("import common, slurm, train.train_cnn")) == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_files_cross_between_stages(path: Path) -> None:
    assert strangers(path.relative_to(REPOSITORY).parts[0], parse(path)) == set()


@pytest.mark.parametrize("path", ENTRIES, ids=name_of)
def test_no_entry_imports_another(path: Path) -> None:
    others = {name_of(entry) for entry in ENTRIES} - {name_of(path)}
    assert not others & set(imports(parse(path)))


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
    """`jobs`, `aggregate`, the door, and the entries themselves, which load torch behind it."""
    names = [name_of(path) for path in MODULES if path.relative_to(REPOSITORY).parts[0] in {"jobs", "aggregate"}]
    names += [f"common.{name}" for name in WITHOUT_TORCH] + [name_of(path) for path in ENTRIES]
    assert fail_without_torch(names) == []


def test_the_want_of_torch_is_noticed() -> None:
    assert fail_without_torch(["common.loop", "common.config"]) == ["common.loop: torch is wanted"]


# --- the top of the repository ----------------------------------------------------------------------------------


def test_nothing_else_lies_at_the_top() -> None:
    git = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    if git.returncode:
        pytest.skip("not a git checkout")
    tracked = git.stdout.splitlines()
    assert {path.partition("/")[0] for path in tracked} <= TOP_LEVEL
    assert {path for path in tracked if path.startswith(".ci/")} <= {".ci/run"}
