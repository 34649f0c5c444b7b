"""The coupled solve in two other ways: fact by fact, and from one matrix that is a sum over facts.

Both follow the equations of `fleke_lib.edit.coupled` literally, in float64. `from_gram` sees no fact: it is given the
Gram matrix of all facts' vectors, the sum of their spreads and the sum of the traces left out. What it returns can
therefore depend on these sums alone.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fleke_lib.edit.trajectories import BYSTANDER, Trajectory

MOST = 1.2  # alpha's upper bound


def spread_of(path: Trajectory, layer: int) -> Tensor:
    """D of one fact: contexts around the mean key, and other tokens, one outer product at a time."""
    keys, mean = path.keys[layer].double(), mean_of(path, layer)
    total = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for key, weight in zip(keys, weights(len(keys)), strict=True):
        total += weight * torch.outer(key - mean, key - mean)
    for key in path.bystanders.get(layer, keys[:0]).double():
        total += BYSTANDER * torch.outer(key, key)
    return total


def mean_of(path: Trajectory, layer: int) -> Tensor:
    keys = path.keys[layer].double()
    return sum(weight * key for weight, key in zip(weights(len(keys)), keys, strict=True))


def weights(contexts: int) -> list[float]:
    return [0.5] + [0.5 / (contexts - 1)] * (contexts - 1) if contexts > 1 else [1.0]


def fact_by_fact(
    paths: Sequence[Trajectory], moments: Mapping[int, Tensor], lam: float, coupling: float = 1.0
) -> dict[int, Tensor]:
    """dW of each layer, with a loop over facts for every sum."""
    layers = sorted(paths[0].shares)
    A = [torch.zeros(len(path.residual), dtype=torch.float64) for path in paths]
    B = list(A)
    changes = {}
    for number, layer in enumerate(layers):
        m = len(layers) - number
        supposed = sum(float(b @ b) for b in B)
        alpha = sum(float(a @ b) for a, b in zip(A, B, strict=True)) / supposed if supposed else 1.0
        alpha = min(max(alpha, 0.0), MOST)
        system, T, met = lam * moments[layer].double(), 0, []
        for path, a, b in zip(paths, A, B, strict=True):
            k1, r = mean_of(path, layer), path.shares[layer].double()
            k0 = path.bases[layer].double() if path.bases else k1
            missing = path.residual.double()
            k = (1 - alpha) * k0 + alpha * k1
            q = r + ((1 - alpha) * (missing - m * r) - (a - alpha * b)) / m
            system = system + torch.outer(k, k) + spread_of(path, layer)
            T = T + torch.outer(q, k)
            met.append((k, r))
        changes[layer] = torch.linalg.solve(system, T.T).T
        A = [a + r + coupling * (changes[layer] @ k - r) for a, (k, r) in zip(A, met, strict=True)]
        B = [b + r for b, (_, r) in zip(B, met, strict=True)]
    return changes


def stack(path: Trajectory) -> Tensor:
    """x of one fact: its keys on the base model, its mean keys, its shares, each of all layers, and its z - h."""
    layers = sorted(path.shares)
    parts = [path.bases[i].double() for i in layers] + [mean_of(path, i) for i in layers]
    return torch.cat([*parts, *(path.shares[i].double() for i in layers), path.residual.double()])


def from_gram(
    G: Tensor,
    spreads: Mapping[int, Tensor],
    left: Mapping[int, float],
    moments: Mapping[int, Tensor],
    lam: float,
    coupling: float = 1.0,
) -> dict[int, Tensor]:
    """dW of each layer from `G = sum_i x_i x_i^T` (see `stack`), the sums of D_i and those of tau_i.

    A, B, k and q of a fact are linear maps of its x, the same map for all facts, so that every sum of their products is
    a product of maps with G.
    """
    layers, count = sorted(spreads), len(spreads)
    d_mlp = len(spreads[layers[0]])
    d_model = (len(G) - 2 * count * d_mlp) // (count + 1)
    one = torch.eye(len(G), dtype=torch.float64)
    cut = one.split([d_mlp] * 2 * count + [d_model] * (count + 1))
    K0, K1, R = (dict(zip(layers, cut[i * count : (i + 1) * count], strict=True)) for i in range(3))
    missing = cut[-1]
    A = B = torch.zeros_like(missing)
    changes = {}
    for number, layer in enumerate(layers):
        m, C = count - number, moments[layer].double()
        supposed = float(torch.trace(B @ G @ B.T))
        alpha = min(max(float(torch.trace(A @ G @ B.T)) / supposed, 0.0), MOST) if supposed else 1.0
        K = K0[layer] + alpha * (K1[layer] - K0[layer])
        Q = R[layer] + ((1 - alpha) * (missing - m * R[layer]) - (A - alpha * B)) / m
        system = (lam + left[layer] / float(C.trace())) * C + K @ G @ K.T + spreads[layer]
        changes[layer] = torch.linalg.solve(system, K @ G @ Q.T).T
        A = A + R[layer] + coupling * (changes[layer] @ K - R[layer])
        B = B + R[layer]
    return changes
