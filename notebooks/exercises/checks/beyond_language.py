"""Checks of the exercises on chapter 10."""

from collections.abc import Callable

import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from torch import Tensor

from checks.algebra import least_squares, moment, normal
from checks.verdict import Right, ask, judge


def check_patched(patched: Callable) -> Right:
    """Four layers that mix tokens; every layer and two tokens are tried."""
    weights = [normal(6, 6, seed=i) / 6**0.5 for i in range(4)]
    mixing = [normal(5, 5, seed=10 + i) / 5**0.5 for i in range(4)]
    layers = [lambda x, w=w, m=m: x + torch.tanh(m @ x @ w) for w, m in zip(weights, mixing, strict=True)]
    healthy, faulty = normal(5, 6, seed=20), normal(5, 6, seed=21)

    def run(states: Tensor, start: int, stop: int) -> Tensor:
        for layer in layers[start:stop]:
            states = layer(states)
        return states

    def mixed(one: Tensor, other: Tensor, token: int) -> Tensor:
        return torch.cat([one[:token], other[[token]], one[token + 1 :]])

    for layer, token in ((1, 2), (0, 0), (3, 4)):
        before, after = (run(states, 0, layer) for states in (healthy, faulty)), layer + 1
        low, high = before
        good, bad = run(low, layer, after), run(high, layer, after)
        judge(
            f"the result for layer {layer} and token {token}",
            ask(patched, layers, healthy, faulty, layer, token),
            run(mixed(good, bad, token), after, 4),
            {
                "the state is replaced before the layer: replace its output.": run(mixed(low, high, token), layer, 4),
                "all states come from the faulty picture: replace one token's.": run(bad, after, 4),
                "nothing is replaced: this is the healthy run.": run(good, after, 4),
                "the faulty run has one healthy state: the roles are exchanged.": run(
                    mixed(bad, good, token), after, 4
                ),
                "the state is the one that enters the first layer: run the faulty picture up to the layer.": run(
                    mixed(good, faulty, token), after, 4
                ),
            },
            "this is not the healthy run with one state of the faulty one.",
        )
    return Right("the state of one token after one layer is the faulty picture's, and all others follow from it.")


def check_lowered(lowered: Callable) -> Right:
    """Compares with least squares, and measures how far other users' scores move."""
    d, lam = 16, 0.5
    C, keys = moment(d, seed=0), normal(1, d, seed=1) + normal(4, d, seed=2)
    falls = normal(4, seed=3).abs() + 0.5
    right = least_squares(keys, -falls[:, None], C, lam)[0]
    found = ask(lowered, keys, falls, C, lam)
    S, T, ones = keys.T @ keys, -falls @ keys, torch.eye(d, dtype=keys.dtype)
    mistakes = {
        "the scores rise by `falls`, but they should fall.": -right,
        "other users' keys are not in it: C is missing, and every direction counts alike.": torch.linalg.solve(
            lam * ones + S, T
        ),
        "lambda is missing.": torch.linalg.solve(C + S, T),
        "this meets every fall exactly; the others' part of the objective is missing.": torch.linalg.pinv(keys)
        @ -falls,
    }
    judge("the change", found, right, mistakes, "this does not minimise the two terms.")
    met = float((keys @ found / -falls).mean())
    moved = float((found @ C @ found).sqrt() / falls.mean())
    return Right(
        f"the scores fall by {met:.0%} of what was asked, and others' by {moved:.0%} of it (root mean square)."
    )


def check_likelihood_ratios(likelihood_ratios: Callable) -> Right:
    """Compares with scipy's densities on shadow models whose examples differ in level and spread."""
    models, examples = 60, 200
    level, spread = 3 * normal(examples, seed=0), torch.exp(normal(examples, seed=1))
    inside = torch.rand(models, examples, generator=torch.Generator().manual_seed(2)) < 0.5
    shadow = level + spread * (normal(models, examples, seed=3) + 1.5 * inside)
    member = torch.arange(examples) < examples // 2
    victim = level + spread * (normal(examples, seed=4) + 1.5 * member)

    def ratios(correction: int) -> Tensor:
        inner, outer = (
            [
                (float(c[m].mean()), float(c[m].std(correction=correction)))
                for c, m in zip(shadow.T, rows.T, strict=True)
            ]
            for rows in (inside, ~inside)
        )
        logs = [
            norm.logpdf(float(c), *a) - norm.logpdf(float(c), *b) for c, a, b in zip(victim, inner, outer, strict=True)
        ]
        return torch.tensor(logs, dtype=torch.float64)

    right = ratios(1)
    pooled_in, pooled_out = shadow[inside], shadow[~inside]
    pooled = [norm.logpdf(victim.numpy(), float(some.mean()), float(some.std())) for some in (pooled_in, pooled_out)]
    mistakes = {
        "the ratio is upside down: members should score high.": -right,
        "this is the ratio of densities; take the logarithm.": right.exp(),
        "the standard deviations divide by n: use n - 1.": ratios(0),
        "one pair of distributions serves all examples: fit one pair for each.": torch.from_numpy(
            pooled[0] - pooled[1]
        ),
    }
    found = ask(likelihood_ratios, shadow, inside, victim)
    judge("the scores", found, right, mistakes, "these are not the log ratios of the two densities.", 1e-6)
    alone, together = (roc_auc_score(member, one) for one in (right, mistakes[list(mistakes)[3]]))
    return Right(
        f"scored alone, members are told apart with an AUC of {alone:.2f}; by one threshold for all, {together:.2f}."
    )
