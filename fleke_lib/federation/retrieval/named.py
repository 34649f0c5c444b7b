"""Policies by name, for command lines and files of settings: "majority", "threshold:0.6", "top:2"."""

from fleke_lib.federation.retrieval.policies import Cluster, Everyone, Majority, Nobody, Policy, Threshold, TopK

CHOICES = "majority (or majority:TAU), threshold:TAU, top:K, cluster, everyone, nobody"
PLAIN = {"majority": Majority, "cluster": Cluster, "everyone": Everyone, "nobody": Nobody}
WITH_NUMBER = {"majority": (Majority, float), "threshold": (Threshold, float), "top": (TopK, int)}


def policy_named(text: str) -> Policy:
    """The policy with this name, its number behind a colon. Raises ValueError with all names for another one."""
    name, colon, number = text.partition(":")
    try:
        if not colon:
            return PLAIN[name]()
        kind, read = WITH_NUMBER[name]
        return kind(read(number))
    except (KeyError, ValueError):
        raise ValueError(f"there is no policy {text!r}: give one of {CHOICES}.") from None
