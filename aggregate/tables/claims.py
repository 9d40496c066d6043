"""This table sets what others published (claims.yaml) against what was measured here.

A published mean of k runs is compared with where a mean of k further runs of ours would fall: the 95 % prediction
interval, from the scatter of our n seeds. It says nothing of other test images; both sides read the same ones.
"""

import functools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from aggregate.inference.estimates import Interval, deviation, images_error, t_quantile
from aggregate.inference.verdicts import ALPHA
from aggregate.runs.methods import Method, mean_of, trained
from aggregate.runs.origins import selection_sentence
from aggregate.tables.table import Table, number, percent, percent_interval, percent_spread, text
from common.settings.distillation import REFERENCE_ACCURACY
from common.settings.yaml12 import read_mapping

FILE = Path(__file__).parent / "claims.yaml"
REPRODUCED, ABOVE, BELOW, NOT_COMPARABLE = "reproduced", "above", "below", "not comparable"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Entry):
    title: str
    n: int | None
    selected: Literal["test", "validation", "nothing"] | None
    recipe: Mapping[str, Any] = {}


class Claim(_Entry):
    source: str
    data: str
    method: str
    values: Mapping[str, float]
    entry: str | None = None
    network: str | None = None
    recipe: Mapping[str, Any] = {}
    taught_by: Mapping[str, Any] = {}
    remark: str = ""

    @model_validator(mode="before")
    @classmethod
    def with_reference_accuracy(cls, written: Any) -> Any:
        """Replace `accuracy: reference` by the number that teachers are measured by, which stands only there."""
        values = written.get("values") if isinstance(written, Mapping) else None
        if not isinstance(values, Mapping) or values.get("accuracy") != "reference":
            return written
        key = written.get("network"), written.get("data")
        if key not in REFERENCE_ACCURACY:
            allowed = ", ".join(f"{network} on {data}" for network, data in REFERENCE_ACCURACY)
            raise ValueError(f"accuracy: reference, of {key[0]} on {key[1]}; allowed: a number, or one of {allowed}")
        return {**written, "values": {**values, "accuracy": REFERENCE_ACCURACY[key]}}


class Finding(_Entry):
    says: str
    higher: str
    lower: str
    but: str = ""


class Published(_Entry):
    sources: Mapping[str, Source]
    test_images: Mapping[str, int]
    claims: Mapping[str, Claim]
    findings: Sequence[Finding]


@functools.cache
def published() -> Published:
    return Published.model_validate(read_mapping(FILE))


# --- the table --------------------------------------------------------------------------------------------------


def claims(methods: Sequence[Method], known: Published | None = None) -> Table | None:
    known = known or published()
    chosen = [method for method in trained(methods) if method.runs]
    sets = {method.data for method in chosen}
    relevant = [claim for claim in known.claims.values() if claim.data in sets]
    if not relevant:
        return None
    rows = [row for claim in relevant for row in _rows(claim, known.sources[claim.source], chosen)]
    caption = f"{CAPTION} {selection_sentence(run for method in chosen for run in method.runs)}"
    return Table("claims", "Published and measured", caption, COLUMNS, rows, findings(known, sets))


CAPTION = (
    "Published numbers in %, and test results here: mean ± standard deviation over n runs. Expected: where the mean of "
    "as many runs as were published (one, if that is not said) would fall with 95 % if the method were ours, by "
    "Student's t; from few seeds it is wide, and refutes little. Reproduced: the published number is there. Above, "
    "below: where ours lies instead. A published number that was chosen by test accuracy is too high, so that only "
    "above is concluded from it. Not comparable: for the reasons given."
)

COLUMNS = [
    text("data", "data"),
    text("source", "source"),
    text("published method", "published_method"),
    text("metric", "metric"),
    percent("published", "published"),
    number("n", "published_n", "d"),
    text("chosen by", "selected"),
    text("method here", "method"),
    percent_spread("measured", "measured"),
    number("n here", "n", "d"),
    percent_interval("expected", "expected"),
    text("verdict on ours", "verdict"),
    text("why, and what else", "why"),
]


def _rows(claim: Claim, source: Source, methods: Sequence[Method]) -> Iterator[dict[str, Any]]:
    method = nearest(claim, source, methods)
    for metric, value in claim.values.items():
        # A source that does not say how many runs its mean is of is taken to have made one.
        measured = method.values(f"test.{metric}") if method else []
        expected = expected_interval(measured, source.n or 1)
        low, high = expected or (None, None)

        doubts = reasons(claim, source, method, methods, expected)
        verdict = judged(value, expected, statistics.fmean(measured) if measured else None, doubts, source)
        flattered = ["test-selected"] if source.selected == "test" else []

        yield {
            "data": claim.data,
            "source": source.title,
            "published_method": claim.method,
            "metric": metric,
            "published": value,
            "published_n": source.n,
            "selected": source.selected or "not said",
            "method": method.label if method else "",
            "n": len(measured),
            "measured_mean": mean_of(measured),
            "measured_std": deviation(measured),
            "expected_low": low,
            "expected_high": high,
            "verdict": verdict,
            "why": "; ".join([*doubts, *flattered, *([claim.remark] if claim.remark else [])]),
            "runs": method.run_names if method else "",
        }


# --- which method is meant, and whether it compares -------------------------------------------------------------


def nearest(claim: Claim, source: Source, methods: Sequence[Method]) -> Method | None:
    """Find the method of that entry and network on that data set whose recipe differs least."""
    alike = [
        method
        for method in methods
        if (method.entry, method.data) == (claim.entry, claim.data)
        and method.first.settings.get("model.name") == claim.network
    ]
    return min(alike, key=lambda method: len(_other_recipe(claim, source, method, methods)), default=None)


def reasons(
    claim: Claim, source: Source, method: Method | None, methods: Sequence[Method], expected: Interval | None
) -> list[str]:
    """Say why the two do not compare; if they do, there is no reason."""
    if method is None:
        return ["no method here is of this kind"]
    doubts = _other_recipe(claim, source, method, methods)
    if len(method.runs) == 1:
        doubts.append("n = 1 here: no interval")
    elif expected is None:
        doubts.append("all runs here are equal, or not measured: no interval")
    return doubts


def _other_recipe(claim: Claim, source: Source, method: Method, methods: Sequence[Method]) -> list[str]:
    return [
        *_differing({**source.recipe, **claim.recipe}, method.first.settings, "other"),
        *_differing(claim.taught_by, _teachers_settings(method, methods), "another teacher's"),
    ]


def _differing(asked: Mapping[str, Any], settings: Mapping[str, Any], word: str) -> list[str]:
    return [
        f"{word} {name.removeprefix('recipe.').replace('_', ' ')}: {settings.get(name, 'unknown')}, published {value}"
        for name, value in asked.items()
        if settings.get(name) != value
    ]


def _teachers_settings(method: Method, methods: Sequence[Method]) -> Mapping[str, Any]:
    """Return the settings of a method's teacher; none if its runs are not in the report."""
    teachers = [other for other in methods if (other.data, other.label) == (method.data, method.parent)]
    return teachers[0].first.settings if teachers else {}


# --- the verdict ------------------------------------------------------------------------------------------------


def expected_interval(values: Sequence[float], further: int) -> Interval | None:
    """Return where the mean of so many further runs falls with 95 %, as shares; None without scatter to go by."""
    spread = deviation(values)
    if not spread:
        return None

    half = t_quantile(1 - ALPHA / 2, len(values) - 1) * spread * math.sqrt(1 / len(values) + 1 / further)
    centre = statistics.fmean(values)
    return max(0.0, centre - half), min(1.0, centre + half)


def judged(value: float, expected: Interval | None, ours: float | None, doubts: Sequence[str], source: Source) -> str:
    """Judge our number; if ours is below one that was chosen on the test images, nothing follows."""
    if doubts or expected is None or ours is None:
        return NOT_COMPARABLE
    low, high = expected
    if value < low:
        return ABOVE
    if source.selected == "test":
        return NOT_COMPARABLE
    return BELOW if value > high else REPRODUCED


# --- what a source concludes ------------------------------------------------------------------------------------


def findings(known: Published, sets: set[str]) -> list[str]:
    return [_note(known, finding) for finding in known.findings if known.claims[finding.higher].data in sets]


def _note(known: Published, finding: Finding) -> str:
    """Say whether a difference that a source claims is larger than the error of its test images."""
    higher, lower = known.claims[finding.higher], known.claims[finding.lower]
    one, other = higher.values["accuracy"], lower.values["accuracy"]
    images = known.test_images[higher.data]

    # The sources give one run each: their scatter over seeds is unknown, that over images is not.
    z = images_z(one, other, images)
    verdict = (
        "cannot be told apart" if images_p(z) >= ALPHA else "differ on these images; of other seeds nothing is known"
    )

    return "; ".join(
        [
            f"{higher.data}, claimed: {finding.says}. {100 * one:.2f} and {100 * other:.2f}, of one run each, "
            f"{verdict} (z = {z:.2f} by the binomial error of {images:,} test images)",
            *([finding.but] if finding.but else []),
        ]
    )


def images_z(one: float, other: float, images: int) -> float:
    """Return the difference of two accuracies in standard errors, as if each were measured on images of its own."""
    return (one - other) / math.hypot(images_error(one, images), images_error(other, images))


def images_p(z: float) -> float:
    """Return the two-sided p value of z."""
    return 2 * (1 - statistics.NormalDist().cdf(abs(z)))
