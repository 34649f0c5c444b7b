"""Carrying a wanted change of the residual stream through the norm behind the MLP.

In Gemma-3 the MLP's output y passes an RMS norm with gain g before it joins the residual stream: what is added is
`g * y / rms(y)`. Only vectors `g * u` with rms(u) = 1 can be added, so a change r of the stream can be had exactly when
`norm(y) + r` is such a vector; `reachable` moves r to the nearest one along its ray, `carried` gives the change of y
that does it. Where there is no such norm both are the identity.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.model.language_model import LanguageModel


def reachable(
    lm: LanguageModel, layer: int, y: Float[Tensor, "facts d_model"], r: Float[Tensor, "facts d_model"]
) -> Float[Tensor, "facts d_model"]:
    """The change of the residual stream that layer `layer` can make, nearest to `r` along `norm(y) + r`."""
    norm = lm.mlp_norm(layer)
    return r if norm is None else norm(y + carried(lm, layer, y, r)) - norm(y)


def carried(
    lm: LanguageModel, layer: int, y: Float[Tensor, "facts d_model"], r: Float[Tensor, "facts d_model"]
) -> Float[Tensor, "facts d_model"]:
    """The change of the MLP's output `y` after which the residual stream has changed by `r`, as far as it can."""
    norm = lm.mlp_norm(layer)
    if norm is None:
        return r
    gain = norm(torch.ones_like(y[:1]))
    u = torch.where(gain.abs() > 1e-6, (norm(y) + r) / gain, 0.0)
    return u * (_rms(y) / _rms(u)) - y


def _rms(x: Tensor) -> Tensor:
    return x.pow(2).mean(-1, keepdim=True).sqrt()
