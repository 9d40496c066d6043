"""This module says where the runs of a table come from, and what differs: nothing is mixed without a note."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from aggregate.runs.collect import Run
from common.run.provenance import SHORT, foreign_container

UNKNOWN = "unknown"

ORIGINS = {
    "commit": lambda run: str(run.provenance.get("commit") or UNKNOWN)[:SHORT],
    "uncommitted changes": lambda run: {True: "yes", False: "no"}.get(run.provenance.get("dirty"), UNKNOWN),
    "container image": lambda run: _short(image_of(run) or "none"),
    "torch": lambda run: str((run.provenance.get("packages") or {}).get("torch") or UNKNOWN),
    "device": lambda run: str(run.provenance.get("gpu") or run.provenance.get("device") or UNKNOWN),
    "images": lambda run: str(run.fact("data.digest")),
    "split": lambda run: str(run.fact("data.split_digest")),
    "selection rule": lambda run: str(run.fact("selection.rule")),
}


def image_of(run: Run) -> str | None:
    """Name the container that a run was in: by its content, else by its digest, else by the name of its image.

    The content is the same for docker's image and for the file made of it.
    """
    facts = run.provenance.get("container")
    if not isinstance(facts, dict):
        return None

    image = next((str(facts[name]) for name in ("content", "digest", "image") if facts.get(name)), None)
    return f"{image} with a checkout's code" if image and facts.get("bound_checkout") else image


def _short(image: str) -> str:
    """Cut digests down to what tells them apart; names stay as they are."""
    return re.sub(r"[0-9a-f]{64}", lambda digest: digest[0][:SHORT], image)


def foreign_images(runs: Iterable[Run]) -> list[str]:
    """Describe the containers whose code is not that of the checkout that started the run, with counts of runs."""
    counts = Counter(remark for run in runs if (remark := foreign_container(run.provenance)))
    return [f"{remark} ({count})" for remark, count in counts.items()]


def origins(runs: Iterable[Run], names: Iterable[str] = tuple(ORIGINS)) -> dict[str, Counter[str]]:
    """Count for each fact how many runs have which value."""
    runs = list(runs)
    return {name: Counter(ORIGINS[name](run) for run in runs) for name in names}


def mixed(runs: Sequence[Run]) -> list[str]:
    """Return a note for each thing that should be the same in all runs of a mean, and is not, or is not known."""
    notes = []
    for name, counts in origins(runs).items():
        if len(counts) > 1:
            notes.append(f"differs in {name}: " + ", ".join(f"{value} ({count})" for value, count in counts.items()))

    # Runs that agree on their origin may still come from code that nobody can look up.
    if runs and all(run.provenance.get("dirty") for run in runs):
        notes.append("run from a working copy with uncommitted changes, which are in no commit")
    if any(not run.provenance.get("commit") for run in runs) and not notes:
        notes.append("of unknown code: no commit is recorded")
    notes += [f"run in {image}" for image in foreign_images(runs)]

    shared = sum(count - 1 for count in Counter(run.seed for run in runs).values())
    return [*notes, f"{shared + 1} runs share a seed"] if shared else notes


def differences(one: Sequence[Run], other: Sequence[Run]) -> list[str]:
    """Name what differs between the runs of two methods besides the methods."""
    left, right = origins(one), origins(other)
    return [name for name in ORIGINS if left[name].keys() != right[name].keys()]


def selection_rules(runs: Iterable[Run]) -> list[str]:
    return sorted({str(run.fact("selection.rule")) for run in runs})


def selection_sentence(runs: Iterable[Run]) -> str:
    """Say in a caption how the weights were chosen that the numbers are of."""
    rules = selection_rules(runs)
    if not rules:
        return ""
    if len(rules) == 1:
        return f"Weights: {rules[0]}; the test images were read once, after that."
    return "Weights by different rules, which the notes name; the test images were read once, after that."


def row_notes(methods: Sequence[Sequence[Run]]) -> list[list[str]]:
    """Return the notes on each method's runs; only the whole table shows whether their selection rules differ."""
    several = len(selection_rules(run for runs in methods for run in runs)) > 1
    rules = [[f"weights: {rule}" for rule in selection_rules(runs)] if several else [] for runs in methods]
    return [[*mixed(runs), *rule] for runs, rule in zip(methods, rules, strict=True)]


def between(methods: Sequence[Sequence[Run]]) -> list[str]:
    """Say which origins differ between the rows of a table."""
    sentences = []
    for name in ("commit", "container image", "torch"):
        rows = [frozenset(origins(runs, [name])[name]) for runs in methods if runs]
        if len(set(rows)) > 1:
            values = sorted({value for row in rows for value in row})
            more = f" and {len(values) - 4} more" if len(values) > 4 else ""
            sentences.append(f"The rows differ in {name}: {', '.join(values[:4])}{more}.")
    return sentences
