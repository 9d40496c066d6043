"""The ledger survives writers that are killed, and tells what was submitted last."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.failures import Refused
from jobs.machine.processes import lives, this_process
from jobs.planning.ledger import Batch, Ledger, attempts, latest

REPOSITORY = Path(__file__).parents[3]


def batch(token: str, *keys: str, **more: object) -> Batch:
    return Batch(token, "mine", "cnn", keys, {"cpus": 1}, "default", 1.5, **more)  # type: ignore[arg-type]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def test_what_was_submitted_is_read_back(ledger: Ledger) -> None:
    assert ledger.batches() == []
    ledger.intend(batch("aa", "k0", "k1", escalation=1))
    ledger.submitted("aa", "77")
    (found,) = ledger.batches()
    assert found == batch("aa", "k0", "k1", escalation=1, job="77")
    assert [found.task(0), found.task(1)] == ["77_0", "77_1"]


def test_a_single_job_and_the_steward_have_no_task_number() -> None:
    assert batch("aa", "k0", job="77").task(0) == "77"
    assert batch("aa", job="78").task(0) == "78"


def test_a_writer_killed_before_the_job_is_known_leaves_a_token_without_job(ledger: Ledger) -> None:
    ledger.intend(batch("aa", "k0"))
    (found,) = ledger.batches()
    assert (found.job, found.void) == (None, False)


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_half_a_line_of_a_killed_writer_is_passed_over_and_spoils_no_later_one(ledger: Ledger, cut: int) -> None:
    ledger.intend(batch("aa", "k0"))
    ledger.intend(batch("bb", "k1"))
    first, second = ledger.path.read_text().splitlines()
    ledger.path.write_text(f"{first}\n{second[:cut]}")
    assert [each.token for each in ledger.batches()] == ["aa"]
    ledger.submitted("aa", "5")
    ledger.intend(batch("cc", "k2"))
    assert [(each.token, each.job) for each in ledger.batches()] == [("aa", "5"), ("cc", None)]


def test_a_whole_line_without_its_line_break_counts(ledger: Ledger) -> None:
    ledger.intend(batch("aa", "k0"))
    ledger.path.write_text(ledger.path.read_text().rstrip("\n"))
    ledger.submitted("aa", "5")
    assert [each.job for each in ledger.batches()] == ["5"]


def test_half_a_line_that_cost_the_intention_costs_the_answer_too(ledger: Ledger) -> None:
    """The number of a token that nobody knows of says nothing about any cell."""
    ledger.path.parent.mkdir(parents=True)
    ledger.path.write_text('{"token": "aa", "swee\n{"token": "aa", "job": "5"}\n')
    assert ledger.batches() == []


DAMAGED = {
    "a number": b"5",
    "a list": b"[1]",
    "no token": b'{"keys": ["k9"]}',
    "a token that is a list": b'{"token": ["aa"], "job": "7"}',
    "a job that is a number": b'{"token": "aa", "job": 7}',
    "keys that are none": b'{"token": "zz", "keys": 5}',
    "needs that are none": b'{"token": "z", "sweep": "mine", "stage": "a", "keys": [], "needs": 3, "profile": "p"}',
    "no UTF-8": b'{"token": "a\xff',
    "no JSON": b"@@",
    "depth": b"[" * 5000,
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
def test_a_line_that_is_no_record_is_passed_over_and_said_once(
    ledger: Ledger, line: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger.intend(batch("aa", "k0"))
    with ledger.path.open("ab") as file:
        file.write(line + b"\n")
    ledger.submitted("aa", "5")
    ledger.intend(batch("bb", "k1"))
    for _ in range(2):
        assert [(each.token, each.job) for each in ledger.batches()] == [("aa", "5"), ("bb", None)]
    said = f"note: {ledger.path}: line 2 is no whole record and is passed over; jobs of it are not known\n"
    assert capsys.readouterr().err == said


def test_the_last_submission_of_a_cell_counts_and_void_ones_never_do(ledger: Ledger) -> None:
    for token, keys in {"aa": ("k0", "k1"), "bb": ("k1",), "cc": ("k0", "k1")}.items():
        ledger.intend(batch(token, *keys))
    ledger.void("cc")
    found = ledger.batches()
    assert {key: (each.token, number) for key, (each, number) in latest(found).items()} == {
        "k0": ("aa", 0),
        "k1": ("bb", 0),
    }
    assert attempts(found) == {"k0": 1, "k1": 2}


# --- locks and processes ----------------------------------------------------------------------------------------


def test_one_submission_at_a_time(ledger: Ledger) -> None:
    with ledger.lock(), pytest.raises(Refused, match=r"another submission to .* is under way"), ledger.lock():
        pass
    with ledger.lock():
        pass  # given back


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("in the way")
    with pytest.raises(Refused, match=r"root: .* cannot be written"), Ledger(tmp_path).lock():
        pass


def test_one_process_runs_a_sweep_here(ledger: Ledger) -> None:
    with ledger.working_here("mine"):
        assert ledger.worker_here("mine") == this_process()
        assert ledger.worker_here("other") is None
        with pytest.raises(Refused, match=r"sweep: pid .* runs mine"), ledger.working_here("mine"):
            pass
        assert ledger.worker_here("mine")  # the refused one took nothing away
    assert ledger.worker_here("mine") is None


RACE = """
import sys
from pathlib import Path
from common.failures import Refused
from jobs.planning.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
for sweep in sys.stdin:
    try:
        with ledger.working_here(sweep.strip()):
            print("in", flush=True)
            next(sys.stdin)
    except Refused:
        print("refused", flush=True)
        next(sys.stdin)
"""


def test_of_two_that_start_at_once_one_works(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    pipes: Any = {"cwd": REPOSITORY, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as other:
        pair: Any = (one, other)
        for sweep in range(20):
            for process in pair:
                process.stdin.write(f"{sweep}\n")
            assert sorted(process.stdout.readline() for process in pair) == ["in\n", "refused\n"]
            for process in pair:
                process.stdin.write("this one is over\n")
        for process in pair:
            process.stdin.close()


@pytest.mark.parametrize("change", [{"started": "1"}, {"pid": 2**22 + 1}])
def test_another_process_of_that_number_is_another_process(ledger: Ledger, change: dict[str, object]) -> None:
    with ledger.working_here("mine"):
        path = ledger.folder / "local" / "mine" / "lock"
        path.write_text(json.dumps({**this_process(), **change}))
        assert ledger.worker_here("mine") is None
        path.write_text("{}")
        assert ledger.worker_here("mine") is None
    with ledger.working_here("mine"):  # what a killed process left keeps nobody away
        pass


def test_of_another_machine_nothing_is_known() -> None:
    assert lives({**this_process(), "boot": "elsewhere"}) is None
    assert lives(this_process()) is True


# --- sweeps -----------------------------------------------------------------------------------------------------


def test_how_a_sweep_was_asked_for(ledger: Ledger) -> None:
    ledger.remember("mine", ["sweep=mine.yaml", "cnn.recipe.lr=1e-3"])
    ledger.remember("mine", ["sweep=mine.yaml", "seeds=0-4"])
    assert ledger.words_of("mine") == ["sweep=mine.yaml", "seeds=0-4"]
    assert ledger.words_of("some/folder/mine.yaml") == ledger.words_of("mine")
    assert ledger.sweeps() == ["mine"]


def test_a_sweep_that_was_never_submitted(ledger: Ledger) -> None:
    with pytest.raises(Refused, match=r"sweep: cifar was never submitted under [^;]*$"):
        ledger.words_of("cifar")
    ledger.remember("cifar_all", [])
    with pytest.raises(Refused, match="there are: cifar_all, nearest: cifar_all"):
        ledger.words_of("cifar_al")


@pytest.mark.parametrize("text", [b"asked: 3\n", b"words: 5\n", b"words: [[a]]\n", b"words: [a\xff]\n", b""])
def test_a_damaged_sweep_is_refused(ledger: Ledger, text: bytes) -> None:
    ledger.remember("mine", ["sweep=mine.yaml"])
    path = ledger.folder / "sweeps" / "mine.yaml"
    path.write_bytes(text)
    with pytest.raises(Refused, match=f"{path}( has no words of a submission; submit mine again|: cannot be|: holds)"):
        ledger.words_of("mine")
    assert ledger.cluster_of("mine") is None
