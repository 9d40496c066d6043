"""This module records what a result comes from: code, versions, machine, scheduler, container and command."""

import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.files import read_json

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pydantic", "safetensors", "scikit-learn")
SHORT = 10  # characters of a commit in a message
SLURM_FACTS = ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT", "JOB_PARTITION", "NODELIST", "CLUSTER_NAME")


def provenance(words: list[str]) -> dict[str, Any]:
    """Return the facts about a run that begins now. Its device is added later, by the code that loads torch."""
    repository, origin = Path(__file__).parents[2], _origin()
    slurm = {fact: os.environ.get(f"SLURM_{fact}") for fact in SLURM_FACTS}

    return {
        **code_version(repository, origin),
        "started": now(),
        "command": shlex.join([sys.executable, sys.argv[0], *words]),
        "working_folder": str(Path.cwd()),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _package_version(name) for name in PACKAGES},
        "container": container(repository, origin),
        "slurm": {fact.lower(): value for fact, value in slurm.items() if value is not None},
    }


def code_version(folder: Path, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return the commit, and whether files differ from it.

    Git knows both. A container has no git: there containers/run.sh passes them for a checkout that it has bound, and
    the image's origin has them for the code in the image.
    """
    if not (folder / ".git").exists():
        return {"commit": origin.get("commit"), "dirty": origin.get("dirty")}
    commit, changed = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain")
    if commit is None or changed is None:
        dirty = {"true": True, "false": False}.get(os.environ.get("STILLHOUSE_DIRTY", ""))
        return {"commit": os.environ.get("STILLHOUSE_COMMIT"), "dirty": dirty}
    return {"commit": commit, "dirty": bool(changed)}


def container(folder: Path, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts about the container that this process is in; none if it is in no container.

    containers/run.sh passes its name, its digest, and the commit of the checkout that started it. The content is a
    digest of what is installed in it, the same for an image and for a file made of it.
    """
    variables = {"image": "IMAGE", "digest": "IMAGE_DIGEST", "started_by": "COMMIT"}
    facts: dict[str, Any] = {fact: os.environ.get(f"STILLHOUSE_{name}") or None for fact, name in variables.items()}
    if not (facts["image"] or origin.get("content")):
        return {}
    return {**facts, "content": origin.get("content"), "bound_checkout": (folder / ".git").exists()}


def foreign_container(provenance: Mapping[str, Any]) -> str | None:
    """Name both commits if a run's container was made of another one than the checkout that started it; else None."""
    facts, commit = provenance.get("container"), provenance.get("commit")
    started_by = facts.get("started_by") if isinstance(facts, dict) else None
    if not commit or not started_by or commit == started_by:
        return None
    return f"a container of commit {str(commit)[:SHORT]}, started by a checkout of commit {str(started_by)[:SHORT]}"


def _origin() -> dict[str, Any]:
    """Return what containers/suite.sh wrote down when it built the image; nothing outside of a container."""
    path = os.environ.get("STILLHOUSE_ORIGIN")
    return (read_json(Path(path)) or {}) if path else {}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _package_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
