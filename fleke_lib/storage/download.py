"""A published file, by its address: resumed when cut, and only ever in place when it is the right one.

The bytes go into `<name>.part` beside the destination. A run that was cut, by the network or by Ctrl-C, is taken up
again where it stopped (HTTP `Range`). Size and SHA-256 are checked before the file gets its name in one step
(`os.replace`), so that whoever finds the file finds the whole file.
"""

import hashlib
import os
import re
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm.auto import tqdm

CHUNK = 1 << 16  # bytes


class DownloadError(OSError):
    """A file could not be fetched, or what lies there is not the published file; the message says what to do."""


def download(
    url: str,
    path: str | Path,
    size: int | None = None,
    sha256: str | None = None,
    *,
    attempts: int = 3,
    timeout: float = 30.0,
) -> Path:
    """Put the file at `url` into `path`, unless it is there already, and return `path`.

    `size` (bytes) and `sha256` (hexadecimal) are those of the published file; what is None is not checked. A file that
    already lies at `path`, from an earlier run or put there by hand, is checked in the same way. When a connection is
    cut, or silent for `timeout` seconds, the download is resumed, over at most `attempts` connections.

    Raises DownloadError, with one sentence that names the file and the remedy: it could not be fetched, or the bytes
    are not the published ones. Wrong bytes that were fetched are removed; a file that somebody put there is not.
    """
    path = Path(path)
    if path.exists():
        if fault := _fault(path, size, sha256):
            raise DownloadError(f"{path} is not the file published at {url} ({fault}): delete it and run again.")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    resumed = part.exists()
    try:
        _fetch_all(url, part, size, attempts, timeout)
    except (OSError, HTTPException) as error:
        reason = error.reason if type(error) is URLError else error
        raise DownloadError(
            f"{url} could not be fetched ({reason}): run again when connected, or put the file at {path} by hand."
        ) from error
    if fault := _fault(part, size, sha256):
        part.unlink()
        if resumed:  # the earlier bytes may have been those of another version
            return download(url, path, size, sha256, attempts=attempts, timeout=timeout)
        raise DownloadError(
            f"{url} did not send the published file ({fault}), so nothing was kept: get the file elsewhere "
            f"and put it at {path}."
        )
    os.replace(part, path)
    return path


def _fetch_all(url: str, part: Path, size: int | None, attempts: int, timeout: float) -> None:
    """Fill `part` up to its last byte; a connection that is cut is taken up again, until `attempts` were used."""
    for left in reversed(range(attempts)):
        try:
            return _fetch(url, part, size, timeout)
        except (OSError, HTTPException) as error:
            if isinstance(error, URLError) or not left:  # URLError: there was no connection, or no such file
                raise


def _fetch(url: str, part: Path, size: int | None, timeout: float) -> None:
    """One connection: add to `part` what is still missing. Raises OSError or HTTPException when it is cut."""
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have == size:
        return
    headers = {"User-Agent": "fleke"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code != 416 or not have:  # 416: there is nothing after the bytes that we have
            raise
        if _total(error.headers.get("Content-Range")) == have:
            return
        part.unlink()  # longer than the file: it was another one
        return _fetch(url, part, size, timeout)
    with response:
        if response.status != 206:  # the server sends the file from its start
            have, total = 0, response.headers.get("Content-Length")
        else:
            total = _total(response.headers.get("Content-Range"))
        total = size if total is None else int(total)
        _copy(response, part, have, total)
    if total is not None and (now := part.stat().st_size) < total:
        raise ConnectionError(f"the connection was cut after {now:,} of {total:,} bytes")


def _copy(response, part: Path, have: int, total: int | None) -> None:
    """Write the response into `part` after its first `have` bytes, with a progress bar."""
    bar = tqdm(desc=part.stem, initial=have, total=total, unit="B", unit_scale=True)
    with bar, part.open("ab" if have else "wb") as file:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))


def _total(content_range: str | None) -> int | None:
    """The length of the whole file in `bytes 100-199/200` or `bytes */200`."""
    match = re.search(r"/(\d+)$", content_range or "")
    return int(match[1]) if match else None


def _fault(path: Path, size: int | None, sha256: str | None) -> str:
    """What distinguishes the file from the published one; empty when nothing does."""
    if size is not None and (found := path.stat().st_size) != size:
        return f"{found:,} bytes instead of {size:,}"
    if sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            return f"SHA-256 {found} instead of {sha256}"
    return ""
