"""LocFT-BF: fine-tuning of one late projection, in passes over all facts (Yang et al., arXiv 2509.22072)."""

from collections.abc import Sequence

import torch
from tqdm.auto import tqdm

from fleke_lib.edit.edit import Edit
from fleke_lib.edit.finetune import DONE, Targets, begin, step
from fleke_lib.edit.methods import Method
from fleke_lib.edit.write import check_facts
from fleke_lib.facts.fact import Fact
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.presets import FinetuneHparams, chosen
from fleke_lib.model.tokens import Encoded, context_length, encode_for
from fleke_lib.ridge.solve import LowRank


def locft_bf(
    lm: LanguageModel, facts: Sequence[Fact], hparams: FinetuneHparams | None = None, *, seed: int = 0
) -> Edit:
    """Minimise -log P(target_new and end of text) on the bare prompts over one projection; the model is unchanged.

    *Breadth first* means ordinary training: every pass visits all facts in mini-batches, in a new order. Earlier uses
    of fine-tuning for editing trained one fact to the end before the next. *Localised* means that one layer's
    projection is trained, and that this layer was found by a search, not taken over from other methods. There is no
    bound on dW. As in the public code, the end-of-text token follows each target, a batch whose loss is below 0.01
    makes no step, and training ends after the first pass with a mean loss below 0.01.

    Args:
        seed: of the order of the facts.

    Raises:
        ValueError: there are no facts, the model has no such layer, the loss is not finite, or neither `hparams` nor
            the preset has hyperparameters.

    Source: arXiv 2509.22072 and its public code, ICT-STAR/LocFT.
    """
    hparams = chosen(hparams, lm.preset, "locft_bf")
    check_facts(lm, facts, None)
    lm.check_layer(hparams.layer)
    targets = Targets.of(lm, [_text(lm, fact) for fact in facts], hparams.layer)
    order = torch.Generator().manual_seed(seed)
    change, adam = begin(lm, hparams)
    for _ in tqdm(range(hparams.steps), desc="LocFT-BF", unit="pass", leave=False):
        batches = torch.randperm(len(facts), generator=order).to(lm.device).split(hparams.batch)
        losses = [step(lm, change, adam, targets.rows(batch), hparams) * len(batch) for batch in batches]
        if sum(losses) / len(facts) < DONE:
            break
    changes = {hparams.layer: LowRank.of(change.detach().cpu())}
    return Edit(changes, lm.fingerprint((hparams.layer,)), "locft_bf", {"facts": str(len(facts))})


METHOD = Method("LocFT-BF", lambda lm, facts, mkvs, moments: locft_bf(lm, facts), vectors=None)


def _text(lm: LanguageModel, fact: Fact) -> Encoded:
    """The question and the new target, with the token that ends a text as a part of the target.

    Without it where the tokenizer has none, or where the text fills the model's context.
    """
    text, end = encode_for(lm, fact.question, fact.target_new, fact.subject_span), lm.tokenizer.eos_token_id
    if end is None or len(text.ids) > context_length(lm):
        return text
    return Encoded((*text.ids, end), text.subject, text.target)
