"""Trajectories: an edit is simulated on the base model, and the vectors recorded suffice to compute it without text.

At every layer, MEMIT reads keys and residuals again from the model that it edits. A client that has received an MKV
without its text cannot do this. The owner of the fact can simulate it once, before anything is shared, under the
assumption that every layer l delivers exactly its share. With m edited layers left (l included), and h_L the bare
prompt's state after layer L when the shares of the layers below are added to their MLPs' outputs,

    r_l = (z - h_L) / m,        k_l^c = the input of layer l's projection in context c, with the same additions

The trajectory consists of the keys and shares of all edited layers and of the bystanders below. It depends only on the
base model and on its own fact, so other edits cannot make it stale. Other facts in the batch change it only by rounding
(float32 reductions are not batch-invariant).

At each next layer MEMIT also reads how the edit has changed the other tokens of a prompt, and compensates. A trajectory
assumes no drift at tokens outside the subject, and the solve works towards this: the keys of these tokens on the base
model, the *bystanders* (preservation keys in the literature), are part of the trajectory and get the share 0 (see
`fleke_lib.ridge.sums`). Without them, most of the interference among many facts occurs at tokens that no fact is about.

A subject whose last token is the first token of the text has no useful trajectory, because that token is an attention
sink. On the default model its state is 140 times as long as any other, and so sensitive that a first share of norm 24
leads to later shares of norm 10,000. Since T is a sum, one such fact would ruin the edit of all facts. `shareable`
leaves such facts out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from fleke_lib.facts.contexts import check_contexts, context_weights, contexts_for, weighted_mean
from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.facts.prompts import bare_text, fact_texts, stage, up_to_cut
from fleke_lib.mkv.mkv import Mkv, check_mkvs
from fleke_lib.model.activations import layer_calls, record, rewrite
from fleke_lib.model.language_model import LanguageModel, widened
from fleke_lib.model.post_norm import carried
from fleke_lib.model.tokens import filler, pad

# The weight beta of a bystander. With packets of one axis, 0.1 gave a top-1 of 0.720 on a quarter of the first 498
# CounterFact records and 0.908 on a quarter of atlas facts 111 to 590; 0.03 gave 0.672 and 0.875. On 497 other records
# top-1 is 0.819 with 0.1 and 0.706 with 0.
BYSTANDER = 0.1


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The keys of one fact at every edited layer, and the wanted changes of the layers' outputs for them.

    keys: inputs of the layer's projection at the subject's last token, bare prompt first, `{layer: (contexts, d_mlp)}`.
    shares: wanted change of the projection's output for these keys, `{layer: (d_model,)}`.
    fingerprint: of the model that it was computed on.
    residual: z - h, `(d_model,)`: what all layers together should bring.
    bystanders: keys of the bare prompt's other tokens, whose outputs should not change, `{layer: (tokens, d_mlp)}`;
        without them nothing constrains an edit at these tokens.
    bases: the mean key on the base model, where no share is added below, `{layer: (d_mlp,)}`. Empty for a model with a
        norm behind its MLPs, which is solved without coupling (`closed_form.coupling_of`).
    """

    keys: dict[int, Float[Tensor, "contexts d_mlp"]]
    shares: dict[int, Float[Tensor, " d_model"]]
    fingerprint: str
    residual: Float[Tensor, " d_model"]
    bystanders: dict[int, Float[Tensor, "tokens d_mlp"]] = field(default_factory=dict)
    bases: dict[int, Float[Tensor, " d_mlp"]] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.keys))

    @property
    def left(self) -> dict[int, float]:
        """Nothing of the spread is left out (see `fleke_lib.ridge.sums`)."""
        return {}

    def mean(self, layer: int) -> Float[Tensor, " d_mlp"]:
        """The mean key, `sum_c w_c k^c`. The bare prompt has half of the weight w."""
        return weighted_mean(self.keys[layer])

    def spread(self, layer: int) -> Float[Tensor, "rows d_mlp"]:
        """`sqrt(w_c) (k^c - mean)` and `sqrt(beta) q`, with beta = `BYSTANDER`; `rows^T rows` is the spread D."""
        keys = self.keys[layer].double()
        others = self.bystanders.get(layer, keys[:0]).double()
        roots = context_weights(len(keys)).to(keys).sqrt()
        return torch.cat([roots[:, None] * (keys - self.mean(layer)), others * BYSTANDER**0.5])

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
    """Simulate the edit of each fact to its MKV on the base model.

    Args:
        mkvs: one for each fact; z is the wanted state after the last of `layers`.
        contexts: prefixes, the first one `""`; the model's own by default.
        layers: the edited layers in increasing order; the preset's by default.
        batch: number of facts in one batch; it changes speed, memory and, through rounding, the last digits of results.
            With 1, a fact's trajectory is bit for bit independent of the other facts, on one machine with a fixed
            number of threads; on the default model this takes about twice as long.

    Raises:
        ValueError: facts and MKVs do not match, an MKV or a trajectory is not finite, a fact is not `shareable`, a
            layer is out of range, or the model carries an edit.
    """
    check_mkvs(lm, facts, mkvs)
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
            keys, shares, bases = _simulate(lm, asked, [mkvs[i] for i in part], contexts, layers)
            others = _bystanders(lm, asked, layers)
            for n, i in enumerate(part):
                own = [
                    {layer: widened(rows[layer][n]).clone().cpu() for layer in rows}
                    for rows in (keys, shares, others, bases)
                ]
                if not all(part.isfinite().all() for parts in own for part in parts.values()):
                    raise ValueError(
                        f"the trajectory of {facts[i].question!r} has entries that are not finite numbers: leave the "
                        "fact out, or load the model in float32."
                    )
                residual = (mkvs[i].z - mkvs[i].h).cpu()
                found[i] = Trajectory(own[0], own[1], fingerprint, residual, own[2], own[3])
            bar.update(len(part))
    return [found[i] for i in range(len(facts))]


def shareable(lm: LanguageModel, facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """The facts that have a useful trajectory: the subject's last token is not the first token of the text."""
    check_list(facts)
    return tuple(fact for fact in facts if bare_text(lm, fact).subject[1] > 0)


def check_shareable(lm: LanguageModel, facts: Sequence[Fact]) -> None:
    """Raises ValueError if a fact is not `shareable`, before any of the facts is computed."""
    good = shareable(lm, facts)
    if len(good) < len(facts):
        bad = next(fact for fact in facts if fact not in good)
        raise ValueError(
            f"{len(facts) - len(good)} of {len(facts)} facts cannot be shared, the first of them {bad.question!r}: its "
            "subject is the first token of the text, which is an attention sink; leave such facts out with "
            "shareable(lm, facts), or begin the prompt with another word."
        )


@torch.no_grad()
def _simulate(
    lm: LanguageModel, facts: list[Fact], mkvs: list[Mkv], contexts: tuple[str, ...], layers: tuple[int, ...]
) -> tuple[dict[int, Tensor], dict[int, Tensor], dict[int, Tensor]]:
    """Keys and shares of one batch, and its mean keys on the base model where no norm follows the MLPs.

    Only the subject's last token runs here; the tokens before it have run once.
    """
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
        shares[layer] = carried(lm, layer, widened(seen["y"][:, 0]), (z - reached) / (len(layers) - i))
        added = shares[layer].repeat_interleave(len(contexts), 0)[:, None]
        with (
            record(inputs={"k": projection}) as seen,
            rewrite({projection: lambda output, added=added: output + added.to(output)}),
        ):
            hidden = calls.run(lm, hidden, layer, above)
        keys[layer] = seen["k"][:, 0].unflatten(0, (len(facts), len(contexts)))
    if lm.mlp_norm(layers[-1]) is not None:
        return keys, shares, {}
    with record(inputs={layer: lm.projection(layer) for layer in layers}) as seen:
        calls.run(lm, calls.hidden, layers[0], layers[-1] + 1)
    base = {layer: seen[layer][:, 0].cpu().unflatten(0, (len(facts), len(contexts))) for layer in layers}
    return keys, shares, {layer: weighted_mean(rows).float() for layer, rows in base.items()}


@torch.no_grad()
def _bystanders(
    lm: LanguageModel, facts: list[Fact], layers: tuple[int, ...]
) -> dict[int, list[Float[Tensor, "tokens d_mlp"]]]:
    """Keys of the bare prompts' tokens on the base model, except the first (attention sink) and the subject's last."""
    texts = [bare_text(lm, fact) for fact in facts]
    ids, mask, positions = pad([text.ids for text in texts], filler(lm.tokenizer))
    with record(inputs={layer: lm.projection(layer) for layer in layers}) as seen:
        layer_calls(lm, ids, mask, positions, start=layers[-1], stop=layers[-1] + 1)
    others = [[t for t in range(1, len(text.ids)) if t != text.subject[1]] for text in texts]
    return {layer: [seen[layer][n, tokens] for n, tokens in enumerate(others)] for layer in layers}
