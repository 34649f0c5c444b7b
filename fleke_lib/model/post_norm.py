"""Carry a wanted change of the residual stream back through the norm that follows the MLP.

In Gemma-3 the MLP's output y passes an RMS norm with gain g before it is added to the residual stream: the stream
receives `g * u` with `u = y / rms(y)`. It can only receive vectors `g * u` with rms(u) = 1. Let u_0 belong to the
present y, and r be the wanted change of the stream. The norm should put out t = g * u_0 + r; the u that is used instead
minimises

    |g * u - t|^2 + eps |u - u_0|^2    subject to rms(u) = 1.

The first term alone gives the vector nearest to t. It does not determine u where a gain is zero, and hardly where a
gain is small; the second term, with a small eps, keeps u near u_0 there. Setting the gradient to zero, with a
multiplier mu for the constraint,

    u = (g * t + eps u_0) / (g^2 + mu),    mean((g * t + eps u_0)^2 / (g^2 + mu)^2) = 1,    mu > -min(g^2).

Over this range of mu the mean falls from infinity to 0. The solution is therefore unique, and it is the global minimum
(a trust-region problem on a sphere: Moré and Sorensen, SIAM J. Sci. Stat. Comput. 4, 1983). If r = 0, the solution is
u_0 with mu = eps, for any gains: no wanted change is no change. The value at u_0 is |r|^2, so what is reached is never
farther from t than the present output is, and |u - u_0| <= |r| / sqrt(eps).

`carried` returns the change of y, at the length that y has; `reachable` the change of the stream that it produces.
Models without such a norm get r unchanged from both.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.model.language_model import LanguageModel

KEPT = 1e-6  # eps, in units of the mean squared gain
STEPS = 100  # more than Newton's method needs: at most 13 were seen for gains over eight orders of magnitude


def reachable(
    lm: LanguageModel, layer: int, y: Float[Tensor, "facts d_model"], r: Float[Tensor, "facts d_model"]
) -> Float[Tensor, "facts d_model"]:
    """The possible change of the residual stream at `layer` that is nearest to the wanted one `r`.

    y: the output of the layer's MLP projection, before the norm.
    """
    norm = lm.mlp_norm(layer)
    return r if norm is None else norm(y + carried(lm, layer, y, r)) - norm(y)


@torch.no_grad()
def carried(
    lm: LanguageModel, layer: int, y: Float[Tensor, "facts d_model"], r: Float[Tensor, "facts d_model"]
) -> Float[Tensor, "facts d_model"]:
    """The change of the MLP's output `y` that changes the residual stream by `reachable(lm, layer, y, r)`."""
    norm = lm.mlp_norm(layer)
    if norm is None:
        return r
    rms = y.double().pow(2).mean(-1, keepdim=True).sqrt()
    gain = norm(rms.to(y).expand_as(y)).double()  # g for outputs of this size: the norm adds a constant to the square
    now = y.double() / rms.clamp(min=1e-30)
    eps = (KEPT * gain.pow(2).mean(-1, keepdim=True)).clamp(min=1e-30)
    u = _on_sphere(gain.pow(2), gain * (gain * now + r.double()) + eps * now)
    return ((u - now) * rms).to(y)


def _on_sphere(a: Float[Tensor, "rows d_model"], c: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_model"]:
    """`u = c / (a + mu)` with the mu > -min(a) for which rms(u) = 1, for each row.

    Newton's method for `1 / sqrt(d) - 1 / |u(mu)| = 0`. The left side falls and is convex in mu; from a start below the
    root no step passes it. That one entry alone must not be too large gives such a start.
    """
    a = a - a.amin(-1, keepdim=True)  # from here on mu is counted from -min(a), and positive
    c = torch.where(c == 0, 1e-150, c)  # else the equation may have no root: the part of c at min(a) has to be nonzero
    root = a.shape[-1] ** 0.5
    mu = (c.abs() / root - a).amax(-1, keepdim=True)
    for _ in range(STEPS):
        u = c / (a + mu)
        length = u.norm(dim=-1, keepdim=True)
        step = length.pow(2) * (length / root - 1) / (u.pow(2) / (a + mu)).sum(-1, keepdim=True)
        mu = mu + step
        if bool((step <= 1e-14 * mu).all()):
            break
    return c / (a + mu)
