"""The packet: what a client publishes about one fact. It holds vectors and two or three keyed tags, never text.

To edit a layer only what the fact contributes to the sums is needed. Instead of all keys the packet therefore carries
the mean key, how far it is from the base model's, and the first few principal axes of the spread. Their number and
precision are its `Compression` (`federation.packets.compression`).

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
from fleke_lib.federation.packets.compression import Compression, principal
from fleke_lib.federation.packets.precision import KINDS, STATES, decode, encode, fault_of, scale_of, stored_type
from fleke_lib.mkv.mkv import Mkv

FORMAT = "fleke-packet-2"
# tensor: its dimensions, (layers, axes, width) at most; bases exist from the second layer on, or not at all
VECTORS = {"z": 1, "h": 1, "shares": 2, "means": 2, "moves": 2, "axes": 3, "left": 1}
NARROW = ("z", "h", "shares")  # of width d_model; the others have d_mlp
ABOUT = ("answer", "client", "fingerprint", "format", "layers", "question", "slot", "target", "width")


@dataclass(frozen=True, eq=False)
class Packet:
    """A packet as its receiver sees it; `pack` makes one, `Packet.read` reads one.

    data: the bytes that are sent. id: their SHA-256, in hexadecimal.
    client: a pseudonym. slot: when it was published. question, answer, target: tags; target may be "".
    z, h: the MKV and the state that it replaces, `(d_model,)`.
    shares: the fact's share r_l, `(d_model,)` per layer.
    means: the mean key m, `(d_mlp,)` per layer.
    bases: the mean key on the base model, `(d_mlp,)` per layer; empty for a model with a norm behind its MLPs.
    axes: the principal axes d_j of the spread around the mean key as rows, `(axes, d_mlp)` per layer.
    left: the trace of the spread that the axes leave out, per layer.
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
    bases: dict[int, Float[Tensor, " d_mlp"]] = field(repr=False)
    axes: dict[int, Float[Tensor, "axes d_mlp"]] = field(repr=False)
    left: dict[int, float] = field(repr=False)

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

    def mean(self, layer: int) -> Float[Tensor, " d_mlp"]:
        return self.means[layer].double()

    def spread(self, layer: int) -> Float[Tensor, "axes d_mlp"]:
        """The axes, in float64: rows X such that X^T X is the spread up to what is `left` out."""
        return self.axes[layer].double()

    @classmethod
    def read(cls, data: bytes) -> "Packet":
        """Read a packet from its bytes.

        Raises:
            ValueError: these are not the bytes of a packet, or not in the canonical encoding of `pack`.
        """
        tensors, about = _parse(data)
        layers, d_model, d_mlp = about["layers"], len(tensors["z"]), about["width"]
        plain = {name: decode(tensors, name, d_model if name in NARROW else d_mlp) for name in VECTORS}
        by_layer = {name: dict(zip(layers, plain[name], strict=True)) for name in ("shares", "means", "axes")}
        means, moved = by_layer["means"], dict(zip(layers[1:], plain["moves"], strict=False))
        bases = {layer: means[layer] - moved.get(layer, 0) for layer in layers} if len(moved) == len(layers) - 1 else {}
        left = dict(zip(layers, plain["left"].tolist(), strict=True))
        named = {name: about[name] for name in ABOUT if name not in ("format", "layers", "width")}
        id = hashlib.sha256(data).hexdigest()
        return cls(data, id, z=plain["z"], h=plain["h"], bases=bases, left=left, **by_layer, **named)

    def sizes(self) -> dict[str, int]:
        """Bytes of each tensor with its scales; "head" is everything that is not a vector."""
        tensors, _ = _parse(self.data)
        parts = {
            name: sum(t.numel() * t.element_size() for key, t in tensors.items() if key in (name, scale_of(name)))
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
        compression: by default four axes, with all keys in 4 bits: of packets under 40 kB on the default model, the
            best one for an edit of many facts (see the README).

    Raises:
        ValueError: the pseudonym, the slot or a tag has not the form that a packet requires, or a vector is not finite.
    """
    compression, layers = compression or Compression(), path.layers
    given = {"z": [mkv.z], "h": [mkv.h]}
    given |= {name: [*getattr(path, name).values()] for name in ("shares", "keys", "bystanders", "bases")}
    if bad := [name for name, some in given.items() if not all(vector.isfinite().all() for vector in some)]:
        raise ValueError(
            f"the {bad[0]} of this fact have entries that are not finite numbers: compute its MKV and trajectory again."
        )
    axes, left = zip(*(principal(path, layer, compression.axes) for layer in layers), strict=True)
    means = torch.stack([path.mean(layer) for layer in layers])
    moves = [mean - path.bases[layer] for layer, mean in zip(layers, means, strict=True) if path.bases][1:]
    vectors = {
        "z": mkv.z,
        "h": mkv.h,
        "shares": torch.stack([path.shares[layer] for layer in layers]),
        "means": means,
        "moves": torch.stack(moves) if moves else means[:0],
        "axes": torch.stack(axes),
        "left": torch.tensor(left) * compression.trace,
    }
    about = {"client": client, "slot": slot, "fingerprint": path.fingerprint, "layers": list(layers), **tags}
    return assemble(vectors, about, compression.precision)


def assemble(vectors: Mapping[str, Tensor], about: Mapping, precision: str) -> Packet:
    """The packet with these vectors, whatever they are; `pack` takes them from a trajectory.

    Args:
        vectors: the tensors in `VECTORS`, each with one row per layer where it has rows.
        about: client, slot, fingerprint, layers, and the tags.

    Raises:
        ValueError: these are not the vectors and the head of a packet.
    """
    head = {"format": FORMAT, "width": vectors["means"].shape[-1], "target": "", **about}
    encoded = {key: t for name, vector in vectors.items() for key, t in encode(name, vector, precision).items()}
    return Packet.read(_write(encoded, head))


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
    if type(about["width"]) is not int or about["width"] < 1:
        return "does not give the width of its keys as a number from 1"
    for name in ("answer", "client", "fingerprint", "question", "target"):
        if type(about[name]) is not str or len(about[name]) > 64 or (not about[name] and name != "target"):
            return f"has no {name} of 1 to 64 characters"
    for name in ("answer", "question", "target"):
        if not re.fullmatch("[0-9a-f]{64}", about[name] or "0" * 64):
            return f"has something else than a keyed tag as its {name}"
    return _fault_of_vectors(tensors, len(layers), about["width"])


def _fault_of_vectors(tensors: Mapping[str, Tensor], layers: int, d_mlp: int) -> str:
    kinds = {name: tensors[name].dtype for name in VECTORS}
    precisions = [p for p in KINDS if kinds == {name: stored_type(name, p) for name in VECTORS}]
    scaled = {scale_of(name) for name, kind in kinds.items() if kind in (torch.int8, torch.uint8)}
    if not precisions or set(tensors) != {*VECTORS, *scaled}:
        return f"does not hold {', '.join(VECTORS)} in one precision"
    for name, dimensions in VECTORS.items():
        shape = tensors[name].shape
        if len(shape) != dimensions or (name not in STATES and shape[0] not in _lengths(name, layers)):
            return f"has {name} of shape {tuple(shape)} for {layers} layers"
    d_model = len(tensors["z"])
    faults = (
        fault_of(tensors, name, d_model if name in NARROW else d_mlp, precisions[0])
        for name in VECTORS
        if name != "left"
    )
    return next((fault for fault in faults if fault), "")


def _lengths(name: str, layers: int) -> tuple[int, ...]:
    """How many rows a packet of so many layers has of these vectors."""
    return (0, layers - 1) if name == "moves" else (layers,)
