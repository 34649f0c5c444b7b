"""Presets in files: hyperparameters chosen for one model's weights, as `python -m fleke_lib.tune` writes them.

`load_model` finds the file beside the model's own files (`FILE` in its folder), or in the user's cache. It applies to
weights with its digest only. The default model, and others whose weights a built-in preset names, keep that preset.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from fleke_lib.model.presets import AlphaEditHparams, FinetuneHparams, Hparams, NormalisedGradient, Preset, Size
from fleke_lib.storage.files import cache, read_json, user_path, write_json

FORMAT = "fleke-preset-1"
FILE = "fleke-preset.json"
KINDS = {
    "memit": Hparams,
    "rome": Hparams,
    "pmet": Hparams,
    "alphaedit": AlphaEditHparams,
    "finetune": FinetuneHparams,
    "locft_bf": FinetuneHparams,
}


def place_for(name: str, preset: Preset) -> Path:
    """Where `load_model` looks for a model's preset: in its folder, or in the cache under the weights' digest."""
    folder = user_path(name)
    if folder.is_dir():
        return folder / FILE
    return cache() / "presets" / f"{_stem(preset.size)}-{preset.weights[0][:16]}.json"


def write_preset(path: Path, preset: Preset) -> Path:
    """Write a preset, whole or not at all. Raises ValueError if it is not for certain weights of a certain size."""
    if not preset.size or not preset.weights:
        raise ValueError(f"the preset for {preset.model} names no size or no weights: give those it was chosen on.")
    return write_json(path, {"format": FORMAT, **asdict(preset)})


def read_preset(path: Path) -> Preset:
    """The preset in a file. Raises ValueError if `write_preset` did not write it, or a value is out of range."""
    found = read_json(path)
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is not a preset of this library: give what python -m fleke_lib.tune wrote.")
    try:
        methods = {name: found[name] and _hparams(kind, found[name]) for name, kind in KINDS.items()}
        tuples = {name: found[name] and tuple(found[name]) for name in ("contexts", "size", "weights")}
        return Preset(**(found | methods | tuples))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a whole preset ({error}): run python -m fleke_lib.tune again.") from None


def preset_in_file(name: str, size: Size, digest: Callable[[], str]) -> Preset | None:
    """The preset in a file for a model of this name or path, this size and these weights; None if there is none.

    Args:
        digest: returns the digest of the model's weights; called if there is a file for a model of this size.
    """
    files = [*([user_path(name) / FILE] if name else []), *sorted((cache() / "presets").glob(f"{_stem(size)}-*.json"))]
    for preset in (read_preset(file) for file in files if file.is_file()):
        if preset.size == size and digest() in preset.weights:
            return preset
    return None


def _hparams(kind: type, values: dict) -> Hparams | FinetuneHparams:
    own = dict(values)
    if "layers" in own:
        own["layers"] = tuple(own["layers"])
    if own.get("optimiser"):
        own["optimiser"] = NormalisedGradient(**own["optimiser"])
    return kind(**own)


def _stem(size: Size) -> str:
    return "-".join(map(str, size))
