"""Checks of the exercises to chapter 02."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from checks.algebra import least_squares, moment, normal
from checks.verdict import NotYet, Right, ask, expect, judge, near

SINGLE = 1e-4  # relative difference of float32 results from float64 results on these systems


def check_rome_write(rome_write: Callable) -> Right:
    """Check the constraint by multiplication, the least disturbance by a minimum-norm solution after whitening."""
    W, C, k, v = normal(6, 10, seed=0), moment(10, seed=1), normal(10, seed=2), normal(6, seed=3)
    found = ask(rome_write, W, C, k, v)
    expect(found.shape == W.shape, f"dW has the shape {tuple(found.shape)}, but W has {tuple(W.shape)}.")
    expect(not near(found @ k, v), "dW k is all of v: the layer already returns W k, and the sum would be too large.")
    expect(near((W + found) @ k, v), "the edited layer does not map k to v.")
    root = torch.linalg.cholesky(C)
    whitened = torch.linalg.solve_triangular(root, k[:, None], upper=False)
    best = (v - W @ k)[:, None] @ torch.linalg.pinv(whitened) @ torch.linalg.inv(root)
    ratio = float(torch.trace(found @ C @ found.T) / torch.trace(best @ C @ best.T))
    expect(
        ratio < 1 + 1e-8,
        f"k is mapped to v, but ordinary keys are disturbed {ratio:.1f} times as much as necessary: where is C used?",
    )
    return Right("k is mapped to v, and no other dW that does so disturbs ordinary keys less.")


def check_memit_write(memit_write: Callable) -> Right:
    """Compare with least squares, so closely that an answer in float32 differs from one in float64."""
    facts, contexts, d_mlp, d_model, lam = 12, 6, 20, 7, 3.0
    h, C = normal(facts, d_model, seed=4).float(), moment(d_mlp, seed=5)
    z, keys = (h + normal(facts, d_model, seed=6)).float(), normal(facts, contexts, d_mlp, seed=7)
    keys = (keys + 2 * normal(facts, 1, d_mlp, seed=8)).float()
    found = ask(memit_write, z, h, keys, C, lam)

    def write(keys: Tensor, wanted: Tensor, lam: float = lam) -> Float[Tensor, "d_model d_mlp"]:
        return least_squares(keys, wanted, C, lam)

    bare, prefixed, r = keys[:, 0].double(), keys[:, 1:].double().mean(1), z.double() - h.double()
    half, plain = (bare + prefixed) / 2, keys.double().mean(1)
    wanted = write(half, r)
    mistakes = {
        "the keys are the plain mean over contexts: the bare prompt should weigh as much as all others.": write(
            plain, r
        ),
        "only the bare prompt's key is used.": write(bare, r),
        "only the prefixed keys are used.": write(prefixed, r),
        "the layer is asked for all of z, although h is there already.": write(half, z.double()),
        "lambda is left out: C has the weight 1.": write(half, r, 1.0),
        "the sign is wrong: the edit moves the state away from z.": -wanted,
    }
    judge("dW", found, wanted, mistakes, "dW does not minimise the objective of MEMIT's write.", SINGLE)
    expect(found.dtype == torch.float64, f"dW is {found.dtype}: convert keys and states to float64 before you solve.")
    expect(near(found, wanted), "dW has float32's precision only: which step came before the conversion to float64?")
    return Right("your normal equations agree with least squares to 1e-8.")


def check_spread(spread: Callable) -> Right:
    """On a small network, compare what each layer is asked for with what is missing at that point."""
    layers, toy = (2, 3, 5), _Toy()
    z = toy.read({}, layers[0])[1] + normal(4, 6, seed=9)
    asked: dict[int, Tensor] = {}

    def solve(layer: int, keys: Tensor, wanted: Tensor) -> Tensor:
        asked[layer] = wanted
        return least_squares(keys, wanted, toy.C, 0.5)

    changes = ask(spread, layers, z, toy.read, solve)
    expect(set(changes) == set(layers), f"changes has the layers {sorted(changes)}, but should have {list(layers)}.")
    at_first = z - toy.read({}, layers[0])[1]
    for i, layer in enumerate(layers):
        below = {other: changes[other] for other in layers[:i]}
        keys, states = toy.read(below, layer)
        to_go, missing = len(layers) - i, z - states
        mistakes = {
            f"layer {layer} is asked for everything that is missing: the layers above have a share.": missing,
            f"layer {layer} is asked for a share of what was missing at first: what is missing now?": at_first / to_go,
            f"layer {layer} is asked for one part in {len(layers)}, with {to_go} still to go.": missing / len(layers),
            f"layer {layer} is asked for its share of z: h is there already.": z / to_go,
        }
        expect(layer in asked, f"`solve` was not called for layer {layer}.")
        otherwise = f"layer {layer} is asked for something other than its share of what is missing."
        judge("what is asked for", asked[layer], missing / to_go, mistakes, otherwise)
        same = near(changes[layer], least_squares(keys, missing / to_go, toy.C, 0.5))
        expect(same, f"layer {layer} is solved with keys of another model: read them from the model as edited so far.")
    left = float((z - toy.read(changes, layers[-1])[1]).norm() / at_first.norm())
    return Right(f"each layer was asked for its share of the remaining error; {left:.0%} is left at the end.")


class _Toy:
    """Four facts in a residual network of six layers, `x + (W_l + dW_l) relu(A_l x)`."""

    def __init__(self) -> None:
        self.x = normal(4, 6, seed=10)
        self.A, self.W = normal(6, 10, 6, seed=11) / 2, normal(6, 6, 10, seed=12) / 5
        self.C = moment(10, seed=13)

    def read(self, changes: dict[int, Tensor], layer: int) -> tuple[Tensor, Tensor]:
        """Keys of a layer and states after the last layer, with these changes applied."""
        if unknown := set(changes) - set(range(6)):
            raise NotYet(f"`read` was given a change of layer {unknown.pop()}, which the model does not have.")
        x, keys = self.x, {}
        for i in range(6):
            keys[i] = (x @ self.A[i].T).relu()
            x = x + keys[i] @ (self.W[i] + changes.get(i, 0)).T
        return keys[layer], x
