"""Fine-tuning one layer's projection: the baseline that editing is measured against."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from fleke_lib.edit.edit import Edit
from fleke_lib.edit.methods import Method
from fleke_lib.edit.readings import with_changes
from fleke_lib.edit.write import check_facts
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import fact_texts, shortened
from fleke_lib.model.activations import layer_calls
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.presets import FinetuneHparams
from fleke_lib.model.tokens import filler, pad
from fleke_lib.ridge.solve import LowRank


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
    batches = [_batch(lm, facts[i : i + hparams.batch], hparams.layer) for i in range(0, len(facts), hparams.batch)]
    weight = lm.weight(hparams.layer)
    change = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device, requires_grad=True)
    adam = torch.optim.Adam([change], lr=hparams.lr)
    for _ in tqdm(range(hparams.steps), desc="fine-tuning", unit="pass", leave=False):
        losses = [_step(lm, change, adam, batch, hparams) for batch in batches]
        if sum(losses) / len(losses) < 1e-2:
            break
    changes = {hparams.layer: LowRank.of(change.detach().cpu())}
    return Edit(changes, lm.fingerprint((hparams.layer,)), "finetune", {"facts": str(len(facts))})


METHOD = Method("fine-tuning", lambda lm, facts, mkvs, moments: finetune(lm, facts), vectors=None)


def _batch(lm: LanguageModel, facts: Sequence[Fact], layer: int) -> tuple:
    """The layer calls from `layer` on for these questions, and row, column, id and weight of each target token."""
    texts = [fact_texts(lm, fact, ("",))[0] for fact in facts]
    calls = layer_calls(lm, *pad([shortened(text).ids for text in texts], filler(lm.tokenizer)), start=layer)
    tokens = [
        (row, text.target + i - 1, token, 1 / len(text.target_ids) / len(texts))
        for row, text in enumerate(texts)
        for i, token in enumerate(text.target_ids)
    ]
    return calls, *(torch.tensor(column, device=lm.device) for column in zip(*tokens, strict=True))


def _step(
    lm: LanguageModel, change: Float[Tensor, "d_model d_mlp"], adam: torch.optim.Adam, batch: tuple, hparams
) -> float:
    """One optimiser step on one batch; returns the loss before the step."""
    calls, row, place, target, weight = batch
    identity = torch.eye(len(change), device=change.device)
    with with_changes({lm.projection(hparams.layer): LowRank(identity, change)}):
        hidden = calls.run(lm)
    log_p = lm.logits(hidden[row, place]).float().log_softmax(-1)
    loss = -(weight * log_p.gather(1, target[:, None])[:, 0]).sum()
    if not loss.isfinite():
        raise ValueError(
            f"the loss of fine-tuning layer {hparams.layer} is {loss.item()}: check the model's weights, or give a "
            "smaller learning rate."
        )
    if loss >= 1e-2:
        adam.zero_grad()
        loss.backward()
        adam.step()
        if hparams.bound is not None:
            with torch.no_grad():
                change.clamp_(-hparams.bound, hparams.bound)
    return loss.item()
