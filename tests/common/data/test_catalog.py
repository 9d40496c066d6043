import re

import pytest

from common.compose import presets
from common.config import DataSettings
from common.data.catalog import DATASETS


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry_is_complete(name: str) -> None:
    published = DATASETS[name]
    assert DataSettings(name=name).name == name
    assert published.title
    assert published.licence
    assert published.citation
    assert published.url.startswith("http")
    assert len(set(published.classes)) == len(published.classes) >= 2
    assert bool(published.files) == bool(published.mirrors)
    checksums = [each.md5 for file in published.files for each in (file, *file.unpacked)]
    assert all(re.fullmatch("[0-9a-f]{32}", checksum) for checksum in checksums)
    assert all(mirror.startswith("http") for mirror in published.mirrors)


def test_every_set_has_a_preset() -> None:
    assert set(DATASETS) == set(presets()["data"])


@pytest.mark.parametrize(
    ("module", "kind", "name"), [("mnist", "MNIST", "mnist"), ("mnist", "FashionMNIST", "fashion_mnist")]
)
def test_idx_checksums_are_torchvisions(module: str, kind: str, name: str) -> None:
    datasets = pytest.importorskip(f"torchvision.datasets.{module}")
    assert {file.name: file.md5 for file in DATASETS[name].files} == dict(getattr(datasets, kind).resources)


@pytest.mark.parametrize(("kind", "name"), [("CIFAR10", "cifar10"), ("CIFAR100", "cifar100")])
def test_cifar_checksums_are_torchvisions(kind: str, name: str) -> None:
    published = getattr(pytest.importorskip("torchvision.datasets.cifar"), kind)
    (archive,) = DATASETS[name].files
    assert (archive.name, archive.md5) == (published.filename, published.tgz_md5)
    listed = published.train_list + published.test_list
    assert {part.name: part.md5 for part in archive.unpacked} == dict(listed)


def test_cifar100_has_its_hundred_classes_in_the_publishers_order() -> None:
    classes = DATASETS["cifar100"].classes
    assert len(classes) == 100
    assert list(classes) == sorted(classes)  # the publisher's own numbering is alphabetical
