import ast
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from common.data import image_files
from common.data.image_files import Memory, read_image
from common.failures import Refused
from tests.house import Module, checkout

ORIENTATION = 0x0112  # the EXIF tag


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def flat(image: np.ndarray) -> list[int]:
    """The one colour of an image that has only one."""
    (colour,) = {tuple(pixel) for pixel in image.reshape(len(image), -1).T.tolist()}
    return list(colour)


def noise(*shape: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)


def test_pixels_of_the_right_size_stay_as_they_are(tmp_path: Path) -> None:
    colour, grey = noise(6, 5, 3), noise(6, 5)
    read = read_image(save(tmp_path / "colour.png", colour), (3, 6, 5))
    np.testing.assert_array_equal(read, colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(read_image(save(tmp_path / "grey.png", grey), (1, 6, 5)), grey[None])
    assert (read.dtype, read.flags.writeable, read.flags.c_contiguous) == (np.uint8, True, True)


def test_grey_to_colour_repeats_it(tmp_path: Path) -> None:
    grey = noise(4, 4)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", grey), (3, 4, 4)), np.stack([grey] * 3))


def test_colour_to_grey_is_luma(tmp_path: Path) -> None:
    """ITU-R 601: .299 .587 .114 of pure red, green and blue."""
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]] * 3, dtype=np.uint8)
    read = read_image(save(tmp_path / "a.png", pixels), (1, 3, 3))
    assert read[0, 0].tolist() == [76, 150, 29]


@pytest.mark.parametrize("upright", [True, False])
def test_the_middle_of_the_longer_side_is_kept(tmp_path: Path, upright: bool) -> None:
    thirds = np.zeros((30, 90, 3), np.uint8)
    thirds[:, :30, 0] = thirds[:, 30:60, 1] = thirds[:, 60:, 2] = 255
    path = save(tmp_path / "a.png", thirds.transpose(1, 0, 2) if upright else thirds)
    read = read_image(path, (3, 10, 10))
    assert flat(read[:, 1:-1, 1:-1]) == [0, 255, 0]
    np.testing.assert_array_equal(read, read[::-1, ::-1, ::-1])  # as much of the red third as of the blue one


def test_reduction_does_not_alias(tmp_path: Path) -> None:
    """A checkerboard of single pixels is grey from afar; picking pixels would leave black or white."""
    board = (np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)
    read = read_image(save(tmp_path / "a.png", board), (1, 8, 8))
    assert read.min() > 110
    assert read.max() < 145


def test_a_linear_ramp_stays_one(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(0, 256, 2, dtype=np.uint8), (128, 128))
    read = read_image(save(tmp_path / "a.png", np.ascontiguousarray(ramp)), (1, 16, 16)).astype(float)
    centres = (np.arange(16) * 8 + 3.5) * 2  # where the centres of the large pixels lie
    np.testing.assert_allclose(read[0, 5, 2:-2], centres[2:-2], atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.arange(16, dtype=np.uint8).reshape(4, 4)
    stored = {  # how a camera stores it, for the viewer to undo; EXIF 2.3, table 6
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / "a.png", np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(read_image(path, (1, 4, 4))[0], upright)


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]], [[0, 0, 0, 51], [0, 0, 0, 204]]], dtype=np.uint8)
    read = read_image(save(tmp_path / "a.png", pixels), (3, 2, 2))
    assert read[:, 0, 0].tolist() == [10, 20, 30]
    assert read[:, 0, 1].tolist() == [255, 255, 255]
    assert read[0, 1].tolist() == [204, 51]  # black at 1/5 and 4/5 over white


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    assert flat(read_image(save(tmp_path / "plain.png", image), (3, 4, 4))) == [200, 100, 50]
    assert flat(read_image(save(tmp_path / "clear.gif", image, transparency=1), (3, 4, 4))) == [255, 255, 255]
    assert flat(read_image(save(tmp_path / "half.png", image, transparency=b"\xff\x00"), (3, 4, 4))) == [255] * 3


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_sixteen_bits_become_eight(tmp_path: Path, name: str) -> None:
    pixels = np.array([[0, 128, 129], [257, 32896, 65535], [65406, 65407, 1000]], dtype=np.uint16)
    read = read_image(save(tmp_path / name, pixels), (1, 3, 3))
    # value / 257, rounded: 128 / 257 = .498, 129 / 257 = .502, 65406 / 257 = 254.498, 1000 / 257 = 3.89
    assert read[0].tolist() == [[0, 0, 1], [1, 128, 255], [254, 255, 4]]


def test_sixteen_bits_that_pillow_widens(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 2 2 65535\n" + np.array([0, 257, 32896, 65535], dtype=">u2").tobytes())
    assert read_image(path, (1, 2, 2))[0].tolist() == [[0, 1], [128, 255]]


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "a.tiff", [255, 0, 0]),
        (Image.new("1", (4, 4), 1), "a.png", [255, 255, 255]),
        (Image.new("LA", (4, 4), (7, 255)), "a.png", [7, 7, 7]),
        (Image.new("YCbCr", (4, 4), (100, 128, 128)), "a.tiff", [100, 100, 100]),
        (Image.new("RGB", (4, 4), (1, 2, 3)), "a.webp", None),
    ],
)
def test_other_modes_and_formats(tmp_path: Path, image: Image.Image, name: str, expected: list[int] | None) -> None:
    read = flat(read_image(save(tmp_path / name, image), (3, 4, 4)))
    assert read == expected or (expected is None and max(read) < 8)  # webp loses a little


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"plain text", r"photo: not an image of a kind that is read \(BMP, "),
        (b"", r"photo: not an image of a kind that is read \(BMP, "),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "photo: "),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "photo").write_bytes(content)
    with pytest.raises(Refused, match=problem):
        read_image(tmp_path / "photo", (3, 4, 4))


# --- kinds that are opened --------------------------------------------------------------------------------------


def test_no_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript under a harmless name would be handed to Ghostscript, which may never end."""
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(ghostscript.parent), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / "photo.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n")

    with pytest.raises(Refused, match=r"photo\.jpg: not an image of a kind that is read"):
        read_image(tmp_path / "photo.jpg", (3, 4, 4))
    assert not (tmp_path / "started").exists()


def opened_without_formats(module: Module) -> list[str]:
    """List where Pillow may open a file of any kind that it knows."""
    return [
        f"{module.path}:{call.lineno}: {ast.unparse(call)}"
        for call in ast.walk(module.tree)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in {"Image.open", "PIL.Image.open"}
        and "formats" not in {word.arg for word in call.keywords}
    ]


def test_pillow_opens_only_named_kinds() -> None:
    breaker = Module("eval/a.py", "with Image.open(path) as image, PIL.Image.open(path, 'r'): ...")
    assert len(opened_without_formats(breaker)) == 2
    assert opened_without_formats(Module("eval/a.py", "Image.open(path, formats=['PNG'])")) == []
    assert [line for module in checkout() for line in opened_without_formats(module)] == []


# --- limits -------------------------------------------------------------------------------------------------------


def undecoded(*_: object) -> None:
    pytest.fail("the image was decoded")


@pytest.mark.parametrize(
    ("mode", "limit", "allowed", "problem"),
    [
        ("L", "MOST_PIXELS", 11, r"it has 4 x 3 pixels, allowed: 11 pixels in all; make it smaller first"),
        ("L", "MOST_BYTES", 143, r"to decode it takes 144 bytes, allowed: 143; make it smaller first"),
        ("LA", "MOST_BYTES", 335, r"to decode it takes 336 bytes, allowed: 335; make it smaller first"),
        ("I;16", "MOST_BYTES", 335, r"to decode it takes 336 bytes, allowed: 335; make it smaller first"),
    ],
)
def test_an_image_beyond_the_limits_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, limit: str, allowed: int, problem: str
) -> None:
    path = save(tmp_path / "a.png", Image.new(mode, (4, 3)))
    monkeypatch.setattr(image_files, limit, allowed + 1)
    assert read_image(path, (1, 4, 4)).shape == (1, 4, 4)

    monkeypatch.setattr(image_files, limit, allowed)
    monkeypatch.setattr(ImageFile.ImageFile, "load", undecoded)
    with pytest.raises(Refused, match=rf"a\.png: cannot be read as an image: {problem}"):
        read_image(path, (1, 4, 4))


def test_the_limits_are_below_pillows() -> None:
    assert (Image.MAX_IMAGE_PIXELS or 0) > image_files.MOST_PIXELS
    assert image_files.MOST_PIXELS * image_files.PLAIN_PIXEL < image_files.MOST_BYTES


def test_a_small_file_of_many_pixels_is_one_line(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Of 13,300 pixels a side, as a PNG of a single colour: 3.3 GB, and Pillow's warning beside the refusal."""
    path = save(tmp_path / "a.png", Image.new("1", (13_300, 1)))
    content = path.read_bytes()
    header = content[12:20] + (13_300).to_bytes(4) + content[24:29]
    path.write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4) + content[33:])

    with pytest.raises(Refused, match=r"a\.png: .* it has 13300 x 13300 pixels, allowed: 80,000,000 pixels in all"):
        read_image(path, (1, 4, 4))
    assert list(recwarn) == []


def test_images_are_decoded_at_once_as_far_as_memory_goes() -> None:
    """Three that need 4 of 10 bytes: two are decoded, the third waits for one of them."""
    memory, inside, most = Memory(10), [0], [0]
    lock, enough = threading.Lock(), threading.Barrier(2, timeout=60)

    def decode(number: int) -> None:
        with memory.taken(4):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            if number < 2:
                enough.wait()  # so two are inside together
            with lock:
                inside[0] -= 1

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(decode, range(3)))
    assert most == [2]
    with memory.taken(10):  # all has come back
        pass


@pytest.mark.parametrize(("shape", "count"), [((3, 32, 32), 64), ((3, 1024, 1024), 42), ((3, 8192, 8192), 1)])
def test_fewer_large_images_wait_to_be_written(shape: tuple[int, ...], count: int) -> None:
    assert image_files.read_at_once(shape) == count


# --- what cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tiff", "a.bmp"])
def test_half_an_image_is_refused(tmp_path: Path, name: str) -> None:
    """Never filled up with grey, as some viewers do."""
    path = save(tmp_path / name, noise(40, 40, 3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Refused, match=rf"{name}: (cannot be read|not an image)"):
        read_image(path, (3, 8, 8))


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="gone: cannot be read: No such file or directory"):
        read_image(tmp_path / "gone", (3, 4, 4))
    with pytest.raises(Refused, match="cannot be read: Is a directory"):
        read_image(tmp_path, (3, 4, 4))


def test_pixels_without_a_range_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "f.tiff", np.full((4, 4), 0.5, np.float32))
    save(tmp_path / "i.tiff", np.full((4, 4), 70_000, np.int32))
    with pytest.raises(Refused, match=r"f\.tiff: .* its pixels are fractions"):
        read_image(tmp_path / "f.tiff", (1, 4, 4))
    with pytest.raises(Refused, match=r"i\.tiff: .* its pixels run from 70000 to 70000"):
        read_image(tmp_path / "i.tiff", (1, 4, 4))


def test_a_picture_larger_than_memory_allows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    with pytest.raises(Refused, match=r"a\.png: cannot be read as an image: .*exceeds limit"):
        read_image(save(tmp_path / "a.png", noise(4, 4)), (1, 4, 4))
