"""Downloads: resumed, verified, and never incomplete under their final name."""

import hashlib
import re
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from fleke_lib.storage.download import DownloadError, download

BODY = bytes(range(256)) * 2000  # 512,000 bytes
SHA256 = hashlib.sha256(BODY).hexdigest()


class Site(ThreadingHTTPServer):
    """Serves `body` at /file; each connection sends at most the next of `cuts` bytes. Ranges asked for are noted."""

    body, ranges, length = BODY, True, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts, self.asked = [], []
        self.url = f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site, asked = self.server, self.headers.get("Range")
        site.asked.append(asked)
        if self.path != "/file":
            return self.send_error(404)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and site.ranges else 0
        if start and start >= len(site.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(site.body)}")
            return self.end_headers()
        rest = site.body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(site.body) - 1}/{len(site.body)}")
        if site.length:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: site.cuts.pop(0)] if site.cuts else rest)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Site() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "file.json"


def left(path):
    """The names of what lies beside the destination."""
    return sorted(p.name for p in path.parent.iterdir())


def test_a_file_is_fetched_once(site, path):
    assert download(site.url, path, len(BODY), SHA256) == path
    assert path.read_bytes() == BODY and left(path) == ["file.json"]
    download(site.url, str(path), len(BODY), SHA256)
    assert site.asked == [None]


def test_a_cut_connection_is_taken_up_where_it_stopped(site, path):
    site.cuts = [100_000, 50_000]
    download(site.url, path, len(BODY), SHA256)
    assert path.read_bytes() == BODY
    assert site.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_run_resumes(site, path):
    site.cuts = [100_000]
    with pytest.raises(DownloadError, match=r"100,000 of 512,000 bytes") as caught:
        download(site.url, path, attempts=1)
    assert str(path) in str(caught.value) and left(path) == ["file.json.part"]
    download(site.url, path)
    assert path.read_bytes() == BODY and left(path) == ["file.json"]
    assert site.asked == [None, "bytes=100000-"]


def test_without_ranges_the_file_is_fetched_from_its_start(site, path):
    site.ranges, site.cuts = False, [100_000]
    download(site.url, path, len(BODY), SHA256)
    assert path.read_bytes() == BODY and len(site.asked) == 2


def test_a_site_that_does_not_tell_the_length(site, path):
    site.length, site.cuts = False, [100_000]
    download(site.url, path, len(BODY), SHA256)
    assert path.read_bytes() == BODY and site.asked == [None, "bytes=100000-"]


@pytest.mark.parametrize("size", [None, len(BODY)])
def test_a_part_that_is_complete_only_needs_its_name(site, path, size):
    path.parent.mkdir()
    path.with_name("file.json.part").write_bytes(BODY)
    download(site.url, path, size, SHA256)
    assert path.read_bytes() == BODY and left(path) == ["file.json"]
    assert site.asked == ([] if size else ["bytes=512000-"])


@pytest.mark.parametrize("size", [None, len(BODY)])
@pytest.mark.parametrize("stale", [b"x" * 1000, b"x" * len(BODY), b"x" * (len(BODY) + 1)])
def test_a_part_of_another_version_is_not_mixed_in(site, path, stale, size):
    path.parent.mkdir()
    path.with_name("file.json.part").write_bytes(stale)
    download(site.url, path, size, SHA256)
    assert path.read_bytes() == BODY and left(path) == ["file.json"]


@pytest.mark.parametrize(
    ("size", "sha256", "says"),
    [(len(BODY), "0" * 64, SHA256), (len(BODY) + 1, SHA256, "512,001"), (len(BODY) - 1, None, "511,999")],
)
def test_the_wrong_file_is_removed_and_said_to_be_wrong(site, path, size, sha256, says):
    with pytest.raises(DownloadError, match=says) as caught:
        download(site.url, path, size, sha256, attempts=1)
    assert site.url in str(caught.value) and str(path) in str(caught.value)
    assert not path.exists()


def test_a_wrong_file_put_there_by_hand_is_refused_but_kept(site, path):
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(DownloadError, match=r"4 bytes instead of 512,000.*delete it"):
        download(site.url, path, len(BODY), SHA256)
    assert path.read_bytes() == b"mine" and site.asked == []


def test_an_address_without_a_file(site, path):
    with pytest.raises(DownloadError, match="404"):
        download(site.url + "s", path)
    assert len(site.asked) == 1 and left(path) == []


def test_offline_one_sentence_says_where_to_put_the_file(path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/file"
        with pytest.raises(DownloadError) as caught:
            download(url, path)
    message = str(caught.value)
    assert url in message and str(path) in message
    assert message.endswith(".") and "\n" not in message and message.count(". ") == 0
    path.write_bytes(BODY)
    assert download(url, path, len(BODY), SHA256) == path


def test_a_silent_site_is_given_up(path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DownloadError, match="timed out"):
        download(f"http://127.0.0.1:{silent.getsockname()[1]}/file", path, attempts=1, timeout=0.2)
