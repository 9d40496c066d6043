"""The pages tell the truth: every link leads somewhere, and every command that they show is one that works.

Commands are given to the scripts themselves, in a folder that has every data set's manifest, two finished runs and all
sweeps as submitted: with dry_run=true where a command has that word, and else up to the point where its words have been
checked and its work begins.
"""

import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from common.cli.compose import RunWords, presets_of
from common.data.publishers.catalog import DATASETS
from common.files import digest_of, write_json
from common.run.run_dir import RunDir
from common.settings.entries import ENTRIES, TrainCNN, TrainViT, run_name
from common.settings.field import Group, every_setting
from jobs.planning.ledger import Ledger
from jobs.planning.sweep import Overrides, open_sweep

REPOSITORY = Path(__file__).parent.parent
FOLDERS = ("aggregate", "common", "containers", "eval", "jobs", "slurm", "tests", "train")
LISTED = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
PAGES = sorted(
    path
    for path in subprocess.run(LISTED, cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout.split()
    if (REPOSITORY / path).is_file()
)
HISTORY = {"CHANGELOG.md"}  # tells what was, so its commands and paths may be gone
README_LINES = 120


# --- reading a page ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced or an indented block of a page."""

    line: int
    language: str
    lines: tuple[str, ...]


def blocks_of(text: str) -> tuple[list[Block], str]:
    """The blocks, and the text without them. An indented block holds commands; all else has a fence and a language."""
    blocks: list[Block] = []
    prose: list[str] = []
    fence, language, start, inside = "", "", 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        opening = re.match(r"[\s*-]*(`{3,})(\w*)$", line)
        if fence:
            if line.strip() == fence:
                blocks.append(Block(start, language, tuple(inside)))
                fence = ""
            else:
                inside.append(line)
        elif opening:
            fence, language, start, inside = opening[1], opening[2], number, []
        elif line.startswith("    ") and line.strip():
            blocks.append(Block(number, "sh", (line,)))
        else:
            prose.append(line)
    return blocks, "\n".join(prose)


def spans_of(prose: str) -> list[str]:
    """Code within sentences."""
    return re.findall(r"`([^`\n]+)`", prose)


def commands_of(text: str) -> list[str]:
    """In the order of the page: of its blocks, then of its sentences. (Those with their answer have another test.)"""
    blocks, prose = blocks_of(text)
    lines = [line.strip() for block in blocks if block.language == "sh" for line in block.lines]
    spans = [span for span in spans_of(prose) if is_command(span)]
    return [line for line in dict.fromkeys([*lines, *spans]) if line and not line.startswith("#")]


def is_command(span: str) -> bool:
    """`train_cnn data=digits` is one too: an entry by its name."""
    words = [word for word in span.split() if not re.match(r"[A-Z_]+=", word)]
    return len(words) > 1 and (words[0] in KINDS or words[0] in ENTRIES)


# --- links ------------------------------------------------------------------------------------------------------

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")


def slug(heading: str) -> str:
    """As code hosts make an anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings_of(text: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", blocks_of(text)[1], re.MULTILINE)


def dead_links(text: str, folder: Path) -> list[str]:
    dead = []
    for first, second in LINK.findall(blocks_of(text)[1]):
        link = first or second
        if re.match(r"(https?|mailto):", link):
            continue
        place, _, anchor = link.partition("#")
        target = folder / place
        if place and not target.exists():
            dead.append(link)
        elif anchor:
            page = target.read_text() if place else text
            if anchor not in {slug(heading) for heading in headings_of(page)}:
                dead.append(link)
    return dead


def test_dead_links_are_found() -> None:
    page = "# One: two\n[a](README.md) [b](gone.md) [c](#one-two) [d](#three) [e](README.md#no-such)\n"
    page += '<img src="gone.png"> [f](https://example.org/gone) ![g](jobs/sweep-to-table.svg)\n'
    page += "```text\n[h](gone-too.md)\n```\n"
    assert dead_links(page, REPOSITORY) == ["gone.md", "#three", "README.md#no-such", "gone.png"]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    path = REPOSITORY / page
    assert dead_links(path.read_text(), path.parent) == []


# --- commands ---------------------------------------------------------------------------------------------------


Env = dict[str, str]


class Wrong(Exception):
    """A command that does not do what its page says."""


class Begun(Exception):
    """A command has checked its words, and begins to work."""


# The first function of a command's work, where it has no dry_run. Who asks for torch has begun, too.
WORK = {
    "aggregate/report.py": "group",
    "eval/evaluate.py": "open_run",
    "eval/explain.py": "open_run",
    "eval/predict.py": "open_run",
    "jobs/prepare.py": "data_root",
}
OWN_DATA = {"flowers", "mine"}
FINISHED = {"cnn": TrainCNN(data={"name": "cifar10"}), "vit": TrainViT(data={"name": "cifar10"})}  # type: ignore[arg-type]
ENGINE = "#!/bin/sh\necho sha256:0f3a\n"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which every command of the pages can be typed."""
    for name in {*DATASETS, *OWN_DATA} - {"digits"}:
        parts = {} if name in DATASETS and DATASETS[name].evaluation_only else {"train": {}, "val": {}}
        manifest = {"digest": f"images of {name}", "sets": parts | {"test": {}}, "shape": [1, 28, 28], "classes": [0]}
        write_json(tmp_path / "data" / name / "manifest.json", manifest, durable=False)
    for settings in FINISHED.values():
        run = RunDir(tmp_path / "runs" / settings.entry / run_name(settings))
        run.checkpoints.mkdir(parents=True)
        run.write_config(settings.model_dump())
        run.best.write_bytes(b"weights")
        facts = {"data": {"name": "cifar10", "digest": "images of cifar10"}, "model": {}}
        write_json(run.result, {**facts, "selection": {"digest": digest_of(run.best)}}, durable=False)
    for sweep in (REPOSITORY / "jobs" / "sweeps").glob("*.yaml"):
        Ledger(tmp_path / "runs").remember(sweep.stem, [f"sweep={sweep.stem}"])

    for engine in ("docker", "podman", "apptainer"):
        path = tmp_path / "engines" / engine
        path.parent.mkdir(exist_ok=True)
        path.write_text(ENGINE)
        path.chmod(0o755)
    for name in ("STILLHOUSE_CLUSTER", "IMAGE", "ENGINE", "RESULTS", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'engines'}{os.pathsep}{os.environ['PATH']}")
    shutil.copytree(REPOSITORY / "containers", tmp_path / "containers")
    shutil.copy(REPOSITORY / "requirements.lock", tmp_path)
    (tmp_path / "stillhouse.sif").touch()
    (tmp_path / "DIR").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problem(command: str) -> str:
    """What is wrong with a line of a page; nothing where it works."""
    try:
        for part in re.split(r"\s&&\s", command):
            check(shlex.split(part, comments=True))
    except Wrong as wrong:
        return f"{command}: {wrong}"
    return ""


def check(words: list[str]) -> None:
    """By its kind; a kind that is not known here is wrong."""
    env: Env = {}
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        env |= {} if value == "..." else {name: value}
    if words[0] in ENTRIES:
        folder = "eval" if words[0] == "eval_shift" else "train"
        words = ["python", f"{folder}/{words[0]}.py", *words[1:]]
    if words[0] not in KINDS:
        raise Wrong(f"{words[0]}: no kind of command that this test knows")
    KINDS[words[0]](words, env)


def check_python(words: list[str], _: Env) -> None:
    check_script(words[3:] if words[1:3] == ["-m", "pdb"] else words[1:])


def check_torchrun(words: list[str], _: Env) -> None:
    if words[1] != "--nproc-per-node" or not words[2].isdigit():
        raise Wrong("torchrun is shown with --nproc-per-node and a number")
    check_script(words[3:])


def check_make(words: list[str], env: Env) -> None:
    start(["make", "--dry-run", "--directory", str(REPOSITORY), *words[1:]], env)


def check_container(words: list[str], env: Env) -> None:
    """Both what starts the container and what is started in it."""
    start([words[0], "--show", *words[1:]], env)
    check(words[words.index("--") + 1 :])


def check_engine(words: list[str], _: Env) -> None:
    """What is started in the container; the words of docker and apptainer are theirs."""
    check(words[words.index("python") :])


def check_devcluster(words: list[str], _: Env) -> None:
    if words[1] not in devcluster_words():
        raise Wrong(f"slurm/devcluster has no {words[1]}, but: {', '.join(devcluster_words())}")


def check_eval(words: list[str], _: Env) -> None:
    check(shlex.split(words[1].removeprefix("$(").removesuffix(")")))


def check_copy(words: list[str], _: Env) -> None:
    if not (REPOSITORY / words[1]).is_file():
        raise Wrong(f"there is no {words[1]}")
    shutil.copy(REPOSITORY / words[1], words[2])


def check_activation(words: list[str], _: Env) -> None:
    if words[1] != ".venv/bin/activate":
        raise Wrong(f"make sets up .venv, and no {words[1]}")


def start(words: list[str], env: Env) -> None:
    done = subprocess.run(words, env=os.environ | env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(f"exit code {done.returncode}: {done.stderr.strip()}")


KINDS: dict[str, Callable[[list[str], Env], None]] = {
    "python": check_python,
    "torchrun": check_torchrun,
    "make": check_make,
    "containers/build.sh": start,
    "containers/run.sh": check_container,
    "docker": check_engine,
    "apptainer": check_engine,
    "slurm/devcluster": check_devcluster,
    "eval": check_eval,
    "cp": check_copy,
    ".": check_activation,
}


def devcluster_words() -> list[str]:
    return re.findall(r"^    (\w+)\) ", (REPOSITORY / "slurm" / "devcluster").read_text(), re.MULTILINE)


def check_script(words: list[str]) -> None:
    script, *words = words
    if script == "tests/bench/recipes.py":  # its own words, and those of the entry
        entry = next((word.removeprefix("entry=") for word in words if word.startswith("entry=")), "train_cnn")
        script, words = f"train/{entry}.py", [word for word in words if not re.match("(minutes|seeds|entry)=", word)]
    if not (REPOSITORY / script).is_file():
        raise Wrong(f"there is no {script}")
    words = [in_place(word, script) for word in words]
    for name in [word.removeprefix("data=") for word in words if word.startswith("data=")]:
        if unknown := set(name.split(",")) - {*DATASETS, *OWN_DATA, "image_folder"}:
            raise Wrong(f"no data set {', '.join(unknown)}")
    code, said = answer_of(script, words)
    if code:
        raise Wrong(f"exit code {code}: {said}")


def in_place(word: str, script: str) -> str:
    """What a reader puts there."""
    if script.startswith("jobs/"):
        run = "cnn seed=0 data=cifar10"
    else:
        run = run_name(FINISHED["vit" if script == "train/distill_cst.py" else "cnn"])
    return {"RUN": word, "weights=NAME": "weights=resnet18"}.get(word, re.sub(r"\bRUN\b", run, word))


def answer_of(script: str, words: list[str]) -> tuple[int, str]:
    """Exit code of a command, and what it said; 0 as soon as it begins to work."""
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    if "dry_run" in known_words(script):
        words = [*words, "dry_run=true"]
    work = "_fetch" if any(word.startswith("weights=") for word in words) else WORK.get(script)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        patch.setitem(sys.modules, "torch", None)
        if {"watch=true", "follow=true"} & set(words):
            patch.setattr(time, "sleep", begin)
        if work:
            patch.setattr(module, work, begin)
        try:
            return module.main(words), said.getvalue()
        except (Begun, ImportError) as begun:
            if isinstance(begun, ImportError) and begun.name != "torch":
                raise
            return 0, said.getvalue()


def begin(*_: object, **__: object) -> NoReturn:
    raise Begun


def known_words(script: str) -> set[str]:
    """Keys that a command takes: of its class of words, or of its entry."""
    entry = ENTRIES.get(Path(script).stem)
    if entry:
        return {*every_setting(entry), *every_setting(RunWords), *presets_of(entry), entry.PARENT}
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    groups = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Group)]
    return {name for group in groups if group.__name__.endswith("Words") for name in every_setting(group)}


WRONG = {
    "python train/train_cnn.py recipe.epoch=3": "recipe.epoch: no such setting, nearest: recipe.epochs",
    "python train/train_cnn.py data=mnist recipe=cnn_mnist_13": "recipe: given cnn_mnist_13, allowed:",
    "python train/train_gan.py": "there is no train/train_gan.py",
    "python train/distill_cst.py data=cifar10 teacher=RAN": "teacher: given RAN, which is no folder",
    "torchrun --nproc-per-node 2 train/train_vit.py model=vit_cifer": "model: given vit_cifer, allowed:",
    "torchrun train/train_cnn.py recipe=cnn": "torchrun is shown with --nproc-per-node",
    "train_vit recipe=vit_minst": "recipe: given vit_minst, allowed:",
    "python jobs/submit.py sweep=cifar_al": "sweep: given cifar_al, allowed:",
    "python jobs/submit.py sweep=cifar_all only=cn": "only: given cn, allowed:",
    "python jobs/submit.py sweep=cifar_all cluster=a10": "cluster: given a10, allowed:",
    "python jobs/status.py sweep=cifar": "sweep: cifar was never submitted",
    "python jobs/status.py sweep=cifar_all wach=true": "wach: no such setting, nearest: watch",
    "python jobs/retry.py sweep=cifar_all class=oom,time": "class: given time, allowed:",
    "python jobs/cancel.py sweep=cifar_all stage=diet": "stage: given diet, allowed:",
    "python jobs/logs.py sweep=cifar_all run=RAN": "run: RAN is no run of cifar_all",
    "python jobs/prepare.py data=cifar10 verify=yes": "verify: given yes, allowed: true or false",
    "python jobs/prepare.py data=cifar11": "no data set cifar11",
    "python eval/evaluate.py run=RUN date=cifar10": "date: no such setting, nearest: data",
    "python eval/evaluate.py run=RUN data=cifar10_2": "no data set cifar10_2",
    "python eval/explain.py run=RUN what=gradcm": "what: given gradcm, allowed:",
    "python eval/predict.py run=RUN photo.jpg views=flop": "views: given flop, allowed:",
    "python eval/eval_shift.py run=RUN shift=adaption": "shift: given adaption, allowed:",
    "python eval/model_table.py models=resnet19": "models: given resnet19, allowed:",
    "python aggregate/report.py sweep=cifar_all into=x": "into: no such setting",
    "python aggregate/report.py runs='walks/*'": "runs: walks/* matches no folder",
    "python tests/bench/recipes.py minutes=25 data=digit": "no data set digit",
    "make coffee": "No rule to make target 'coffee'",
    "containers/build.sh rocket": "given rocket, allowed: docker, podman, apptainer, save",
    "containers/run.sh --devel -- python train/train_cnn.py": "given --devel, allowed:",
    "containers/run.sh -- python train/train_cnn.py sed=3": "sed: no such setting, nearest: seed",
    "docker run --rm stillhouse python train/train_cnn.py sed=3": "sed: no such setting, nearest: seed",
    "slurm/devcluster begin": "slurm/devcluster has no begin, but: start, stop,",
    'eval "$(slurm/devcluster enf)"': "slurm/devcluster has no enf",
    "containers/build.sh docker && containers/build.sh safe": "given safe, allowed:",
    "cp slurm/profiles/standard.yaml mine.yaml": "there is no slurm/profiles/standard.yaml",
    ". venv/bin/activate": "make sets up .venv, and no venv/bin/activate",
    "sudo make demo": "sudo: no kind of command",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_command_is_found(command: str, world: Path) -> None:
    assert WRONG[command] in problem(command)


def test_commands_are_read_off_a_page() -> None:
    page = "Text, `make demo`, `recipe.swa` and `train_cnn data=digits`.\n\n    make test   # all\n\n"
    page += "```sh\npython a.py\n\n# about\nsudo b\n```\n- ```yaml\n  make: it\n  ```\n"
    page += "```console\n$ python c.py\nout\n```\n"
    assert commands_of(page) == [
        *("make test   # all", "python a.py", "sudo b", "make demo", "train_cnn data=digits"),
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_every_command_works(page: str, world: Path) -> None:
    commands = commands_of((REPOSITORY / page).read_text())
    assert [found for command in commands if (found := problem(command))] == []


def test_the_pages_have_commands() -> None:
    """Or nothing was looked at."""
    for page in [page for page in PAGES if page.endswith("README.md")]:
        assert commands_of((REPOSITORY / page).read_text()), page


# --- other blocks, and words in sentences -----------------------------------------------------------------------


def blocks_in(*languages: str) -> Iterator[tuple[str, Block]]:
    for page in PAGES:
        for block in blocks_of((REPOSITORY / page).read_text())[0]:
            if block.language in languages:
                yield f"{page}, line {block.line}", block


def test_every_block_says_what_it_is() -> None:
    known = {"sh", "console", "yaml", "text"}
    walks = {("CONTRIBUTING.md", "diff")}  # which tests/test_contributing.py takes
    pages = {page: blocks_of((REPOSITORY / page).read_text())[0] for page in PAGES}
    kinds = [(page, block.line, block.language) for page in pages for block in pages[page]]
    assert [(page, line) for page, line, kind in kinds if kind not in known and (page, kind) not in walks] == []


def test_what_a_command_is_shown_to_print_it_prints(world: Path) -> None:
    for place, block in blocks_in("console"):
        command, *expected = block.lines
        prompt, python, script, *words = shlex.split(command)
        assert (prompt, python) == ("$", "python"), place
        lines = answer_of(script, words)[1].splitlines()
        assert len(lines) == len(expected), place
        for line, parts in zip(lines, (text.split("…") for text in expected), strict=True):
            assert re.fullmatch(".*".join(map(re.escape, parts)), line), f"{place}: {line}"


def test_shown_sweeps_can_be_opened(world: Path) -> None:
    for place, block in blocks_in("yaml"):
        Path("shown.yaml").write_text("\n".join(block.lines))
        assert open_sweep("shown.yaml", Overrides(), world / "data").cells, place


SCRIPTS = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for folder in ("aggregate", "eval", "jobs", "train")
    for path in (REPOSITORY / folder).glob("*.py")
    if "sys.exit(main())" in path.read_text()
)


NO_KEYS = {"key", "added_as"}  # any word, and a word of Python


def wrong_words(prose: str) -> list[str]:
    """Settings that no command has, and paths that lead nowhere, in the sentences of a page."""
    keys = {key for script in SCRIPTS for key in known_words(script)}
    groups = {key.partition(".")[0] for key in keys if "." in key}
    wrong = []
    for span in spans_of(prose):
        key, equals, _ = span.partition("=")
        dotted = re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key) and key.partition(".")[0] in groups and not is_file_name(key)
        plain = equals and re.fullmatch(r"[a-z_]+", key) and key not in NO_KEYS
        if dotted or plain:
            wrong += [] if key in keys else [span]
        elif re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]*", span) and not (REPOSITORY / span).exists():
            wrong.append(span)
    return wrong


def is_file_name(text: str) -> bool:
    return text.endswith((".csv", ".html", ".json", ".md", ".npz", ".py", ".sh", ".txt", ".yaml"))


def test_wrong_words_are_found() -> None:
    right = "`recipe.swa`, `data.val_fraction=0`, `memory=small`, `class=oom`, `jobs/sweeps/`, `cost.parts`, `log.txt`"
    wrong = ["recipe.sva", "data.val_share=0", "memry=small", "jobs/swoops/", "jobs/submit_all.py"]
    assert wrong_words(right + " ".join(f"`{span}`" for span in wrong)) == wrong


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_words_in_sentences_are_right(page: str) -> None:
    assert wrong_words(blocks_of((REPOSITORY / page).read_text())[1]) == []


# --- the first page, and what ships -----------------------------------------------------------------------------


def test_the_first_page_can_be_read_in_one_go() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= README_LINES


def test_every_folder_of_the_first_page_has_a_page() -> None:
    links = {first or second for first, second in LINK.findall((REPOSITORY / "README.md").read_text())}
    assert {page for page in PAGES if page.endswith(("README.md", "RESULTS.md"))} - {"README.md"} <= links


def test_pages_are_no_part_of_what_is_installed() -> None:
    """Or another sentence would make another image."""
    from hatchling.builders.wheel import WheelBuilder

    files = [file.distribution_path for file in WheelBuilder(str(REPOSITORY)).recurse_included_files()]
    assert "aggregate/page/style.css" in files
    assert [file for file in files if file.endswith((".md", ".png", ".svg"))] == []
