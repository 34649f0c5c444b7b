"""Download a published file by its URL: interrupted downloads resume, and only a verified file gets its final name.

The bytes go into `<name>.part` beside the destination. A download that the network or Ctrl-C interrupts resumes where
it stopped (HTTP `Range`). Size and SHA-256 are checked first; then one atomic rename (`os.replace`) gives the file its
name. A file under its final name is therefore complete.
"""

import hashlib
import os
import re
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm.auto import tqdm

from fleke_lib.storage.files import user_path

CHUNK = 1 << 16  # bytes


class DownloadError(OSError):
    """A file could not be downloaded, or the file found is not the published one; the message gives the remedy."""


def download(
    url: str,
    path: str | Path,
    size: int | None = None,
    sha256: str | None = None,
    *,
    attempts: int = 3,
    timeout: float = 30.0,
) -> Path:
    """Download `url` to `path` unless the file exists already, verify it, and return `path`.

    A file that already exists at `path` is verified in the same way, whether an earlier run or the user put it there.

    Args:
        size: length of the published file in bytes; None skips this check.
        sha256: its SHA-256 in hexadecimal; None skips this check.
        attempts: most connections to open. A connection that is closed early is followed by the next one.
        timeout: seconds of silence after which a connection counts as closed.

    Raises:
        DownloadError: the file could not be downloaded, or its bytes are not the published ones. Downloaded bytes that
            are wrong are deleted; a file that was there before is not.
    """
    path = user_path(path)
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
        if resumed:  # the earlier bytes may belong to another version of the file
            return download(url, path, size, sha256, attempts=attempts, timeout=timeout)
        raise DownloadError(
            f"{url} did not send the published file ({fault}), so nothing was kept: get the file elsewhere "
            f"and put it at {path}."
        )
    os.replace(part, path)
    return path


def _fetch_all(url: str, part: Path, size: int | None, attempts: int, timeout: float) -> None:
    """Download `part` completely, over at most `attempts` connections."""
    for left in reversed(range(attempts)):
        try:
            return _fetch(url, part, size, timeout)
        except (OSError, HTTPException) as error:
            if isinstance(error, URLError) or not left:  # URLError: no connection at all, or no such file
                raise


def _fetch(url: str, part: Path, size: int | None, timeout: float) -> None:
    """Append the missing bytes to `part` over one connection. Raises OSError or HTTPException if it closes early."""
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have == size:
        return
    headers = {"User-Agent": "fleke"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code != 416 or not have:  # 416: the server has no bytes beyond those in `part`
            raise
        if _total(error.headers.get("Content-Range")) == have:
            return
        part.unlink()  # longer than the published file: these are another file's bytes
        return _fetch(url, part, size, timeout)
    with response:
        if response.status != 206:  # the server ignores Range and sends the whole file
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
    """The file's total length from a Content-Range header, such as `bytes 100-199/200` or `bytes */200`."""
    match = re.search(r"/(\d+)$", content_range or "")
    return int(match[1]) if match else None


def _fault(path: Path, size: int | None, sha256: str | None) -> str:
    """How the file differs from the published one; empty if it does not."""
    if size is not None and (found := path.stat().st_size) != size:
        return f"{found:,} bytes instead of {size:,}"
    if sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            return f"SHA-256 {found} instead of {sha256}"
    return ""
