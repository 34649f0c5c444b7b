"""The edit map: a regression on existing MKVs that predicts where the next optimisation should start.

A fact's features are the directions of two vectors that are known before the optimisation, and a constant:

    x = (u / |u|, h / |h|, 1),      u: the vocabulary projection's row of the target's first token
                                    that is not a mere blank

The map is the ridge regression from features to residuals over the facts that teach it:

    M = (X^T X + lam I)^-1 X^T R,   predicted r = x M

X^T X and X^T R are sums over facts. The sums of several clients add up, and a fact is withdrawn by subtracting its part
and solving again. Sums and maps list the packets that taught them. Since u needs the target's text, only the owner of a
fact can teach with its packet: each client teaches with its own packets and sends the sums.

The sums do not hide the facts. Those of a single fact reveal its features. For fewer facts than d_model, the span of
the sum of u u^T contains only combinations of their own u: a vocabulary token begins one of their targets exactly if
its u lies in this span. A federation should therefore start with `shipped_map`, which is taught by the MKVs that ship
with the atlas; these have no client provenance.
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

from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.facts.loading import load_facts
from fleke_lib.facts.prompts import fact_texts, stage, up_to_cut
from fleke_lib.mkv.store import shipped_mkvs
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.tokens import answer_start
from fleke_lib.ridge.solve import spd_solve
from fleke_lib.storage.files import half_made, user_path

FORMAT = "fleke-edit-map-2"
LAMBDA = 1.0  # the best of 0.03, 0.1, 0.3, 1 and 3 by cosine on 150 atlas facts that did not teach the map
TOGETHER = 64  # prompts in one batch


class Teacher(Protocol):
    """The part of an MKV that `teach` needs: an `Mkv`, or the packet that it was published in."""

    h: Float[Tensor, " d_model"]

    @property
    def residual(self) -> Float[Tensor, " d_model"]: ...


@dataclass(frozen=True, eq=False)
class MapSums:
    """X^T X and X^T R over some facts, in float64. `a + b` adds the facts of `b`; `a - b` removes them again.

    fingerprint: of the model that the facts were computed on.
    teachers: sorted ids of the packets whose vectors are in the sums; vectors without client provenance have no id.
    """

    XX: Float[Tensor, "features features"]
    XR: Float[Tensor, "features d_model"]
    fingerprint: str
    teachers: tuple[str, ...] = ()

    @property
    def facts(self) -> int:
        """Number of facts in the sums: the sum of the squared constant feature."""
        return round(float(self.XX[-1, -1]))

    def __add__(self, other: "MapSums") -> "MapSums":
        """Raises ValueError if a packet is in both sums: it would count twice, and one removal would leave it in."""
        self._check(other)
        if twice := set(self.teachers) & set(other.teachers):
            raise ValueError(f"packet {min(twice)[:12]} taught both sums: let each packet teach one of them alone.")
        teachers = sorted({*self.teachers, *other.teachers})
        return MapSums(self.XX + other.XX, self.XR + other.XR, self.fingerprint, tuple(teachers))

    def __sub__(self, other: "MapSums") -> "MapSums":
        """Raises ValueError if a packet is in the second sums and not in the first."""
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
    """M, the fingerprint of the model whose residuals it predicts, and the ids of its teachers, as in `MapSums`."""

    M: Float[Tensor, "features d_model"]
    fingerprint: str
    teachers: tuple[str, ...] = ()

    @cached_property
    def id(self) -> str:
        """SHA-256 of all fields: maps with different predictions or different teachers have different ids."""
        digest = hashlib.sha256(json.dumps([self.fingerprint, self.teachers]).encode())
        digest.update(self.M.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @classmethod
    def solve(cls, sums: MapSums, lam: float = LAMBDA) -> "EditMap":
        """Solve M = (X^T X + lam I)^-1 X^T R."""
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
        """Predict residuals at which `compute_mkvs(..., starts=...)` can start.

        Args:
            h: the facts' states after layer L, as in their MKVs; `bare_states(lm, facts)` by default.
            batch: number of facts in one batch; with 1, a prediction is bit for bit independent of the other facts.

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
        path = user_path(path)
        with half_made(path) as half:
            save_file({"M": self.M.contiguous()}, half, metadata=about)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "EditMap":
        """Read a map that `save` wrote.

        Raises:
            ValueError: the file is not such a map.
        """
        try:
            with safe_open(user_path(path), "pt") as file:
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
    """The contribution of facts to the map's sums.

    Args:
        mkvs: the MKV of each fact, or its packet; from the model's current weights.
        teachers: the packets' ids, one for each fact; none if the MKVs have no client provenance.

    Raises:
        ValueError: there are no facts, facts and MKVs do not match, `teachers` is neither empty nor one distinct id for
            each fact, or an edit is applied to the model.
    """
    check_list(facts)
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
    """The sums over the atlas's shipped MKVs, which were computed in this repository and have no client provenance.

    Remove the facts on which a map is tested: `shipped_sums(lm) - teach(lm, tested, mkvs)`.

    Raises:
        ValueError: no MKVs are shipped for the model's current weights.
    """
    facts = load_facts("atlas")
    return teach(lm, facts, shipped_mkvs(lm, facts))


def shipped_map(lm: LanguageModel, lam: float = LAMBDA) -> EditMap:
    """The map taught by all of the atlas's shipped MKVs; takes a few seconds. Raises ValueError as `shipped_sums`."""
    return EditMap.solve(shipped_sums(lm), lam)


def bare_states(lm: LanguageModel, facts: Sequence[Fact], *, batch: int = TOGETHER) -> Float[Tensor, "facts d_model"]:
    """h of each fact without an MKV: the bare prompt runs up to the subject's last token and layer L.

    batch: number of facts in one batch; it changes speed and memory, and results only by float32 rounding.
    """
    check_list(facts)
    texts = [up_to_cut(fact_texts(lm, fact, ("",))[0]) for fact in facts]
    above, found = lm.preset.memit.layer + 1, torch.zeros(len(facts), lm.d_model)
    order = sorted(range(len(facts)), key=lambda i: len(texts[i].ids))  # similar lengths together: less padding
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        found[part] = stage(lm, [texts[i] for i in part], above, stop=above).cut.float().cpu()
    return found


def _features(
    lm: LanguageModel, facts: Sequence[Fact], h: Float[Tensor, "facts d_model"]
) -> Float[Tensor, "facts features"]:
    """x, in float64. Only directions: the lengths of u and h did not improve predictions for held-out facts."""
    texts = [fact_texts(lm, fact, ("",))[0] for fact in facts]
    first = [text.ids[answer_start(lm.tokenizer, text)] for text in texts]
    u = lm.model.get_output_embeddings().weight[first].detach().double().cpu()
    constant = torch.ones(len(facts), 1, dtype=torch.float64)
    return torch.cat([normalize(u, dim=1), normalize(h.double().cpu(), dim=1), constant], dim=1)


def _check_states(lm: LanguageModel, facts: Sequence[Fact], h: Tensor) -> None:
    check_list(facts)
    if h.shape != (len(facts), lm.d_model):
        raise ValueError(
            f"h has the shape {tuple(h.shape)}, but there are {len(facts)} facts and {lm.name} is {lm.d_model} wide: "
            "give one state for each fact."
        )
