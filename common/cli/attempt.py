"""One attempt at a run goes from the check of its command line to its result or failure.

The command line is checked first (exit code 2, nothing written). A finished run says so (0). The folder is locked (2
if another process has it). The entry works. Its result is written last (0), or a failure with its class (1). Torch is
not imported here, so that a refusal or a finished run answers at once.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from common.cli.command import DONE, FAILED, answer
from common.cli.compose import Command, RunWords, compose, presets_of, starting_points_of
from common.failures import FolderLost, Interrupted, Refused, classify
from common.files import read_json, write_json
from common.run.provenance import foreign_container, now, provenance
from common.run.run_dir import RunDir, headline
from common.settings.entries import LogSettings, RunSettings, TrainingSettings, run_name
from common.settings.yaml12 import dump_yaml

if TYPE_CHECKING:
    from common.cli.monitor import Monitor

log = logging.getLogger("stillhouse")

T = TypeVar("T")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Attempt:
    """An entry works with its attempt: the settings, the run folder, the monitors, and any signal to stop."""

    def __init__(self, command: Command, run: RunDir) -> None:
        self.settings, self.run = command.settings, run
        self.monitors: list[Monitor] = []
        self.root, self.data_folder = command.root, command.data_dir / command.settings.data.name
        self.stop_signal: str | None = None
        self._saved_at = time.monotonic()

    @property
    def training(self) -> TrainingSettings:
        assert isinstance(self.settings, TrainingSettings)
        return self.settings

    @property
    def stop_reason(self) -> str | None:
        return self.stop_signal and f"stopped by {self.stop_signal}"

    def saved(self) -> None:
        self._saved_at = time.monotonic()

    def minutes_since_save(self) -> float:
        return (time.monotonic() - self._saved_at) / 60

    def bar(self, items: Iterable[T], title: str, total: int, done: int = 0) -> Iterable[T]:
        wanted = self.settings.log.progress
        hidden = not (wanted == "bar" or (wanted == "auto" and sys.stderr.isatty()))
        return tqdm(items, title, total, initial=done, disable=hidden, leave=False, dynamic_ncols=True, unit="step")

    def publish(self, row: dict[str, Any], epochs: int) -> None:
        """Log a finished epoch, and pass it to the monitors."""
        line = (
            f"epoch {row['epoch']}/{epochs}: training loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}"
        )
        if row["val_loss"] != "":
            line += f", validation loss {row['val_loss']:.4f} accuracy {row['val_accuracy']:.2%}"
        log.info("%s, %.1f s", line, row["epoch_time_sec"])
        for monitor in self.monitors:
            monitor.row(row)

    def add_provenance(self, **facts: Any) -> None:
        write_json(self.run.provenance, {**(read_json(self.run.provenance) or {}), **facts})


Body = Callable[[Attempt], dict[str, Any]]


def run_entry(entry: type[RunSettings], body: Body, argv: list[str] | None, *, script: str, about: str | None) -> int:
    """Run an entry: its body gets an attempt at the run that the command line asks for."""

    def work(words: list[str]) -> int:
        return carry_out(compose(entry, words), body, words)

    return answer(
        work,
        argv,
        script=script,
        about=about,
        models=(RunWords, entry),
        preset_names=presets_of(entry),
        starting_points=starting_points_of(entry),
    )


def carry_out(command: Command, body: Body, words: list[str]) -> int:
    settings = command.settings
    run = RunDir(command.root / settings.entry / run_name(settings))
    result = run.finished()

    if command.dry_run:
        print(dump_yaml(settings.model_dump()).rstrip())
        print(f"# folder: {run.path}{' (finished)' if result else ''}")
        return DONE
    if result and not command.force:
        run.tidy()  # an attempt may have been killed just after it wrote the result
        return _say_finished(run, result)

    # Of several processes the first one owns the folder; the others only compute.
    if int(os.environ.get("RANK", "0")) > 0:
        return _compute_along(command, run, body)
    return _own(command, run, body, words)


def _own(command: Command, run: RunDir, body: Body, words: list[str]) -> int:
    """Lock the folder and work in it. With force=true, a folder that holds anything gets another name first.

    If the work is refused, because a GPU is missing for example, everything is left as it was.
    """
    with run.lock():
        if not command.force or run.is_bare():
            return _work(command, run, body, words)
        aside = run.set_aside()
    try:
        with run.lock():
            print(f"starting anew; the old folder is {aside}")
            return _work(command, run, body, words)
    except Refused as refused:
        raise Refused([*refused.problems, *_put_back(aside, run)]) from None


def _put_back(aside: Path, run: RunDir) -> list[str]:
    try:
        aside.rename(run.path)  # replaces nothing, or an empty folder
    except OSError:
        return [f"another process uses {run.path} by now; the old folder is {aside}"]
    return []


def _work(command: Command, run: RunDir, body: Body, words: list[str]) -> int:
    settings = command.settings
    if done := run.finished():  # another process has finished it since the first look
        return _say_finished(run, done)
    attempt = Attempt(command, run)

    with _logging(settings.log) as write_to, _stop_signals(attempt):
        try:
            write_to(run.log)
            _begin(attempt, words)

            # A result is the only sign of success, so it is written when the body has done everything else.
            result = body(attempt)
            run.check_whole()
            write_json(run.result, {"entry": settings.entry, "run": run.path.name, **result})
        except Refused:
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, it is recorded
            return _record_failure(run, error, attempt.stop_signal)
        finally:
            for monitor in attempt.monitors:
                monitor.close()

        run.clear_leftovers()
        log.info("finished: %s%s", run.path, _headline(result))
    return DONE


def _begin(attempt: Attempt, words: list[str]) -> None:
    """Write down what the run is and what it comes from, before there is any work to lose."""
    run, settings = attempt.run, attempt.settings
    log.info("run %s", run.path)
    run.beat_first()
    run.clear_leftovers()
    attempt.monitors = _open_monitors(settings, run)
    run.write_config(settings.model_dump())

    facts = provenance(words)
    write_json(run.provenance, {**facts, "earlier_attempts": _earlier_attempts(run)})
    if commits := foreign_container(facts):
        log.warning("this is the code of %s", commits)


def _compute_along(command: Command, run: RunDir, body: Body) -> int:
    """Compute in one of the other processes that torchrun started; only the first one writes to the folder."""
    attempt = Attempt(command, run)
    with _stop_signals(attempt):
        try:
            body(attempt)
        except Interrupted:
            return FAILED
    return DONE


def _record_failure(run: RunDir, error: BaseException, stop_signal: str | None) -> int:
    # Without its folder, a run may fail in any words: then the folder is what there is to say.
    trace = "".join(traceback.format_exception(error))
    try:
        run.check_folder()
    except (FolderLost, OSError) as lost:
        error = lost if isinstance(lost, FolderLost) else error
    kind, message = classify(error), str(error) or type(error).__name__

    # Only a bug is worth a traceback on the console; for all others it is in failure.json.
    log.log(logging.ERROR if kind == "bug" else logging.DEBUG, "%s", trace.rstrip())
    if stop_signal == "SIGINT" and kind == "preempted":
        log.info("%s", "stopped by SIGINT" if isinstance(error, KeyboardInterrupt) else message)  # no fault of the run
    else:
        log.error("failed (%s): %s", kind, message)
    facts = {"class": kind, "message": message, "traceback": trace, "time": now(), "host": socket.gethostname()}
    facts |= {"signal": stop_signal} if stop_signal else {}

    try:
        write_json(run.failure, facts)
    except (OSError, FolderLost) as second:
        log.error("failure.json could not be written either: %s", second)  # noqa: TRY400 - the first error matters
    return FAILED


def _say_finished(run: RunDir, result: dict[str, Any]) -> int:
    print(f"finished: {run.path}{_headline(result)}")
    return DONE


def _headline(result: dict[str, Any]) -> str:
    number, warnings = headline(result), result.get("warnings")
    texts = [f", {number[0]} {number[1]:.2%}"] if number else []
    return "".join([*texts, *(f"; {warning}" for warning in warnings or [])])


def _open_monitors(settings: RunSettings, run: RunDir) -> "list[Monitor]":
    if not (settings.log.tensorboard or settings.log.wandb):
        return []
    from common.cli.monitor import open_monitors

    return open_monitors(settings, run)


@contextmanager
def _stop_signals(attempt: Attempt) -> Iterator[None]:
    """Make the training stop after its next step when a signal comes; a second Ctrl-C stops it at once."""

    def ask(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and attempt.stop_signal:
            raise KeyboardInterrupt
        if attempt.stop_signal in {None, "SIGTERM"}:  # SLURM may send one before the signal that says what it is about
            attempt.stop_signal = signal.Signals(number).name

    # Python sets handlers in the main thread alone.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = {number: signal.signal(number, ask) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- log --------------------------------------------------------------------------------------------------------


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Do nothing: what logging would print here about a full disk would drown the message that says so."""


class _Console(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


@contextmanager
def _logging(settings: LogSettings) -> Iterator[Callable[[Path], None]]:
    """Log to the terminal, and to the file that the yielded function is given; it raises OSError if it cannot."""
    before, console = list(log.handlers), _Console()
    console.setLevel(logging.WARNING if settings.progress == "off" else logging.INFO)

    def write_to(path: Path) -> None:
        file = _LogFile(path)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(file)

    # The file gets everything, whatever the terminal shows.
    log.setLevel(logging.DEBUG)
    log.addHandler(console)

    try:
        yield write_to
    finally:
        for handler in [handler for handler in log.handlers if handler not in before]:
            log.removeHandler(handler)
            handler.close()


def _earlier_attempts(run: RunDir) -> list[dict[str, Any]]:
    before = read_json(run.provenance)
    return [*before.pop("earlier_attempts", []), before] if before else []
