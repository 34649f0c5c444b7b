"""The norm behind Gemma-3's MLP: the change of the MLP's output that comes nearest to a wanted change of the stream."""

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

KEPT = 1e-6  # weight of staying near the present output, in units of the mean squared gain


def carried(lm, layer: int, y: Tensor, r: Tensor) -> Tensor:
    """What to add to one output `y` of the MLP, `(d_model,)`, in place of a wanted change `r` of the stream.

    Minimises |g u - (g u_0 + r)|^2 + kept |u - u_0|^2 over rms(u) = 1: the multiplier is a root of one scalar equation.
    """
    norm = lm.mlp_norm(layer)
    if norm is None:
        return r
    old = y.double().numpy()
    length = np.sqrt(np.mean(old**2))
    gain = (1 + norm.weight.detach().double().numpy()) * length / np.sqrt(length**2 + norm.eps)
    now, a = old / length, gain**2
    kept = KEPT * a.mean()
    c = gain * (gain * now + r.double().numpy()) + kept * now
    low = -a.min()
    span = np.sqrt((c**2).mean())  # at low + span the rms is at most one
    mu = brentq(lambda mu: np.sqrt(np.mean((c / (a + mu)) ** 2)) - 1, low + 1e-12 * span, low + span, xtol=1e-16 * span)
    return torch.from_numpy((c / (a + mu) - now) * length).to(y)


@torch.no_grad()
def reached(lm, layer: int, y: Tensor, r: Tensor) -> Tensor:
    """The change of the stream that the norm can put out in place of a wanted one, `(d_model,)`."""
    norm = lm.mlp_norm(layer)
    return r if norm is None else norm(y + carried(lm, layer, y, r)) - norm(y)
