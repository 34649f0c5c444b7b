"""Differential privacy for the sums: score and attack against epsilon: ``python -m benchmarks.private_sums``.

The facts are atlas facts 111 to 590, whose default packets are added up, clipped and released with noise. Clipping
bounds are the medians of half of the facts before 111. Up to epsilon 100 the noise on S hides S. T alone is released
then, and the S of those public facts stands in. Lambda is the best of two on the facts of the row itself, in favour of
the defence. Score and top-1 are over every tenth fact. Attacks are over all atlas subjects at the first edited layer:
from T by its row space and by the size of T x, from S, and from the edit in the same two ways. With `--copies` as many
clients contribute each fact.
"""

import argparse
from collections.abc import Mapping, Sequence
from math import inf

import torch
from torch import Tensor

import fleke_lib as fleke
from benchmarks.insiders import packets_of
from fleke_lib.edit.closed_form import from_sums
from fleke_lib.edit.moments import Moments
from fleke_lib.evaluation.metrics import PreparedEvaluation, prepare_evaluation
from fleke_lib.facts.fact import Fact
from fleke_lib.federation import Packet
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.privacy import differential
from fleke_lib.privacy.attacks import updates
from fleke_lib.privacy.attacks.rates import Rate
from fleke_lib.privacy.attacks.subject import dictionary
from fleke_lib.privacy.differential import Bounds, clipped, released, unwhitened
from fleke_lib.ridge.sums import Sums

EPSILONS = (1, 3, 10, 30, 100, 1e3, 1e4, 1e5, inf)
PART = 0.2  # g where S is released too
# g and lambdas to choose from, by the least epsilon from which they are tried
WAYS = {inf: (PART, (30.0, 100.0)), 1e5: (PART, (300.0, 1e3)), 1e4: (PART, (1e3, 3e3)), 1e3: (PART, (3e3, 1e4))}
SMALL = (0.0, (1e4, 1e5))


def ways(epsilon: float) -> tuple[float, tuple[float, ...]]:
    """g and the lambdas for an epsilon."""
    return next((way for least, way in WAYS.items() if epsilon >= least), SMALL)


class Release:
    """The clipped sums of some facts, and of the public facts that stand in for them."""

    def __init__(self, moments: Moments, protected: Sequence[Packet], public: Sequence[Packet]) -> None:
        self.moments, self.layers, self.facts = moments, protected[0].layers, len(protected)
        self.fingerprint = protected[0].fingerprint
        self.R = {layer: differential.whitening(moments[layer]) for layer in self.layers}
        self.bounds, self.own, self.stand_in, self.typical = {}, {}, {}, {}
        for layer, R in self.R.items():
            sizes = torch.tensor([differential.norms(one, layer, R) for one in public]).double()
            self.bounds[layer] = Bounds(*sizes.median(0).values.tolist())
            self.own[layer] = clipped(protected, layer, R, self.bounds[layer])
            theirs = clipped(public, layer, R, self.bounds[layer])
            self.stand_in[layer] = theirs.S * (len(protected) / len(public))
            found = torch.tensor([differential.norms(one, layer, R) for one in protected]).double()
            limit = torch.tensor([self.bounds[layer].a, self.bounds[layer].b]).double()
            self.typical[layer] = float((found[:, 1] * (limit / found).amin(1).clamp_max(1)).median())

    def at(self, multiplier: float, part: float, seed: int = 0, copies: int = 1) -> dict[int, Sums]:
        """The noisy sums of each layer, in the coordinates of the keys."""
        found = {}
        for i, (layer, R) in enumerate(self.R.items()):
            own = Sums(copies * self.own[layer].S, copies * self.own[layer].T)
            noisy = released(own, self.bounds[layer], multiplier, 1000 * seed + i, part)
            found[layer] = unwhitened(noisy if part else Sums(copies * self.stand_in[layer], noisy.T), R)
        return found

    def signal_to_noise(self, multiplier: float, part: float, layer: int) -> tuple[float, float]:
        """Of T: of the whole matrix, and of what a typical fact's key reads from it."""
        _, on_T = self.bounds[layer].deviations(multiplier, part)
        if not on_T:
            return inf, inf
        T = self.own[layer].T
        return float(T.norm()) / (on_T * T.numel() ** 0.5), self.typical[layer] / (on_T * len(T) ** 0.5)


def recovered(total: Sums, change: Tensor, known: updates.Candidates, members: Tensor, part: float) -> str:
    """The share of members among the first candidates, as many as there are members, for each attack."""
    scores = {"T": updates.from_T(total.T, known), "|T x|": updates.size_in_T(total.T, known)}
    scores |= {"S": updates.from_S(total.S, known)} if part else {}
    scores |= {"dW": updates.from_update(change, known), "|dW k|": updates.size_in_update(change, known)}
    chance, n = len(members) / known.directions.shape[1], len(members)
    rates = {name: Rate(updates.found_among(each, members), n, chance) for name, each in scores.items()}
    return ", ".join(f"{name} {rate}" for name, rate in rates.items())


def row(
    lm: LanguageModel,
    release: Release,
    known: updates.Candidates,
    members: Tensor,
    prepared: tuple[Sequence[Fact], PreparedEvaluation],
    epsilon: float,
    copies: int = 1,
    seed: int = 0,
) -> str:
    """One line: what epsilon costs, and what is read nevertheless."""
    z = differential.multiplier_for(epsilon, len(release.layers))
    alone = epsilon if copies == 1 else differential.epsilon_of(z / copies, len(release.layers))  # same signal to noise
    part, lambdas = ways(alone)
    totals, tried = release.at(z, part, seed, copies), []
    for lam in lambdas:
        edit = from_sums(totals, release.moments, release.fingerprint, copies * lam)
        with edit.applied(lm):
            found = fleke.evaluate(lm, prepared[0], prepared=prepared[1])
        tried.append((found.score + found.top1, lam, found, edit))
    _, lam, found, edit = max(tried, key=lambda one: one[0])
    first = release.layers[0]
    whole, one = release.signal_to_noise(z / copies, part, first)
    return (
        f"epsilon {epsilon:g}, {copies} copies, {'S and T' if part else 'T'}, z {z:.4g}, lambda {copies * lam:g}: "
        f"score {found.score:.3f} top-1 {found.top1:.3f} specificity {found.specificity:.3f}; signal to noise of T "
        f"{whole:.3g}, of a fact {one:.3g}; subjects from "
        f"{recovered(totals[first], edit.changes[first].dense(), known, members, part)}"
    )


def numbers(subjects: Sequence[str], facts: Sequence[Fact]) -> Tensor:
    """The places of the facts' subjects among all, each once."""
    places: Mapping[str, int] = {subject: i for i, subject in enumerate(subjects)}
    return torch.tensor(sorted({places[fact.subject] for fact in facts}))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.private_sums", description=__doc__)
    parser.add_argument("--epsilons", type=float, nargs="+", default=EPSILONS)
    parser.add_argument("--copies", type=int, default=1, help="clients that contribute each fact")
    parser.add_argument("--facts", type=int, default=480)
    given = parser.parse_args()
    lm, atlas = fleke.load_model(), fleke.load_facts("atlas")
    moments, facts = fleke.second_moments(lm), atlas[111 : 111 + given.facts]
    release = Release(moments, packets_of(lm, facts), packets_of(lm, atlas[:111:2]))
    subjects = list(dict.fromkeys(fact.subject for fact in atlas))
    first = release.layers[0]
    known = updates.Candidates.of(dictionary(lm, subjects, release.layers).keys, moments[first])
    some = facts[::10]
    prepared = some, prepare_evaluation(lm, some, below=min(release.layers))
    for epsilon in given.epsilons:
        print(row(lm, release, known, numbers(subjects, facts), prepared, epsilon, given.copies), flush=True)


if __name__ == "__main__":
    main()
