"""The settings: what makes a run's identity and what does not, and what every class of settings has to keep."""

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from common.cli.compose import SPREAD, RunWords, compose, presets_of
from common.settings.entries import TRAININGS, RecipeSettings, TrainCNN, run_name
from common.settings.field import Group, every_setting, groups_of, identity, setting
from common.settings.models import OWN

# Written here by hand, not read off the marks: a field that joins these groups must say what it is.
OUTSIDE_IDENTITY = frozenset(
    "compute.device compute.threads compute.deterministic compute.channels_last compute.compile compute.data_budget_gb "
    "compute.save_every compute.save_minutes log.progress log.tensorboard log.wandb model.weights "
    "teacher.run teacher.weights distill.gate distill.margin".split()
)
VALUES = (None, True, False, 0, 1, 2, 6, 7, 96, 0.0, 0.25, 0.75, 2.5, "flowers", "cuda:1", "cpu", "fp16", "0f3a")


def of(entry: type[BaseModel], changes: dict[str, Any]) -> Any:
    """Settings from dotted names."""
    tree: dict[str, Any] = {}
    for name, value in changes.items():
        *groups, field = name.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[field] = value
    return entry.model_validate(tree)


def leaf(settings: BaseModel, name: str) -> Any:
    value: Any = settings.model_dump()
    for part in name.split("."):
        value = value[part]
    return value


# What a setting is tried on: the first of these that leaves it a choice.
TIMM = {
    "train_cnn": "resnet18",
    "train_vit": "timm/vit_tiny_patch16_224",
    "distill_kd": "resnet18",
    "distill_cst": "vit",
}
BASES = {
    entry: (
        {},
        {"model.name": name},
        {"model.name": name, "model.pretrained": True},
        {"model.dist_token": True, "model.inference": "avg"},
        *({"model.name": own} for own in OWN),
    )
    for entry, name in TIMM.items()
}


def legal_values(entry: str, name: str, base: dict[str, Any]) -> list[Any]:
    """The values this setting may have, of those above and those that its refusal lists."""
    listed = re.findall(r"'([^']*)'", str(every_setting(TRAININGS[entry])[name].annotation))
    legal = []
    for value in (*VALUES, *listed):
        try:
            of(TRAININGS[entry], base | {name: value})
        except ValidationError:
            continue
        legal.append(value)
    return legal


def base_and_values(entry: str, name: str) -> tuple[dict[str, Any], list[Any]]:
    tried = [(base, legal_values(entry, name, base)) for base in BASES[entry]]
    return next((found for found in tried if len(found[1]) > 1), max(tried, key=lambda found: len(found[1])))


CHOICES = {
    (entry, name): base_and_values(entry, name) for entry in TRAININGS for name in every_setting(TRAININGS[entry])
}
CHANGEABLE = [place for place, (_, values) in CHOICES.items() if len(values) > 1]
PLAIN = [name for (entry, name) in CHANGEABLE if entry == "train_cnn" and CHOICES[entry, name][0] == {}]


def unchanged(entry: str, name: str) -> Any:
    return of(TRAININGS[entry], CHOICES[entry, name][0])


def changed(entry: str, name: str) -> Any:
    """The same, but for one setting."""
    base, values = CHOICES[entry, name]
    default = leaf(unchanged(entry, name), name)
    return of(TRAININGS[entry], base | {name: next(value for value in values if value != default)})


def test_the_values_tried_cover_every_setting() -> None:
    """Of some entry at least: only resnets have another stem, only a student reads one of two tokens."""
    alone = {name for _, name in CHOICES} - {name for _, name in CHANGEABLE}
    assert alone == {"entry", "model.name", "teacher.name", "distill.student_layers"}


# --- identity ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("entry", "name"), [place for place in CHANGEABLE if place[1] not in OUTSIDE_IDENTITY])
def test_what_can_change_the_result_makes_another_run(entry: str, name: str) -> None:
    assert run_name(changed(entry, name)) != run_name(unchanged(entry, name))


@pytest.mark.parametrize(("entry", "name"), [place for place in CHANGEABLE if place[1] in OUTSIDE_IDENTITY])
def test_how_it_is_computed_or_watched_does_not(entry: str, name: str) -> None:
    assert changed(entry, name) != unchanged(entry, name)
    assert run_name(changed(entry, name)) == run_name(unchanged(entry, name))


def test_what_is_outside_the_identity_was_tried() -> None:
    assert {name for _, name in CHANGEABLE} >= OUTSIDE_IDENTITY


@given(st.data())
def test_equal_identity_means_equal_settings_of_identity(data: st.DataObject) -> None:
    legal = {name: CHOICES["train_cnn", name][1] for name in PLAIN}
    first = data.draw(st.fixed_dictionaries({}, optional={name: st.sampled_from(legal[name]) for name in PLAIN}))
    names = data.draw(st.lists(st.sampled_from(PLAIN), max_size=3, unique=True))
    second = first | {name: data.draw(st.sampled_from(legal[name])) for name in names}
    try:
        one, other = of(TrainCNN, first), of(TrainCNN, second)
    except ValidationError:  # settings that do not go together
        assume(False)
        return
    agree = all(leaf(one, name) == leaf(other, name) for name in PLAIN if name not in OUTSIDE_IDENTITY)
    assert (identity(one) == identity(other)) == agree
    assert (run_name(one) == run_name(other)) == agree


def test_what_weights_are_called_does_not_matter_but_what_is_in_them_does() -> None:
    base = {"model.name": "resnet18", "model.pretrained": True}
    named = [
        run_name(of(TrainCNN, base | {"model.weights": name, "model.weights_digest": "7c"})) for name in ("a", "b")
    ]
    assert len(set(named)) == 1
    assert named[0] != run_name(of(TrainCNN, base | {"model.weights": "a", "model.weights_digest": "7d"}))


def test_nothing_of_compute_and_log_is_part_of_the_identity() -> None:
    assert set(identity(TrainCNN())) == {"entry", "seed", "data", "augment", "recipe", "model"}


def test_identity_survives_json() -> None:
    kept = identity(TrainCNN())
    assert json.loads(json.dumps(kept)) == kept


def test_a_zero_has_no_sign() -> None:
    assert run_name(TrainCNN(recipe=RecipeSettings(weight_decay=-0.0))) == run_name(
        TrainCNN(recipe=RecipeSettings(weight_decay=0.0))
    )


def test_a_whole_number_is_the_same_as_with_a_point() -> None:
    assert run_name(of(TrainCNN, {"recipe.lr": 1})) == run_name(of(TrainCNN, {"recipe.lr": 1.0}))


def test_the_name_says_data_model_and_seed() -> None:
    settings = of(TrainCNN, {"data.name": "my-flowers.v2", "seed": 41})
    assert re.fullmatch(r"my-flowers\.v2-adaptive_cnn-s41-[0-9a-f]{10}", run_name(settings))


# A changed name orphans the finished runs of everyone who has one, and with them their tables. If a test below fails
# because a setting was added, it wants `added_as`. If a default or a preset was changed knowingly, say so in
# CHANGELOG.md and write the new name here.
GOLDEN = {
    "": "digits-adaptive_cnn-s0-255de7e6c7",
    "seed=3": "digits-adaptive_cnn-s3-45bf4f9a4b",
    "data.val_fraction=0": "digits-adaptive_cnn-s0-de3c25e9ce",
    "recipe.lr=1e-3 augment=none": "digits-adaptive_cnn-s0-10641d58e5",
    "recipe.epochs=2 compute.device=cpu log.progress=off": "digits-adaptive_cnn-s0-fbfe8588ae",
    "data=mnist": "mnist-adaptive_cnn-s0-61c1845dc1",
    "data=mnist recipe=cnn_mnist_12": "mnist-adaptive_cnn-s0-6402dbd804",
    "data=mnist recipe=cnn_mnist_short": "mnist-adaptive_cnn-s0-f36160070b",
    "data=fashion_mnist": "fashion_mnist-adaptive_cnn-s0-209f7877ca",
    "data=cifar10": "cifar10-adaptive_cnn-s0-aab07b27f7",
    "data=cifar10 recipe=cnn_cifar_short": "cifar10-adaptive_cnn-s0-1d4fbfb906",
    "data=cifar100 seed=4294967295": "cifar100-adaptive_cnn-s4294967295-4f6d2c5f25",
    "data=cifar10 model=fast_cnn recipe=cifar_fast augment=cifar_fast data.val_fraction=0": (
        "cifar10-fast_cnn-s0-a28cac884f"
    ),
    "data=flowers": "flowers-adaptive_cnn-s0-2c4a265ab9",
}


@pytest.mark.parametrize("line", GOLDEN)
def test_finished_runs_keep_their_names(line: str, tmp_path: Path) -> None:
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar100", "flowers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text('{"digest": "0f3a"}')
    assert run_name(compose(TrainCNN, [*line.split(), f"data_dir={tmp_path}"]).settings) == GOLDEN[line]


# --- settings that come later -----------------------------------------------------------------------------------


class NesterovRecipe(RecipeSettings):
    nesterov: bool = setting(True, "what sgd has always done", added_as=True)


class LaterCNN(TrainCNN):
    recipe: NesterovRecipe = NesterovRecipe()


def test_an_added_setting_leaves_finished_runs_their_names() -> None:
    assert run_name(LaterCNN()) == run_name(TrainCNN())
    assert run_name(of(LaterCNN, {"recipe.nesterov": False})) != run_name(TrainCNN())


def test_an_added_setting_whose_default_changes_later_renames_the_default_only() -> None:
    class PlainRecipe(RecipeSettings):
        nesterov: bool = setting(False, "changed a year later", added_as=True)

    class YetLaterCNN(TrainCNN):
        recipe: PlainRecipe = PlainRecipe()

    assert run_name(YetLaterCNN()) == run_name(of(LaterCNN, {"recipe.nesterov": False}))
    assert run_name(YetLaterCNN()) != run_name(TrainCNN())
    assert run_name(of(YetLaterCNN, {"recipe.nesterov": True})) == run_name(TrainCNN())


def test_an_added_setting_may_mean_as_before_by_null_or_zero() -> None:
    class DecayedRecipe(RecipeSettings):
        decay_steps: int | None = setting(None, "null is off", added_as=None)
        dither: float = setting(0.0, "0 is off", added_as=0.0)

    class LaterStill(TrainCNN):
        recipe: DecayedRecipe = DecayedRecipe()

    assert run_name(LaterStill()) == run_name(TrainCNN())
    assert run_name(of(LaterStill, {"recipe.decay_steps": 1})) != run_name(TrainCNN())
    assert run_name(of(LaterStill, {"recipe.dither": 0.5})) != run_name(TrainCNN())


def test_a_group_added_as_before_leaves_no_mark() -> None:
    class TeacherSettings(Group):
        weight: float = setting(0.0, "0 is without", added_as=0.0)

    class TaughtCNN(TrainCNN):
        teacher: TeacherSettings = TeacherSettings()

    assert run_name(TaughtCNN()) == run_name(TrainCNN())
    assert run_name(of(TaughtCNN, {"teacher.weight": 0.5})) != run_name(TrainCNN())


def test_an_added_setting_without_added_as_renames_every_run() -> None:
    class CarelessRecipe(RecipeSettings):
        nesterov: bool = setting(True, "no added_as")

    class CarelessCNN(TrainCNN):
        recipe: CarelessRecipe = CarelessRecipe()

    assert run_name(CarelessCNN()) != run_name(TrainCNN())


def test_a_changed_default_renames_the_runs_that_took_it() -> None:
    class FasterRecipe(RecipeSettings):
        lr: float = setting(0.2, "peak learning rate", gt=0)

    class FasterCNN(TrainCNN):
        recipe: FasterRecipe = FasterRecipe()

    assert run_name(FasterCNN()) != run_name(TrainCNN())
    assert run_name(of(FasterCNN, {"recipe.lr": 0.1})) == run_name(TrainCNN())


def test_another_entry_is_another_run() -> None:
    class OtherEntry(TrainCNN):
        entry: Literal["other"] = "other"  # type: ignore[assignment]

    assert identity(OtherEntry()) != identity(TrainCNN())


# --- what may be set --------------------------------------------------------------------------------------------


def test_settings_do_not_change() -> None:
    settings = TrainCNN()
    with pytest.raises(ValidationError, match="frozen"):
        settings.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        settings.recipe.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("name", ["epochs", "recipe.epoch", "model.depth", "compute.recipe"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        of(TrainCNN, {name: 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", True),
        ("seed", 3.0),
        ("seed", "3"),
        ("seed", -1),
        ("seed", 2**32),
        ("recipe.lr", True),
        ("recipe.lr", "0.1"),
        ("recipe.lr", 0),
        ("recipe.lr", float("nan")),
        ("recipe.lr", float("inf")),
        ("recipe.clip_norm", float("inf")),
        ("recipe.decay_all", 1),
        ("recipe.decay_all", "yes"),
        ("recipe.optimizer", "SGD"),
        ("recipe.warmup", 1.0),
        ("data.name", "../flowers"),
        ("data.name", ".hidden"),
        ("data.name", "flowers\n"),
        ("data.name", ""),
        ("data.name", 2024),
        ("data.val_fraction", 1.0),
        ("compute.device", "cuda:"),
        ("compute.device", "cuda:٣"),
        ("compute.device", "cuda:1234"),
        ("compute.device", "gpu"),
        ("compute.threads", 0),
    ],
)
def test_a_value_of_another_kind_or_out_of_range_is_refused_and_never_converted(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match="1 validation error"):
        of(TrainCNN, {name: value})


def test_settings_that_just_go_together_are_taken() -> None:
    """Those that do not are refused, as tests/test_refusals.py has them."""
    of(TrainCNN, {"recipe.batch_size": 4, "recipe.accumulate": 4})
    of(TrainCNN, {"recipe.patience": 3, "data.val_fraction": 0.01})
    of(TrainCNN, {"data.val_fraction": 0.0})


# --- every entry, every setting ---------------------------------------------------------------------------------

SETTINGS = [(entry, name) for entry in TRAININGS for name in every_setting(TRAININGS[entry])]
GROUPS = {
    group
    for entry in TRAININGS.values()
    for field in entry.model_fields.values()
    for group in groups_of(field).values()
}


@pytest.mark.parametrize(("entry", "name"), [*SETTINGS, *((None, name) for name in RunWords.model_fields)])
def test_every_setting_says_what_it_means(entry: str | None, name: str) -> None:
    meaning = every_setting(TRAININGS[entry] if entry else RunWords)[name].description or ""
    assert len(meaning) > 10
    assert meaning == meaning.strip().rstrip(".")
    assert meaning.isascii()
    assert "\n" not in meaning


@pytest.mark.parametrize(("entry", "name"), SETTINGS)
def test_every_default_is_one_of_the_values_allowed(entry: str, name: str) -> None:
    base, default = CHOICES[entry, name][0], leaf(unchanged(entry, name), name)
    assert leaf(of(TRAININGS[entry], base | {name: default}), name) == default


@pytest.mark.parametrize("entry", TRAININGS)
def test_every_entry_goes_by_its_key(entry: str) -> None:
    assert TRAININGS[entry]().entry == entry
    assert (TRAININGS[entry].__doc__ or "").strip()


@pytest.mark.parametrize("entry", TRAININGS)
def test_every_entry_has_what_the_command_line_relies_on(entry: str) -> None:
    fields = TRAININGS[entry].model_fields
    assert all(groups_of(fields[group]) for group in presets_of(TRAININGS[entry]) if group != SPREAD)
    assert not set(fields) & set(RunWords.model_fields)


@pytest.mark.parametrize("entry", TRAININGS)
def test_every_entry_survives_being_written_down(entry: str) -> None:
    settings = TRAININGS[entry]()
    assert TRAININGS[entry].model_validate(json.loads(settings.model_dump_json())) == settings


@pytest.mark.parametrize("group", sorted(GROUPS, key=str))
def test_every_group_has_a_heading(group: type[BaseModel]) -> None:
    assert (group.__doc__ or "").strip()


@pytest.mark.parametrize(("rule", "unread"), [("cls", "DIST"), ("dist", "CLS")])
def test_without_a_teacher_no_token_may_be_left_unread(rule: str, unread: str) -> None:
    """Its weights would never move, and several processes would wait for their gradients."""
    given = {"model.dist_token": True, "model.inference": rule}
    with pytest.raises(ValidationError, match=f"inference={rule} leaves the {unread} token untrained"):
        of(TRAININGS["train_vit"], given)
    of(TRAININGS["train_vit"], given | {"model.inference": "avg"})
    of(TRAININGS["distill_kd"], given)
