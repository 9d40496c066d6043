"""Names agree with what eval/ can do, wrong ones are refused, and what changes a result changes the run."""

from typing import Any

import pytest
from pydantic import ValidationError

from common.cli.compose import PRESETS
from common.settings.entries import EvalShift, run_name
from common.settings.field import every_setting
from common.settings.messages import problem
from common.settings.shift import (
    ADAPTATIONS,
    COMMON_CORRUPTIONS,
    CORRUPTION_FAMILIES,
    EXTRA_CORRUPTIONS,
    VIEWS,
    ShiftSettings,
    SubjectSettings,
)
from common.settings.yaml12 import read_mapping
from eval.adaptation import ADAPTATIONS as KNOWN_ADAPTATIONS
from eval.corruptions import CORRUPTIONS
from eval.views import VIEWS as KNOWN_VIEWS


def test_names_are_those_of_what_can_be_done() -> None:
    assert tuple(CORRUPTIONS) == (*COMMON_CORRUPTIONS, *EXTRA_CORRUPTIONS, *CORRUPTION_FAMILIES["further"])
    assert len(COMMON_CORRUPTIONS) == 15
    assert set(EXTRA_CORRUPTIONS) >= {"speckle_noise", "gaussian_blur", "spatter", "saturate"}
    assert set(ADAPTATIONS) >= {"source", "bn_stats", "adabn", "tent", "t3a", "lame"}
    assert set(VIEWS) >= {"flip", "translate", "flip_translate", "multi_crop", "shift", "flip_shift"}
    assert tuple(KNOWN_ADAPTATIONS) == ADAPTATIONS
    assert tuple(KNOWN_VIEWS) == ("none", *VIEWS)


@pytest.mark.parametrize("name", sorted(path.stem for path in (PRESETS / "shift").glob("*.yaml")))
def test_presets_load(name: str) -> None:
    shift = ShiftSettings.model_validate(read_mapping(PRESETS / "shift" / f"{name}.yaml"))
    assert shift.adaptations[0] == "source"
    assert set(shift.adapt_at) <= set(shift.severities)  # else the adaptations would be tried on clean images alone


def refusal(**given: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        ShiftSettings.model_validate(given)
    (error,) = caught.value.errors(include_url=False)
    return problem(ShiftSettings, error)


ALL_CORRUPTIONS = ", ".join((*COMMON_CORRUPTIONS, *EXTRA_CORRUPTIONS, *CORRUPTION_FAMILIES["further"]))
ALL_ADAPTATIONS, ALL_VIEWS = ", ".join(ADAPTATIONS), ", ".join(VIEWS)
REFUSED: list[tuple[str, Any, str]] = [
    ("corruptions", ["fogg"], f"given fogg, allowed: {ALL_CORRUPTIONS}, nearest: fog"),
    ("corruptions", ["fog", "fog"], "given ['fog', 'fog'], allowed: each once"),
    ("severities", [0], "given 0, allowed: 1, 2, 3, 4, 5"),
    ("severities", [5, 5], "given [5, 5], allowed: each once"),
    ("adapt_at", [6], "given 6, allowed: 1, 2, 3, 4, 5"),
    ("adaptations", ["tend"], f"given tend, allowed: {ALL_ADAPTATIONS}, nearest: tent"),
    ("adaptations", [], f"given [], allowed: some of {ALL_ADAPTATIONS}"),
    (
        "views",
        ["flipp"],
        f"given flipp, allowed: {ALL_VIEWS}, nearest: flip",
    ),
    ("views", ["none"], f"given none, allowed: {ALL_VIEWS}"),
    ("batch_sizes", [], "given [], allowed: sizes of at least 1, each once"),
    ("batch_sizes", [0], "given [0], allowed: sizes of at least 1, each once"),
    ("batch_sizes", [64, 64], "given [64, 64], allowed: sizes of at least 1, each once"),
    ("sets", ["mine", "mine"], "given ['mine', 'mine'], allowed: each once"),
    ("sets", ["test"], "given test, allowed: other names, as this means the run's own test images"),
    ("protocol", "online", "given online, allowed: continual | episodic"),
]


@pytest.mark.parametrize(("key", "value", "expected"), REFUSED, ids=[f"{key}={value}" for key, value, _ in REFUSED])
def test_wrong_values_are_refused(key: str, value: Any, expected: str) -> None:
    assert refusal(**{key: value}).startswith(f"{key}: {expected}")


OTHER: dict[str, Any] = {
    "run.digest": "0f3a",
    "shift.corruptions": ["fog"],
    "shift.severities": [5],
    "shift.sets": ["mine"],
    "shift.digests": {"mine": "0f3a"},
    "shift.adaptations": ["source", "tent"],
    "shift.adapt_at": [1],
    "shift.batch_sizes": [64],
    "shift.protocol": "episodic",
    "shift.views": ["flip"],
    "shift.baseline_digest": "0f3a",
}
SAME = {"run.run": "somewhere/else", "shift.baseline": "somewhere/else"}


def name_with(key: str, value: Any) -> str:
    group, _, field = key.partition(".")
    return run_name(EvalShift.model_validate({group: {field: value}}))


def test_every_setting_is_looked_at_here() -> None:
    known = {f"run.{name}" for name in every_setting(SubjectSettings)}
    known |= {f"shift.{name}" for name in every_setting(ShiftSettings)}
    assert OTHER.keys() | SAME.keys() == known


@pytest.mark.parametrize("key", OTHER)
def test_what_changes_the_result_makes_another_run(key: str) -> None:
    assert name_with(key, OTHER[key]) != run_name(EvalShift())


@pytest.mark.parametrize("key", SAME)
def test_where_things_lie_does_not(key: str) -> None:
    assert name_with(key, SAME[key]) == run_name(EvalShift())
