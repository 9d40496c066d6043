"""The container that a profile's runs are in: whether it is there, what it was made of, what is to be said about it.

Nothing here is needed to run in it (containers/run.sh is); it is looked at before hours are spent in the wrong one.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.failures import Refused
from common.files import atomic_write, expanded
from common.run.provenance import SHORT, code_version

REPOSITORY = Path(__file__).resolve().parents[2]
LABELS_S = 20


def container_path(container: str) -> str:
    """As apptainer is given it: a file, or an address of a registry."""
    return container if "://" in container else str(expanded(container))


def look_at_container(container: str, code: str) -> list[str]:
    """Sentences that the user should read before the jobs start. Refused where the container is not there."""
    if "://" in container:
        return [f"{container} is fetched by each job; on nodes without internet, give the path of a file"]
    path = Path(container_path(container))
    if not path.exists():
        raise Refused([f"container: there is no {path}; containers/build.sh apptainer makes one"])
    if not os.access(path, os.R_OK):
        raise Refused([f"container: {path} cannot be read"])
    ours, origin = code_version(REPOSITORY, {})["commit"], origin_of(path)
    if code == "checkout" or not origin or not ours or origin.get("commit") == ours:
        return []
    built = str(origin.get("commit") or "an unknown commit")[:SHORT]
    return [
        f"{path} was built from {built} and this checkout is at {ours[:SHORT]}: runs use the container's code. "
        "Build it anew, or set code: checkout in the profile"
    ]


def origin_of(path: Path) -> Mapping[str, Any]:
    """What the container says it was built from; empty where it does not say, or where no apptainer is to ask."""
    for command in ("apptainer", "singularity"):
        try:
            done = subprocess.run(
                [command, "inspect", "--labels", "--json", str(path)],
                capture_output=True,
                text=True,
                timeout=LABELS_S,
                check=True,
            )
            labels = json.loads(done.stdout)["data"]["attributes"]["labels"]
            return dict(json.loads(labels["stillhouse.origin"]))
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
            continue
    return {}


def write_digest(container: str) -> list[str]:
    """Beside the container, as sha256sum writes it, once for all runs, which name it; says so where that cannot be."""
    path = Path(container_path(container))
    beside = path.with_name(f"{path.name}.sha256")
    if "://" in container or (beside.exists() and beside.stat().st_mtime_ns >= path.stat().st_mtime_ns):
        return []
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with atomic_write(beside) as out:
            out.write(f"{digest}  {path.name}\n".encode())
    except OSError as error:
        return [f"{beside} cannot be written ({error.strerror}), so runs will not name the container's digest"]
    return []
