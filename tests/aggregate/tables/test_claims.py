import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from pydantic import ValidationError

from aggregate.runs.collect import collect
from aggregate.runs.methods import group
from aggregate.tables.claims import FILE, Published, claims, expected_interval, images_p, images_z, judged, published
from common.settings.distillation import REFERENCE_ACCURACY
from common.settings.entries import ENTRIES
from common.settings.yaml12 import read_mapping

MakeRun = Callable[..., Path]
SGD = {"epochs": 50, "batch_size": 64, "lr": 0.1}


def known(**changes: Any) -> Published:
    source = {"title": "the paper", "n": 1, "selected": "validation", **changes.pop("source", {})}
    claim = {
        "source": "paper",
        "data": "digits",
        "method": "their CNN",
        "values": {"accuracy": 0.915},
        "entry": "train_cnn",
        "network": "adaptive_cnn",
        "recipe": {"recipe.epochs": 50},
        **changes,
    }
    return Published.model_validate(
        {"sources": {"paper": source}, "test_images": {"digits": 360}, "claims": {"one": claim}, "findings": []}
    )


def seeds(make_run: MakeRun, accuracies: tuple[float, ...] = (0.90, 0.91, 0.92), **given: Any) -> list[Path]:
    given.setdefault("recipe", SGD)
    return [make_run(seed=seed, accuracy=accuracy, **given) for seed, accuracy in enumerate(accuracies)]


def row_of(known: Published, folders: list[Path]) -> Any:
    table = claims(group(collect(folders)[0]), known)
    assert table
    assert table.cells()
    return table.rows[0]


# --- what is shipped --------------------------------------------------------------------------------------------


def test_the_data_holds_together() -> None:
    whole = published()
    for name, claim in whole.claims.items():
        assert claim.source in whole.sources, name
        assert claim.data in whole.test_images, name
        assert all(0 < value < 1 for value in claim.values.values()), name
        assert (claim.entry is None) == (claim.network is None), name
        assert claim.entry is None or claim.entry in ENTRIES, name
    for finding in whole.findings:
        higher, lower = whole.claims[finding.higher], whole.claims[finding.lower]
        assert higher.data == lower.data
        assert higher.values["accuracy"] > lower.values["accuracy"]
        assert {whole.sources[each.source].n for each in (higher, lower)} == {1}, "the sentence says so"


def test_recipes_are_of_settings_that_exist() -> None:
    whole = published()
    for name, claim in whole.claims.items():
        asked = [*whole.sources[claim.source].recipe, *claim.recipe, *claim.taught_by]
        for dotted in asked:
            assert dotted in {"model.name", "teacher.name"} or _is_setting(dotted, claim.entry), (name, dotted)


def _is_setting(dotted: str, entry: str | None) -> bool:
    part, field = dotted.split(".")
    return entry is not None and field in ENTRIES[entry].model_fields[part].annotation.model_fields


@pytest.mark.parametrize("change", [{"values": {"accuracy": "high"}}, {"epochs": 3}, {"source": {"selected": "luck"}}])
def test_a_mistyped_claim_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"accuracy|epochs|selected"):
        known(**change)


# --- the verdict ------------------------------------------------------------------------------------------------


def test_the_expected_interval_by_hand() -> None:
    """Of 0.90, 0.91, 0.92: mean 0.91, deviation 0.01, t of 2 degrees 4.302653."""
    low, high = expected_interval([0.90, 0.91, 0.92], 1) or (0, 0)
    half = 4.302653 * 0.01 * math.sqrt(1 / 3 + 1)
    assert (low, high) == pytest.approx((0.91 - half, 0.91 + half))
    many = expected_interval([0.90, 0.91, 0.92], 10**9) or (0, 0)
    assert many == pytest.approx(scipy.stats.t.interval(0.95, 2, 0.91, 0.01 / math.sqrt(3)), abs=1e-8)
    assert expected_interval([0.9], 1) is None
    assert expected_interval([0.9, 0.9], 1) is None
    assert (expected_interval([0.98, 1.0], 1) or (0, 0))[1] == 1.0


def test_the_expected_interval_holds_as_often_as_it_says() -> None:
    """Of 2,000 experiments with five seeds, one more run falls inside in 95 %; one standard error of that is 0.5 %."""
    draws = scipy.stats.norm(0.5, 0.01).rvs(size=(2000, 6), random_state=0)
    inside = 0
    for *ours, theirs in draws.tolist():
        low, high = expected_interval(ours, 1) or (1, 0)
        inside += low <= theirs <= high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("value", "said"), [(0.959, "reproduced"), (0.8604, "reproduced"), (0.961, "below"), (0.859, "above")]
)
def test_verdicts_of_one_published_run(value: float, said: str, make_run: MakeRun) -> None:
    row = row_of(known(values={"accuracy": value}), seeds(make_run))
    assert (row["verdict"], row["why"], row["n"]) == (said, "", 3)
    assert (row["expected_low"], row["expected_high"]) == pytest.approx((0.86032, 0.95968), abs=1e-5)


@pytest.mark.parametrize(("value", "said"), [(0.859, "above"), (0.915, "not comparable"), (0.99, "not comparable")])
def test_what_was_chosen_by_test_can_only_be_too_high(value: float, said: str, make_run: MakeRun) -> None:
    row = row_of(known(values={"accuracy": value}, source={"selected": "test"}), seeds(make_run))
    assert (row["verdict"], row["why"]) == (said, "test-selected")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"recipe": {**SGD, "epochs": 20}}, "other epochs: 20, published 50"),
        ({"accuracies": (0.9,)}, "n = 1 here: no interval"),
        ({"accuracies": (0.9, 0.9)}, "all runs here are equal, or not measured: no interval"),
        ({"entry": "train_vit"}, "no method here is of this kind"),
    ],
)
def test_not_comparable_says_why(given: dict[str, Any], why: str, make_run: MakeRun) -> None:
    row = row_of(known(), seeds(make_run, **given))
    assert (row["verdict"], row["why"]) == ("not comparable", why)


def test_a_metric_that_was_not_measured_is_not_compared(make_run: MakeRun) -> None:
    row = row_of(known(values={"top_9_accuracy": 0.9}), seeds(make_run))
    assert (row["verdict"], row["n"], row["measured_mean"]) == ("not comparable", 0, None)


def test_the_nearest_recipe_is_taken(make_run: MakeRun) -> None:
    folders = [*seeds(make_run, recipe={**SGD, "epochs": 20}), *seeds(make_run)]
    row = row_of(known(), folders)
    assert "recipe.epochs=50" in row["method"]
    assert row["verdict"] == "reproduced"


def test_another_teacher_is_another_method(make_run: MakeRun) -> None:
    teachers = seeds(make_run, recipe={**SGD, "epochs": 20})
    students = [
        make_run(
            entry="distill_kd",
            seed=seed,
            accuracy=0.9 + seed / 100,
            teacher={"run": f"{seed}" * 10, "digest": f"w-{teacher.name}"},
            parts={"teacher": {"digest": f"w-{teacher.name}"}, "distillation": {}},
        )
        for seed, teacher in enumerate(teachers)
    ]
    asked = {"entry": "distill_kd", "network": "vit", "recipe": {}}
    same = row_of(known(**asked, taught_by={"recipe.epochs": 20}), [*teachers, *students])
    assert same["verdict"] == "reproduced", same["why"]
    other = row_of(known(**asked, taught_by={"recipe.epochs": 40}), [*teachers, *students])
    assert other["why"] == "another teacher's epochs: 20, published 40"
    alone = row_of(known(**asked, taught_by={"recipe.epochs": 20}), students)
    assert alone["why"] == "another teacher's epochs: unknown, published 20"


def test_no_doubt_is_overruled() -> None:
    source = known().sources["paper"]
    assert judged(0.5, (0.8, 0.9), 0.85, ["other epochs"], source) == "not comparable"


# --- two published numbers --------------------------------------------------------------------------------------


def test_two_runs_of_the_reference_by_hand() -> None:
    """Errors 0.000599 and 0.000677 of 10,000 images, together 0.000904: 0.1 points are 1.11 of them."""
    z = images_z(0.9964, 0.9954, 10_000)
    assert z == pytest.approx(0.0010 / math.sqrt((0.9964 * 0.0036 + 0.9954 * 0.0046) / 10_000))
    assert z == pytest.approx(1.107, abs=0.001)
    assert images_p(z) == pytest.approx(2 * scipy.stats.norm.sf(1.1065), abs=1e-3)
    assert images_p(-z) == images_p(z)
    assert images_p(0.0) == 1.0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("mnist", "99.64 and 99.54, of one run each, cannot be told apart (z = 1.11 by"),
        (
            "cifar10",
            "86.02 and 84.39, of one run each, differ on these images; of other seeds nothing is known (z = 3.25",
        ),
    ],
)
def test_negative_transfer_as_published(data: str, said: str, make_run: MakeRun) -> None:
    table = claims(group(collect([make_run(data={"name": data})])[0]))
    assert table
    (note,) = table.notes
    assert said in note
    assert ("by the long recipe" in note) == (data == "cifar10"), "the teacher was under-trained"


def test_of_data_without_claims_there_is_no_table(make_run: MakeRun) -> None:
    assert claims(group(collect([make_run()])[0])) is None
    assert claims([]) is None


def test_what_teachers_are_measured_by_is_what_the_claims_say() -> None:
    alone = {
        (claim.network, claim.data): claim.values["accuracy"]
        for name, claim in published().claims.items()
        if claim.source == "reference" and name.startswith(("cnn_long", "vit"))
    }
    assert alone == REFERENCE_ACCURACY
    written = read_mapping(FILE)["claims"].values()
    again = [
        claim
        for claim in written
        if claim["values"].get("accuracy") in {*REFERENCE_ACCURACY.values()} and claim["source"] == "reference"
    ]
    assert again == [], "a number that stands in two places will differ one day"


def test_a_reference_that_is_not_there_is_refused() -> None:
    said = r"accuracy: reference, of adaptive_cnn on digits; allowed: a number, or one of adaptive_cnn on mnist, "
    with pytest.raises(ValidationError, match=said):
        known(values={"accuracy": "reference"})
