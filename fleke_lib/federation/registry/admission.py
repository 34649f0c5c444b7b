"""Admission: the checks that a packet must pass before it is stored or used.

The sender is not trusted. A packet is admitted if it is small enough to be parsed, has the form of a packet, belongs to
this model and these layers, and holds finite numbers of a credible size. Everything else is refused with a reason, and
nothing changes.

T is a sum: one packet with a share a hundred times the usual size would ruin the edit of every client. Even an honest
client can make such a packet, at an attention sink (see `fleke_lib.edit.trajectories`). All bounds are therefore
derived from numbers that no packet can influence: the norm of the model's states on ordinary text, and its second
moments C.

S is a sum, too. A norm does not bound what a key or an axis does to other facts: an axis along somebody's mean key, no
longer than that key, halves what the fact gets at this layer, and four packets take it away. With moments, the rules
bound each vector's leverage (`federation.registry.leverage`) and the trace, both in units of an ordinary key, and a
`Budget` bounds what one client may add. Without moments the norm is all that is checked.

A packet within all bounds may still be malicious: a false fact of ordinary size passes like a true one, and a few
clients that spend their whole budgets on one fact can still weaken it.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fleke_lib.edit.moments import Moments, sample_text
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.budget import Budget
from fleke_lib.federation.registry.leverage import Leverage
from fleke_lib.model.activations import record
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.tokens import context_length

HEAD = 4096  # bytes for everything in a packet that is not a vector; an ordinary head takes about 900
ROUNDING = 1e-2  # of |h|: size of a share from rounding alone, where z = h because the model knew the answer already
# Of an ordinary key's leverage, and of tr C. On 111 atlas and 40 CounterFact facts that report nothing, default packets
# have at most 21.8 for mean keys, 22.0 for base keys, 2.33 for axes and 1.29 for traces, over all edited layers; the
# greatest of each is at layer 6. Half of 40 atlas facts have at most 3.7, 3.7, 0.33 and 0.21 there.
KEY, AXIS, TRACE = 32.0, 3.0, 2.0
LAST_SLOT = 2**31 - 1  # more than any federation needs, and small enough for a database and a tensor


class Refused(ValueError):
    """Raised for a packet that is not admitted; the message is one sentence for its sender."""


@dataclass(frozen=True)
class Rules:
    """The rules that all packets of one federation must meet. `Rules.of(lm)` derives them from the model.

    fingerprint, layers, d_model, d_mlp: of the model that the packets are for.
    axes: greatest number of axes d_j per layer; by default the four of the default compression. A trajectory has a
        dozen.
    state: greatest norm of h; `of` sets 2.5 times the median on ordinary text. On the default model that median is 149;
        h has a norm of 140 to 250 at a subject's last token, and of about 24,000 at the first token of a text.
    clamp: greatest |z - h|, in units of |h|. MEMIT keeps it under 0.75, and rounding adds little.
    share: greatest |r_l|, in units of |z - h|, the whole residual. The last share is the greatest; on the default model
        it is 0.5 to 0.9 of the residual. Infinite where a norm behind the MLP rescales shares (see `carry`).
    reach: greatest norm of a mean key and an axis, and root of a trace; by default the greatest float16. Usual are
        norms of 4 to 16.
    max_bytes: a larger packet is not even parsed; by default the size with `axes` axes in float32.
    leverage: from C, or None: then `key`, `axis` and `trace` are not checked.
    key, axis: greatest leverage of a mean key or a base key, and of an axis, in units of an ordinary key's.
    trace: greatest trace that the axes leave out, in units of tr C. A token of a prompt adds about 0.1.
    budget: what one client may publish.
    slot: the present slot, which a packet must be of; None for any.
    """

    fingerprint: str
    layers: tuple[int, ...]
    d_model: int
    d_mlp: int
    axes: int = 4
    state: float = 65504.0
    clamp: float = 0.825
    share: float = 1.25
    reach: float = 65504.0
    max_bytes: int | None = None
    leverage: Leverage | None = field(default=None, repr=False)
    key: float = KEY
    axis: float = AXIS
    trace: float = TRACE
    budget: Budget = field(default_factory=Budget)
    slot: int | None = None

    @classmethod
    def of(
        cls, lm: LanguageModel, layers: tuple[int, ...] | None = None, moments: Moments | None = None, **changes
    ) -> "Rules":
        """The rules for packets of a model.

        Args:
            layers: the edited layers; those of the preset by default.
            moments: C of each edited layer. Without it leverages and traces are not bounded, only norms.
            changes: values for any other rule, by its name.

        Raises:
            ValueError: an edit is applied to the model, or C of a layer is missing or not finite.
        """
        lm.check_unedited("the rules for packets")
        layers = tuple(layers or lm.preset.layers)
        usual = {
            "state": 2.5 * ordinary_state(lm, layers[-1]),
            "clamp": 1.1 * lm.preset.memit.clamp,
            "share": cls.share if lm.mlp_norm(layers[-1]) is None else float("inf"),
            "leverage": None if moments is None else Leverage.of(moments, layers),
        }
        return cls(lm.fingerprint(layers), layers, lm.d_model, lm.d_mlp, **usual | changes)

    @property
    def limit(self) -> int:
        """The size in bytes of the largest packet that is parsed."""
        if self.max_bytes is not None:
            return self.max_bytes
        a_layer = 1 + self.d_model + (2 + self.axes) * self.d_mlp
        return HEAD + torch.float32.itemsize * (2 * self.d_model + len(self.layers) * a_layer)

    def check(self, data: bytes) -> Packet:
        """Parse and check a packet.

        Raises:
            Refused: the bytes are not a packet that these rules admit.
        """
        if not isinstance(data, bytes):
            raise Refused(f"a packet is bytes and this is {type(data).__name__}: send the `data` of what `pack` made.")
        if len(data) > self.limit:
            raise Refused(f"these {len(data)} bytes are more than the {self.limit} of a packet: send fewer axes.")
        try:
            packet = Packet.read(data)
        except ValueError as error:
            raise Refused(str(error)) from None
        fault = self._fault_of_form(packet) or self._fault_of_numbers(packet) or self._fault_of_leverage(packet)
        if fault:
            raise Refused(f"packet {packet.id[:12]} {fault}.")
        return packet

    def _fault_of_form(self, packet: Packet) -> str:
        if packet.fingerprint != self.fingerprint:
            given, expected = packet.fingerprint[:12], self.fingerprint[:12]
            return f"is of model {given!a} and these are packets of {expected!r}: compute it on the model agreed on"
        if packet.layers != self.layers:
            return f"is of layers {[*packet.layers]}: compute it at layers {[*self.layers]}"
        if not packet.client.isprintable():
            return "has a pseudonym that cannot be printed: give the client another one"
        if packet.slot > LAST_SLOT:
            return f"is of a slot after {LAST_SLOT}: count the slots from 0"
        if self.slot not in (None, packet.slot):
            return f"is of slot {packet.slot}, and the present one is slot {self.slot}: publish it under that"
        first = self.layers[0]
        widths, (axes, _) = (len(packet.z), len(packet.means[first])), packet.axes[first].shape
        if widths != (self.d_model, self.d_mlp):
            return f"has vectors of widths {widths} instead of {(self.d_model, self.d_mlp)}: compute it on this model"
        if axes > self.axes:
            return f"carries {axes} axes a layer: send {self.axes} at most"
        return ""

    def _fault_of_numbers(self, packet: Packet) -> str:
        vectors = _vectors(packet)
        for name, rows in vectors.items():
            if not rows.isfinite().all():
                return f"has numbers in its {name} that are not finite: compute it again, and send it in float32"
        if min(packet.left.values()) < 0:
            return "has a negative trace: compute it again"
        norms = {name: _norm(rows) for name, rows in vectors.items()}
        h, residual = norms["h"], _norm(packet.residual)
        for what, norm, most in (
            ("h", h, self.state),
            ("z - h", residual, self.clamp * h),
            ("a share", norms["shares"], (self.share * residual if residual else 0.0) + ROUNDING * h),  # 0 x infinity
            ("a mean key or an axis", max(norms["means"], norms["axes"], norms.get("bases", 0.0)), self.reach),
            ("the root of a trace", max(packet.left.values()) ** 0.5, self.reach),
        ):
            if norm > most:
                return f"has a norm of {norm:.3g} for {what}, and {most:.3g} is the most: compute it again"
        return ""

    def _fault_of_leverage(self, packet: Packet) -> str:
        if self.leverage is None:
            return ""
        for layer in self.layers:
            keys = [packet.means[layer], *([packet.bases[layer]] if packet.bases else [])]
            for what, rows, most in (
                ("a mean key", torch.stack(keys), self.key),
                ("an axis", packet.axes[layer], self.axis),
            ):
                found = self.leverage.rows(layer, rows).amax() if len(rows) else 0
                if found > most:
                    return (
                        f"has {what} with {found:.3g} times the leverage of an ordinary key at layer {layer}, and "
                        f"{most:.3g} is the most: leave this fact out, or send it with smaller axes"
                    )
            if packet.left[layer] > self.trace * self.leverage.traces[layer]:
                most = self.trace * self.leverage.traces[layer]
                return (
                    f"leaves out a trace of {packet.left[layer]:.3g} at layer {layer}, and {most:.3g} is the most: "
                    "send more axes"
                )
        return ""


@torch.no_grad()
def ordinary_state(lm: LanguageModel, layer: int, tokens: int = 128) -> float:
    """The median norm of the state after a layer, over the first tokens of the sample text without the very first."""
    ids = lm.tokenizer(sample_text()[0]).input_ids[: min(tokens, context_length(lm))]
    with record(outputs={"h": lm.layers[layer]}) as seen:
        lm.body(torch.tensor([ids], device=lm.device))
    return float(seen["h"][0, 1:].double().norm(dim=-1).median())


def _vectors(packet: Packet) -> dict[str, Tensor]:
    """A packet's vectors by name, those of all layers together."""
    kinds = {name: [*getattr(packet, name).values()] for name in ("shares", "means", "bases", "axes")}
    left = torch.tensor([*packet.left.values()])
    return {
        "z": packet.z,
        "h": packet.h,
        "traces": left,
        **{name: torch.stack(some) for name, some in kinds.items() if some},
    }


def _norm(vectors: Tensor) -> float:
    """The greatest norm among rows, in float64 because the square of a float32 number may overflow."""
    norms = vectors.double().norm(dim=-1)
    return float(norms.max()) if norms.numel() else 0.0
