"""Every command and entry answers --help."""

import importlib
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
COMMANDS = sorted(
    str(path.relative_to(REPOSITORY))
    for package in ("aggregate", "eval", "jobs", "train")
    for path in (REPOSITORY / package).glob("*.py")
    if re.search(r"^def main\(", path.read_text(), re.MULTILINE)
)


def test_commands_are_found() -> None:
    assert {"train/train_cnn.py", "eval/eval_shift.py", "jobs/submit.py", "aggregate/report.py"} <= {*COMMANDS}


@pytest.mark.parametrize("word", ["--help", "help"])
@pytest.mark.parametrize("script", COMMANDS)
def test_every_command_says_how_it_is_used(script: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(script.removesuffix(".py").replace("/", ".")).main
    assert main(["seed=no number", word]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith(f"python {script} key=value ...\n")
    assert "\nExit codes: 0 done, 1 failed, 2 refused.\n" in printed.out


def test_what_an_entry_takes_by_itself_is_said_where_there_is_something(capsys: pytest.CaptureFixture[str]) -> None:
    said = "A data set brings these presets with it, unless the command line names others:"
    for script, is_said in (("train.train_cnn", True), ("eval.eval_shift", False), ("jobs.submit", False)):
        assert importlib.import_module(script).main(["--help"]) == 0
        assert (said in capsys.readouterr().out) == is_said
