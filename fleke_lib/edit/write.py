"""Writing many facts into several layers, from below, as MEMIT does; the methods differ in two functions.

For each edited layer in turn: read the facts' keys and what is still missing from the model as edited so far, give this
layer its share of it, solve, go on. The model's weights are never touched.
"""

import warnings
from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit.edit import Edit
from fleke_lib.edit.readings import Readings, read
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import same_key
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.ridge.solve import LowRank

Share = Callable[[Readings, int], Float[Tensor, "facts d_model"]]
Solve = Callable[[int, Float[Tensor, "facts d_mlp"], Float[Tensor, "facts d_model"]], LowRank]


def write(
    lm: LanguageModel,
    facts: Sequence[Fact],
    contexts: tuple[str, ...],
    layers: tuple[int, ...],
    share: Share,
    solve: Solve,
    method: str,
) -> Edit:
    """The edit whose layer l is `solve(l, keys, share(readings, m))`, with m layers still to go.

    Args:
        share: the change that this layer's projection should make for each fact, `(facts, d_model)`.
        solve: the change of weights for keys and shares.
    """
    readings = read(lm, facts, contexts, layers)
    changes: dict[int, LowRank] = {}
    for i, layer in enumerate(layers):
        change = solve(layer, readings.keys(), share(readings, len(layers) - i))
        changes[layer] = change.smallest()
        if layer != layers[-1]:
            readings = readings.after(change, up_to=layers[i + 1])
    return Edit(changes, lm.fingerprint(layers), method, {"facts": str(len(facts))})


def check_facts(lm: LanguageModel, facts: Sequence[Fact], mkvs: Sequence | None) -> None:
    """Facts to edit and, where given, one MKV for each; warns where one key is asked to give two values."""
    if not len(facts):
        raise ValueError("there is no fact to edit: give one or more.")
    if mkvs is None:
        return
    if len(mkvs) != len(facts):
        raise ValueError(f"there are {len(facts)} facts and {len(mkvs)} MKVs: give one MKV for each fact.")
    if wrong := {len(vector) for mkv in mkvs for vector in (mkv.z, mkv.h)} - {lm.d_model}:
        raise ValueError(
            f"an MKV is {min(wrong)} wide, but the states of {lm.name} are {lm.d_model} wide: "
            "give MKVs that were computed on this model."
        )
    torn = [group for group in same_key(lm, facts) if any((mkvs[i].z != mkvs[group[0]].z).any() for i in group)]
    if torn:
        names = "; ".join(facts[group[0]].subject for group in torn[:3])
        warnings.warn(
            f"{len(torn)} groups of facts share a key but not their MKV ({names}), and will each be half written: "
            "compute their MKVs with groups=same_key(lm, facts).",
            stacklevel=3,
        )
