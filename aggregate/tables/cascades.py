"""This table follows chains of distillation, teacher to assistant to student: what each stage keeps, at what size."""

from collections.abc import Iterator, Sequence
from typing import Any

from aggregate.runs.methods import Method, estimate, mean_of, same, trained
from aggregate.runs.origins import selection_sentence
from aggregate.tables.distillation import GATE, gate_counts, is_taught
from aggregate.tables.table import Table, number, percent, percent_interval, percent_spread, text

CAPTION = (
    "Each chain from its first teacher to its last student. Test accuracy in %: mean ± standard deviation over n runs, "
    "95 % interval by Student's t. Loss: accuracy of the first teacher less that of the stage, in points, over the "
    "seeds that both have, with its 95 % interval. Kept: parameters, as a share of the first teacher's. Gate: teachers "
    "of this stage that passed it."
)
Chain = Sequence[Method]


def cascade(methods: Sequence[Method]) -> Table | None:
    shown = chains([method for method in trained(methods) if method.runs])
    if not shown:
        return None
    rows = [row for place, chain in enumerate(shown, start=1) for row in _rows(place, chain)]
    runs = [run for chain in shown for method in chain for run in method.runs]
    return Table("cascade", "Cascades", f"{CAPTION} {selection_sentence(runs)}", COLUMNS, rows)


COLUMNS = [
    text("data", "data"),
    number("chain", "chain", "d"),
    text("stage", "stage"),
    text("method", "method"),
    text("network", "network"),
    number("parameters", "parameters", ",d"),
    percent("kept", "kept"),
    number("n", "n", "d"),
    percent_spread("test accuracy", "accuracy"),
    percent_interval("95 % interval", "accuracy"),
    percent("loss", "loss_mean"),
    percent_interval("95 % interval", "loss"),
    GATE,
]


def chains(methods: Sequence[Method]) -> list[Chain]:
    """Follow each student that teaches no one up to its first teacher; keep chains with an assistant between them."""
    by_name = {(method.data, method.label): method for method in methods}
    teachers = {(method.data, method.parent) for method in methods if method.parent}
    last = [method for method in methods if is_taught(method) and (method.data, method.label) not in teachers]
    all_chains = [_up_from(method, by_name) for method in last]
    return [chain for chain in all_chains if sum(map(is_taught, chain)) > 1]


def _up_from(student: Method, by_name: dict[tuple[str, str], Method]) -> Chain:
    """Return the chain, the first teacher first; a teacher whose runs are not in the report is not in it."""
    chain = [student]
    while (teacher := by_name.get((student.data, chain[0].parent))) and teacher not in chain:
        chain.insert(0, teacher)
    return chain


def _rows(place: int, chain: Chain) -> Iterator[dict[str, Any]]:
    # Without the runs of the first teacher, there is nothing that the stages could be compared with.
    first = chain[0] if not is_taught(chain[0]) else None
    before = _parameters(first) if first else None

    for stage, method in zip(_stages(chain), chain, strict=True):
        parameters = _parameters(method)

        yield {
            "data": method.data,
            "chain": place,
            "stage": stage,
            "method": method.label,
            "network": str(method.first.fact("model.name")),
            "parameters": parameters,
            "kept": parameters / before if parameters and before else None,
            "n": len(method.runs),
            **estimate("accuracy", method.values("test.accuracy"), bounded=True),
            **estimate("loss", _losses(first, method) if first and method is not first else []),
            "teacher_accuracy": mean_of(method.values("teacher.test_accuracy")),
            **gate_counts(method),
            "runs": method.run_names,
        }


def _stages(chain: Chain) -> list[str]:
    """Name the stages of a chain: only the first may be an untaught teacher; several assistants are numbered."""
    teachers = [] if is_taught(chain[0]) else ["teacher"]
    several = len(chain) - len(teachers) - 1
    assistants = [f"assistant {place}" for place in range(1, several + 1)] if several > 1 else ["assistant"]
    return [*teachers, *assistants, "student"]


def _parameters(method: Method) -> int | None:
    return same(map(int, method.values("model.parameters")))


def _losses(first: Method, method: Method) -> list[float]:
    before, after = first.by_seed("test.accuracy"), method.by_seed("test.accuracy")
    return [before[seed] - after[seed] for seed in sorted(before.keys() & after.keys())]
