"""The claims on privacy: what vectors give away, and what each protection hides."""

from fleke_lib.reproduce import leaks
from fleke_lib.reproduce.claims import Bound, Claim

OWN = "this repository"

PRIVATE: tuple[Claim, ...] = (
    Claim(
        "subjects-read",
        "a server that knows the model names the subjects of unprotected packets",
        OWN,
        "share of default packets whose subject is named among the atlas' subjects, without the prompt",
        Bound(0.95),
        leaks.subjects_named,
    ),
    Claim(
        "targets-read",
        "it names their targets, once it knows the template",
        OWN,
        "share of default packets whose target's first token is named among the vocabulary",
        Bound(0.9),
        leaks.targets_named,
    ),
    Claim(
        "totals-read",
        "an update or a total over all clients names the subjects, too",
        OWN,
        "the least recall of subjects from dW, from T and from S of the first edited layer, over all clients",
        Bound(0.9),
        leaks.total_read,
    ),
    Claim(
        "leavers-read",
        "what a withdrawal changes names the withdrawn fact's subject",
        OWN,
        f"share of {leaks.ONES} facts, each withdrawn alone, named from the change of dW",
        Bound(0.9),
        leaks.leavers_named,
    ),
    Claim(
        "rotation-read",
        "a secret rotation hides no prompt from a server that can list it, without one known pair",
        OWN,
        "share of exact prompts named among the atlas' from the length of the rotated h alone",
        Bound(0.5),
        leaks.prompts_named_through_a_rotation,
    ),
    Claim(
        "noise-read",
        "noise destroys the edit before it hides a subject",
        OWN,
        f"share of subjects named at {leaks.NOISE:g} times each vector's length, minus the edit's top-1 there",
        Bound(0.5),
        leaks.named_in_spite_of_noise,
    ),
    Claim(
        "sealed-equal",
        "sealed packets give the weights of plain ones, bit for bit",
        OWN,
        "greatest relative distance over clients and layers",
        Bound(0, "at most"),
        leaks.sealed_differs,
        identity=True,
    ),
    Claim(
        "sealed-bytes",
        "a blind server stores and sees no vector and no text",
        OWN,
        "packets with a piece of a vector, and texts, found in its files and in all messages",
        Bound(0, "at most"),
        leaks.vectors_seen,
        identity=True,
    ),
    Claim(
        "keys-erased",
        "a withdrawal reaches backups: without their keys withdrawn packets are noise",
        OWN,
        "withdrawn packets that open from a backup made before, with the group's key",
        Bound(0, "at most"),
        leaks.opened_after_withdrawal,
        identity=True,
    ),
    Claim(
        "sealed-withdrawal",
        "a withdrawal from a sealed federation is exact",
        OWN,
        "greatest relative distance, over clients and layers, to the federation never joined",
        Bound(0, "at most"),
        leaks.sealed_withdrawal,
        identity=True,
    ),
    Claim(
        "masked-equal",
        "masked totals are the plain totals, bit for bit, also when clients drop out",
        OWN,
        "integers that differ, at the first edited layer, with none, one and up to three clients gone",
        Bound(0, "at most"),
        leaks.masked_differs,
        identity=True,
    ),
)
