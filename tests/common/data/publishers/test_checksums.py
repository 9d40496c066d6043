import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from common.data.publishers.checksums import SEARCH_DEPTH, File, locate
from common.failures import Refused
from common.files import checksum_of

ORIGIN = "https://publisher.example/files/"


def file_of(name: str, content: bytes, *unpacked: File) -> File:
    return File(name, hashlib.md5(content, usedforsecurity=False).hexdigest(), len(content), unpacked)


ONE = file_of("one.gz", b"first", file_of("one", b"first, unpacked"))
TWO = file_of("two.tar", b"second", file_of("left", b"l"), file_of("middle", b"m"), file_of("right", b"r"))


def put(folder: Path, **contents: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("_", ".")).write_bytes(content)


def problems(source: Path) -> list[str]:
    with pytest.raises(Refused) as refused:
        locate([ONE, TWO], source, ORIGIN)
    return refused.value.problems


@pytest.mark.parametrize(
    ("algorithm", "checksum"),
    [
        ("md5", "900150983cd24fb0d6963f7d28e17f72"),  # RFC 1321, appendix A.5
        ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),  # FIPS 180-4's example
    ],
)
def test_checksums_of_a_known_text(tmp_path: Path, algorithm: str, checksum: str) -> None:
    put(tmp_path, abc=b"abc")
    assert checksum_of(tmp_path / "abc", algorithm) == checksum
    file = File("abc", **{algorithm: checksum})
    assert locate([file], tmp_path, ORIGIN) == {"abc": tmp_path / "abc"}
    put(tmp_path, abc=b"abd")
    found = checksum_of(tmp_path / "abc", algorithm)
    with pytest.raises(Refused, match=f"abc: {algorithm} is {found}, expected {checksum}: a damaged copy"):
        locate([file], tmp_path, ORIGIN)


def test_found_in_the_folder_itself_and_below(tmp_path: Path) -> None:
    put(tmp_path, one_gz=b"first")
    put(tmp_path / "Set" / "raw", two_tar=b"second")
    assert locate([ONE, TWO], tmp_path, ORIGIN) == {
        "one.gz": tmp_path / "one.gz",
        "two.tar": tmp_path / "Set" / "raw" / "two.tar",
    }


@pytest.mark.parametrize(("depth", "is_found"), [(SEARCH_DEPTH, True), (SEARCH_DEPTH + 1, False)])
def test_search_ends_at_its_depth(tmp_path: Path, depth: int, is_found: bool) -> None:
    put(tmp_path.joinpath(*"abcdef"[:depth]), one_gz=b"first", two_tar=b"second")
    if is_found:
        assert set(locate([ONE, TWO], tmp_path, ORIGIN)) == {"one.gz", "two.tar"}
    else:
        assert len(problems(tmp_path)) == 2


def test_a_linked_folder_is_searched(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", one_gz=b"first", two_tar=b"second")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "link").symlink_to(tmp_path / "elsewhere")
    assert locate([ONE, TWO], tmp_path / "source", ORIGIN)["one.gz"] == tmp_path / "source" / "link" / "one.gz"


def test_the_checksum_chooses_among_equal_names(tmp_path: Path) -> None:
    put(tmp_path / "a", one_gz=b"another set's", two_tar=b"second")
    put(tmp_path / "b", one_gz=b"first", two_tar=b"another set's")
    found = locate([ONE, TWO], tmp_path, ORIGIN)
    assert found == {"one.gz": tmp_path / "b" / "one.gz", "two.tar": tmp_path / "a" / "two.tar"}


def test_unpacked_files_stand_in(tmp_path: Path) -> None:
    put(tmp_path, one=b"first, unpacked", left=b"l", middle=b"m", right=b"r")
    assert set(locate([ONE, TWO], tmp_path, ORIGIN)) == {"one", "left", "middle", "right"}


def test_unpacked_files_stand_in_for_a_damaged_archive(tmp_path: Path) -> None:
    put(tmp_path, one_gz=b"damaged", one=b"first, unpacked", two_tar=b"second")
    assert set(locate([ONE, TWO], tmp_path, ORIGIN)) == {"one", "two.tar"}


def test_every_missing_file_is_named_at_once_with_its_address(tmp_path: Path) -> None:
    assert problems(tmp_path) == [
        f"source: {tmp_path} holds no one.gz (nor one), searched 3 folders deep; published at {ORIGIN}one.gz",
        f"source: {tmp_path} holds no two.tar (nor left, middle, right), searched 3 folders deep; "
        f"published at {ORIGIN}two.tar",
    ]


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    put(tmp_path, one_gz=b"damaged", left=b"l", middle=b"wrong")
    first, second, third = problems(tmp_path)
    wrong = hashlib.md5(b"damaged", usedforsecurity=False).hexdigest()
    assert first.startswith(f"{tmp_path / 'one.gz'}: md5 is {wrong}, expected {ONE.md5}")
    assert second.startswith(f"{tmp_path / 'middle'}: md5 is ")
    assert third == "source: of what two.tar holds there is no right; expected all of it"


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    put(tmp_path, two_tar=b"second")
    (tmp_path / "one.gz").symlink_to(tmp_path / "gone")
    assert problems(tmp_path) == [f"{tmp_path / 'one.gz'}: cannot be read: No such file or directory"]


def test_a_source_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, one_gz=b"first")
    for source in (tmp_path / "one.gz", tmp_path / "nowhere"):
        assert problems(source) == [f"source: {source} is not a folder; expected one that holds one.gz, two.tar"]


# --- a folder in place of its archive ---------------------------------------------------------------------------

ZIP = replace(file_of("photos-2.zip", b"zipped"), folder="photos-2")


def test_a_folder_stands_in_for_its_archive(tmp_path: Path) -> None:
    put(tmp_path / "in" / "photos-2", anything=b"")
    assert locate([ZIP], tmp_path, ORIGIN) == {"photos-2": tmp_path / "in" / "photos-2"}
    assert locate([ZIP], tmp_path / "in" / "photos-2", ORIGIN) == {"photos-2": tmp_path / "in" / "photos-2"}


def test_the_whole_archive_comes_before_its_folder_and_that_before_a_damaged_one(tmp_path: Path) -> None:
    put(tmp_path / "photos-2", anything=b"")
    (tmp_path / "photos-2.zip").write_bytes(b"zipped")
    assert locate([ZIP], tmp_path, ORIGIN) == {"photos-2.zip": tmp_path / "photos-2.zip"}
    (tmp_path / "photos-2.zip").write_bytes(b"damaged")
    assert locate([ZIP], tmp_path, ORIGIN) == {"photos-2": tmp_path / "photos-2"}


def test_neither_archive_nor_folder(tmp_path: Path) -> None:
    (tmp_path / "photos-2").write_bytes(b"a file of the folder's name")
    with pytest.raises(Refused) as refused:
        locate([ZIP], tmp_path, ORIGIN)
    assert refused.value.problems == [
        f"source: {tmp_path} holds no photos-2.zip (nor a folder photos-2), searched 3 folders deep; "
        f"published at {ORIGIN}photos-2.zip"
    ]


def test_a_folder_of_a_files_name_is_no_such_file(tmp_path: Path) -> None:
    """Folders called train and test are common, and so are CIFAR-100's files."""
    put(tmp_path / "one.gz", x=b"first")
    put(tmp_path, two_tar=b"second")
    (problem,) = problems(tmp_path)
    assert problem.startswith(f"source: {tmp_path} holds no one.gz (nor one)")
