"""This table compares students with the same students trained alone, and tells of their teachers."""

from collections.abc import Mapping, Sequence
from typing import Any

from aggregate.runs.methods import Method, mean_of, trained
from aggregate.runs.origins import selection_sentence
from aggregate.tables.comparisons import pair_row, with_verdicts
from aggregate.tables.table import (
    NOTHING,
    Column,
    Row,
    Table,
    footnotes,
    number,
    p_value,
    percent,
    percent_interval,
    text,
)

TOKEN_OF_A_TEACHER = ("model.dist_token", "model.inference")  # a student alone has no use for it
OF_DISTILLATION = ("entry", "teacher.", "distill.", "parent")
EFFECTS = {"better": "gain", "worse": "negative transfer"}

CAPTION = (
    "Gain: test accuracy of the student less that of the same student trained alone, in points, over the n seeds that "
    "both have; 95 % interval by Student's t. p: paired t test, corrected for all rows of this table (Holm); negative "
    "transfer is a loss with p below 0.05, ≈ is neither. Gate: teachers that passed (no worse on validation than the "
    "student alone, no worse on test than published); if one did not, a loss may be due to the teacher and not to "
    "distillation. Agreement: with the teacher on validation images."
)


def distillation(methods: Sequence[Method]) -> Table | None:
    chosen = trained(methods)
    students = [method for method in chosen if method.runs and is_taught(method)]
    if not students:
        return None

    # The verdicts need all rows at once, since p values are corrected for the number of students.
    pairs = [(student, student_alone(student, chosen)) for student in students]
    rows = with_verdicts([_row(student, alone) for student, alone in pairs])
    marks, notes = footnotes([_remarks(student, alone) for student, alone in pairs])
    rows = [{**row, "effect": _effect(row), "notes": mark} for row, mark in zip(rows, marks, strict=True)]

    runs = [run for student in students for run in student.runs]
    return Table("distillation", "Distillation", f"{CAPTION} {selection_sentence(runs)}", COLUMNS, rows, notes)


GATE = Column(
    "gate",
    lambda row: f"{row['gate_passed']} of {row['gate_asked']}" if row["gate_asked"] else NOTHING,
    key="gate_passed",
)
COLUMNS = [
    text("data", "data"),
    text("student", "first"),
    text("alone", "second"),
    percent("teacher's test accuracy", "teacher_accuracy"),
    GATE,
    percent("agreement", "agreement"),
    percent("student", "student_accuracy"),
    number("n", "n", "d"),
    percent("gain", "difference"),
    percent_interval("95 % interval", "difference"),
    p_value("p", "p_holm"),
    number("more seeds", "more_seeds", "d"),
    text("verdict", "effect"),
    text("notes", "notes"),
]


def is_taught(method: Method) -> bool:
    return any(run.fact("distillation") is not None for run in method.runs)


def student_alone(student: Method, methods: Sequence[Method]) -> Method | None:
    """Find the same network on the same images without a teacher; of several, the one with most settings in common."""
    alone = [
        method
        for method in methods
        if method.runs
        and not is_taught(method)
        and method.data == student.data
        and not _network_differs(method, student)
    ]
    return min(alone, key=lambda method: len(differing_settings(method, student)), default=None)


def _network_differs(one: Method, other: Method) -> bool:
    same_images = one.first.fact("data.digest") == other.first.fact("data.digest")
    return not same_images or any(name.startswith("model.") for name in differing_settings(one, other))


def differing_settings(one: Method, other: Method) -> list[str]:
    """Name the settings in which two methods differ, without those that only a student with a teacher has."""
    left, right = _comparable(one), _comparable(other)
    names = dict.fromkeys([*left, *right])
    return [name for name in names if left.get(name) != right.get(name)]


def _comparable(method: Method) -> Mapping[str, Any]:
    settings = method.first.settings
    return {
        name: value
        for name, value in settings.items()
        if name not in TOKEN_OF_A_TEACHER and not name.startswith(OF_DISTILLATION)
    }


def _row(student: Method, alone: Method | None) -> dict[str, Any]:
    return {
        **(pair_row(student, alone) if alone else _without_pair(student)),
        "teacher": student.parent,
        "teacher_accuracy": mean_of(student.values("teacher.test_accuracy")),
        **gate_counts(student),
        "agreement": mean_of(student.values("distillation.agreement_on_validation.all")),
        "student_accuracy": mean_of(student.values("test.accuracy")),
    }


def gate_counts(student: Method) -> dict[str, int]:
    """Count the runs that judged their teacher before training, and those whose teacher passed."""
    answers = [run.fact("distillation.gate.passed") for run in student.runs]
    judged = [passed for passed in answers if isinstance(passed, bool)]
    return {"gate_passed": sum(judged), "gate_asked": len(judged)}


def _without_pair(student: Method) -> dict[str, Any]:
    nothing = ("difference", "difference_std", "difference_low", "difference_high", "p_t", "p_signs", "p_images")
    names = {"data": student.data, "first": student.label, "second": "", "n": 0}
    return {**names, **dict.fromkeys(nothing), "differ": "", "runs": student.run_names}


def _effect(row: Row) -> str:
    """Name the effect; if the gate doubts a teacher, a loss may be the teacher's and not that of distillation."""
    if row["verdict"] == "worse" and row["gate_passed"] < row["gate_asked"]:
        return f"{EFFECTS['worse']}, or weak teachers"
    return EFFECTS.get(str(row["verdict"]), str(row["verdict"]))


def _remarks(student: Method, alone: Method | None) -> list[str]:
    remarks = [f"weak teacher: {doubt}" for doubt in _doubts(student)[:1]]
    if alone is None:
        return [*remarks, "no run of the same student alone is among these"]
    differing = differing_settings(student, alone)
    return [*remarks, f"the student alone differs in {', '.join(differing)}"] if differing else remarks


def _doubts(student: Method) -> list[str]:
    return [str(doubt) for run in student.runs for doubt in run.fact("distillation.gate.doubts") or ()]
