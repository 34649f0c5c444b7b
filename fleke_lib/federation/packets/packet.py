"""The packet: what a client publishes about one fact. It holds vectors and two or three keyed tags, never text.

To edit a layer only the fact's parts of S and T are needed. Instead of all keys the packet therefore carries the mean
key m and the first few principal axes of the remainder. Their number and precision are its `Compression`
(`federation.packets.compression`).

The binary form is one safetensors file with one metadata entry. Its encoding is canonical: the same packet always has
the same bytes, and its id is their SHA-256. Reading it executes no code.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.federation.packets.compression import PRECISIONS, Compression, decode, encode, split, stored_type
from fleke_lib.mkv.mkv import Mkv

FORMAT = "fleke-packet-1"
VECTORS = {"z": 1, "h": 1, "shares": 2, "means": 2, "rests": 3}  # tensor: dimensions, (layers, axes, width) at most
ABOUT = ("answer", "client", "fingerprint", "format", "layers", "question", "slot", "target")


@dataclass(frozen=True, eq=False)
class Packet:
    """A packet as its receiver sees it; `pack` makes one, `Packet.read` reads one.

    data: the bytes that are sent. id: their SHA-256, in hexadecimal.
    client: a pseudonym. slot: when it was published. question, answer, target: tags; target may be "".
    z, h: the MKV and the state that it replaces, `(d_model,)`.
    shares: the fact's share r_l, `(d_model,)` per layer.
    means: the mean key m, `(d_mlp,)` per layer.
    rests: the low-rank spread around the mean key, axes d_j as rows, `(axes, d_mlp)` per layer. The name is also that
        of a tensor in the packet's bytes, so it is part of the format.
    """

    data: bytes = field(repr=False)
    id: str
    fingerprint: str
    client: str
    slot: int
    question: str
    answer: str
    target: str
    z: Float[Tensor, " d_model"] = field(repr=False)
    h: Float[Tensor, " d_model"] = field(repr=False)
    shares: dict[int, Float[Tensor, " d_model"]] = field(repr=False)
    means: dict[int, Float[Tensor, " d_mlp"]] = field(repr=False)
    rests: dict[int, Float[Tensor, "axes d_mlp"]] = field(repr=False)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.shares))

    @property
    def residual(self) -> Float[Tensor, " d_model"]:
        """r = z - h."""
        return self.z - self.h

    @cached_property
    def content(self) -> tuple[str, str, str]:
        """What is said about the fact, whoever published it and when: two tags, and SHA-256 of all vectors as sent.

        Sums and choices that depend on an order use the order of this. An id also depends on the publisher.
        """
        vectors = memoryview(self.data)[8 + int.from_bytes(self.data[:8], "little") :]
        return self.question, self.answer, hashlib.sha256(vectors).hexdigest()

    def rows(self, layer: int) -> Float[Tensor, "rows d_mlp"]:
        """Rows X such that X^T X approximates the fact's part of S: the mean key, then the axes; in float64."""
        return torch.cat([self.means[layer][None], self.rests[layer]]).double()

    def mean(self, layer: int) -> Float[Tensor, " d_mlp"]:
        return self.means[layer].double()

    @classmethod
    def read(cls, data: bytes) -> "Packet":
        """Read a packet from its bytes.

        Raises:
            ValueError: these are not the bytes of a packet, or not in the canonical encoding of `pack`.
        """
        tensors, about = _parse(data)
        layers, plain = about["layers"], {name: decode(tensors, name) for name in VECTORS}
        by_layer = {name: dict(zip(layers, plain[name], strict=True)) for name in ("shares", "means", "rests")}
        named = {name: about[name] for name in ABOUT if name not in ("format", "layers")}
        return cls(data, hashlib.sha256(data).hexdigest(), z=plain["z"], h=plain["h"], **by_layer, **named)

    def sizes(self) -> dict[str, int]:
        """Bytes of each tensor with its scales; "head" is everything that is not a vector."""
        tensors, _ = _parse(self.data)
        parts = {
            name: sum(t.numel() * t.element_size() for key, t in tensors.items() if key.partition(".")[0] == name)
            for name in VECTORS
        }
        return {**parts, "head": len(self.data) - sum(parts.values())}


def pack(
    path: Trajectory, mkv: Mkv, client: str, slot: int, tags: Mapping[str, str], compression: Compression | None = None
) -> Packet:
    """Make the packet of one fact.

    Args:
        path: the fact's trajectory.
        mkv: its MKV; z and h are used.
        client: a pseudonym.
        slot: when it is published, from 0.
        tags: keyed tags, 64 hexadecimal digits each: "question", "answer" and optionally "target".
        compression: mean keys and one axis in 8 bits by default, the smallest packet that kept score and top-1 of many
            facts (see chapter 03 and the README).

    Raises:
        ValueError: the pseudonym, the slot or a tag has not the form that a packet requires, or a vector is not finite.
    """
    compression = compression or Compression()
    given = {"z": [mkv.z], "h": [mkv.h]}
    given |= {name: [*getattr(path, name).values()] for name in ("shares", "keys", "bystanders")}
    if bad := [name for name, some in given.items() if not all(vector.isfinite().all() for vector in some)]:
        raise ValueError(
            f"the {bad[0]} of this fact have entries that are not finite numbers: compute its MKV and trajectory again."
        )
    parts = {layer: split(path, layer, compression.axes) for layer in path.layers}
    vectors = {
        "z": mkv.z,
        "h": mkv.h,
        "shares": torch.stack([path.shares[layer] for layer in path.layers]),
        "means": torch.stack([mean for mean, _ in parts.values()]),
        "rests": torch.stack([rest for _, rest in parts.values()]),
    }
    about = {"client": client, "slot": slot, "fingerprint": path.fingerprint, "layers": list(path.layers)}
    about |= {"format": FORMAT, "target": "", **tags}
    encoded = {
        key: t for name, vector in vectors.items() for key, t in encode(name, vector, compression.precision).items()
    }
    return Packet.read(_write(encoded, about))


def _write(tensors: Mapping[str, Tensor], about: Mapping) -> bytes:
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save(whole, metadata={"about": json.dumps(about, sort_keys=True)})


def _parse(data: bytes) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the head of a packet. Only the form is checked here; the registry checks the numbers."""
    try:
        tensors = load(data)
        head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(head["__metadata__"]["about"])
        fault = _fault(tensors, about)
    except (SafetensorError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"these {len(data)} bytes are not a packet ({error}): send what `pack` made.") from None
    if fault or _write(tensors, about) != data:
        raise ValueError(f"this packet {fault or 'is not written as `pack` writes'}: send what `pack` made.")
    return tensors, about


def _fault(tensors: Mapping[str, Tensor], about: Mapping) -> str:
    """What is wrong with the form of a packet, or an empty string."""
    if about.get("format") != FORMAT:
        return f"has the format {str(about.get('format'))[:20]!r} instead of {FORMAT!r}"
    if sorted(about) != sorted(ABOUT):
        return f"must say {', '.join(ABOUT)} and nothing else"
    layers, slot = about["layers"], about["slot"]
    if not layers or any(type(layer) is not int for layer in layers) or sorted(set(layers)) != layers:
        return "does not list its layers as increasing numbers"
    if type(slot) is not int or slot < 0:
        return "does not give its slot as a number from 0"
    for name in ("answer", "client", "fingerprint", "question", "target"):
        if type(about[name]) is not str or len(about[name]) > 64 or (not about[name] and name != "target"):
            return f"has no {name} of 1 to 64 characters"
    for name in ("answer", "question", "target"):
        if not re.fullmatch("[0-9a-f]{64}", about[name] or "0" * 64):
            return f"has something else than a keyed tag as its {name}"
    return _fault_of_vectors(tensors, len(layers))


def _fault_of_vectors(tensors: Mapping[str, Tensor], layers: int) -> str:
    kinds = {name: tensors[name].dtype for name in VECTORS}
    precisions = [p for p in PRECISIONS if kinds == {name: stored_type(name, p) for name in VECTORS}]
    scaled = [name for name, kind in kinds.items() if kind == torch.int8]
    if not precisions or set(tensors) != {*VECTORS, *(f"{name}.scale" for name in scaled)}:
        return f"does not hold {', '.join(VECTORS)} in one precision"
    for name, axes in VECTORS.items():
        shape = tensors[name].shape
        if len(shape) != axes or (axes > 1 and shape[0] != layers):
            return f"has {name} of shape {tuple(shape)} for {layers} layers"
        if name in scaled:
            scale = tensors[f"{name}.scale"]
            if scale.dtype != torch.float32 or scale.shape != (*shape[:-1], 1):
                return f"has no float32 scale for every vector of {name}"
    d_model, d_mlp = tensors["z"].shape[0], tensors["means"].shape[1]
    if tensors["h"].shape[0] != d_model or tensors["shares"].shape[1] != d_model or tensors["rests"].shape[2] != d_mlp:
        return "has vectors of different widths"
    return ""
