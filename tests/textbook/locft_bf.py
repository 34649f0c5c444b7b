"""LocFT-BF (Yang et al., arXiv 2509.22072) as in ICT-STAR/LocFT: `execute_ft` of `fine-tune.py`."""

import torch
from torch import Tensor

from tests.textbook.reading import locate


def locft_bf(lm, facts, hparams, orders) -> Tensor:
    """The change of the trained weight; `orders` has a permutation of the facts for each pass.

    Adam on the weight itself, one text at a time through the whole model. The loss of a batch is the mean over its
    texts of the mean cross-entropy over the target's tokens and the end-of-text token.
    """
    weight = lm.projection(hparams.layer).weight.requires_grad_(True)
    original = weight.detach().clone()
    adam = torch.optim.Adam([weight], lr=hparams.lr)
    for order in orders:
        total = 0.0
        for start in range(0, len(order), hparams.batch):
            part = order[start : start + hparams.batch]
            loss = torch.stack([_loss(lm, facts[i]) for i in part]).mean()
            total += loss.item() * len(part)
            if loss.item() >= 1e-2:
                adam.zero_grad()
                loss.backward()
                adam.step()
        if total / len(facts) < 1e-2:
            break
    change = weight.detach() - original
    with torch.no_grad():
        weight.copy_(original)
    weight.requires_grad_(False).grad = None
    return change if change.shape == lm.weight(hparams.layer).shape else change.T


def _loss(lm, fact) -> Tensor:
    ids, _, target = locate(lm, fact)
    if lm.tokenizer.eos_token_id is not None:
        ids = torch.cat([ids, torch.tensor([[lm.tokenizer.eos_token_id]])], 1)
    logits = lm.model(ids[:, :-1]).logits[0, target - 1 :]
    return torch.nn.functional.cross_entropy(logits, ids[0, target:])
