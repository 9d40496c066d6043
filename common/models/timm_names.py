"""The names that timm knows, read off its source: a login node need not load torch to check a spelling."""

import difflib
import functools
import importlib.util
import re
from pathlib import Path

DEFINED = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
SHOWN = 5  # nearest names


@functools.cache
def timm_names() -> frozenset[str]:
    """Architectures, without the tags of their weights; none where timm is not installed."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return frozenset()
    sources = (Path(spec.origin).parent / "models").glob("*.py")
    return frozenset(name for path in sources for name in DEFINED.findall(path.read_text(encoding="utf-8")))


def refuse_unknown(given: str) -> None:
    """`given` is timm/NAME or timm/NAME.TAG; a ValueError with the nearest names where timm has no NAME."""
    name = given.removeprefix("timm/").partition(".")[0]
    known = timm_names()
    if known and name not in known:
        begun = sorted((each for each in known if name and each.startswith(name)), key=lambda each: (len(each), each))
        close = difflib.get_close_matches(name, sorted(known), n=SHOWN, cutoff=0.5)
        nearest = list(dict.fromkeys([*begun, *close]))[:SHOWN]
        near = f", nearest: {', '.join(f'timm/{each}' for each in nearest)}" if nearest else ""
        raise ValueError(f"given {given}, allowed: timm/NAME, one of the {len(known):,} names of timm{near}")
