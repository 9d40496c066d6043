"""From words to settings: presets, order, snapshots, data sets, folders, and that it is quick and without torch."""

import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.cli.command import check, data_root, runs_root
from common.cli.compose import PRESETS, SPREAD, Command, compose, presets_of
from common.data import packing
from common.data.packing import MANIFEST, Part
from common.data.publishers.catalog import DATASETS
from common.failures import Refused
from common.run.run_dir import RunDir
from common.settings.distillation import share_of_teacher
from common.settings.entries import ENTRIES, TRAININGS, DistillCST, DistillKD, TrainCNN, run_name
from common.settings.yaml12 import read_mapping

DEFAULTS = read_mapping(PRESETS / "defaults.yaml")
REPOSITORY = Path(__file__).parents[3]


def pack(name: str, content: Any = None) -> None:
    """What the door reads of a packed set; tests run in an empty folder."""
    Path("data", name).mkdir(parents=True, exist_ok=True)
    Path("data", name, MANIFEST).write_text(json.dumps({"digest": "0f3a"} if content is None else content))


def settings_of(*words: str) -> Any:
    return compose(TrainCNN, words).settings


def refusal(*words: str) -> list[str]:
    with pytest.raises(Refused) as refused:
        compose(TrainCNN, words)
    return refused.value.problems


# --- presets ----------------------------------------------------------------------------------------------------

NEEDED = {"distill_kd": ["teacher=timm/test_vit"], "distill_cst": ["teacher=timm/test_vit"]}
OFFERED = {name: presets_of(entry) for name, entry in ENTRIES.items()}
FILES = [
    (entry, group, name)
    for entry, offered in OFFERED.items()
    for group, names in offered.items()
    for name in (names if group not in {"data", SPREAD} else ())
]


def test_every_file_under_presets_is_read() -> None:
    found = {path.relative_to(PRESETS).as_posix() for path in PRESETS.rglob("*") if path.is_file()}
    names = {
        (group, name) for offered in OFFERED.values() for group in {*offered} - {"data"} for name in offered[group]
    }
    assert found == {"defaults.yaml", *(f"{group}/{name}.yaml" for group, name in names)}


@pytest.mark.parametrize(("entry", "group", "name"), FILES)
def test_every_preset_is_valid_for_every_entry_that_offers_it(entry: str, group: str, name: str) -> None:
    tree = read_mapping(PRESETS / group / f"{name}.yaml")
    settings, problems = check(ENTRIES[entry], {group: tree})
    assert not problems
    assert tree.items() <= getattr(settings, group).model_dump().items()


# Sweeps and papers name them. More may join without a word here; none of these goes away or is called differently.
KEPT = {
    "data": "digits mnist fashion_mnist cifar10 cifar100 tiny_imagenet stl10 pathmnist chestmnist",
    "recipe": "backbone cascade cnn cnn_cifar cnn_cifar_short cnn_digits cnn_mnist cnn_mnist_12 cnn_mnist_short vit",
    "augment": "cifar digits fashion_mnist light mnist none vit_tuned",
    "distill": "kd_cascade kd_hard kd_reference cst_reference cst_relations",
    "model": "adaptive_cnn resnet18_small densenet121 vit deit_cifar deit_tiny_patch16_224",
    "memory": "small",
}


@pytest.mark.parametrize("group", KEPT)
def test_what_was_once_offered_still_is(group: str) -> None:
    assert set(KEPT[group].split()) <= {name for offered in OFFERED.values() for name in offered.get(group, ())}


@pytest.mark.parametrize("group", ["model", "distill"])
@pytest.mark.parametrize("entry", TRAININGS)
def test_an_entry_offers_the_networks_that_it_trains_and_the_distillations_that_it_does(entry: str, group: str) -> None:
    """Those presets, of all that lie there, which its settings take."""
    fit = {
        path.stem
        for path in (PRESETS / group).glob("*.yaml")
        if group in TRAININGS[entry].model_fields and not check(TRAININGS[entry], {group: read_mapping(path)})[1]
    }
    assert set(OFFERED[entry].get(group, ())) == fit


def test_networks_are_for_one_sort_of_training_and_all_can_be_taught() -> None:
    cnns, vits = set(OFFERED["train_cnn"]["model"]), set(OFFERED["train_vit"]["model"])
    assert "adaptive_cnn" in cnns - vits
    assert "vit" in vits - cnns
    assert not cnns & vits
    assert set(OFFERED["distill_kd"]["model"]) == cnns | vits
    assert set(OFFERED["distill_cst"]["model"]) < vits


def test_only_students_are_offered_distillations() -> None:
    assert {entry for entry in TRAININGS if "distill" in OFFERED[entry]} == {"distill_kd", "distill_cst"}


def test_a_distillation_is_chosen_by_name_and_changed_by_field() -> None:
    words = ["distill.temperature=2", "distill=kd_reference"]
    settings = compose(DistillKD, [*NEEDED["distill_kd"], *words]).settings
    assert isinstance(settings, DistillKD)
    assert settings.distill.temperature == 2.0
    assert [share_of_teacher(settings.distill, done) for done in (0, 0.5, 1)] == pytest.approx([0, 0.3, 0.6])


@pytest.mark.parametrize("taught_later", [True, False])
@pytest.mark.parametrize("entry", [DistillKD, DistillCST])
def test_a_teacher_that_timm_does_not_have_is_refused_at_the_door(entry: Any, taught_later: bool) -> None:
    """As the network of a student is; it failed as a bug once the run folder was made."""
    with pytest.raises(Refused, match=r"^teacher.name: given timm/resnet999, allowed: timm/NAME.*, nearest: timm/resn"):
        compose(entry, ["teacher=timm/resnet999"], taught_later=taught_later)


@pytest.mark.parametrize(("entry", "preset"), [("distill_kd", "kd_cascade"), ("distill_cst", "cst_reference")])
def test_a_distillation_that_spells_the_defaults_out_is_the_same_run(entry: str, preset: str) -> None:
    plain, named = (compose(ENTRIES[entry], [*NEEDED[entry], *words]).settings for words in ([], [f"distill={preset}"]))
    assert run_name(plain) == run_name(named)


def test_the_references_distillation_of_tokens_is_for_its_blocks_and_epochs() -> None:
    words = ["distill=cst_reference", "recipe=vit_cifar", "model=vit_cifar"]
    settings = compose(DistillCST, [*NEEDED["distill_cst"], *words]).settings
    assert isinstance(settings, DistillCST)
    assert settings.student_layers == [6, 11]
    assert settings.distill.relation_from * settings.recipe.epochs == 10


@pytest.mark.parametrize(
    ("entry", "word", "nearest"),
    [
        ("distill_kd", "kd_refrence", "kd_reference"),
        ("distill_kd", "cst_relations", ""),
        ("distill_cst", "kd_hard", ""),
    ],
)
def test_a_distillation_that_the_entry_does_not_do_is_refused(entry: str, word: str, nearest: str) -> None:
    with pytest.raises(Refused) as refused:
        compose(ENTRIES[entry], [*NEEDED[entry], f"distill={word}"])
    (said,) = refused.value.problems
    allowed = ", ".join(OFFERED[entry]["distill"])
    assert said == f"distill: given {word}, allowed: {allowed}" + (f", nearest: {nearest}" if nearest else "")


@pytest.mark.parametrize("entry", TRAININGS)
def test_published_sets_are_offered_unless_they_are_for_evaluation_only(entry: str) -> None:
    assert set(OFFERED[entry]["data"]) == {name for name in DATASETS if not DATASETS[name].evaluation_only}


@pytest.mark.parametrize("entry", TRAININGS)
def test_less_memory_is_a_preset_of_several_groups(entry: str) -> None:
    plain = compose(TRAININGS[entry], [*NEEDED.get(entry, []), "recipe.epochs=3"]).settings
    small = compose(
        TRAININGS[entry], [*NEEDED.get(entry, []), "memory=small", "recipe.epochs=3", "recipe.accumulate=2"]
    ).settings
    assert (small.recipe.precision, small.recipe.accumulate, small.recipe.checkpointing) == ("bf16", 2, True)
    changed = {"precision", "accumulate", "checkpointing"}
    assert small.recipe.model_dump(exclude=changed) == plain.recipe.model_dump(exclude=changed)


def test_every_entry_has_defaults() -> None:
    assert set(DEFAULTS) == set(TRAININGS)


@pytest.mark.parametrize("entry", TRAININGS)
def test_defaults_name_existing_presets_of_existing_data_sets(entry: str) -> None:
    families = {published.family for published in DATASETS.values()}
    assert {"any", "digits"} <= set(DEFAULTS[entry]) <= {"any", *families, *OFFERED[entry]["data"]}
    assert families - {""} <= set(DEFAULTS[entry])
    for chosen in DEFAULTS[entry].values():
        assert set(chosen) == {"model", "recipe", "augment"}
        assert all(preset in OFFERED[entry][group] for group, preset in chosen.items())


@pytest.mark.parametrize("entry", TRAININGS)
@pytest.mark.parametrize("data", [*OFFERED["train_cnn"]["data"], "flowers"])
def test_every_entry_starts_from_the_defaults_of_every_data_set(entry: str, data: str) -> None:
    pack(data)
    settings = compose(TRAININGS[entry], [*NEEDED.get(entry, []), f"data={data}"]).settings
    family = DATASETS[data].family if data in DATASETS else ""
    chosen = DEFAULTS[entry].get(data) or DEFAULTS[entry].get(family) or DEFAULTS[entry]["any"]
    assert settings.data.name == data
    assert settings.data.validation == ("published" if data in DATASETS and DATASETS[data].validation else "split")
    for group, preset in chosen.items():
        assert read_mapping(PRESETS / group / f"{preset}.yaml").items() <= settings.model_dump()[group].items()


def test_a_set_brings_its_own_validation_images_by_either_word() -> None:
    pack("breastmnist")
    settings = settings_of("data=breastmnist")
    assert settings == settings_of("data.name=breastmnist")
    assert settings.data.validation == "published"
    assert settings_of("data=breastmnist", "data.validation=split").data.validation == "split"


def test_images_of_ones_own_may_bring_validation_images() -> None:
    pack("birds", {"digest": "0f3a", "sets": {"train": {}, "val": {}, "test": {}}})
    assert settings_of("data=birds", "data.validation=published").data.validation == "published"


def test_another_network_starts_from_its_own_defaults() -> None:
    settings = compose(
        TRAININGS["train_vit"], ["model.name=timm/deit_tiny_patch16_224", "model.input_size=64"]
    ).settings
    assert settings.model.model_dump(exclude_defaults=True) == {"name": "timm/deit_tiny_patch16_224", "input_size": 64}
    kept = compose(TRAININGS["train_vit"], ["model.name=vit", "model.heads=2"]).settings
    assert (kept.model.width, kept.model.heads) == (96, 2)  # of the preset that digits start from


# --- weights ----------------------------------------------------------------------------------------------------


def test_a_file_of_weights_is_known_by_its_content() -> None:
    Path("a.safetensors").write_bytes(b"weights")
    Path("b.safetensors").write_bytes(b"weights")
    Path("c.safetensors").write_bytes(b"others")
    first, same, other = (
        settings_of("model=resnet18", f"model.weights={name}.safetensors") for name in ("a", "b", "c")
    )
    assert first.model.pretrained
    assert first.model.weights_digest == hashlib.sha256(b"weights").hexdigest()[:16]
    assert run_name(first) == run_name(same) != run_name(other)


def test_the_defaults_are_those_of_the_reference() -> None:
    """Of its two long recipes: MNIST by AdamW, CIFAR-10 by SGD."""
    pack("mnist")
    pack("cifar10")
    assert settings_of("data=mnist").recipe.optimizer == "adamw"
    assert (settings_of("data=cifar10").recipe.optimizer, settings_of("data=cifar10").recipe.epochs) == ("sgd", 100)
    assert settings_of("data.name=mnist") == settings_of("data=mnist")


@pytest.mark.parametrize(
    ("preset", "named"),
    [
        ("backbone", {"optimizer": "adam", "lr": 1e-3, "weight_decay": 1e-4, "epochs": 50, "batch_size": 64}),
        ("cascade", {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-4, "epochs": 300, "batch_size": 32}),
    ],
)
def test_a_recipe_of_a_reference_has_what_its_source_names(preset: str, named: dict[str, Any]) -> None:
    assert settings_of(f"recipe={preset}").recipe.model_dump(include=set(named)) == named


def test_the_data_set_that_is_trained_on_chooses_the_defaults() -> None:
    pack("mnist")
    assert settings_of("data=mnist", "data.name=digits") == settings_of("data=digits") == settings_of()


def test_a_preset_replaces_its_whole_group() -> None:
    from_preset = read_mapping(PRESETS / "augment" / "light.yaml")
    assert settings_of("augment=light").augment == TrainCNN.model_validate({"augment": from_preset}).augment


def test_composing_leaves_the_presets_as_they_are() -> None:
    before = settings_of()
    assert settings_of("recipe.lr=7", "augment.flip=1", "data.split_seed=5") != before
    assert settings_of() == before


# --- order ------------------------------------------------------------------------------------------------------

WORDS = ("recipe=cnn", "recipe.lr=0.7", "augment=light", "augment.flip=0", "data=digits", "data.split_seed=2", "seed=9")


@pytest.mark.parametrize("words", [random.Random(draw).sample(WORDS, len(WORDS)) for draw in range(30)])
def test_presets_and_fields_come_in_any_order(words: list[str]) -> None:
    settings = settings_of(*words)
    assert settings == settings_of(*WORDS)
    assert (settings.recipe.lr, settings.recipe.epochs, settings.augment.flip, settings.augment.crop_padding) == (
        *(0.7, 60, 0, 4),
    )


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["seed=1", "seed=2"], "seed", 2),
        (["recipe.lr=1", "seed=1", "recipe.lr=2"], "recipe.lr", 2.0),
        (["recipe=cnn", "recipe=cnn_digits"], "recipe.epochs", 30),
        (["recipe=cnn_digits", "recipe=cnn"], "recipe.epochs", 60),
        (["recipe.epochs=3", "recipe=cnn"], "recipe.epochs", 3),
        (["seed=[", "seed=2"], "seed", 2),
        (["seed=", "seed=2"], "seed", 2),
    ],
)
def test_of_two_words_for_one_setting_the_later_wins(words: list[str], name: str, value: object) -> None:
    found = settings_of(*words).model_dump()
    for part in name.split("."):
        found = found[part]
    assert found == value


def test_a_mistake_that_comes_later_wins_too() -> None:
    assert len(refusal("seed=2", "seed=[")) == 1


# --- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "group", "field", "value"),
    [
        ("recipe.lr=1e-3", "recipe", "lr", 0.001),
        ("recipe.lr=1", "recipe", "lr", 1.0),
        ("recipe.clip_norm=null", "recipe", "clip_norm", None),
        ("recipe.decay_all=false", "recipe", "decay_all", False),
        ("log.progress=off", "log", "progress", "off"),
        ("compute.device=cuda:1", "compute", "device", "cuda:1"),
        ("model.dropout=0", "model", "dropout", 0.0),
    ],
)
def test_words_become_typed_values(word: str, group: str, field: str, value: object) -> None:
    found = getattr(getattr(settings_of(word), group), field)
    assert found == value
    assert type(found) is type(value)


# --- snapshots --------------------------------------------------------------------------------------------------


def write_snapshot(*words: str) -> Path:
    """As a run leaves it."""
    run = RunDir(Path("some-run"))
    run.write_config(settings_of(*words).model_dump())
    return run.config


@pytest.mark.parametrize(
    "line",
    [
        "",
        "seed=4294967295 recipe.lr=1e-17 recipe.clip_norm=null recipe.patience=3",
        "data=cifar10 recipe=cnn_cifar_short augment.policy=none log.progress=off compute.device=cuda:3",
        "data=flowers data.val_fraction=0 recipe.weight_decay=0.1",
    ],
)
def test_a_snapshot_composes_to_the_same_run(line: str) -> None:
    pack("cifar10")
    pack("flowers")
    snapshot = write_snapshot(*line.split())
    assert settings_of(f"config={snapshot}") == settings_of(*line.split())
    assert run_name(settings_of(f"config={snapshot}")) == run_name(settings_of(*line.split()))


def test_words_change_a_snapshot() -> None:
    snapshot = write_snapshot("recipe.lr=0.5", "recipe.epochs=3", "augment=light")
    settings = settings_of(f"config={snapshot}", "recipe.lr=0.25", "seed=8")
    assert settings == settings_of("recipe.lr=0.25", "recipe.epochs=3", "augment=light", "seed=8")
    assert settings_of("recipe=cnn", f"config={snapshot}") == settings_of("recipe=cnn", "augment=light")


def test_a_snapshot_brings_its_own_recipe_to_another_data_set() -> None:
    pack("mnist")
    snapshot = write_snapshot("recipe.lr=0.5")
    settings = settings_of(f"config={snapshot}", "data=mnist")
    assert (settings.data.name, settings.recipe) == ("mnist", settings_of("recipe.lr=0.5").recipe)


def test_a_snapshot_may_leave_out_what_it_does_not_change() -> None:
    Path("part.yaml").write_text("recipe:\n  lr: 1e-3\n")
    assert settings_of("config=part.yaml") == TrainCNN.model_validate({"recipe": {"lr": 0.001}})


# --- data sets --------------------------------------------------------------------------------------------------


def test_digits_need_no_preparation() -> None:
    assert settings_of("data=digits").data.digest is None
    assert not Path("data").exists()


def test_a_published_set_has_no_fingerprint() -> None:
    pack("mnist")
    assert settings_of("data=mnist").data.digest is None


def test_the_fingerprint_of_a_set_of_ones_own_joins_the_settings() -> None:
    pack("flowers", {"digest": "0f3a"})
    before = settings_of("data=flowers")
    assert before.data.digest == "0f3a"
    assert settings_of("data.name=flowers") == settings_of("data=flowers", "data.digest=null") == before
    pack("flowers", {"digest": "77cc"})
    assert run_name(settings_of("data=flowers")) != run_name(before)


def test_the_fingerprint_is_where_the_packer_writes_it() -> None:
    part = Part.of(np.zeros((2, 1, 4, 4), np.uint8), np.array([0, 1]))
    Path("data/numerals").mkdir(parents=True)
    manifest = packing.pack(Path("data/numerals"), {"train": part, "test": part}, ["zero", "one"], {})
    assert settings_of("data=numerals").data.digest == manifest["digest"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"digest": null}', '{"digest": 5}', '{"digest": []}', "\x00"]
)
def test_a_manifest_that_is_none_is_refused(content: str) -> None:
    pack("flowers")
    Path("data", "flowers", MANIFEST).write_text(content)
    expected = f"data: data/flowers/{MANIFEST} cannot be read as a manifest; prepare flowers again"
    assert refusal("data=flowers") == [expected]


@pytest.mark.parametrize("digest", ["12e4567890123456", "1234567890123456", "0x12", "1_0"])
def test_a_fingerprint_that_reads_like_a_number_survives_a_snapshot(digest: str) -> None:
    pack("flowers", {"digest": digest})
    assert settings_of(f"config={write_snapshot('data=flowers')}") == settings_of("data=flowers")


# --- folders ----------------------------------------------------------------------------------------------------


def test_folders_come_from_words_else_the_environment_else_here(monkeypatch: pytest.MonkeyPatch) -> None:
    command = compose(TrainCNN, [])
    assert (command.root, command.data_dir) == (Path("runs"), Path("data"))
    monkeypatch.setenv("STILLHOUSE_RUNS", "/scratch/runs")
    monkeypatch.setenv("STILLHOUSE_DATA", "/scratch/data")
    command = compose(TrainCNN, [])
    assert (command.root, command.data_dir) == (Path("/scratch/runs"), Path("/scratch/data"))
    command = compose(TrainCNN, ["root=here", "data_dir=there"])
    assert (command.root, command.data_dir) == (Path("here"), Path("there"))
    monkeypatch.setenv("STILLHOUSE_RUNS", "")
    assert runs_root() == Path("runs")


def test_the_home_folder_is_found_where_the_shell_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert compose(TrainCNN, ["root=~/runs"]).root == Path("/home/someone/runs")
    assert compose(TrainCNN, ["root=~"]).root == Path("/home/someone")
    monkeypatch.setenv("STILLHOUSE_DATA", "~/data")
    assert data_root() == Path("/home/someone/data")
    assert runs_root("~no-such-user/runs") == Path("~no-such-user/runs")


def test_folders_are_no_part_of_the_run() -> None:
    assert settings_of("root=here", "data_dir=there", "force=true", "dry_run=true") == settings_of()


def test_the_words_of_a_command() -> None:
    command = compose(TrainCNN, ["force=true", "dry_run=true", "seed=4"])
    assert command == Command(settings_of("seed=4"), Path("runs"), Path("data"), force=True, dry_run=True)


# --- speed ------------------------------------------------------------------------------------------------------
# In time of the processor, so that tests running beside these do not matter.

LINE = ("data=digits", "recipe=cnn_digits", "recipe.lr=1e-3", "recipe.epochs=12", "augment.flip=0.5")


def test_composing_takes_less_than_two_milliseconds() -> None:
    compose(TrainCNN, LINE)
    seconds = []
    for _ in range(5):
        began = time.process_time()
        for seed in range(200):
            compose(TrainCNN, [*LINE, f"seed={seed}"])
        seconds.append((time.process_time() - began) / 200)
    assert min(seconds) < 0.002


def test_ten_thousand_runs_are_named_in_seconds() -> None:
    pack("flowers")
    began = time.process_time()
    names = {run_name(settings_of("data=flowers", f"seed={seed}")) for seed in range(10_000)}
    assert time.process_time() - began < 20
    assert len(names) == 10_000


WITHOUT_TORCH = """
import sys, time
began = time.process_time()
import common.cli.compose, common.cli.attempt
seconds = time.process_time() - began
from common.settings.entries import TrainCNN
common.cli.compose.compose(TrainCNN, ["seed=3"])
print(seconds, sorted({"torch", "torchvision", "timm", "numpy", "pandas", "sklearn"} & set(sys.modules)))
"""


def test_the_door_is_quick_and_needs_no_torch() -> None:
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True, cwd=REPOSITORY
        )
        first, _, heavy = done.stdout.strip().partition(" ")
        assert heavy == "[]"
        seconds.append(float(first))
    assert min(seconds) < 1
