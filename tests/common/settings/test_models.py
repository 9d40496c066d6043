"""Names of networks of timm: the short ones come from the presets alone, the long ones are those that timm lists."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm

from common.settings.models import CNN_BACKBONES, OWN, TRANSFORMER, VIT_BACKBONES, refuse_unknown, timm_names

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the suite whose presets name two more networks of timm."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("common", "train"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    presets = folder / "common" / "presets" / "model"
    (presets / "convnext_tiny.yaml").write_text("name: convnext_tiny\n")
    (presets / "swin_small.yaml").write_text("name: swin_tiny_patch4_window7_224\ninput_size: 32\n")
    return folder


def answer(house: Path, entry: str, word: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(house / "train" / f"{entry}.py"), word, "dry_run=true"]
    return subprocess.run(
        command, cwd=house, env=os.environ | {"PYTHONPATH": str(house)}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("entry", "word", "name"),
    [
        ("train_cnn", "model=convnext_tiny", "convnext_tiny"),
        ("train_cnn", "model.name=convnext_tiny", "convnext_tiny"),
        ("train_vit", "model=swin_small", "swin_tiny_patch4_window7_224"),
    ],
)
def test_a_network_of_timm_needs_only_a_preset(house: Path, entry: str, word: str, name: str) -> None:
    done = answer(house, entry, word)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"digits-{name}-s0-" in done.stdout


@pytest.mark.parametrize(
    ("entry", "word", "nearest"),
    [
        ("train_cnn", "model=convnext_tni", "convnext_tiny"),
        ("train_cnn", "model.name=convnext_tni", "convnext_tiny"),
        ("train_vit", "model=swin_smal", "swin_small"),
        ("train_vit", "model.name=resnet18", ""),
    ],
)
def test_other_names_are_refused_with_the_nearest(house: Path, entry: str, word: str, nearest: str) -> None:
    refused = answer(house, entry, word)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    key, _, name = word.partition("=")
    assert refused.stderr.startswith(f"{key}: given {name}, allowed: ")
    assert not nearest or refused.stderr.endswith(f", nearest: {nearest}\n")


def test_the_suites_own_presets_name_networks_that_timm_has() -> None:
    assert set(CNN_BACKBONES) >= {"resnet18", "densenet121"}
    assert set(VIT_BACKBONES) >= {"vit_tiny_patch16_224", "deit_tiny_patch16_224"}
    assert set(CNN_BACKBONES) | set(VIT_BACKBONES) <= set(timm.list_models())


@pytest.mark.parametrize(
    "module", ["vision_transformer", "deit", "beit", "eva", "swin_transformer", "cait", "pit", "volo"]
)
def test_transformers_are_told_by_their_names(module: str) -> None:
    assert [name for name in timm.list_models(module=module) if not TRANSFORMER.search(name)] == []


@pytest.mark.parametrize("module", ["resnet", "convnext", "densenet", "efficientnet", "mobilenetv3", "regnet", "vgg"])
def test_convolutional_networks_are_told_by_theirs(module: str) -> None:
    assert [name for name in timm.list_models(module=module) if TRANSFORMER.search(name)] == []


def test_presets_of_the_suites_own_networks_make_none_of_timms() -> None:
    assert {"adaptive_cnn", "fast_cnn", "vit"} <= set(OWN)
    assert set(OWN) & {*CNN_BACKBONES, *VIT_BACKBONES} == set()


@pytest.fixture
def names_read_again() -> Iterator[None]:
    timm_names.cache_clear()
    yield
    timm_names.cache_clear()


def test_they_are_what_timm_lists() -> None:
    assert timm_names() == set(timm.list_models())
    assert len(timm_names()) > 1000


@pytest.mark.parametrize(
    "name", ["timm/resnet18", "timm/resnet18.a1_in1k", "timm/vit_base_patch16_224.a.b", "convnext_atto"]
)
def test_known_names_pass_with_and_without_a_tag(name: str) -> None:
    refuse_unknown(name)


def test_an_unknown_name_is_answered_with_near_ones_nearest_first() -> None:
    allowed = f"allowed: timm/NAME, one of the {len(timm_names()):,} names of timm"
    with pytest.raises(ValueError, match=f"^given timm/resnet181, {allowed}, nearest: timm/resnet18, timm/resnet18d, "):
        refuse_unknown("timm/resnet181")


def test_a_name_that_is_only_begun_is_answered_with_the_shortest_that_begin_so() -> None:
    with pytest.raises(ValueError, match=r"nearest: timm/swin_tiny_patch4_window7_224, ") as refusal:
        refuse_unknown("timm/swin_tiny.ms_in1k")
    near = str(refusal.value).partition("nearest: ")[2].split(", ")
    assert len(set(near)) == 5
    for name in near:
        refuse_unknown(name)
    with pytest.raises(ValueError, match=r"nearest: timm/convnext_atto, timm/convnext_base, "):
        refuse_unknown("timm/convnext")


def test_a_name_like_no_other_is_answered_without_near_ones() -> None:
    with pytest.raises(ValueError, match=r"^given timm/qqqqqqqqqqqqqqqqqq, allowed: [^:]*$"):
        refuse_unknown("timm/qqqqqqqqqqqqqqqqqq")


def test_a_part_of_a_name_is_no_name() -> None:
    for name in ("timm/", "timm/resnet", "timm/.a1_in1k", "timm/RESNET18"):
        with pytest.raises(ValueError, match=f"^given {re.escape(name)}, allowed"):
            refuse_unknown(name)


@pytest.mark.usefixtures("names_read_again")
def test_where_timm_is_not_installed_nothing_is_known_and_nothing_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login node may resolve a sweep without it; the compute node will tell."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert timm_names() == frozenset()
    refuse_unknown("timm/resnet181")
