"""Fetching the publishers' files: a broken download is resumed, and where a mirror fails, the next one is asked.

The checksum alone decides: a file that has the publisher's is complete, wherever its bytes came from.
"""

import http.client
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from common.data.publishers.checksums import File
from common.files import checksum_of

TIMEOUT_S = 30.0
PAUSES_S = (1.0, 4.0)  # before the second and the third attempt at one mirror
CHUNK = 1 << 18  # bytes


class DownloadFailed(Exception):
    """No mirror gave the file: the network is to blame, not what the user asked for."""


class _Broken(Exception):
    """The same mirror is worth another attempt."""


class _Refusing(Exception):
    """The same mirror is not worth another attempt."""


def fetch(
    files: Sequence[File], mirrors: Sequence[str], folder: Path, pauses_s: Sequence[float] = PAUSES_S
) -> dict[str, Path]:
    """Map the name of every file to its complete copy; DownloadFailed at the first that no mirror gives."""
    return {file.name: _fetch_one(file, mirrors, folder, pauses_s) for file in files}


def _fetch_one(file: File, mirrors: Sequence[str], folder: Path, pauses_s: Sequence[float]) -> Path:
    target = folder / file.name
    part = folder / f"{file.name}.part"
    if target.is_file() and checksum_of(target, file.algorithm) == file.checksum:
        return target

    # A mirror goes on with what another one has left in `part`: the bytes are the same.
    reasons = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{file.name}"
        try:
            _from_mirror(url, file, part, pauses_s)
        except (_Broken, _Refusing) as reason:
            reasons.append(f"{url}: {reason}")
            continue
        part.replace(target)
        return target

    raise DownloadFailed(
        f"{file.name} could not be downloaded: {'; '.join(reasons)}; "
        "where there is no network, fetch it elsewhere and give source=DIR"
    )


def _from_mirror(url: str, file: File, part: Path, pauses_s: Sequence[float]) -> None:
    """Leave the complete file at `part`, or raise why this mirror cannot give it."""
    for pause_s in [*pauses_s, None]:  # None: the last attempt
        resumed = part.exists()
        if resumed and checksum_of(part, file.algorithm) == file.checksum:
            return

        try:
            _continue(url, file, part)
            _check(file, part)
        except _Broken:
            if pause_s is None:
                raise
            time.sleep(pause_s)
        except _Refusing:
            # A wrong checksum may be the fault of what an earlier attempt had left; _check has then removed it.
            thrown_away = resumed and not part.exists()
            if not thrown_away or pause_s is None:
                raise
        else:
            return


def _check(file: File, part: Path) -> None:
    checksum = checksum_of(part, file.algorithm)
    if checksum == file.checksum:
        return
    size = part.stat().st_size
    part.unlink()
    expected_size = f" of {file.size:,} bytes" if file.size else ""
    raise _Refusing(f"gave {size:,} bytes with {file.algorithm} {checksum}, expected {file.checksum}{expected_size}")


def _continue(url: str, file: File, part: Path) -> None:
    """Append what is missing of the file to `part`, or raise what kept the server from giving it."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 - the words allow http(s) only
            # A server may ignore the range and send the whole file; then what is there is written over.
            resumes = response.status == http.HTTPStatus.PARTIAL_CONTENT
            start = start if resumes else 0
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdigit() else file.size

            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab" if resumes else "wb") as out:
                _copy(response, out.write, file.name, start, total)
    except urllib.error.HTTPError as error:
        with error:
            _explain(error, part)
    except urllib.error.URLError as error:
        raise _Refusing(f"cannot be reached: {getattr(error.reason, 'strerror', None) or error.reason}") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _Broken(f"broke off: {error or type(error).__name__}") from None

    # A connection that ends early is not always reported as an error.
    if total is not None and part.stat().st_size < total:
        raise _Broken(f"broke off after {part.stat().st_size:,} of {total:,} bytes")


def _explain(error: urllib.error.HTTPError, part: Path) -> None:
    """Raise _Broken or _Refusing for an answer of the server that is an error."""
    reason = f"HTTP {error.code} {error.reason}"
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.unlink(missing_ok=True)
        raise _Broken(reason)
    if error.code == http.HTTPStatus.TOO_MANY_REQUESTS or error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _Broken(reason)
    raise _Refusing(reason)


def _copy(
    response: http.client.HTTPResponse, write: Callable[[bytes], int], name: str, start: int, total: int | None
) -> None:
    """Copy with a bar on a terminal, and one line elsewhere: the log of a batch job is no place for a bar."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        size = f" ({total / 1e6:.1f} MB)" if total else ""
        print(f"downloading {response.url}{size}", file=sys.stderr)
    with tqdm(desc=name, initial=start, total=total, unit="B", unit_scale=True, disable=None) as bar:
        while chunk := response.read(CHUNK):
            write(chunk)
            bar.update(len(chunk))
