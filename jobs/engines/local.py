"""The local engine runs a sweep on this machine: several runs at a time, each in a process, students after teachers.

Every run writes its own folder, so nothing is lost when this process ends: the same command looks at the folders and
goes on. Ctrl-C tells the runs to stop after their next step, and waits for them.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from tqdm import tqdm

from common.cli.command import REFUSED
from common.failures import Refused
from common.files import read_json, write_json
from common.run.provenance import now
from common.run.run_dir import RunDir, headline
from common.settings.messages import one_line
from jobs.machine.processes import memory_kills
from jobs.planning.cell import Cell, Sweep
from jobs.planning.plan import Plan, lineage
from jobs.planning.states import Standing, hindrance
from jobs.worker import LOCKED_RETRY, SCRIPTS, command_of

LOOK_SECONDS = 0.2


@dataclass
class Running:
    cell: Cell
    folder: RunDir
    process: subprocess.Popen[bytes]
    slot: int
    log: Path
    failed_at: int | None  # when an attempt before this one failed, in nanoseconds
    memory_kills: int  # of the kernel, before it began
    began: float = field(default_factory=time.monotonic)


@dataclass
class Held:
    """A cell whose run another process has at this moment."""

    cell: Cell
    folder: RunDir
    again_at: float


@dataclass
class Engine:
    sweep: Sweep
    plan: Plan
    root: Path
    data_dir: Path
    slots: int
    logs: Path
    gpus: tuple[str, ...] = ()
    left_out: Callable[[], Collection[str]] = tuple  # keys of runs that somebody has cancelled since it last said
    running: dict[str, Running] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    said_held: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    unfinished: dict[str, Standing] = field(default_factory=dict)  # key: how it ended, or why it was not started
    stopping: bool = False

    def work(self) -> bool:
        """Run everything that can be run; say whether all of it is finished now."""
        waiting = {cell.key: cell for cell in self.plan.start}
        total = len(waiting)
        with _interrupts(self), _view(self, total) as view:
            while self.running or ((waiting or self.held) and not self.stopping):
                self._leave_out(waiting, view)
                self._look_at_held(waiting, view)
                self._give_up(waiting, view)

                # The plan has parents first, so the first cell that is ready is the right one for a free slot.
                while len(self.running) < self.slots and not self.stopping:
                    ready = next((cell for cell in waiting.values() if self._ready(cell, waiting)), None)
                    if ready is None:
                        break
                    self._start(waiting.pop(ready.key), view)

                self._reap(view)
                view.show()
                time.sleep(LOOK_SECONDS)
        return len(self.finished) == total

    def _ready(self, cell: Cell, waiting: Mapping[str, Cell]) -> bool:
        return cell.parent is None or not any(cell.parent in busy for busy in (waiting, self.running, self.held))

    def _leave_out(self, waiting: dict[str, Cell], view: "View") -> None:
        """Stop the runs that are cancelled, and do not start those that wait."""
        for key in self.left_out():
            if key in self.running:
                self.running[key].process.send_signal(signal.SIGTERM)
            elif key in waiting or key in self.held:
                cell = waiting.pop(key) if key in waiting else self.held.pop(key).cell
                self.unfinished[key] = Standing("failed", cause="cancelled", why="cancelled")
                view.say(f"{cell.title}: not started: it was cancelled")

    def _give_up(self, waiting: dict[str, Cell], view: "View") -> None:
        """Drop what builds on a run that ended without a result, and what builds on that: parents come first."""
        for key, cell in list(waiting.items()):
            if cell.parent in self.unfinished:
                del waiting[key]
                why = hindrance(self.sweep, cell, self.unfinished[cell.parent])
                self.unfinished[key] = Standing("blocked", why=why)
                view.say(f"{cell.title}: not started: {why}")

    def _start(self, cell: Cell, view: "View") -> None:
        try:
            words, folder, _ = command_of(lineage(self.sweep, cell), self.root, self.data_dir)
        except Refused as refused:
            why = "; ".join(map(one_line, refused.problems))
            self.unfinished[cell.key] = Standing("failed", cause="config", why=why)
            view.say(f"{cell.title}: refused: {why}")
            return

        slot = min(set(range(self.slots)) - {run.slot for run in self.running.values()})
        log = self.logs / f"{cell.key}.txt"
        self.logs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(SCRIPTS[cell.entry]), *words, "log.progress=off"]
        run = RunDir(folder)
        failed_at, kills = _failed_at(run), memory_kills()
        with log.open("ab") as file:
            process = self._launch(command, cell, slot, file)
        self.running[cell.key] = Running(cell, run, process, slot, log, failed_at, kills)

    def _launch(self, command: list[str], cell: Cell, slot: int, file: IO[bytes]) -> subprocess.Popen[bytes]:
        threads = str(cell.resources.cpus or max(1, (os.cpu_count() or 1) // self.slots))
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        # In a session of its own: Ctrl-C reaches this process alone, which passes it on once.
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)

    def _reap(self, view: "View") -> None:
        """Take the runs that have ended off the list, and say how each ended."""
        for key, run in list(self.running.items()):
            if run.process.poll() is None:
                continue
            del self.running[key]

            # A result is the only proof of success: the exit code of a process is not.
            if run.folder.finished() is not None:
                self._finish(run.cell, run.folder, f" in {time.monotonic() - run.began:.0f} s", view)
            elif _is_held(run):
                self.held[key] = Held(run.cell, run.folder, time.monotonic() + LOCKED_RETRY)
                if key not in self.said_held:
                    view.say(f"{run.cell.title}: runs in another process; {one_line(_last_line(run.log))}")
                self.said_held.add(key)
            else:
                self.unfinished[key] = end = _end_of(run)
                cause = f"failed ({end.cause}): " if end.state == "failed" else ""
                view.say(f"{run.cell.title}: {cause}{end.why}")

    def _finish(self, cell: Cell, folder: RunDir, how_long: str, view: "View") -> None:
        self.finished.add(cell.key)
        name, value = headline(folder.finished() or {}) or ("", 0.0)
        score = f", {name} {value:.2%}" if name else ""
        view.say(f"{cell.title}: finished{how_long}{score}")

    def _look_at_held(self, waiting: dict[str, Cell], view: "View") -> None:
        """Take over what another process has finished, and start again what it has left."""
        for key, held in list(self.held.items()):
            if held.folder.finished() is not None:
                del self.held[key]
                self._finish(held.cell, held.folder, " by another process", view)
                continue

            # Of a holder on another machine nothing is known: the run itself must try.
            locked = held.folder.is_locked()
            if locked is False or (locked is None and time.monotonic() > held.again_at):
                del self.held[key]
                waiting[key] = held.cell

    def stop(self) -> None:
        self.stopping = True
        for run in self.running.values():
            run.process.send_signal(signal.SIGTERM)


def _is_held(ended: Running) -> bool:
    """Say whether a run was refused because another process works in its folder: its result will be ours."""
    return ended.process.returncode == REFUSED and " is locked by pid " in _last_line(ended.log)


def _end_of(ended: Running) -> Standing:
    """Say how a run ended that has no result."""
    # A failure that was there when it started is of an attempt before it.
    failure = read_json(ended.folder.failure) if _failed_at(ended.folder) != ended.failed_at else None
    failure = failure or _killed(ended)
    if failure and failure.get("class") == "preempted":
        return Standing("waiting", cause="preempted", why="stopped after a checkpoint")
    if failure:
        return Standing("failed", cause=str(failure.get("class")), why=one_line(str(failure.get("message"))))
    if ended.process.returncode == -signal.SIGTERM:  # it was not yet listening
        return Standing("waiting", cause="preempted", why="stopped before it began")
    why = f"{_last_line(ended.log) or 'it ended without a word'} ({ended.log})"
    return Standing("failed", cause=f"code {ended.process.returncode}", why=why)


def _killed(ended: Running) -> dict[str, str] | None:
    """Return, and write into its folder, the failure of a run that SIGKILL kept from writing one; else None.

    The kernel kills so for memory, and counts how often. A person, or a machine that goes down, may do the same.
    """
    if ended.process.returncode != -signal.SIGKILL:
        return None
    for_memory = memory_kills() > ended.memory_kills
    why = "and the kernel killed a process for its memory meanwhile" if for_memory else "nothing here says by whom"
    failure = {"class": "oom" if for_memory else "node", "message": f"killed by SIGKILL, {why}"}
    facts = {**failure, "traceback": "", "time": now(), "host": socket.gethostname()}
    # Another process has the folder already, or nothing can be written: then it is said here alone.
    with suppress(Refused, OSError), ended.folder.lock():
        write_json(ended.folder.failure, facts)
    return failure


def _failed_at(run: RunDir) -> int | None:
    try:
        return run.failure.stat().st_mtime_ns
    except OSError:
        return None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


@contextmanager
def _interrupts(engine: Engine) -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        if engine.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        engine.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- what is seen -----------------------------------------------------------------------------------------------


class View:
    """A terminal shows a bar for the sweep and one for each run; elsewhere, a line is printed when a run ends."""

    def __init__(self, engine: Engine, total: int) -> None:
        self.engine = engine
        hidden = not sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=engine.sweep.name, unit="run", disable=hidden, dynamic_ncols=True)
        self.run_bars = [
            tqdm(total=1, position=1 + slot, disable=hidden, leave=False, dynamic_ncols=True, unit="epoch")
            for slot in range(engine.slots)
        ]

    def say(self, line: str) -> None:
        tqdm.write(line)
        sys.stdout.flush()

    def show(self) -> None:
        if self.bar.disable:
            return
        self.bar.n = len(self.engine.finished)
        self.bar.set_postfix_str(f"{len(self.engine.unfinished)} without a result" if self.engine.unfinished else "")
        busy = {run.slot: run for run in self.engine.running.values()}
        for slot, bar in enumerate(self.run_bars):
            beat = (read_json(busy[slot].folder.heartbeat) or {}) if slot in busy else {}
            bar.set_description_str(busy[slot].cell.title if slot in busy else "-", refresh=False)
            bar.total, bar.n = beat.get("epochs", 1), beat.get("epoch", 0)
            bar.refresh()

    def close(self) -> None:
        for bar in (*self.run_bars, self.bar):
            bar.close()


@contextmanager
def _view(engine: Engine, total: int) -> Iterator[View]:
    view = View(engine, total)
    try:
        yield view
    finally:
        view.close()
