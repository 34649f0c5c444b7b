"""Writing many facts into several layers, from below, as MEMIT does; the methods differ in two functions.

For each edited layer in turn: read the facts' keys and what is still missing, in the model as edited so far; compute
this layer's share of it; solve for dW. Each layer gets 1/m (MEMIT) or 1/sqrt(m) (PMET) of what is still missing, with m
layers left. If a layer delivers less than its share, the later layers split the remaining error. The model's weights
are never changed.
"""

import warnings
from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from fleke_lib.edit.edit import Edit
from fleke_lib.edit.readings import Readings, read
from fleke_lib.facts.fact import Fact, check_list, warn_of_repeats
from fleke_lib.facts.prompts import same_key
from fleke_lib.mkv.mkv import check_mkvs
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
    """The edit with `dW_l = solve(l, keys, share(readings, m))` at each layer l, where m counts the layers left.

    Args:
        share: returns the wanted change of the projection's output for each fact, `(facts, d_model)`.
        solve: returns the weight change for keys, `(facts, d_mlp)`, and shares.
        method: the name of the method, for the `Edit`.

    Raises:
        ValueError: the model has no such layer.
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
    """Check facts and MKVs; warns of repeated questions, and if facts with the same key have different MKVs.

    Raises:
        ValueError: there are no facts, or the MKVs are not one finite MKV of width d_model for each fact.
    """
    check_list(facts)
    if not len(facts):
        raise ValueError("there is no fact to edit: give one or more.")
    warn_of_repeats([(fact.question, fact.target_new) for fact in facts], stacklevel=3)
    if mkvs is None:
        return
    check_mkvs(lm, facts, mkvs)
    torn = [group for group in same_key(lm, facts) if any((mkvs[i].z != mkvs[group[0]].z).any() for i in group)]
    if torn:
        names = "; ".join(facts[group[0]].subject for group in torn[:3])
        warnings.warn(
            f"{len(torn)} groups of facts share a key but not their MKV ({names}), so none is fully written: "
            "compute their MKVs with groups=same_key(lm, facts).",
            stacklevel=3,
        )
