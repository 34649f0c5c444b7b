"""A per-example membership audit of a withdrawal: of those who left, and of those who stayed.

The attack is that of `fleke_lib.unlearn.classifier.membership`: a likelihood ratio with shadow models (Carlini et al.
2022), for any model of which the attacker can compute one confidence for each example. Every example is scored alone.

A victim is trained on a random half of the examples. Some of its members leave. Two questions are asked of the model
after each method of withdrawal:

    left      do those who left score higher than similar examples that were never there?
    stayed    do those who stayed score higher than similar examples that were never there?

The first AUC should be 0.5, as after retraining. The second shows that the audit works, and what a withdrawal does to
the others: who stays in a model that was trained on fewer examples may be recognised more easily (Carlini et al. 2022,
"The privacy onion effect", arXiv 2206.10469).
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float

from fleke_lib.unlearn.classifier.membership import MembershipAudit, Shadows, auc_over_victims

Mask = Bool[np.ndarray, " examples"]
Confidences = Float[np.ndarray, " examples"]


def shadow_models(train: Callable[[Mask], Confidences], examples: int, models: int, seed: int = 0) -> Shadows:
    """Shadow models on random halves of the examples.

    Args:
        train: trains on the members of a mask and returns the confidence in every example. An attacker who knows who
            left, and by which method, withdraws them from its shadow models in the same way.

    Raises:
        ValueError: too few models, as `Shadows.of`.
    """
    rng = np.random.default_rng([seed, 11])
    inside = np.stack([half(rng, examples) for _ in range(models)])
    return Shadows.of(np.stack([train(mask) for mask in inside]), inside)


def half(rng: np.random.Generator, examples: int) -> Mask:
    """A random half of the examples."""
    members = np.zeros(examples, bool)
    members[rng.permutation(examples)[: examples // 2]] = True
    return members


def audited(
    methods: Mapping[str, Callable[[Mask, Mask], Confidences]],
    attacks: Mapping[str, Shadows],
    leave: Callable[[np.random.Generator, Mask], tuple[Mask, Mask]],
    victims: int,
    each: int,
    seed: int = 0,
) -> dict[str, dict[str, MembershipAudit]]:
    """The audits "left" and "stayed" after each method; all methods see the same victims.

    Args:
        methods: by name, a function of who was trained on and of who leaves, which returns the confidences afterwards.
        attacks: the shadow models that the attacker uses against each method.
        leave: of a victim's members, who leaves, and who is similar to them (a mask over all examples).
        each: examples drawn from every group of every victim.
    """
    rng, examples = np.random.default_rng([seed, 12]), len(next(iter(attacks.values())).inside[0])
    scores = {name: {who: np.empty((2, victims, each)) for who in ("left", "stayed")} for name in methods}
    for victim in range(victims):
        members = half(rng, examples)
        gone, alike = leave(rng, members)
        groups = {
            "left": (_draw(rng, gone, each), _draw(rng, alike & ~members, each)),
            "stayed": (_draw(rng, members & ~alike, each), _draw(rng, ~members & ~alike, each)),
        }
        for name, method in methods.items():
            found = attacks[name].scores(method(members, gone))
            for who, (inside, never) in groups.items():
                scores[name][who][:, victim] = found[inside], found[never]
    return {
        name: {who: auc_over_victims(*pair, seed=seed) for who, pair in groups.items()}
        for name, groups in scores.items()
    }


def _draw(rng: np.random.Generator, mask: Mask, count: int) -> np.ndarray:
    places = np.flatnonzero(mask)
    if len(places) < count:
        raise ValueError(f"{count} examples of a group are asked for, but a victim has {len(places)}: give fewer.")
    return rng.choice(places, count, replace=False)
