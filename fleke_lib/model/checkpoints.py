"""Reading a model's files: configuration, weights and tokenizer, from a folder, a hub name or a GGUF file.

Where a file lacks weights, transformers logs a line, draws them at random and goes on. Here that is an error, and every
error is one sentence.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError

from fleke_lib.model import shipped

SOURCES = (
    f"give {shipped.NAME!r}, a name on the hub (which needs the network once), a folder written by save_pretrained, or "
    "a GGUF file"
)


def read_checkpoint(
    name: str, dtype: torch.dtype, check_family: Callable[[str], object]
) -> "tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]":
    """The model and the tokenizer behind a name as `load_model` takes it, with `~` expanded.

    Args:
        check_family: called with the model type before gigabytes of weights are read; it may raise.

    Raises:
        ValueError: there is no such model, or a part of it is missing, broken, or not as the configuration says.
    """
    if name.lower().endswith(".gguf"):
        return _read_gguf(Path(name), dtype, check_family)
    folder = shipped.folder() if name == shipped.NAME else name
    known = (OSError, ValueError, SafetensorError)
    with _readable(name, folder, f"could not be read as a model: {SOURCES}", *known):
        config = transformers.AutoConfig.from_pretrained(folder)
    check_family(config.model_type)
    try:
        with _readable(name, folder, "has no whole weights: write or copy them again", *known):
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, output_loading_info=True
            )
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        end = "has weights of other shapes than its config.json says: write or copy both again"
        raise ValueError(_sentence(name, folder, end)) from error
    _check_whole(name, folder, report)
    end = "has no tokenizer that can be read: save it there as well, with save_pretrained"
    with _readable(name, folder, end, *known):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        if len(tokenizer) <= len(tokenizer.added_tokens_decoder):  # of some families where there is no file
            raise ValueError("the tokenizer has no tokens")
    return model, tokenizer


def _read_gguf(
    file: Path, dtype: torch.dtype, check_family: Callable[[str], object]
) -> "tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]":
    """The same from a GGUF file, whose weights are dequantised."""
    name = str(file)
    if not file.is_file():
        raise ValueError(f"there is no file {name!r}: {SOURCES}.")
    end = "could not be read as a GGUF file: download or write it again"
    with _readable(name, file, end, Exception):  # its reader raises errors of many kinds
        config = transformers.AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    check_family(config.model_type)
    with _readable(name, file, end, Exception):
        model, tokenizer, report = shipped.dequantised(file, dtype)
    _check_whole(name, file, report)
    return model, tokenizer


def _check_whole(name: str, place: str | Path, report: dict) -> None:
    """Raises ValueError if weights are missing; weights that are tied to others are not among them."""
    if missing := sorted(report["missing_keys"]):
        names = ", ".join(missing[:2]) + (f" and {len(missing) - 2} more" if len(missing) > 2 else "")
        raise ValueError(_sentence(name, place, f"has no weights for {names}: write or copy them again"))


@contextmanager
def _readable(name: str, place: str | Path, otherwise: str, *errors: type[Exception]) -> Iterator[None]:
    """Raises ValueError with one sentence in place of these errors; `otherwise` is its end."""
    try:
        yield
    except errors as error:
        raise ValueError(_sentence(name, place, otherwise)) from error


def _sentence(name: str, place: str | Path, otherwise: str) -> str:
    if name == shipped.NAME:
        return f"{place}, the default model in the cache, is not whole: delete it and run again."
    return f"{name!r} {otherwise}."
