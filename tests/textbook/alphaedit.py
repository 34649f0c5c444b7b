"""AlphaEdit (Fang et al., ICLR 2025) as in jianghoucheng/AlphaEdit: `get_project`, `apply_AlphaEdit_to_model`."""

import torch
from torch import Tensor

from tests.textbook.memit import through_norm
from tests.textbook.reading import averaged_key, context_keys, leaving


def projector(moment: Tensor, nullspace: float) -> Tensor:
    """P = U U^T, U the left singular vectors of C whose singular values are under the threshold."""
    left, values, _ = torch.linalg.svd(moment.double())
    unused = left[:, values < nullspace]
    return unused @ unused.T


@torch.no_grad()
def alphaedit(lm, facts, zs, contexts, hparams, moments, earlier=None) -> dict[int, Tensor]:
    """dW^T = (P (K K^T + K_p K_p^T) + ridge I)^-1 P K R^T for each layer in turn, with R = (z - h_L) / m.

    `earlier` holds the layers' K_p K_p^T of the keys edited before; none on a fresh model.
    """
    originals = {layer: lm.weight(layer).clone() for layer in hparams.layers}
    changes = {}
    try:
        for i, layer in enumerate(hparams.layers):
            keys = torch.stack([averaged_key(context_keys(lm, fact, contexts, layer)) for fact in facts], 1).double()
            now = torch.stack([leaving(lm, lm.layers[hparams.layer], fact) for fact in facts], 1)
            residuals = (torch.stack(list(zs), 1) - now).double() / (len(hparams.layers) - i)
            residuals = through_norm(lm, facts, layer, residuals)
            free = projector(moments[layer], hparams.nullspace)
            outer = keys @ keys.T + (0 if earlier is None else earlier[layer])
            system = free @ outer + hparams.ridge * torch.eye(len(free), dtype=torch.float64)
            changes[layer] = torch.linalg.solve(system, free @ keys @ residuals.T).T
            lm.weight(layer).copy_(originals[layer] + changes[layer].float())
    finally:
        for layer, original in originals.items():
            lm.weight(layer).copy_(original)
    return changes
