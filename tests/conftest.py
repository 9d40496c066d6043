"""What every test gets: one torch thread, no network, no settings of the caller's own, and the packed digits."""

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.containers.images"]  # for the drills of tests/slurm too

os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side; the scripts they start inherit it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where everything is required (CI), a test that would skip fails, but for a GPU, Apptainer or real data."""
    if os.environ.get("STILLHOUSE_REQUIRE_ALL"):
        for item in items:
            for mark in item.iter_markers("skipif"):
                no_apptainer = item.get_closest_marker("apptainer") and not shutil.which("apptainer")
                excused = item.get_closest_marker("gpu") or no_apptainer or item.path.name == "test_real_data.py"
                if mark.args and mark.args[0] and not excused:
                    raise pytest.UsageError(f"{item.nodeid} would skip: {mark.kwargs.get('reason')}")


OF_IMAGES = ("tests/containers/", "tests/slurm/test_sweeps.py::test_the_quickstart_in_a_container")


class ImagesByOneWorker(LoadScopeScheduling):
    """Each test to whoever is free, but all of those in images to one worker, who builds what they share.

    (xdist's own groups have no effect with pytest 9.2, which does not read the names that they give to tests.)
    """

    def _split_scope(self, nodeid: str) -> str:
        return "images" if nodeid.startswith(OF_IMAGES) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ImagesByOneWorker:
    return ImagesByOneWorker(config, log)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty folder; refuse every connection that leaves this machine."""
    for name in ("STILLHOUSE_RUNS", "STILLHOUSE_DATA", "RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise AssertionError(f"a test reached for the network: {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that holds the packed digits."""
    from common.data.prepare import prepare

    folder = tmp_path_factory.mktemp("data")
    prepare("digits", folder)
    return folder
