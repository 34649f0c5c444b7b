"""Trajectories: an edit simulated on the base model, so that vectors alone suffice to write it.

MEMIT reads keys and residuals again, at every layer, from the model that it is editing. Somebody who has received an
MKV and no text cannot do this. The owner can, once, before anything is shared: suppose that every layer l did exactly
what an edit asks of it. With m layers still to go, and h_L the bare prompt's state after layer L in which the shares of
the layers below are already added to their MLPs' outputs,

    r_l = (z - h_L) / m,        k_l^c = the input of layer l's projection in context c, under the same additions

Keys and shares of all edited layers, with the bystanders below, are the trajectory. It depends on the base model and on
its own fact, so that the edits of others cannot make it stale; and, but for the rounding of float32 sums, on nothing
that shares its batch.

MEMIT also sees, at its next layer, what the edit has done to the other words of a prompt, and makes up for it. A
trajectory supposes that nothing was done there. So it asks for that: the keys of these words on the base model, the
*bystanders*, go along, and the solve counts each with the share 0 (see `fleke_lib.ridge.sums`). Without them most of
what many facts lose to one another is lost at words that no fact is about.

A subject whose last token is the first of the whole text has no useful trajectory. Models park their attention there:
on the default model the state is 140 times as long as anywhere else, and so sensitive that a first share of norm 24 is
answered by others of 10,000. T is a sum, so that one such fact would ruin everybody's edit. `shareable` leaves it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from fleke_lib.facts.contexts import check_contexts, context_weights, contexts_for
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import bare_text, fact_texts, stage, up_to_cut
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.model.activations import layer_calls, record, rewrite
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.post_norm import carried
from fleke_lib.model.tokens import filler, pad

# In packets of one axis 0.1 gave a top-1 of 0.720 on a quarter of the first 498 CounterFact records and 0.908 on one of
# atlas facts 111 to 590, 0.03 gave 0.672 and 0.875. On 497 other records top-1 is 0.819 with it and 0.706 with 0.
BYSTANDER = 0.1


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What one fact asks of every edited layer.

    keys: inputs of the layer's projection, bare prompt first, `{layer: (contexts, d_mlp)}`.
    shares: the change of the projection's output there, `{layer: (d_model,)}`.
    fingerprint: of the model that it was computed on.
    bystanders: keys of the bare prompt's other tokens, which should be answered as before, `{layer: (tokens, d_mlp)}`;
        without them an edit is free to do there what it likes.
    """

    keys: dict[int, Float[Tensor, "contexts d_mlp"]]
    shares: dict[int, Float[Tensor, " d_model"]]
    fingerprint: str
    bystanders: dict[int, Float[Tensor, "tokens d_mlp"]] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.keys))

    def rows(self, layer: int) -> Float[Tensor, "rows d_mlp"]:
        """`sqrt(w_c) k^c` and `sqrt(beta) q`, whose second moment is the fact's part of S.

        Half of the weight w is the bare prompt's; beta is `BYSTANDER`.
        """
        keys = self.keys[layer].double()
        others = self.bystanders.get(layer, keys[:0]).double()
        return torch.cat([keys * context_weights(len(keys)).to(keys).sqrt()[:, None], others * BYSTANDER**0.5])

    def mean(self, layer: int) -> Float[Tensor, " d_mlp"]:
        """`sum_c w_c k^c`, which the fact's part of T is made of."""
        keys = self.keys[layer].double()
        return context_weights(len(keys)).to(keys) @ keys

    def __repr__(self) -> str:
        contexts = len(next(iter(self.keys.values())))
        return f"Trajectory(layers {[*self.layers]}, {contexts} contexts)"


def trajectories(
    lm: LanguageModel,
    facts: Sequence[Fact],
    mkvs: Sequence[Mkv],
    contexts: tuple[str, ...] | None = None,
    layers: tuple[int, ...] | None = None,
    *,
    batch: int = 64,
) -> list[Trajectory]:
    """The trajectories of facts towards their MKVs, on the base model.

    Args:
        mkvs: one for each fact; their z belongs to the state after the last of `layers`.
        contexts: prefixes, the first one `""`; the model's own by default.
        layers: the preset's by default.
        batch: facts that run side by side; it changes speed and memory, and results in float32's last digits only.
            With 1 a fact's trajectory is the same bits whatever else is asked for, on one machine with one number of
            threads; on the default model that takes about twice as long.

    Raises:
        ValueError: facts and MKVs do not match, a fact is not `shareable`, a layer is out of range, or the model
            carries an edit.
    """
    if len(facts) != len(mkvs):
        raise ValueError(f"there are {len(facts)} facts and {len(mkvs)} MKVs: give one MKV for each fact.")
    lm.check_unedited("trajectories")
    check_shareable(lm, facts)
    contexts = check_contexts(contexts or contexts_for(lm))
    layers = layers or lm.preset.layers
    if list(layers) != sorted(set(layers)):
        raise ValueError(f"layers is {layers}: give one or more different layers in increasing order.")
    for layer in layers:
        lm.check_layer(layer)
    fingerprint = lm.fingerprint(layers)
    order = sorted(range(len(facts)), key=lambda i: len(facts[i].question))
    found: dict[int, Trajectory] = {}
    with tqdm(total=len(facts), desc="trajectories", unit="fact", leave=False) as bar:
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            asked = [facts[i] for i in part]
            keys, shares = _simulate(lm, asked, [mkvs[i] for i in part], contexts, layers)
            others = _bystanders(lm, asked, layers)
            for n, i in enumerate(part):
                own = [{layer: rows[layer][n].clone().cpu() for layer in layers} for rows in (keys, shares, others)]
                found[i] = Trajectory(own[0], own[1], fingerprint, own[2])
            bar.update(len(part))
    return [found[i] for i in range(len(facts))]


def shareable(lm: LanguageModel, facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """The facts that have a trajectory: whose subject does not end in the text's first token."""
    return tuple(fact for fact in facts if bare_text(lm, fact).subject[1] > 0)


def check_shareable(lm: LanguageModel, facts: Sequence[Fact]) -> None:
    """Raises ValueError where a fact has no trajectory, before hours are spent on the others."""
    good = shareable(lm, facts)
    if len(good) < len(facts):
        bad = next(fact for fact in facts if fact not in good)
        raise ValueError(
            f"{len(facts) - len(good)} of {len(facts)} facts cannot be shared, the first of them {bad.question!r}: its "
            "subject is the first token of the text, where the model parks its attention; leave such facts out with "
            "shareable(lm, facts), or begin the prompt with another word."
        )


@torch.no_grad()
def _simulate(
    lm: LanguageModel, facts: list[Fact], mkvs: list[Mkv], contexts: tuple[str, ...], layers: tuple[int, ...]
) -> tuple[dict[int, Float[Tensor, "facts contexts d_mlp"]], dict[int, Float[Tensor, "facts d_model"]]]:
    """Keys and shares of one batch: the subject's last token alone runs, everything before it has run once."""
    texts = [up_to_cut(text) for fact in facts for text in fact_texts(lm, fact, contexts)]
    calls = stage(lm, texts, start=layers[0], stop=layers[-1] + 1).calls
    z = torch.stack([mkv.z for mkv in mkvs]).to(lm.device)
    bare = torch.arange(0, len(texts), len(contexts), device=lm.device)
    bare_calls, hidden = calls.rows(bare), calls.hidden
    keys, shares = {}, {}
    for i, layer in enumerate(layers):
        projection, above = lm.projection(layer), layers[i + 1] if i + 1 < len(layers) else layer + 1
        with record(outputs={"y": projection}) as seen:
            reached = bare_calls.run(lm, hidden[bare], layer, layers[-1] + 1)[:, 0]
        shares[layer] = carried(lm, layer, seen["y"][:, 0], (z - reached) / (len(layers) - i))
        added = shares[layer].repeat_interleave(len(contexts), 0)[:, None]
        with (
            record(inputs={"k": projection}) as seen,
            rewrite({projection: lambda output, added=added: output + added}),
        ):
            hidden = calls.run(lm, hidden, layer, above)
        keys[layer] = seen["k"][:, 0].unflatten(0, (len(facts), len(contexts)))
    return keys, shares


@torch.no_grad()
def _bystanders(
    lm: LanguageModel, facts: list[Fact], layers: tuple[int, ...]
) -> dict[int, list[Float[Tensor, "tokens d_mlp"]]]:
    """Keys of the bare prompts' tokens on the base model, but for the first one, which parks attention, and the cut."""
    texts = [bare_text(lm, fact) for fact in facts]
    ids, mask, positions = pad([text.ids for text in texts], filler(lm.tokenizer))
    with record(inputs={layer: lm.projection(layer) for layer in layers}) as seen:
        layer_calls(lm, ids, mask, positions, start=layers[-1], stop=layers[-1] + 1)
    others = [[t for t in range(1, len(text.ids)) if t != text.subject[1]] for text in texts]
    return {layer: [seen[layer][n, tokens] for n, tokens in enumerate(others)] for layer in layers}
