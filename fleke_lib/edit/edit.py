"""Edit: a change of a model's weights as data, to apply, remove, save, load and export to other libraries."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fleke_lib.model.language_model import LanguageModel
from fleke_lib.ridge.solve import LowRank
from fleke_lib.storage.files import half_made, user_path

FORMAT = "fleke-edit-1"


@dataclass(frozen=True, eq=False)
class Edit:
    """Low-rank changes of some layers' MLP output projections.

    changes: `{layer: LowRank}`; the weight of layer l becomes `W + left @ right`, `(d_model, d_mlp)`.
    fingerprint: of the model on which the edit was computed: of all its weights, with the edits applied then.
    method: the name of the method; notes: further information as text, stored with the edit.
    """

    changes: dict[int, LowRank]
    fingerprint: str
    method: str = ""
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError if a change has entries that are not finite."""
        for layer, change in self.changes.items():
            if not change.is_finite():
                raise ValueError(
                    f"the change of layer {layer} has entries that are not finite numbers: compute the edit again from "
                    "finite moments, MKVs and weights."
                )

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.changes))

    def delta(self, layer: int) -> Float[Tensor, "d_model d_mlp"]:
        """dW of a layer, `left @ right`."""
        return self.changes[layer].dense()

    def apply(self, lm: LanguageModel) -> "Applied":
        """Add the edit to the model's weights. `edit.remove(lm)`, or `remove()` of the result, undoes it bit for bit.

        If it is interrupted, all weights are restored.

        Raises:
            ValueError: the edit was computed on another model (see `check`), its factors have other shapes than the
                weights, or the edited weights would not be finite in the model's precision.
        """
        self.check(lm)
        originals = {layer: lm.weight(layer).detach().clone() for layer in self.layers}
        applied = Applied(self, lm, originals)
        try:
            lm.edits.append(applied)
            with torch.no_grad():
                for layer in self.layers:
                    weight = lm.weight(layer)
                    edited = (weight.double() + self.delta(layer).to(weight.device).double()).to(weight.dtype)
                    if not edited.isfinite().all():
                        raise ValueError(
                            f"the edited weights of layer {layer} would not be finite in {weight.dtype}: compute the "
                            "edit again, or load the model in a wider type."
                        )
                    weight.copy_(edited)
        except BaseException:  # also Ctrl-C between two layers: apply to all layers or to none
            if lm.edits and lm.edits[-1] is applied:
                self.remove(lm)
            raise
        return applied

    def remove(self, lm: LanguageModel) -> None:
        """Remove the edit; the weights are restored bit for bit.

        If it is interrupted, the edit stays in `lm.edits`, and `remove` or `lm.edits[-1].remove()` can be called again.

        Raises:
            ValueError: the edit is not the one that was applied last.
        """
        if not lm.edits or lm.edits[-1].edit is not self:
            raise ValueError("this edit is not the last one applied to the model: remove edits in the reverse order.")
        with torch.no_grad():
            for layer, original in lm.edits[-1].originals.items():
                lm.weight(layer).copy_(original)
        lm.edits.pop()  # last, so that an interrupted removal can be repeated

    @contextmanager
    def applied(self, lm: LanguageModel) -> Iterator[LanguageModel]:
        """Apply the edit for the length of a `with` block; yields the model. Raises ValueError as `apply`."""
        self.apply(lm)
        try:
            yield lm
        finally:
            self.remove(lm)

    def check(self, lm: LanguageModel) -> None:
        """Raises ValueError if the edit was computed on another model, or its factors have the wrong shapes.

        The model that it was computed on is the base model, or the model with the edits that are applied now.
        """
        if not self._of_base(lm) and not (lm.edits and self.fingerprint == lm.fingerprint(self.layers)):
            raise ValueError(
                f"this edit was computed on another model than {lm.name}, or on this one with other edits applied than "
                "now (the fingerprints differ): load the model and apply the edits that it was computed on, or compute "
                "the edit again."
            )
        for layer, change in self.changes.items():
            shapes = tuple(change.left.shape), tuple(change.right.shape)
            if shapes != ((lm.d_model, change.rank), (change.rank, lm.d_mlp)):
                raise ValueError(
                    f"the factors of layer {layer} have the shapes {shapes[0]} and {shapes[1]}, but the weight has "
                    f"{(lm.d_model, lm.d_mlp)}: compute the edit again."
                )

    def _of_base(self, lm: LanguageModel) -> bool:
        return self.fingerprint == lm.fingerprint(self.layers, base=True)

    def save(self, path: str | Path) -> Path:
        """Write the edit as one safetensors file."""
        tensors = {
            f"{layer}.{side}": getattr(change, side).contiguous()
            for layer, change in self.changes.items()
            for side in ("left", "right")
        }
        about = {"format": FORMAT, "fingerprint": self.fingerprint, "method": self.method}
        path = user_path(path)
        with half_made(path) as half:
            save_file(tensors, half, metadata={**about, "notes": json.dumps(self.notes)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Edit":
        """Read an edit that `save` wrote.

        Raises:
            ValueError: the file is not such an edit, or the edit is not finite.
        """
        try:
            with safe_open(user_path(path), "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a whole safetensors file ({error}): give one that Edit.save wrote."
            ) from None
        if about.get("format") != FORMAT:
            raise ValueError(f"{path} is not an edit of this library: give a file that Edit.save wrote.")
        layers = sorted({int(name.partition(".")[0]) for name in tensors})
        changes = {layer: LowRank(tensors[f"{layer}.left"], tensors[f"{layer}.right"]) for layer in layers}
        try:
            return cls(changes, about["fingerprint"], about["method"], json.loads(about["notes"]))
        except ValueError as error:
            raise ValueError(f"{path} holds no usable edit, since {error}") from None

    def to_peft(self, lm: LanguageModel, folder: str | Path) -> Path:
        """Write the edit as a LoRA adapter that `peft` loads on the untouched base model.

        LoRA adds `scale * B A` to a weight; here B is `left`, A is `right` and the scale is one. The factors are saved
        in float32. Returns the folder.
        """
        from peft import LoraConfig  # takes longer to import than the rest of the library

        self.check(lm)
        if not self._of_base(lm):
            raise ValueError(
                f"this edit was computed on {lm.name} with edits applied, but an adapter belongs to the base model: "
                "compute the edit on the base model."
            )
        names = {layer: _module_name(lm, layer) for layer in self.layers}
        ranks = {names[layer]: self.changes[layer].rank for layer in self.layers}
        widest = max(ranks.values())
        config = LoraConfig(
            task_type="CAUSAL_LM",
            base_model_name_or_path=lm.name,
            target_modules=list(ranks),
            r=widest,
            lora_alpha=widest,
            rank_pattern=ranks,
            alpha_pattern=ranks,
            fan_in_fan_out=not isinstance(lm.projection(self.layers[0]), nn.Linear),
            inference_mode=True,
        )
        tensors = {}
        for layer, name in names.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = self.changes[layer].right.float().contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = self.changes[layer].left.float().contiguous()
        folder = user_path(folder)
        with half_made(folder) as half:
            config.save_pretrained(half)
            save_file(tensors, half / "adapter_model.safetensors")
        return folder

    def __repr__(self) -> str:
        ranks = sorted({change.rank for change in self.changes.values()})
        size = sum(change.left.numel() + change.right.numel() for change in self.changes.values()) * 4 / 1e6
        return f"Edit({self.method or 'unnamed'}, layers {[*self.layers]}, rank {ranks}, {size:.1f} MB in float32)"


@dataclass(frozen=True, eq=False)
class Applied:
    """An edit that is applied to a model now, with the weights from before."""

    edit: Edit
    lm: LanguageModel
    originals: dict[int, Float[Tensor, "d_model d_mlp"]]

    def remove(self) -> None:
        """Remove the edit from the model, as `Edit.remove`."""
        self.edit.remove(self.lm)


def _module_name(lm: LanguageModel, layer: int) -> str:
    return next(name for name, module in lm.model.named_modules() if module is lm.projection(layer))
