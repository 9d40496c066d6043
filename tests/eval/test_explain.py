"""The whole command on runs of a few seconds: each kind of network, images from outside, and what is refused."""

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.compute import Compute
from common.data.image_files import NO_IMAGE
from common.data.packed import PackedSet
from common.data.packing import Part, pack
from common.failures import Refused
from common.run.finished import open_run
from common.settings.entries import ComputeSettings
from eval.explain import KINDS, main
from eval.explanations import EXPLANATIONS, _groups
from eval.explanations.subject import open_test
from train import train_cnn, train_vit

Explain = Callable[..., int]
Capsys = pytest.CaptureFixture[str]

CASES = {
    "cnn": (train_cnn, "model=adaptive_cnn"),
    "vit": (train_vit, "model.width=16 model.depth=2 model.heads=2 model.patch=2 model.stem_width=4"),
    "timm cnn": (train_cnn, "model.name=timm/test_efficientnet model.input_size=64"),
    "timm vit": (train_vit, "model.name=timm/test_vit model.input_size=64"),
}


@pytest.fixture(scope="module")
def runs(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of one epoch per kind of network."""
    folders = {}
    for name, (entry, words) in CASES.items():
        root = tmp_path_factory.mktemp("runs")
        common = (
            f"recipe.epochs=1 recipe.batch_size=256 augment=none compute.threads=1 data_dir={digits_dir} root={root}"
        )
        with contextlib.redirect_stdout(io.StringIO()):
            assert entry.main([*common.split(), *words.split()]) == 0
        (folders[name],) = root.glob("*/*")
    return folders


@pytest.fixture
def explain(digits_dir: Path) -> Explain:
    def call(*words: object) -> int:
        return main([*map(str, words), f"data_dir={digits_dir}", "compute.threads=1"])

    return call


def refusals(capsys: Capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("name", CASES)
def test_all_that_a_model_offers(name: str, runs: dict[str, Path], explain: Explain, capsys: Capsys) -> None:
    before = (runs[name] / "checkpoints/best.safetensors").read_bytes()
    assert explain(f"run={runs[name]}", "images=2", "points=12") == 0
    folder = runs[name] / "evaluation/explain"
    attends = "vit" in name
    facts = json.loads((folder / "explain.json").read_text())
    assert [kind for kind in KINDS if kind in facts] == [kind for kind in KINDS if attends or kind != "attention"]
    assert [image["source"].startswith("test image ") for image in facts["images"]] == [True, True]
    assert all(0 <= image["probability"] <= 1 and image["explained"] == image["predicted"] for image in facts["images"])
    assert np.load(folder / "gradcam.npz", allow_pickle=False)["maps"].shape == (2, *facts["gradcam"]["grid"])
    if attends:
        attention = np.load(folder / "attention.npz", allow_pickle=False)
        grid, heads = tuple(facts["attention"]["grid"]), facts["attention"]["heads"]
        assert (attention["rollout"].shape, attention["heads"].shape) == ((2, *grid), (2, heads, *grid))
        assert (attention["rollout"].sum((1, 2)) <= 1 + 1e-5).all()
    stored = np.load(folder / "embeddings.npz", allow_pickle=False)
    assert len(stored["embeddings"]) == len(stored["labels"]) == len(stored["rows"]) == 12
    printed = capsys.readouterr().out.splitlines()
    assert sorted(printed) == sorted(str(path) for path in folder.iterdir())
    pictures = list(folder.glob("*.png"))
    assert len(pictures) >= 5
    assert all(np.asarray(Image.open(picture).convert("L")).std() > 10 for picture in pictures)
    assert (runs[name] / "checkpoints/best.safetensors").read_bytes() == before


def test_the_same_seed_shows_the_same(runs: dict[str, Path], explain: Explain, tmp_path: Path) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert explain(f"run={runs['cnn']}", "what=gradcam", f"out={tmp_path / out}", f"seed={seed}", "images=3") == 0
    a, b, c = ((tmp_path / out / "explain.json").read_bytes() for out in "abc")
    assert a == b != c
    assert (tmp_path / "a/gradcam.png").read_bytes() == (tmp_path / "b/gradcam.png").read_bytes()


def test_only_what_was_asked_for_of_a_layer_and_a_block(
    runs: dict[str, Path], explain: Explain, tmp_path: Path
) -> None:
    words = "what=features,attention", "layer=stem.1", "block=0", "images=1", f"out={tmp_path / 'out'}"
    assert explain(f"run={runs['vit']}", *words) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("attention_heads_block0.png", "attention_rollout.png", "attention.npz"),
        *("features_stem.1.png", "features.npz", "explain.json"),
    }


def test_images_from_outside_and_a_class_of_choice(runs: dict[str, Path], explain: Explain, tmp_path: Path) -> None:
    Image.new("L", (20, 20), 255).save(tmp_path / "photo.png")
    assert explain(f"run={runs['cnn']}", tmp_path / "photo.png", 'label="3"', f"out={tmp_path / 'out'}") == 0
    facts = json.loads((tmp_path / "out/explain.json").read_text())
    (image,) = facts["images"]
    assert image["source"] == str(tmp_path / "photo.png")
    assert (image["true"], image["explained"]) == (None, "3")
    assert facts.keys() == {"run", "images", "gradcam", "features"}  # the rest is about the test set, not the photo


def test_images_from_outside_need_no_packed_set(runs: dict[str, Path], tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "empty").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "photo.png")
    words = [f"run={runs['cnn']}", str(tmp_path / "photo.png"), f"data_dir={tmp_path / 'empty'}"]
    assert main([*words, "what=gradcam", f"out={tmp_path / 'out'}"]) == 0
    assert not list((tmp_path / "empty").iterdir())


def test_the_images_a_run_was_trained_on_must_be_the_packed_ones(
    runs: dict[str, Path], digits_dir: Path, tmp_path: Path, capsys: Capsys
) -> None:
    digits, folder = PackedSet.open(digits_dir / "digits"), tmp_path / "data" / "digits"
    parts = {name: Part.of(255 - digits.images(name), digits.labels(name)) for name in ("train", "test")}
    other = pack(folder, parts, digits.classes, {"name": "digits", "task": digits.task, "dark_background": True})
    assert main([f"run={runs['cnn']}", f"data_dir={tmp_path / 'data'}"]) == 2
    (line,) = refusals(capsys)
    assert line.startswith(f"data: the images packed under {folder} have {other['digest']}, the run was trained on ")


def test_a_set_that_is_not_prepared_is_named(runs: dict[str, Path], tmp_path: Path) -> None:
    run = open_run(str(runs["cnn"]), tmp_path)
    other = replace(run, result=run.result | {"data": {**run.data, "name": "mnist"}})
    with pytest.raises(
        Refused, match=r"^data: mnist is not prepared under .*; run: python jobs/prepare.py data=mnist$"
    ):
        open_test(other, tmp_path, Compute(torch.device("cpu"), ComputeSettings()))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("what=attention", "what: given attention, which adaptive_cnn does not offer; it offers gradcam, features,"),
        ("what=gradcm", "what: given gradcm, allowed: gradcam, attention, features, filters, gradients, embeddings, n"),
        ("layer=stages.9", "layer: given stages.9, allowed: stem.0, stem.1,"),
        ("label=cat", "label: given cat, allowed: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        ("images=0", "images: given 0, allowed: whole number, 1 to 64"),
        ("nowhere.png", "nowhere.png: no such file or folder"),
        ("points=2", "points: given 2, allowed: whole number, at least 5"),
    ],
)
def test_what_is_refused(words: str, says: str, runs: dict[str, Path], explain: Explain, capsys: Capsys) -> None:
    assert explain(f"run={runs['cnn']}", *words.split()) == 2
    (line,) = refusals(capsys)
    assert line.startswith(says)


def test_a_block_that_is_not_there(runs: dict[str, Path], explain: Explain, capsys: Capsys) -> None:
    assert explain(f"run={runs['vit']}", "what=attention", "block=2") == 2
    assert refusals(capsys) == ["block: given 2, allowed: 0 to 1, or -2 to -1 from the end"]


def test_gradcam_of_one_cell_says_why_it_is_refused(
    runs: dict[str, Path], explain: Explain, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.explanations.attribution.as_maps", lambda features, *_, **__: features[:, :, :1, :1])
    assert explain(f"run={runs['cnn']}", "what=gradcam") == 2
    assert refusals(capsys) == [
        "what: given gradcam, which adaptive_cnn does not offer (for these images its last grid is 1x1, where one cell "
        "is the whole image); it offers features, filters, gradients, embeddings"
    ]


def test_what_is_no_run_and_what_is_no_image(
    runs: dict[str, Path], explain: Explain, tmp_path: Path, capsys: Capsys
) -> None:
    assert explain(f"run={tmp_path}") == 2
    assert refusals(capsys) == [f"run: {tmp_path} is not a run folder (it has no config.yaml)"]
    (tmp_path / "text.png").write_text("no image")
    assert explain(f"run={runs['cnn']}", tmp_path / "text.png") == 2
    assert refusals(capsys) == [f"{tmp_path / 'text.png'}: {NO_IMAGE}"]


def test_the_words_and_the_explanations_have_the_same_names() -> None:
    assert tuple(EXPLANATIONS) == KINDS


def test_images_of_several_labels_are_groups_of_their_own() -> None:
    labels = np.array([[0, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1]])
    groups, names = _groups(labels, ["a", "b", "c"])
    assert [names[group] for group in groups] == ["b", "no label", "several labels", "c"]
