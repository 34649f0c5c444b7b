"""Second moments C = E[k k^T] of the keys k, `(d_mlp,)`, that ordinary text produces at a layer.

In every solve, C penalises changes of the layer's output for ordinary keys. It is measured on text that the default
model generated (data/sample_text.jsonl); according to FastMEMIT (arXiv 2506.04226), 2 to 10 x d_mlp tokens suffice. A
measured C is stored in the user's cache under a digest of the text and of all weights that the keys depend on.

Texts are read in windows. If the tokenizer puts a beginning-of-sequence token before a text, each window begins with
it, because models are trained with it and other keys differ without it. Its own key counts as any other: MEMIT's public
code (`rome/layer_stats.py`) also averages over all tokens of the tokenizer's output. The token is an attention sink,
and its key may be far longer than others. But it is the same in every text, so it adds one direction to C, in which an
edit should change nothing: all later tokens attend to this token. Where a tokenizer adds none, the first token of a
window is such a sink, and counts as well.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from fleke_lib.model.activations import layer_calls, record
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.tokens import beginning, context_length, filler, listed, pad
from fleke_lib.storage.files import DATA, cache, half_made, part_of_repository, user_path

Moments = Mapping[int, Float[Tensor, "d_mlp d_mlp"]]  # C of each layer

SAMPLE_TEXT = DATA / "sample_text.jsonl"
WINDOW, BATCH = 128, 16  # tokens a row, rows a pass
UNRELATED = ("_name_or_path", "transformers_version", "architectures")  # configuration entries that no key depends on


def second_moments(
    lm: LanguageModel,
    layers: Sequence[int] | None = None,
    texts: Sequence[str] | None = None,
    tokens: int | None = None,
    *,
    folder: Path | None = None,
) -> dict[int, Float[Tensor, "d_mlp d_mlp"]]:
    """C of each layer in float64, averaged over the first `tokens` tokens of `texts`.

    Args:
        layers: the preset's edit layers by default.
        texts: documents; the shipped sample text by default.
        tokens: number of tokens to read; all by default.
        folder: where results are stored; `moments` in the user's cache by default.

    Raises:
        ValueError: the text has fewer tokens than requested, `texts` is one text instead of a list, the model has no
            such layer, or C is not finite.
    """
    layers = tuple(lm.check_layer(layer) for layer in (lm.preset.layers if layers is None else layers))
    windows = _windows(lm, sample_text() if texts is None else listed(texts, "texts"), tokens)
    folder = user_path(folder or cache() / "moments")
    keys = _keys(lm, layers, windows)
    files = {layer: folder / f"{keys[layer]}.safetensors" for layer in layers}
    found = {layer: _stored(file) for layer, file in files.items()}
    missing = [layer for layer, moment in found.items() if moment is None]
    measured = _measure(lm, missing, windows) if missing else {}
    if bad := [layer for layer, moment in measured.items() if not moment.isfinite().all()]:
        raise ValueError(
            f"the keys of layer {bad[0]} of {lm.name} are not finite numbers on this text: check the model's weights, "
            "or load it in float32."
        )
    for layer, moment in measured.items():
        with half_made(files[layer]) as half:
            save_file({"C": moment}, half)
        found[layer] = moment
    if bad := [files[layer] for layer, moment in found.items() if not moment.isfinite().all()]:
        raise ValueError(f"{bad[0]} holds moments that are not finite numbers: delete this file and measure again.")
    return found


def moments_for(lm: LanguageModel, layers: Sequence[int], moments: Moments | None) -> Moments:
    """The given moments, after a check, or those of the shipped sample text if `moments` is None.

    Raises:
        ValueError: a layer's C is missing, is not `(d_mlp, d_mlp)` or is not finite.
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
    check_finite(moments, layers)
    return moments


def check_finite(moments: Moments, layers: Sequence[int]) -> None:
    """Raises ValueError if C of one of these layers has entries that are not finite."""
    if bad := [layer for layer in layers if not moments[layer].isfinite().all()]:
        raise ValueError(
            f"moments[{bad[0]}] has entries that are not finite numbers: measure the moments again with second_moments."
        )


def sample_text() -> tuple[str, ...]:
    """The shipped documents, generated by the default model with data/make_sample_text.py.

    Raises:
        FileNotFoundError: the file is missing, in an installation or in a checkout.
    """
    text = part_of_repository(SAMPLE_TEXT).read_text(encoding="utf-8")
    return tuple(json.loads(line)["text"] for line in text.splitlines())


def _stored(file: Path) -> Tensor | None:
    """The C in a file; None if there is no file, or if it is not whole: it is then measured again."""
    try:
        return load_file(file)["C"]
    except (FileNotFoundError, SafetensorError, KeyError):
        return None


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
    """Token ids of the texts, cut into windows of at most WINDOW tokens; `tokens` tokens in total.

    Every window begins with the tokens that the tokenizer puts before a text; they count as tokens.
    """
    windows, left = [], float("inf") if tokens is None else tokens
    first = beginning(lm.tokenizer)
    width = min(WINDOW, context_length(lm))
    step = max(1, width - len(first))
    for text in texts:
        ids = lm.tokenizer(text).input_ids[len(first) :]
        for i in range(0, len(ids), step):
            if left > 0:
                windows.append([*first, *ids[i : i + step]][: int(min(left, width))])
                left -= len(windows[-1])
    if tokens is not None and left > 0:
        raise ValueError(f"the text has {int(tokens - left)} tokens, but tokens is {tokens}: give more text.")
    return windows


def _keys(lm: LanguageModel, layers: Sequence[int], windows: list[list[int]]) -> dict[int, str]:
    """For each layer, the SHA-256 of the text, the configuration and all weights that its keys depend on.

    These are all weights outside the layers (embeddings among them), every layer below, and the layer's own weights
    except its MLP projection. All digests are computed in one pass.
    """
    config = {name: value for name, value in lm.config.to_dict().items() if name not in UNRELATED}
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
