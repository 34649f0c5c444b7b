"""The edit map: what MKVs that exist already teach about where the next optimisation should start.

A fact's features are directions of two vectors that are known before anything is optimised, and a constant:

    x = (u / |u|, h / |h|, 1),      u: the vocabulary projection's row of the target's first token

The map is the ridge regression from features to residuals over the facts that teach it:

    M = (X^T X + lam I)^-1 X^T R,   predicted r = x M

X^T X and X^T R are sums over facts. Clients' sums add, and withdrawing a fact is subtracting its part and solving
again; sums and maps name the packets that taught them. Only who holds a fact's text can teach with its packet, since u
is the target's: a client teaches with its own, and sends the sums. They are no disguise. One fact's are its features;
of fewer facts than d_model, the sum of u u^T spans just their own directions, so that a word of the vocabulary begins
one of their targets exactly where it lies in this span. A federation therefore does best to begin with `shipped_map`:
the atlas's shipped MKVs taught it, which owe nobody anything.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import load_facts
from fleke_lib.facts.prompts import fact_texts, stage, up_to_cut
from fleke_lib.mkv.store import shipped_mkvs
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.ridge.solve import spd_solve
from fleke_lib.storage.files import half_made

FORMAT = "fleke-edit-map-2"
LAMBDA = 1.0  # of 0.03, 0.1, 0.3, 1 and 3 the one with the best cosine on 150 atlas facts that did not teach the map
TOGETHER = 64  # prompts that run side by side


class Teacher(Protocol):
    """What teaching needs of a fact: an `Mkv`, or the packet that it was sent in."""

    h: Float[Tensor, " d_model"]

    @property
    def residual(self) -> Float[Tensor, " d_model"]: ...


@dataclass(frozen=True, eq=False)
class MapSums:
    """X^T X and X^T R over some facts, in float64. `a + b` joins two sets of facts, `a - b` takes some out again.

    teachers: ids of the packets whose vectors are in the sums, in order; none for vectors that owe nobody anything.
    """

    XX: Float[Tensor, "features features"]
    XR: Float[Tensor, "features d_model"]
    fingerprint: str
    teachers: tuple[str, ...] = ()

    @property
    def facts(self) -> int:
        """How many facts teach; the constant's square sums to it."""
        return round(float(self.XX[-1, -1]))

    def __add__(self, other: "MapSums") -> "MapSums":
        """Raises ValueError where a packet taught both, which would count twice and be taken out once."""
        self._check(other)
        if twice := set(self.teachers) & set(other.teachers):
            raise ValueError(f"packet {min(twice)[:12]} taught both sums: let each packet teach one of them alone.")
        teachers = sorted({*self.teachers, *other.teachers})
        return MapSums(self.XX + other.XX, self.XR + other.XR, self.fingerprint, tuple(teachers))

    def __sub__(self, other: "MapSums") -> "MapSums":
        """Raises ValueError where a packet taught the second sums and not the first."""
        self._check(other)
        if strange := set(other.teachers) - set(self.teachers):
            raise ValueError(f"packet {min(strange)[:12]} did not teach these sums: take out what has been added.")
        teachers = sorted(set(self.teachers) - set(other.teachers))
        return MapSums(self.XX - other.XX, self.XR - other.XR, self.fingerprint, tuple(teachers))

    def _check(self, other: "MapSums") -> None:
        if self.fingerprint != other.fingerprint:
            raise ValueError("these sums were taught on two models (the fingerprints differ): join sums of one model.")

    def __repr__(self) -> str:
        return f"MapSums({self.facts} facts, {len(self.teachers)} of them packets)"


@dataclass(frozen=True, eq=False)
class EditMap:
    """M, the fingerprint of the model whose residuals it predicts, and the packets that taught it, as in `MapSums`."""

    M: Float[Tensor, "features d_model"]
    fingerprint: str
    teachers: tuple[str, ...] = ()

    @cached_property
    def id(self) -> str:
        """SHA-256 of all that a map is: two maps that predict differently, or owe others, have different ids."""
        digest = hashlib.sha256(json.dumps([self.fingerprint, self.teachers]).encode())
        digest.update(self.M.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @classmethod
    def solve(cls, sums: MapSums, lam: float = LAMBDA) -> "EditMap":
        """M = (X^T X + lam I)^-1 X^T R."""
        system = sums.XX + lam * torch.eye(len(sums.XX), dtype=torch.float64)
        return cls(spd_solve(system, sums.XR), sums.fingerprint, sums.teachers)

    def predict(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        h: Float[Tensor, "facts d_model"] | None = None,
        *,
        batch: int = TOGETHER,
    ) -> Float[Tensor, "facts d_model"]:
        """Residuals to begin at, for `compute_mkvs(..., starts=...)`.

        Args:
            h: the facts' states after layer L, as in their MKVs; `bare_states(lm, facts)` by default.
            batch: facts that run side by side; with 1 no bit of a prediction depends on the other facts.

        Raises:
            ValueError: the map was taught on another model, or `h` is not one row for each fact.
        """
        if lm.fingerprint(lm.preset.layers) != self.fingerprint:
            raise ValueError(
                f"this map was taught on another model than {lm.name} (the fingerprints differ): teach one on this."
            )
        h = bare_states(lm, facts, batch=batch) if h is None else h
        _check_states(lm, facts, h)
        found = torch.zeros(len(facts), lm.d_model)
        for start in range(0, len(facts), batch):
            part = slice(start, start + batch)
            found[part] = (_features(lm, facts[part], h[part]) @ self.M).float()
        return found

    def save(self, path: str | Path) -> Path:
        """Write the map as one safetensors file."""
        about = {"format": FORMAT, "fingerprint": self.fingerprint, "teachers": json.dumps(self.teachers)}
        with half_made(Path(path)) as half:
            save_file({"M": self.M.contiguous()}, half, metadata=about)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "EditMap":
        """Read a map that `save` wrote.

        Raises:
            ValueError: the file is not such a map.
        """
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                if about.get("format") == FORMAT:
                    return cls(file.get_tensor("M"), about["fingerprint"], tuple(json.loads(about["teachers"])))
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a whole safetensors file ({error}): give what EditMap.save wrote."
            ) from None
        raise ValueError(f"{path} is not an edit map of this library: give what EditMap.save wrote.")

    def __repr__(self) -> str:
        return (
            f"EditMap({self.M.shape[0]} features to {self.M.shape[1]} numbers, taught by {len(self.teachers)} packets)"
        )


def teach(lm: LanguageModel, facts: Sequence[Fact], mkvs: Sequence[Teacher], teachers: Sequence[str] = ()) -> MapSums:
    """The part of facts in the map's sums.

    Args:
        mkvs: one for each fact, or its packet; from the model as it is now.
        teachers: the packets' ids, one for each fact; none where the MKVs owe nobody anything.

    Raises:
        ValueError: there is no fact, facts and MKVs do not match, or teachers are not one different id for each fact.
    """
    if not facts or len(facts) != len(mkvs):
        raise ValueError(f"there are {len(facts)} facts and {len(mkvs)} MKVs: give one fact or more, and its MKV each.")
    if teachers and len(facts) != len(teachers):
        raise ValueError(
            f"there are {len(facts)} facts and {len(teachers)} teachers: give each fact's packet, or none."
        )
    if len(set(teachers)) != len(teachers):
        raise ValueError(f"there are {len(teachers)} teachers, some of them twice: let each packet teach once.")
    lm.check_unedited("an edit map's features")
    h = torch.stack([mkv.h for mkv in mkvs])
    _check_states(lm, facts, h)
    x = _features(lm, facts, h)
    r = torch.stack([mkv.residual for mkv in mkvs]).double().cpu()
    return MapSums(x.T @ x, x.T @ r, lm.fingerprint(lm.preset.layers), tuple(sorted(teachers)))


def shipped_sums(lm: LanguageModel) -> MapSums:
    """What the atlas's shipped MKVs teach. They are this repository's own, and owe no client anything.

    A map that is tried on atlas facts must not have been taught by them: `shipped_sums(lm) - teach(lm, tried, mkvs)`.

    Raises:
        ValueError: no MKVs are shipped for this model as it is now.
    """
    facts = load_facts("atlas")
    return teach(lm, facts, shipped_mkvs(lm, facts))


def shipped_map(lm: LanguageModel, lam: float = LAMBDA) -> EditMap:
    """The map that all of the atlas's shipped MKVs teach; takes some seconds."""
    return EditMap.solve(shipped_sums(lm), lam)


def bare_states(lm: LanguageModel, facts: Sequence[Fact], *, batch: int = TOGETHER) -> Float[Tensor, "facts d_model"]:
    """h of each fact, before there is an MKV: the bare prompt runs up to its subject's last token and layer L.

    batch: facts that run side by side; it changes speed and memory, and results in float32's last digits only.
    """
    texts = [up_to_cut(fact_texts(lm, fact, ("",))[0]) for fact in facts]
    above, found = lm.preset.memit.layer + 1, torch.zeros(len(facts), lm.d_model)
    order = sorted(range(len(facts)), key=lambda i: len(texts[i].ids))  # of one length together: little is padded
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        found[part] = stage(lm, [texts[i] for i in part], above, stop=above).cut.float().cpu()
    return found


def _features(
    lm: LanguageModel, facts: Sequence[Fact], h: Float[Tensor, "facts d_model"]
) -> Float[Tensor, "facts features"]:
    """x, in float64. Directions alone: the lengths of u and h say nothing that helped on facts apart."""
    first = [fact_texts(lm, fact, ("",))[0].target_ids[0] for fact in facts]
    u = lm.model.get_output_embeddings().weight[first].detach().double().cpu()
    constant = torch.ones(len(facts), 1, dtype=torch.float64)
    return torch.cat([normalize(u, dim=1), normalize(h.double().cpu(), dim=1), constant], dim=1)


def _check_states(lm: LanguageModel, facts: Sequence[Fact], h: Tensor) -> None:
    if h.shape != (len(facts), lm.d_model):
        raise ValueError(
            f"h has the shape {tuple(h.shape)}, but there are {len(facts)} facts and {lm.name} is {lm.d_model} wide: "
            "give one state for each fact."
        )
