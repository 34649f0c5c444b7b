"""Checks of the exercises on chapter 03."""

import re
from collections.abc import Callable
from itertools import permutations

import torch
from jaxtyping import Float
from torch import Tensor

from checks.algebra import least_squares, moment, normal
from checks.verdict import EXACT, NotYet, Right, ask, expect, judge, near
from fleke_lib.facts import context_weights

SEPARATORS = " |,;:/-_.\t\n\0\x1f"


def check_closed_form(closed_form: Callable) -> Right:
    """Compare with least squares, where every context of every fact is one row; then reverse the order of facts."""
    facts, contexts, d_mlp, d_model, lam = 3, 6, 16, 5, 2.0
    keys = normal(facts, contexts, d_mlp, seed=0) + 2 * normal(facts, 1, d_mlp, seed=1)
    shares, C, weights = normal(facts, d_model, seed=2), moment(d_mlp, seed=3), context_weights(contexts).double()

    def rows(weights: Float[Tensor, " contexts"]) -> Float[Tensor, "d_model d_mlp"]:
        roots = weights.sqrt()
        wanted = shares[:, None] * roots[:, None]
        return least_squares((keys * roots[:, None]).flatten(0, 1), wanted.flatten(0, 1), C, lam)

    found, wanted = ask(closed_form, keys, shares, C, lam), rows(weights)
    mean = torch.einsum("c,icd->id", weights, keys)
    mistakes = {
        "every context weighs the same: the bare prompt's weight is half of all.": rows(
            torch.full_like(weights, 1 / 6)
        ),
        "the weights of a fact's contexts add up to 6: they should add up to 1.": rows(torch.ones_like(weights)),
        "S is made of mean keys: S sums one product for the key of each context.": least_squares(mean, shares, C, lam),
        "dW uses the bare prompts alone: the prefixed contexts have half of the weight.": least_squares(
            keys[:, 0], shares, C, lam
        ),
    }
    judge("dW", found, wanted, mistakes, "dW is not the ridge regression over all contexts of all facts.")
    backwards = ask(closed_form, keys.flip(0), shares.flip(0), C, lam)
    expect(near(backwards, found), "dW depends on the order of the facts: a sum over facts does not.")
    return Right("the 18 keys of three facts are solved from two sums, in any order.")


def check_tag(tag: Callable) -> Right:
    """Attack it: look for two messages with one tag, or a tag that can be computed without the secret."""
    secret, parts = b"the clients' own", ("France", "The capital of {} is")
    found = ask(tag, secret, "question", *parts)
    expect(
        found == ask(tag, secret, "question", *parts),
        "the same message has two different tags: nobody could find it again.",
    )
    form = isinstance(found, str) and re.fullmatch("[0-9a-f]{64}", found)
    expect(form, f"a tag is 64 hexadecimal digits, but yours is {found!r}.")
    expect(
        ask(tag, b"another", "question", *parts) != found,
        "the secret changes nothing: a server that guesses a fact can compute its tag and confirm the guess.",
    )
    expect(
        ask(tag, secret, "answer", *parts) != found,
        "a question and an answer with the same words have one tag: the tag must depend on the purpose.",
    )
    expect(
        ask(tag, secret, "question", *reversed(parts)) != found,
        "subject and prompt can change places without changing the tag.",
    )
    expect(
        ask(tag, secret + b"q", "uestion", *parts) != found,
        "the first letters of the message can pass for the end of the secret: a secret in front is not enough.",
    )
    _attack_borders(tag, secret)
    return Right("no two of the tested messages share a tag; no test can show that every attack fails.")


def _attack_borders(tag: Callable, secret: bytes) -> None:
    """Try messages whose parts would give the same text if they were joined by some separator."""
    for separator in ("", *SEPARATORS):
        one, other = ("a" + separator + "b", "c"), ("a", "b" + separator + "c")
        if ask(tag, secret, "question", *one) == ask(tag, secret, "question", *other):
            raise NotYet(f"the parts {one} and {other} have one tag: the tag must also depend on where one part ends.")
    for one, other in permutations([("a",), ("a", ""), ("", "a")], 2):
        same = ask(tag, secret, "question", *one) == ask(tag, secret, "question", *other)
        expect(
            not same, f"the parts {one} and {other} have one tag: the tag must also depend on how many parts there are."
        )


def check_slim(slim: Callable) -> Right:
    """With all axes nothing may be lost; with fewer, no more than the Eckart-Young bound from the eigenvalues."""
    weights, keys = context_weights(6).double(), normal(6, 12, seed=4) + 3 * normal(1, 12, seed=5)
    keys[1:] += normal(1, 12, seed=6)  # otherwise the weighted and the plain mean are too close
    S = torch.einsum("c,cd,ce->de", weights, keys, keys)
    mean, rest = ask(slim, keys, weights, 5)
    mistakes = {"m is the plain mean of the keys: T needs the weighted mean.": keys.mean(0)}
    judge("m", mean, weights @ keys, mistakes, "m is not the weighted mean of the keys.")
    expect(
        rest.shape == (5, 12),
        f"5 axes were asked for, and the shape that came back is {tuple(rest.shape)}: return one axis per row.",
    )
    left = S - torch.outer(mean, mean) - rest.T @ rest
    around = keys - weights @ keys
    plain = torch.einsum("cd,ce->de", around, around)
    expect(not near(rest.T @ rest, plain), "the axes belong to keys that all weigh 1: use the weights here as well.")
    unit = near(rest @ rest.T, torch.eye(5, dtype=rest.dtype))
    expect(not unit, "every axis has length 1: its length should say how far the keys spread along it.")
    expect(
        left.norm() < EXACT * S.norm(),
        f"with 5 axes for 6 contexts nothing may be lost, but {float(left.norm() / S.norm()):.0%} of S is lost.",
    )
    values = torch.linalg.eigvalsh(S - torch.outer(mean, mean)).flip(0)
    for axes in (0, 1, 3):
        _, rest = ask(slim, keys, weights, axes)
        expect(
            rest.shape == (axes, 12),
            f"{axes} axes were asked for, and the shape that came back is {tuple(rest.shape)}.",
        )
        lost = float((S - torch.outer(mean, mean) - rest.T @ rest).norm())
        least = float(values[axes:].norm())
        expect(
            lost < least * (1 + 1e-6),
            f"other axes lose less: with {axes} of yours the rest has norm {lost:.2f}, where {least:.2f} is possible.",
        )
    shares = [float(values[axes:].norm() / S.norm()) for axes in (0, 1, 5)]
    return Right(f"with no axis {shares[0]:.0%} of S is lost, with one axis {shares[1]:.0%}, with five nothing.")
