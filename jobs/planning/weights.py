"""Published weights that runs start from or learn from: compute nodes cannot fetch them, so they must be here before.

The look into the caches takes no torch and no timm. It goes by names, so it may take other weights of the same network
for those that are wanted; the run itself looks again, exactly.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from common.settings.models import TimmSettings
from jobs.planning.cell import Cell


def missing_weights(cells: Iterable[Cell]) -> dict[str, list[str]]:
    """Map the keys of cells to the networks that they need published weights of, where no cache here has them."""
    here: dict[str, bool] = {}
    missing = {}
    for cell in cells:
        wanted = _wanted(cell)
        here |= {name: _cached(name) for name in wanted if name not in here}
        if absent := [name for name in wanted if not here[name]]:
            missing[cell.key] = absent
    return missing


def _wanted(cell: Cell) -> list[str]:
    """Name the published networks whose weights a cell takes from a cache: its own, its teacher's."""
    settings = cell.settings
    wanted = []
    model = getattr(settings, "model", None)
    if settings.PARENT != "run" and isinstance(model, TimmSettings) and model.pretrained and not model.weights:
        wanted.append(model.name)
    teacher = getattr(settings, "teacher", None)
    if teacher is not None and teacher.name and not teacher.weights:
        wanted.append(teacher.name)
    return [name.removeprefix("timm/") for name in wanted]


def _cached(name: str) -> bool:
    from huggingface_hub.constants import HF_HUB_CACHE

    # NAME without a tag is the network with any of its weights: only timm knows which of them it would take.
    patterns = [f"models--timm--{name}"] if "." in name else [f"models--timm--{name}", f"models--timm--{name}.*"]
    hub = Path(HF_HUB_CACHE)
    if any(next(hub.glob(f"{pattern}/snapshots/*/*"), None) for pattern in patterns):
        return True

    # A few old networks come from an address of their own, and torch keeps them under names that only timm knows.
    torch_home = os.environ.get("TORCH_HOME", "~/.cache/torch")
    return next((Path(torch_home).expanduser() / "hub").glob("*/*"), None) is not None
