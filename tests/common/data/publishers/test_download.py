"""Downloads from a server on this machine that misbehaves as asked."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.data.publishers.checksums import File
from common.data.publishers.download import DownloadFailed, fetch

CONTENT = bytes(range(256)) * 40  # 10,240 bytes
FILE = File("images.gz", hashlib.md5(CONTENT, usedforsecurity=False).hexdigest(), len(CONTENT))
NO_PAUSES = (0.0, 0.0)


class Handler(http.server.BaseHTTPRequestHandler):
    server: "Mirror"

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.requests.append((self.path, asked))
        behaviour = self.server.plan.pop(0) if self.server.plan else "good"
        if behaviour.isdigit():
            self.send_error(int(behaviour))
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and behaviour != "ignores range" else 0
        if asked and start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if behaviour == "wrong":
            body = body[:-1] + b"?"
        self.wfile.write(body[: len(body) // 2] if behaviour == "breaks off" else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


class Mirror(http.server.ThreadingHTTPServer):
    """Serves CONTENT under every path; `plan` says how to behave in the next requests."""

    daemon_threads = False  # so that server_close waits for them

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[str] = []
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data/"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    yield from serving()


@pytest.fixture
def second() -> Iterator[Mirror]:
    yield from serving()


def serving() -> Iterator[Mirror]:
    server = Mirror()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def download(folder: Path, *mirrors: Mirror | str) -> Path:
    urls = [mirror if isinstance(mirror, str) else mirror.url for mirror in mirrors]
    return fetch([FILE], urls, folder, pauses_s=NO_PAUSES)[FILE.name]


def failure(folder: Path, *mirrors: Mirror | str) -> str:
    with pytest.raises(DownloadFailed) as failed:
        download(folder, *mirrors)
    assert not (folder / FILE.name).exists()
    return str(failed.value)


def test_one_request_for_the_whole_file(tmp_path: Path, mirror: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
    path = download(tmp_path / "new" / "folder", mirror)
    assert path == tmp_path / "new" / "folder" / "images.gz"
    assert path.read_bytes() == CONTENT
    assert mirror.requests == [("/data/images.gz", None)]
    assert [entry.name for entry in path.parent.iterdir()] == ["images.gz"]
    # no terminal, so a plain line and no bar
    assert capsys.readouterr().err == f"downloading {mirror.url}images.gz (0.0 MB)\n"


def test_the_slash_after_a_mirror_may_be_left_out(tmp_path: Path, mirror: Mirror) -> None:
    download(tmp_path, mirror.url.rstrip("/"))
    assert mirror.requests == [("/data/images.gz", None)]


def test_a_finished_download_is_not_asked_for_again(tmp_path: Path, mirror: Mirror) -> None:
    download(tmp_path, mirror)
    download(tmp_path, mirror)
    assert len(mirror.requests) == 1


def test_a_changed_download_is_fetched_again(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "images.gz").write_bytes(b"damaged")
    assert download(tmp_path, mirror).read_bytes() == CONTENT


def test_an_earlier_part_is_continued(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "images.gz.part").write_bytes(CONTENT[:1000])
    assert download(tmp_path, mirror).read_bytes() == CONTENT
    assert mirror.requests == [("/data/images.gz", "bytes=1000-")]


def test_a_whole_part_needs_no_request(tmp_path: Path, mirror: Mirror) -> None:
    """Killed between the last byte and the renaming."""
    (tmp_path / "images.gz.part").write_bytes(CONTENT)
    assert download(tmp_path, mirror).read_bytes() == CONTENT
    assert mirror.requests == []


def test_a_broken_off_body_is_resumed(tmp_path: Path, mirror: Mirror) -> None:
    mirror.plan = ["breaks off", "breaks off"]
    assert download(tmp_path, mirror).read_bytes() == CONTENT
    assert [asked for _, asked in mirror.requests] == [None, "bytes=5120-", "bytes=7680-"]


def test_what_keeps_breaking_off_fails_and_is_continued_by_the_next_command(tmp_path: Path, mirror: Mirror) -> None:
    mirror.plan = ["breaks off"] * 3
    assert "broke off" in failure(tmp_path, mirror)
    assert len(mirror.requests) == 3
    assert download(tmp_path, mirror).read_bytes() == CONTENT
    assert mirror.requests[3][1] == "bytes=8960-"


def test_a_server_that_ignores_the_range_starts_from_zero(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "images.gz.part").write_bytes(CONTENT[:1000])
    mirror.plan = ["ignores range"]
    path = fetch([FILE], [mirror.url], tmp_path, pauses_s=())[FILE.name]  # at the first attempt
    assert path.read_bytes() == CONTENT
    assert len(mirror.requests) == 1


def test_a_part_beyond_the_end_is_thrown_away(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "images.gz.part").write_bytes(CONTENT + b"too long")
    assert download(tmp_path, mirror).read_bytes() == CONTENT
    assert [asked for _, asked in mirror.requests] == ["bytes=10248-", None]


def test_a_wrong_part_is_blamed_before_the_mirror(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "images.gz.part").write_bytes(b"of another file")
    assert download(tmp_path, mirror).read_bytes() == CONTENT
    assert [asked for _, asked in mirror.requests] == ["bytes=15-", None]


def test_a_wrong_checksum_goes_on_to_the_next_mirror(tmp_path: Path, mirror: Mirror, second: Mirror) -> None:
    mirror.plan = ["wrong"]
    assert download(tmp_path, mirror, second).read_bytes() == CONTENT
    assert (len(mirror.requests), second.requests) == (1, [("/data/images.gz", None)])


def test_a_wrong_checksum_everywhere_names_expected_and_got(tmp_path: Path, mirror: Mirror) -> None:
    mirror.plan = ["wrong"]
    got = hashlib.md5(CONTENT[:-1] + b"?", usedforsecurity=False).hexdigest()
    assert failure(tmp_path, mirror) == (
        f"images.gz could not be downloaded: {mirror.url}images.gz: gave 10,240 bytes with md5 {got}, "
        f"expected {FILE.md5} of 10,240 bytes; where there is no network, fetch it elsewhere and give source=DIR"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_which_sha256_is_listed(tmp_path: Path, mirror: Mirror) -> None:
    file = File("images.gz", sha256=hashlib.sha256(CONTENT).hexdigest())
    mirror.plan = ["wrong"]
    with pytest.raises(DownloadFailed, match=f"gave 10,240 bytes with sha256 [0-9a-f]{{64}}, expected {file.sha256};"):
        fetch([file], [mirror.url], tmp_path, NO_PAUSES)
    for _ in range(2):  # the second time it is there
        assert fetch([file], [mirror.url], tmp_path, NO_PAUSES)["images.gz"].read_bytes() == CONTENT
    assert len(mirror.requests) == 2


def test_not_found_goes_on_to_the_next_mirror_at_once(tmp_path: Path, mirror: Mirror, second: Mirror) -> None:
    mirror.plan = ["404"]
    assert download(tmp_path, mirror, second).read_bytes() == CONTENT
    assert len(mirror.requests) == 1


@pytest.mark.parametrize("status", ["500", "503", "429"])
def test_a_busy_server_is_asked_again(tmp_path: Path, mirror: Mirror, status: str) -> None:
    mirror.plan = [status, status]
    assert download(tmp_path, mirror).read_bytes() == CONTENT
    assert len(mirror.requests) == 3


def test_every_mirrors_reason_is_told(tmp_path: Path, mirror: Mirror) -> None:
    mirror.plan = ["503"] * 3 + ["404"]
    text = failure(tmp_path, mirror, "http://127.0.0.1:9/gone", mirror.url + "other")
    assert f"{mirror.url}images.gz: HTTP 503 Service Unavailable; " in text
    assert "http://127.0.0.1:9/gone/images.gz: cannot be reached: Connection refused; " in text
    assert f"{mirror.url}other/images.gz: HTTP 404 Not Found; where there is no network" in text


def test_the_first_file_that_fails_ends_it(tmp_path: Path, mirror: Mirror) -> None:
    mirror.plan = ["404"]
    with pytest.raises(DownloadFailed, match=r"images\.gz could not be downloaded"):
        fetch([FILE, File("labels.gz", FILE.md5)], [mirror.url], tmp_path, NO_PAUSES)
    assert len(mirror.requests) == 1
