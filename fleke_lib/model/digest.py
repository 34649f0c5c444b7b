"""Digests that name a model's weights as they are now, and the configuration they are used with.

A model with edits applied is named after its base weights and the edited projections; the base weights are hashed once.
Whether they are still the same is decided by cheaper means, in two degrees:

    weights_digest    a checksum of all bits (`fleke_lib.model.checksum`); names what is stored for good
    fingerprint       PyTorch's version counters and one sum of the bits of each weight; checked whenever an edit is
                      applied. It misses changes behind the counters' back (through `.data` or NumPy) that leave the
                      sum as it is, such as two exchanged numbers.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import transformers
from torch import Tensor, equal, nn

from fleke_lib.model.checksum import checksum, total

if TYPE_CHECKING:
    from fleke_lib.model.language_model import LanguageModel

UNRELATED = {  # configuration entries that do not change what a model computes from its weights and token ids
    "_name_or_path",
    "_model_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "transformers_version",
    "unk_token_id",
    "use_cache",
}


@dataclass
class _Memo:
    """What is known of a model's base weights.

    marks, checksums: of each weight, by its name. digest: of the weights with the checksums in `hashed`.
    """

    marks: dict[str, tuple] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    hashed: dict[str, str] = field(default_factory=dict)
    digest: str = ""


_MEMOS: "WeakKeyDictionary[transformers.PreTrainedModel, _Memo]" = WeakKeyDictionary()


def fingerprint(lm: "LanguageModel", layers: tuple[int, ...], base: bool = False) -> str:
    """SHA-256 of the model's configuration, its weights and the numbers of the edited layers, as 64 hexadecimal digits.

    base: of the weights before all edits that are applied now.
    """
    config = {name: value for name, value in lm.config.to_diff_dict().items() if name not in UNRELATED}
    weights = _base_digest(lm, quick=True)
    return _sha([config, list(layers), weights if base else _with_edits(lm, weights)])


def weights_digest(lm: "LanguageModel", base: bool = False) -> str:
    """SHA-256 of all current weights of the model, or with `base` of those before all edits that are applied now."""
    weights = _base_digest(lm, quick=False)
    return weights if base else _with_edits(lm, weights)


def _with_edits(lm: "LanguageModel", base: str) -> str:
    """The digest of the base weights, followed by those of the projections that differ from them now, if any."""
    layers = sorted({layer for applied in lm.edits for layer in applied.originals})
    edited = {layer: _hash(lm.weight(layer)) for layer in layers if not equal(lm.weight(layer), lm.base_weight(layer))}
    return _sha([base, edited]) if edited else base


def _base_digest(lm: "LanguageModel", quick: bool) -> str:
    memo = _MEMOS.setdefault(lm.model, _Memo())
    weights = dict(_base_weights(lm))
    sums: dict[tuple, tuple] = {}
    for name, weight in weights.items():
        place = weight.data_ptr(), weight.shape, weight.stride(), weight.dtype
        if place not in sums:  # a tied weight has two names
            version = None if weight.is_inference() else weight._version
            mark = (place, version, total(weight))
            known = quick and memo.marks.get(name) == mark
            sums[place] = mark, memo.checksums[name] if known else checksum([("", weight)])
        memo.marks[name], memo.checksums[name] = sums[place]
    now = {name: memo.checksums[name] for name in weights}
    if memo.hashed != now:
        memo.hashed, memo.digest = now, _hash_all(weights)
    return memo.digest


def _hash_all(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, weight in weights.items():
        digest.update(name.encode() + _bytes(weight))
    return digest.hexdigest()


def _base_weights(lm: "LanguageModel") -> Iterator[tuple[str, Tensor]]:
    """All weights by name, those of edited projections as they were before the edits."""
    originals = {}
    for layer in {layer for applied in lm.edits for layer in applied.originals}:
        stored = lm.base_weight(layer) if isinstance(lm.projection(layer), nn.Linear) else lm.base_weight(layer).T
        originals[lm.projection(layer).weight.data_ptr()] = stored
    for name, weight in lm.model.state_dict().items():
        yield name, originals.get(weight.data_ptr(), weight).detach()


def _bytes(weight: Tensor) -> bytes:
    return weight.detach().float().cpu().contiguous().numpy().tobytes()


def _hash(weight: Tensor) -> str:
    return hashlib.sha256(_bytes(weight)).hexdigest()


def _sha(things: list) -> str:
    return hashlib.sha256(json.dumps(things, sort_keys=True, default=str).encode()).hexdigest()
