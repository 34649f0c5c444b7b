"""Carry a wanted change of the residual stream back through the norm that follows the MLP.

In Gemma-3 the MLP's output y passes an RMS norm with gain g before it is added to the residual stream: the stream
receives `g * y / rms(y)`. It can only receive vectors `g * u` with rms(u) = 1. A change r of the stream is therefore
possible exactly if `norm(y) + r` is such a vector. `reachable` rescales `(norm(y) + r) / g` to rms 1 and returns the
possible change that results; `carried` returns the change of y that produces it. Models without such a norm get r
unchanged from both functions.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.model.language_model import LanguageModel


def reachable(
    lm: LanguageModel, layer: int, y: Float[Tensor, "facts d_model"], r: Float[Tensor, "facts d_model"]
) -> Float[Tensor, "facts d_model"]:
    """The possible change of the residual stream at `layer` in place of the wanted one `r`, scaled along `norm(y) + r`.

    y: the output of the layer's MLP projection, before the norm.
    """
    norm = lm.mlp_norm(layer)
    return r if norm is None else norm(y + carried(lm, layer, y, r)) - norm(y)


def carried(
    lm: LanguageModel, layer: int, y: Float[Tensor, "facts d_model"], r: Float[Tensor, "facts d_model"]
) -> Float[Tensor, "facts d_model"]:
    """The change of the MLP's output `y` that changes the residual stream by `reachable(lm, layer, y, r)`."""
    norm = lm.mlp_norm(layer)
    if norm is None:
        return r
    gain = norm(torch.ones_like(y[:1]))
    u = torch.where(gain.abs() > 1e-6, (norm(y) + r) / gain, 0.0)
    return u * (_rms(y) / _rms(u)) - y


def _rms(x: Tensor) -> Tensor:
    return x.pow(2).mean(-1, keepdim=True).sqrt()
