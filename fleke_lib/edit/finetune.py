"""Fine-tuning one layer's projection: the baseline that editing is measured against."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from fleke_lib.edit.edit import Edit
from fleke_lib.edit.methods import Method
from fleke_lib.edit.readings import with_changes
from fleke_lib.edit.write import check_facts
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import fact_texts, shortened
from fleke_lib.model.activations import LayerCalls, layer_calls
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.presets import FinetuneHparams
from fleke_lib.model.tokens import Encoded, filler, pad
from fleke_lib.ridge.solve import LowRank

DONE = 1e-2  # a batch with a smaller loss is left as it is, and training ends when a pass has a smaller mean


def finetune(lm: LanguageModel, facts: Sequence[Fact], hparams: FinetuneHparams | None = None) -> Edit:
    """Minimise -log P(target_new) on the bare prompts over one layer's projection; the model is unchanged.

    Adam, with every entry of dW clipped to `bound` (FT-L), until the mean loss of a pass is below 0.01.

    Source: the constrained fine-tuning baseline of ROME and MEMIT, and its public code, with one difference: each token
    of a target is predicted after the target's earlier tokens, not after the prompt alone.

    Raises:
        ValueError: there are no facts, the model has no such layer, or the loss is not finite.
    """
    hparams = hparams or lm.preset.finetune
    check_facts(lm, facts, None)
    lm.check_layer(hparams.layer)
    texts = [fact_texts(lm, fact, ("",))[0] for fact in facts]
    pieces = [texts[i : i + hparams.batch] for i in range(0, len(texts), hparams.batch)]
    batches = [Targets.of(lm, piece, hparams.layer) for piece in pieces]
    change, adam = begin(lm, hparams)
    for _ in tqdm(range(hparams.steps), desc="fine-tuning", unit="pass", leave=False):
        losses = [step(lm, change, adam, batch, hparams) for batch in batches]
        if sum(losses) / len(losses) < DONE:
            break
    changes = {hparams.layer: LowRank.of(change.detach().cpu())}
    return Edit(changes, lm.fingerprint((hparams.layer,)), "finetune", {"facts": str(len(facts))})


METHOD = Method("fine-tuning", lambda lm, facts, mkvs, moments: finetune(lm, facts), vectors=None)


@dataclass(frozen=True)
class Targets:
    """Texts that have run up to the trained layer, and the tokens that they should say.

    calls: the layer calls from that layer on, a row for each text.
    row, place, token: for each target token its text, the position that predicts it, and its id.
    share: one divided by the number of target tokens of its text.
    """

    calls: LayerCalls
    row: Int[Tensor, " tokens"]
    place: Int[Tensor, " tokens"]
    token: Int[Tensor, " tokens"]
    share: Float[Tensor, " tokens"]

    @classmethod
    def of(cls, lm: LanguageModel, texts: Sequence[Encoded], layer: int) -> "Targets":
        """Run the texts, without their last tokens, up to `layer`."""
        calls = layer_calls(lm, *pad([shortened(text).ids for text in texts], filler(lm.tokenizer)), start=layer)
        tokens = [
            (row, text.target + i - 1, token, 1 / len(text.target_ids))
            for row, text in enumerate(texts)
            for i, token in enumerate(text.target_ids)
        ]
        *places, share = zip(*tokens, strict=True)
        places = [torch.tensor(column, device=lm.device) for column in places]
        return cls(calls, *places, torch.tensor(share, dtype=torch.float64, device=lm.device))

    def rows(self, index: Int[Tensor, " rows"]) -> "Targets":
        """A selection of texts, in this order."""
        new = torch.full((len(self.calls.hidden),), -1, device=index.device)
        new[index] = torch.arange(len(index), device=index.device)
        here = new[self.row] >= 0
        return Targets(
            self.calls.rows(index), new[self.row][here], self.place[here], self.token[here], self.share[here]
        )

    def loss(self, lm: LanguageModel, layer: int, change: Float[Tensor, "d_model d_mlp"]) -> Float[Tensor, ""]:
        """The mean over texts of -log P per target token, with `change` added to the layer's weight."""
        identity = torch.eye(len(change), device=change.device)
        with with_changes({lm.projection(layer): LowRank(identity, change)}):
            hidden = self.calls.run(lm)
        log_p = lm.logits(hidden[self.row, self.place]).float().log_softmax(-1)
        weight = (self.share / len(hidden)).float()
        return -(weight * log_p.gather(1, self.token[:, None])[:, 0]).sum()


def begin(lm: LanguageModel, hparams: FinetuneHparams) -> tuple[Float[Tensor, "d_model d_mlp"], torch.optim.Adam]:
    """A change of zero for the trained layer's weight, and its optimiser."""
    weight = lm.weight(hparams.layer)
    change = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device, requires_grad=True)
    return change, torch.optim.Adam([change], lr=hparams.lr)


def step(
    lm: LanguageModel,
    change: Float[Tensor, "d_model d_mlp"],
    adam: torch.optim.Adam,
    batch: Targets,
    hparams: FinetuneHparams,
) -> float:
    """One optimiser step on one batch; returns the loss before the step.

    Raises:
        ValueError: the loss is not finite.
    """
    loss = batch.loss(lm, hparams.layer, change)
    if not loss.isfinite():
        raise ValueError(
            f"the loss of fine-tuning layer {hparams.layer} is {loss.item()}: check the model's weights, or give a "
            "smaller learning rate."
        )
    if loss >= DONE:
        adam.zero_grad()
        loss.backward()
        adam.step()
        if hparams.bound is not None:
            with torch.no_grad():
                change.clamp_(-hparams.bound, hparams.bound)
    return loss.item()
