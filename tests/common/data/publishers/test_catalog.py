import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from common.data.packing import Task
from common.data.publishers.catalog import DATASETS
from common.data.publishers.checksums import File
from common.settings.entries import DataSettings
from common.settings.shift import PUBLISHED_CORRUPTIONS

REPOSITORY = Path(__file__).parents[4]


def all_files(name: str) -> list[File]:
    return [each for file in DATASETS[name].files for each in (file, *file.unpacked)]


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry_is_complete(name: str) -> None:
    published = DATASETS[name]
    assert DataSettings(name=name).name == name
    assert published.title
    assert published.licence
    assert published.citation
    assert published.url.startswith("http")
    assert published.task in get_args(Task)
    assert (len(published.classes) >= 2) != (published.read_classes is not None)
    assert all(published.classes)
    assert len(set(published.classes)) == len(published.classes)
    assert (len(published.classes) == 2) == (published.task == "binary")
    assert bool(published.files) == bool(published.mirrors)
    assert all(re.fullmatch("https?://.+/", mirror) for mirror in published.mirrors)
    assert not (published.evaluation_only and published.validation)


@pytest.mark.parametrize("name", DATASETS)
def test_every_file_has_one_checksum_of_its_algorithms_length(name: str) -> None:
    files = all_files(name)
    assert len({file.name for file in files}) == len(files)
    for file in files:
        assert bool(file.md5) != bool(file.sha256)
        assert re.fullmatch({"md5": "[0-9a-f]{32}", "sha256": "[0-9a-f]{64}"}[file.algorithm], file.checksum)
        assert file.size is None or file.size > 0


def test_no_two_sets_share_a_title_or_a_file() -> None:
    titles = [published.title for published in DATASETS.values()]
    assert len(set(titles)) == len(titles)
    checksums = [file.checksum for name in DATASETS for file in all_files(name)]
    assert len(set(checksums)) == len(checksums)


def test_sets_to_evaluate_cifar10_models_on_have_its_classes() -> None:
    shifted = [name for name, published in DATASETS.items() if published.evaluation_only]
    assert shifted == ["cifar10_1_v4", "cifar10_1_v6", "cifar10_c"]
    assert all(DATASETS[name].classes == DATASETS["cifar10"].classes for name in shifted)


def test_cifar10_c_lists_every_corruption() -> None:
    (archive,) = DATASETS["cifar10_c"].files
    assert sorted(part.name for part in archive.unpacked) == sorted(
        f"{name}.npy" for name in (*PUBLISHED_CORRUPTIONS, "labels")
    )


def test_medical_sets_share_their_familys_defaults_and_have_validation_images() -> None:
    families = {name: published.family for name, published in DATASETS.items() if published.family}
    assert len(families) == 48
    assert all((family == "medmnist_large") == name[-1].isdigit() for name, family in families.items())
    assert set(families.values()) == {"medmnist", "medmnist_large"}
    assert {name for name, published in DATASETS.items() if published.validation} == set(families)
    assert not any(DATASETS[name].dark_background for name in families)  # black is air there, white is no paper


@pytest.mark.parametrize(
    ("module", "kind", "name"), [("mnist", "MNIST", "mnist"), ("mnist", "FashionMNIST", "fashion_mnist")]
)
def test_idx_checksums_are_torchvisions(module: str, kind: str, name: str) -> None:
    datasets = pytest.importorskip(f"torchvision.datasets.{module}")
    assert {file.name: file.md5 for file in DATASETS[name].files} == dict(getattr(datasets, kind).resources)


@pytest.mark.parametrize(
    ("module", "kind", "name"),
    [("cifar", "CIFAR10", "cifar10"), ("cifar", "CIFAR100", "cifar100"), ("stl10", "STL10", "stl10")],
)
def test_archive_checksums_are_torchvisions(module: str, kind: str, name: str) -> None:
    published = getattr(pytest.importorskip(f"torchvision.datasets.{module}"), kind)
    (archive,) = DATASETS[name].files
    assert (archive.name, archive.md5) == (published.filename, published.tgz_md5)
    listed = dict(published.train_list + published.test_list)
    listed.pop("unlabeled_X.bin", None)  # STL-10's images without labels are not read
    assert {part.name: part.md5 for part in archive.unpacked} == listed


def test_cifar100_has_its_hundred_classes_in_the_publishers_order() -> None:
    classes = DATASETS["cifar100"].classes
    assert len(classes) == 100
    assert list(classes) == sorted(classes)  # the publisher's own numbering is alphabetical


def test_importing_it_loads_no_large_library() -> None:
    heavy = "{'numpy', 'PIL', 'sklearn', 'torch', 'torchvision'}"
    code = f"import common.data.publishers.catalog, sys; print({heavy} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "set()\n"
