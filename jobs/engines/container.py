"""Look at a profile's container before hours are spent in the wrong one: is it there, and what was it built from?

Nothing here is needed to run in it; containers/run.sh does that.
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
    """Write the container as apptainer wants it: the path of a file, or an address of a registry."""
    return container if "://" in container else str(expanded(container))


def look_at_container(container: str, code: str) -> list[str]:
    """Return sentences that the user should read before the jobs start; Refused where the container is not there."""
    if "://" in container:
        return [f"{container} is fetched by each job; on nodes without internet, give the path of a file"]

    path = Path(container_path(container))
    if not path.exists():
        raise Refused([f"container: there is no {path}; containers/build.sh apptainer makes one"])
    if not os.access(path, os.R_OK):
        raise Refused([f"container: {path} cannot be read"])

    # A container of another commit is no mistake, but nobody sees it from the settings of a run.
    ours, origin = code_version(REPOSITORY, {})["commit"], origin_of(path)
    if code == "checkout" or not origin or not ours or origin.get("commit") == ours:
        return []
    built = str(origin.get("commit") or "an unknown commit")[:SHORT]
    return [
        f"{path} was built from {built} and this checkout is at {ours[:SHORT]}: runs use the container's code. "
        "Build it anew, or set code: checkout in the profile"
    ]


def origin_of(path: Path) -> Mapping[str, Any]:
    """Ask the container what it was built from; empty where it does not say, or no apptainer is here to ask it."""
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
    """Write the container's digest into a file beside it, as sha256sum does; return a note where that cannot be.

    Runs record it from there (containers/run.sh), so that a file of gigabytes is read once.
    """
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
