"""A real SLURM on this machine, started once for all tests that ask for it."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

DEVCLUSTER = Path(__file__).parents[2] / "slurm" / "devcluster"
PORTS = range(27000, 32000, 20)  # below those that the kernel gives to clients (32768 and up)

# Said again, because the shell of whoever runs the tests may say otherwise.
DEFAULTS = {
    "NODES": "4",
    "CPUS": "8",
    "MEM_MB": "8000",
    "GPUS": "2",
    "SACCT": "shim",
    "MAX_ARRAY_SIZE": "10001",
    "REQUEUE_WAIT_S": "10",
    "OVER_MEMORY_KILL": "0",
}


@dataclass(frozen=True)
class Cluster:
    folder: Path
    options: dict[str, str]  # of slurm/devcluster

    @property
    def env(self) -> dict[str, str]:
        """What makes sbatch and the like talk to this cluster."""
        conf, bin_dir = self.folder / "slurm.conf", self.folder / "bin"
        return {"SLURM_CONF": str(conf), "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}"}

    def _environment(self) -> dict[str, str]:
        """Without what an outer SLURM, whose job the tests may be, says to its own."""
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {**outer, **self.options, **self.env, "STILLHOUSE_DEVCLUSTER": str(self.folder)}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        # Not by the PATH of this process, which would find another sacct.
        program = shutil.which(command[0], path=self.env["PATH"]) or command[0]
        return subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, check=False, env=self._environment(), timeout=120
        )

    def devcluster(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(DEVCLUSTER), *words)

    def _must(self, *words: str) -> None:
        done = self.devcluster(*words)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        self._must("start")

    def stop(self) -> None:
        self._must("stop")

    def stop_node(self, name: str) -> None:
        """Kill its daemon; the controller does not know yet."""
        self._must("kill", name)

    def start_node(self, name: str) -> None:
        self._must("revive", name)

    def restart_controller(self) -> None:
        self._must("restart")

    def submit(self, *words: str) -> str:
        """The id of the job."""
        done = self.run("sbatch", "--parsable", "--output=slurm-%j.out", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def squeue(self, *words: str) -> list[tuple[str, str, str]]:
        """Id, state and node of each task, ended ones too."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%N", *words).stdout.splitlines()
        return [(job, state, node) for job, state, node in (line.split("|") for line in lines)]

    def waits_for(self, wanted: Callable[[], bool], seconds: float = 40) -> None:
        end = time.monotonic() + seconds
        while not wanted():
            assert time.monotonic() < end, self.run("scontrol", "show", "job").stdout
            time.sleep(0.2)

    def waits_for_states(self, job: str, *states: str, seconds: float = 40) -> None:
        self.waits_for(lambda: sorted(state for _, state, _ in self.squeue(f"--jobs={job}")) == sorted(states), seconds)

    def kick(self) -> None:
        """Let requeued jobs start now. Sooner than 2.5 s after the requeue their node still refuses them, for good."""
        for line in self.run("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i|%r").stdout.splitlines():
            job, reason = line.split("|")
            if reason == "BeginTime":
                self.run("scontrol", "update", f"JobId={job}", "StartTime=now")


def claim_ports() -> tuple[int, socket.socket]:
    """The first of twenty free ports, and a socket at the last: while it is open, other test runs take others."""
    for first in PORTS:
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", first + PORTS.step - 1))
        except OSError:
            claim.close()
            continue
        if all(is_free(port) for port in range(first, first + PORTS.step - 1)):
            return first, claim
        claim.close()
    raise AssertionError("no free ports")


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection lately closed does not matter
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


MakeCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def make_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeCluster]:
    """Start another cluster, with these options of slurm/devcluster."""
    with ExitStack() as at_the_end:

        def make(**options: str) -> Cluster:
            first, claim = claim_ports()
            at_the_end.enter_context(claim)
            cluster = Cluster(tmp_path_factory.mktemp("devcluster"), DEFAULTS | {"PORT_BASE": str(first)} | options)
            at_the_end.callback(cluster.stop)
            cluster.start()
            return cluster

        yield make


@pytest.fixture(scope="session")
def cluster(make_cluster: MakeCluster) -> Cluster:
    return make_cluster()
