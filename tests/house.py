"""The figures of the house: how its rooms hang together, and how its code reads.

    python tests/house.py                         # of this checkout
    python tests/house.py --before HEAD~20        # beside them, those of a revision
    python tests/house.py --offenders docstrings  # FILE:LINE of each; also: bodies comments names behind

A room of a folder is a module or a folder with modules directly in it; `__init__.py` is the folder itself, not a room.
An arrow leads from one room of a folder to another if any module of the first imports any module of the second, at its
top or in a function. What only type checkers import is no arrow. An arrow leads up if ORDER has its end on the same
floor as its start, or on a later one. A circle is a largest set of modules, or rooms, each of which reaches all others.

Prose is measured in long bodies: those of functions, without signature and docstring, that have 12 lines or more. An
inner function is part of the outer one's body. A comment counts if it has a line of its own and at least three words,
and says more than the code below it. tests/test_architecture.py holds the house to these figures.
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tarfile
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("aggregate", "common", "eval", "jobs", "slurm", "train")

# A room imports only rooms of earlier floors. Every room of these folders has its floor here, and no other is named.
ORDER: dict[str, tuple[set[str], ...]] = {
    "common": (
        {"failures", "files", "locks", "metrics"},
        {"settings", "figures"},
        {"run", "compute"},
        {"data", "models"},
        {"cli"},
        {"training"},
        {"distillation"},
    ),
    "aggregate": ({"inference"}, {"runs"}, {"tables"}, {"figures"}, {"page"}, {"report"}),
    "jobs": (
        {"machine"},
        {"planning"},
        {"worker"},
        {"engines"},
        {"start", "prepare"},
        {"submit", "retry", "status", "logs", "cancel", "prune"},
    ),
    "eval": (
        {"adaptation", "corruptions", "explanations", "evaluation", "predictions", "views", "costs"},
        {"shift"},
        {"evaluate", "eval_shift", "predict", "explain", "model_table"},
    ),
}

LONG_BODY = 12  # lines
VAGUE_NAMES = ("found", "each", "given", "told")
# No whole sentence of subject and verb begins with one of these; those of `if`, `when` and `for` can be turned round.
MID_SENTENCE = frozenset(
    "about after and as at because before beside between but by for from how if in into like of on or out over so than "
    "that through to under until what when where whether which while who whom whose with within without".split()
)
FEWEST_WORDS = 3  # "Nothing is kept." is a sentence, "Two-sided." is none

Graph = Mapping[str, set[str]]


@dataclass(frozen=True)
class Module:
    """One file of the house; its path begins with the package."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def is_init(self) -> bool:
        return self.path.endswith("/__init__.py")


House = list[Module]


@dataclass(frozen=True)
class Place:
    """What somebody may want to look up."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def checkout(folder: Path = REPOSITORY) -> House:
    """Read the modules of a checkout."""
    paths = sorted(path for package in PACKAGES for path in (folder / package).rglob("*.py"))
    return [Module(path.relative_to(folder).as_posix(), path.read_text()) for path in paths]


def revision(name: str) -> House:
    """Read the modules of a commit, without a second checkout."""
    archive = subprocess.run(["git", "archive", name], capture_output=True, check=True, cwd=REPOSITORY).stdout
    house = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.name.endswith(".py") else None
            if content and member.name.partition("/")[0] in PACKAGES:
                house.append(Module(member.name, content.read().decode()))
    return sorted(house, key=lambda module: module.path)


# --- rooms and arrows -------------------------------------------------------------------------------------------


def import_statements(node: ast.AST, *, for_types: bool) -> Iterator[tuple[str, str]]:
    """Yield ("a", "b") of `from a import b`, and ("a.b", "") of `import a.b`, at the top or in a function.

    for_types: also what is imported under TYPE_CHECKING.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, "") for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports hide where a name comes from"
            assert child.module
            yield from ((child.module, alias.name) for alias in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING") and not for_types:
            yield from import_statements(ast.Module(child.orelse, []), for_types=False)
        else:
            yield from import_statements(child, for_types=for_types)


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield dotted names of all that is imported, for types too; of `from a import b` both a and a.b."""
    for module, name in import_statements(tree, for_types=True):
        yield module
        if name:
            yield f"{module}.{name}"


def graph_of(house: House) -> dict[str, set[str]]:
    """Map the path of every module to the paths of the modules that it imports.

    `from a import b` leads to the module a.b if there is one, else to a.
    """
    paths = {module.name: module.path for module in house}
    graph = {}
    for module in house:
        statements = import_statements(module.tree, for_types=False)
        names = {f"{start}.{name}" if f"{start}.{name}" in paths else start for start, name in statements}
        graph[module.path] = {paths[name] for name in names if name in paths}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    reached = {start: _reached(graph, start) for start in graph}
    return sorted(
        list(circle)
        for circle in {
            tuple(sorted(other for other in reached[node] if node in reached.get(other, ())))
            for node in graph
            if node in reached[node]
        }
    )


def _reached(graph: Graph, start: str) -> set[str]:
    reached: set[str] = set()
    ahead = [start]
    while ahead:
        steps = graph.get(ahead.pop(), set()) - reached
        reached |= steps
        ahead.extend(steps)
    return reached


def room_of(path: str, folder: str) -> str:
    """Name the room of the folder that a module is in; empty if it is in none."""
    inside = path.removeprefix(f"{folder}/")
    room = inside.partition("/")[0].removesuffix(".py")
    return "" if inside == path or room == "__init__" else room


def rooms(house: House, folder: str) -> set[str]:
    return {room_of(module.path, folder) for module in house} - {""}


def folders(house: House) -> list[str]:
    """List every folder that has rooms."""
    parents = {parent.as_posix() for module in house for parent in Path(module.path).parents} - {"."}
    return sorted(folder for folder in parents if rooms(house, folder))


def room_graph(house: House, graph: Graph, folder: str) -> dict[str, set[str]]:
    arrows: dict[str, set[str]] = {room: set() for room in rooms(house, folder)}
    for start, ends in graph.items():
        room = room_of(start, folder)
        if room:
            arrows[room] |= {room_of(end, folder) for end in ends} - {"", room}
    return arrows


def arrows_up(arrows: Graph, floors: tuple[set[str], ...]) -> list[str]:
    """List the arrows that do not lead to an earlier floor; rooms without a floor are not looked at."""
    floor_of = {room: floor for floor, names in enumerate(floors) for room in names}
    return sorted(
        f"{start} -> {end}"
        for start, ends in arrows.items()
        for end in ends
        if start in floor_of and end in floor_of and floor_of[end] >= floor_of[start]
    )


# --- long bodies ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comment:
    """Lines of comment that follow each other, and the line of code below them."""

    line: int
    lines: int
    text: str
    code: str

    @property
    def counts(self) -> bool:
        return len(re.findall(r"[A-Za-z]{2,}", self.text)) >= 3 and not narrates(self.text, self.code)


@dataclass(frozen=True)
class Body:
    place: Place  # its text is the name of the function
    lines: int
    blank: int
    comments: tuple[Comment, ...]

    @property
    def comment_lines(self) -> int:
        return sum(comment.lines for comment in self.comments if comment.counts)


def narrates(comment: str, code: str) -> bool:
    """Tell whether every longer word of a comment is in the line of code below it."""
    said = re.findall(r"[a-z]{4,}", comment.lower())
    return all(word in code.lower() or word.removesuffix("s") in code.lower() for word in said)


def body_span(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> range:
    """Give the lines of a function's body, counted from 1: from the first comment or statement after its docstring."""
    has_docstring = ast.get_docstring(function) is not None
    statements = function.body[1:] if has_docstring else function.body
    end = function.end_lineno or 0
    if not statements:
        return range(end, end)

    # The comments over the first statement belong to the body; they end at the docstring or the signature.
    first = min([statements[0].lineno, *(node.lineno for node in getattr(statements[0], "decorator_list", []))])
    top = function.body[0].end_lineno or 0 if has_docstring else function.lineno
    start = first
    for number in range(first - 1, top, -1):
        text = lines[number - 1].strip()
        if text.startswith("#"):
            start = number
        elif text:
            break
    return range(start, end + 1)


def outer_functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from outer_functions(child)


def long_bodies(module: Module) -> list[Body]:
    """Measure the bodies of 12 lines and more; lines inside a text are neither blank nor comments."""
    in_text = {
        number
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno
        for number in range(node.lineno + 1, node.end_lineno + 1)
    }
    bodies = []
    for function in outer_functions(module.tree):
        span = body_span(function, module.lines)
        if len(span) >= LONG_BODY:
            blank = sum(not module.lines[number - 1].strip() and number not in in_text for number in span)
            comments = tuple(_comments(module.lines, [number for number in span if number not in in_text]))
            bodies.append(Body(Place(module.path, function.lineno, function.name), len(span), blank, comments))
    return bodies


def _comments(lines: list[str], numbers: Iterable[int]) -> Iterator[Comment]:
    """Yield the comments that have lines of their own, those that follow each other as one."""
    block: list[str] = []
    for number in numbers:
        text = lines[number - 1].strip()
        if text.startswith("#"):
            block.append(text.lstrip("# "))
        elif block and text:
            yield Comment(number - len(block), len(block), " ".join(block), text)
            block = []


# --- docstrings and words ---------------------------------------------------------------------------------------


def docstrings(module: Module) -> Iterator[Place]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield Place(module.path, node.body[0].lineno, text)


def first_sentence(docstring: str) -> str:
    """Cut a docstring after the first . ! or ? that ends a word, or after its first paragraph."""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0]


def begins_mid_sentence(docstring: str) -> bool:
    """Tell whether the first sentence is none, by a rule that a machine can decide.

    It is none if it does not end with . ! ? or :, has fewer than three words, or begins with a word of MID_SENTENCE.
    The rule does not look for a verb: "The arrows between rooms." passes, as it is understood on one reading.
    """
    sentence = first_sentence(docstring)
    words = re.findall(r"[^\W_][\w'./=-]*", sentence)
    return not sentence.endswith((".", "!", "?", ":")) or len(words) < FEWEST_WORDS or words[0].lower() in MID_SENTENCE


def mid_sentences(module: Module) -> list[Place]:
    return [
        Place(place.path, place.line, first_sentence(place.text))
        for place in docstrings(module)
        if begins_mid_sentence(place.text)
    ]


def vague_names(module: Module) -> list[Place]:
    """List where a name that says nothing is bound: assigned, looped over, or a parameter."""
    return [
        Place(module.path, node.lineno, name)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.arg) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
        for name in [node.arg if isinstance(node, ast.arg) else node.id]
        if name in VAGUE_NAMES
    ]


def said_behind(module: Module) -> list[Place]:
    """List where a docstring, a message or a comment says "behind"."""
    texts = [
        (node.lineno, node.value)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    tokens = tokenize.generate_tokens(io.StringIO(module.text).readline)
    texts += [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    return [
        Place(module.path, line + text[: match.start()].count("\n"), " ".join(text[match.start() :].split())[:60])
        for line, text in texts
        for match in re.finditer(r"\bbehind\b", text, re.IGNORECASE)
    ]


# --- tables -----------------------------------------------------------------------------------------------------

Table = dict[str, dict[str, str]]  # row -> column -> figure


def share(part: int, whole: int) -> float:
    """Give a percentage; of nothing it is 0."""
    return 100 * part / whole if whole else 0.0


def blank_share(bodies: list[Body]) -> float:
    return share(sum(body.blank for body in bodies), sum(body.lines for body in bodies))


def comment_share(bodies: list[Body]) -> float:
    return share(sum(body.comment_lines for body in bodies), sum(body.lines for body in bodies))


def rooms_table(house: House) -> Table:
    """Describe every folder, and the house as a whole: there arrows are between packages, and circles of modules."""
    graph = graph_of(house)
    table: Table = {}
    for folder in folders(house):
        arrows = room_graph(house, graph, folder)
        floors = ORDER.get(folder, ())
        known = set().union(*floors) == set(arrows)
        table[folder] = {
            "rooms": str(len(arrows)),
            "arrows": str(sum(map(len, arrows.values()))),
            "arrows up": str(len(arrows_up(arrows, floors))) if known else "-",
            "circles": str(len(circles(arrows))),
            "longest module": _longest(module for module in house if module.path.startswith(f"{folder}/")),
        }
    packages = room_graph_of_packages(graph)
    table["house"] = {
        "rooms": str(len(packages)),
        "arrows": str(sum(map(len, packages.values()))),
        "arrows up": "-",
        "circles": str(len(circles(graph))),
        "longest module": _longest(house),
    }
    return table


def room_graph_of_packages(graph: Graph) -> dict[str, set[str]]:
    arrows: dict[str, set[str]] = {}
    for start, ends in graph.items():
        package = start.partition("/")[0]
        arrows.setdefault(package, set()).update({end.partition("/")[0] for end in ends} - {package})
    return arrows


def _longest(house: Iterable[Module]) -> str:
    lines, name = max((len(module.lines), Path(module.path).stem) for module in house)
    return f"{lines} {name}"


def prose_table(house: House) -> Table:
    """Describe how each package, and the house as a whole, reads."""
    table: Table = {}
    for package in [*PACKAGES, "house"]:
        modules = [module for module in house if package in {"house", module.path.partition("/")[0]}]
        bodies = [body for module in modules for body in long_bodies(module)]
        names = [place.text for module in modules for place in vague_names(module)]
        table[package] = {
            "long bodies": str(len(bodies)),
            "blank %": f"{blank_share(bodies):.1f}",
            "comments %": f"{comment_share(bodies):.1f}",
            "docstrings": str(sum(1 for module in modules for _ in docstrings(module))),
            "mid-sentence": str(sum(len(mid_sentences(module)) for module in modules)),
            **{f"`{name}`": str(names.count(name)) for name in VAGUE_NAMES},
            '"behind"': str(sum(len(said_behind(module)) for module in modules)),
        }
    return table


def both(before: Table, now: Table) -> Table:
    """Put the figures of two houses side by side."""
    columns = list(next(iter(now.values())))
    return {
        row: {
            column: f"{before.get(row, {}).get(column, '')} -> {now.get(row, {}).get(column, '')}" for column in columns
        }
        for row in [*sorted({*before, *now} - {"house"}), "house"]
    }


def as_text(table: Table) -> str:
    rows = [["", *next(iter(table.values()))], *([name, *figures.values()] for name, figures in table.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def poor_bodies(house: House) -> Iterator[str]:
    """Yield the long bodies that have less air than the house should have, those with the most lines first."""
    bodies = [body for module in house for body in long_bodies(module)]
    for body in sorted(bodies, key=lambda body: -body.lines):
        if blank_share([body]) < 5 or not body.comment_lines:
            yield f"{body.place}, {body.lines} lines, {body.blank} blank, {body.comment_lines} of comments"


def comments_to_read(house: House) -> Iterator[str]:
    """Yield the comments in long bodies with the code below them: whether they give reasons only a reader can tell."""
    for module in house:
        for body in long_bodies(module):
            for comment in body.comments:
                mark = "" if comment.counts else "  (does not count)"
                yield f"{module.path}:{comment.line}: {comment.text}{mark}\n    {comment.code}"


OFFENDERS = {
    "bodies": poor_bodies,
    "comments": comments_to_read,
    "docstrings": lambda house: (place for module in house for place in mid_sentences(module)),
    "names": lambda house: (place for module in house for place in vague_names(module)),
    "behind": lambda house: (place for module in house for place in said_behind(module)),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="REVISION", help="show the figures of this commit too")
    parser.add_argument("--offenders", choices=sorted(OFFENDERS), help="list places instead of figures")
    words = parser.parse_args(argv)
    house = checkout()
    if words.offenders:
        print(*OFFENDERS[words.offenders](house), sep="\n")
        return 0

    before = revision(words.before) if words.before else None
    for table in (rooms_table, prose_table):
        print(as_text(both(table(before), table(house)) if before else table(house)), end="\n\n")
    for circle in circles(graph_of(house)):
        print(f"circle: {', '.join(circle)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
