"""Second moments C = E[k k^T] of the keys of ordinary text: what an edit should leave alone.

C stands in every solve as the memory of all the keys that the layer has served so far. It is measured on text that the
model itself produced (data/sample_text.jsonl); FastMEMIT (arXiv 2506.04226) finds 2 to 10 x d_mlp tokens enough.
Measured once, it is kept in the user's cache under a key that covers the text and every weight that the keys depend on.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from fleke_lib.model.activations import layer_calls, record
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.tokens import filler, pad
from fleke_lib.storage.files import DATA, cache, half_made

Moments = Mapping[int, Float[Tensor, "d_mlp d_mlp"]]  # C of each layer

SAMPLE_TEXT = DATA / "sample_text.jsonl"
WINDOW, BATCH = 128, 16  # tokens a row, rows a pass
UNRELATED = ("_name_or_path", "transformers_version", "architectures")  # what the configuration says but keys ignore


def second_moments(
    lm: LanguageModel,
    layers: Sequence[int] | None = None,
    texts: Sequence[str] | None = None,
    tokens: int | None = None,
    *,
    folder: Path | None = None,
) -> dict[int, Float[Tensor, "d_mlp d_mlp"]]:
    """C of each layer in float64, over the first `tokens` tokens of `texts`.

    Args:
        layers: the preset's edit layers by default.
        texts: documents; the shipped sample text by default.
        tokens: how many tokens to read; all by default.
        folder: where results are kept; the user's cache by default.

    Raises:
        ValueError: there are fewer tokens than asked for.
    """
    layers = tuple(lm.check_layer(layer) for layer in (lm.preset.layers if layers is None else layers))
    windows = _windows(lm, sample_text() if texts is None else texts, tokens)
    folder = folder or cache() / "moments"
    keys = _keys(lm, layers, windows)
    files = {layer: folder / f"{keys[layer]}.safetensors" for layer in layers}
    missing = [layer for layer, file in files.items() if not file.exists()]
    for layer, moment in (_measure(lm, missing, windows) if missing else {}).items():
        with half_made(files[layer]) as half:
            save_file({"C": moment}, half)
    return {layer: load_file(file)["C"] for layer, file in files.items()}


def moments_for(lm: LanguageModel, layers: Sequence[int], moments: Moments | None) -> Moments:
    """The moments given, once it is sure that they fit, or else those of the shipped sample text.

    Raises:
        ValueError: a layer's moment is missing or has another width than the layer's keys.
    """
    if moments is None:
        return second_moments(lm, layers)
    for layer in map(lm.check_layer, layers):
        if layer not in moments:
            raise ValueError(f"moments has layers {sorted(moments)}, but not layer {layer}: measure that one as well.")
        if moments[layer].shape != (lm.d_mlp, lm.d_mlp):
            raise ValueError(
                f"moments[{layer}] has the shape {tuple(moments[layer].shape)}, but the keys of {lm.name} are "
                f"{lm.d_mlp} wide: measure moments on this model."
            )
    return moments


def sample_text() -> tuple[str, ...]:
    """The shipped documents that the default model wrote; data/make_sample_text.py made them."""
    return tuple(json.loads(line)["text"] for line in SAMPLE_TEXT.read_text().splitlines())


@torch.no_grad()
def _measure(lm: LanguageModel, layers: list[int], windows: list[list[int]]) -> dict[int, Tensor]:
    total = {layer: torch.zeros(lm.d_mlp, lm.d_mlp, dtype=torch.float64) for layer in layers}
    modules = {layer: lm.projection(layer) for layer in layers}
    with tqdm(total=sum(map(len, windows)), desc="second moments", unit="token", leave=False) as bar:
        for i in range(0, len(windows), BATCH):
            ids, mask, positions = pad(windows[i : i + BATCH], filler(lm.tokenizer))
            with record(inputs=modules) as keys:
                layer_calls(lm, ids, mask, positions, start=max(layers), stop=min(max(layers) + 1, lm.n_layers))
            for layer in layers:
                k = keys[layer][mask.bool().to(lm.device)].float()
                total[layer] += (k.T @ k).double().cpu()
            bar.update(int(mask.sum()))
    return {layer: moment / sum(map(len, windows)) for layer, moment in total.items()}


def _windows(lm: LanguageModel, texts: Sequence[str], tokens: int | None) -> list[list[int]]:
    """Token ids of the texts in windows of at most WINDOW tokens, `tokens` in all."""
    windows, left = [], float("inf") if tokens is None else tokens
    for text in texts:
        ids = lm.tokenizer(text).input_ids
        for i in range(0, len(ids), WINDOW):
            if left > 0:
                windows.append(ids[i : i + WINDOW][: int(min(left, WINDOW))])
                left -= len(windows[-1])
    if tokens is not None and left > 0:
        raise ValueError(f"the text has {int(tokens - left)} tokens, but tokens is {tokens}: give more text.")
    return windows


def _keys(lm: LanguageModel, layers: Sequence[int], windows: list[list[int]]) -> dict[int, str]:
    """For each layer the SHA-256 over the text, the configuration and all weights that its keys depend on.

    Those are the embeddings (of tokens, and of positions where there are some), every layer below, and the layer's own
    but for its projection; all layers' digests are taken in one pass.
    """
    config = {name: value for name, value in lm.model.config.to_dict().items() if name not in UNRELATED}
    digest = hashlib.sha256(json.dumps([windows, str(lm.model.dtype), config], default=str, sort_keys=True).encode())

    def add(digest, weights):
        for name, weight in weights:
            digest.update(name.encode() + weight.detach().float().cpu().contiguous().numpy().tobytes())

    in_layers = {id(weight) for weight in lm.layers.parameters()}
    add(digest, [(name, weight) for name, weight in lm.body.named_parameters() if id(weight) not in in_layers])
    keys = {}
    for number, layer in enumerate(lm.layers[: max(layers, default=-1) + 1]):
        if number in layers:
            own = digest.copy()
            add(own, [pair for pair in layer.named_parameters() if not pair[0].startswith(lm.arch.projection)])
            keys[number] = own.hexdigest()
        add(digest, layer.named_parameters())
    return keys
