import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.packing import differences
from common.data.prepare import prepare
from common.data.publishers.tiny_imagenet import read_class_names, read_tiny_imagenet
from common.failures import Refused
from common.files import read_json

Files = dict[str, bytes]
WNIDS = ["n02124075", "n03126707", "n02012849"]  # in the file's order, which is no order of names
WORDS = (
    "n00001740\tentity\n"
    "n02012849\tcrane\n"
    "n02124075\tEgyptian cat\n"
    "n03126707\tcrane\n"
    "n01443537\tgoldfish, Carassius auratus\n"
)


def photo(seed: int, mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> Image.Image:
    shape = (size[1] // 8, size[0] // 8, 3) if mode == "RGB" else (size[1] // 8, size[0] // 8)
    noise = np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR)


def jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95)
    return out.getvalue()


PHOTOS = {
    **{f"train/{wnid}/images/{wnid}_{n}.JPEG": photo(10 * k + n) for k, wnid in enumerate(WNIDS) for n in (0, 1, 10)},
    "train/n03126707/images/n03126707_1.JPEG": photo(90, "L"),
    "val/images/val_0.JPEG": photo(91),
    "val/images/val_1.JPEG": photo(92, "L"),
}
ANNOTATIONS = "val_1.JPEG\tn02012849\t0\t32\t44\t62\nval_0.JPEG\tn03126707\t52\t55\t57\t59\n"


def files() -> Files:
    return {
        "wnids.txt": "\n".join(WNIDS).encode(),
        "words.txt": WORDS.encode(),
        **{name: jpeg(image) for name, image in PHOTOS.items()},
        "train/n02124075/n02124075_boxes.txt": b"n02124075_0.JPEG\t0\t10\t63\t58\n",
        "val/val_annotations.txt": ANNOTATIONS.encode(),
        "test/images/test_0.JPEG": b"never read",
    }


def zipped(contents: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.mkdir("tiny-imagenet-200")
        for name, content in contents.items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)
    return out.getvalue()


def in_folder(folder: Path, contents: Files) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def assert_shows(packed: np.ndarray, image: Image.Image) -> None:
    """Pixel by pixel what was written, but for JPEG's loss; grey ones grey in all channels."""
    written = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(packed.transpose(1, 2, 0) - written).mean() < 4
    if image.mode == "L":
        assert (packed == packed[0]).all()


def test_packed_as_published(tmp_path: Path, publish: Callable[[str, Files], Path]) -> None:
    contents = files()
    source = publish("tiny_imagenet", {"tiny-imagenet-200.zip": zipped(contents)})
    folder = prepare("tiny_imagenet", tmp_path / "data", source=source)
    manifest = read_json(folder / "manifest.json") or {}
    assert differences(folder) == []
    assert manifest["classes"] == ["Egyptian cat", "crane (n03126707)", "crane (n02012849)"]
    assert manifest["shape"] == [3, 64, 64]
    train, test = (np.load(folder / f"{part}_images.npy") for part in ("train", "test"))
    assert np.load(folder / "train_labels.npy").tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert np.load(folder / "test_labels.npy").tolist() == [2, 1]  # in the order of the annotations
    shown = [f"train/{wnid}/images/{wnid}_{n}.JPEG" for wnid in WNIDS for n in (0, 1, 10)]
    for packed, name in zip([*train, *test], [*shown, "val/images/val_1.JPEG", "val/images/val_0.JPEG"], strict=True):
        assert_shows(packed, PHOTOS[name])
        with Image.open(io.BytesIO(contents[name])) as image:
            np.testing.assert_array_equal(packed, np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def test_the_unpacked_folder_gives_the_same(tmp_path: Path, publish: Callable[[str, Files], Path]) -> None:
    source = publish("tiny_imagenet", {"tiny-imagenet-200.zip": zipped(files())})
    from_zip = read_json(prepare("tiny_imagenet", tmp_path / "a", source=source) / "manifest.json") or {}
    unpacked = in_folder(tmp_path / "elsewhere" / "tiny-imagenet-200", files())
    for where in (unpacked, unpacked.parent):
        folder = prepare("tiny_imagenet", tmp_path / "b", source=where, force=True)
        from_folder = read_json(folder / "manifest.json") or {}
        assert from_folder["digest"] == from_zip["digest"]
        assert from_folder["source"] == {"tiny-imagenet-200": None}
    assert list(from_zip["source"]) == ["tiny-imagenet-200.zip"]


def read_everything(source: Path) -> None:
    paths = {source.name: source}
    read_class_names(paths)
    for part in read_tiny_imagenet(paths).values():
        list(part.blocks)


FISH, CAT = "train/n01443537/images/x.JPEG", "train/n02124075/images/n02124075_0.JPEG"


@pytest.mark.parametrize("kind", ["zip", "folder"])
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"wnids.txt": None}, "{}: holds no wnids.txt; expected what tiny-imagenet-200.zip holds"),
        ({"val/val_annotations.txt": None}, "{}: holds no val/val_annotations.txt; expected what"),
        ({"words.txt": b"\xff\xfe"}, "{}: words.txt is not text: 'utf-8' codec can't decode"),
        ({"words.txt": b"n02124075\tcat\nn03126707\tcrane"}, "{}: words.txt has no name for n02012849 of wnids.txt"),
        ({FISH: b""}, "{}: " + FISH + " is of a class that wnids.txt does not list"),
        (
            {name: None for name in PHOTOS if name.startswith("train/n02012849")},
            "{}: train/n02012849/images holds no .JPEG; expected the images of a class",
        ),
        (
            {"val/val_annotations.txt": b"val_0.JPEG\tn99\t0\t0"},
            "{}: val/val_annotations.txt: line 1 is 'val_0.JPEG\\tn99\\t0\\t0', expected an image and one of 3 ids",
        ),
        (
            {"val/val_annotations.txt": b"val_0.JPEG"},
            "{}: val/val_annotations.txt: line 1 is 'val_0.JPEG', expected an",
        ),
        (
            {"val/images/val_0.JPEG": None},
            "{}: val/val_annotations.txt and val/images differ in 1 images, among them val/images/val_0.JPEG",
        ),
        (
            {"val/images/val_2.JPEG": b""},
            "{}: val/val_annotations.txt and val/images differ in 1 images, among them val/images/val_2.JPEG",
        ),
        ({CAT: files()[CAT][:-100]}, "{}: " + CAT + " cannot be read as an image: image file is truncated"),
        ({CAT: b"no image"}, "{}: " + CAT + " cannot be read as an image: cannot identify image file"),
        ({CAT: jpeg(photo(0, size=(64, 32)))}, "{}: " + CAT + " is 64x32 pixels, expected 64x64"),
    ],
)
def test_what_is_not_as_published_is_refused_by_name(
    tmp_path: Path, kind: str, changes: dict[str, bytes | None], problem: str
) -> None:
    contents = {name: content for name, content in (files() | changes).items() if content is not None}
    if kind == "folder":
        source = in_folder(tmp_path / "tiny-imagenet-200", contents)
    else:
        source = tmp_path / "tiny-imagenet-200.zip"
        source.write_bytes(zipped(contents))
    with pytest.raises(Refused, match=f"^{re.escape(problem.format(source))}"):
        read_everything(source)


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "tiny-imagenet-200.zip"
    source.write_bytes(zipped(files())[:-50])
    with pytest.raises(Refused, match=f"{source}: cannot be read: File is not a zip file"):
        read_everything(source)


def test_a_damaged_image_in_the_zip_is_refused(tmp_path: Path) -> None:
    content = bytearray(zipped(files()))
    content[content.index(b"\xff\xd8") + 300] ^= 1
    source = tmp_path / "tiny-imagenet-200.zip"
    source.write_bytes(content)
    with pytest.raises(Refused, match=rf"{source}: cannot be read: Bad CRC-32 for file .*n02124075_0\.JPEG"):
        read_everything(source)
