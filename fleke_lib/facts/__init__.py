"""Facts: what they are, the files they come from, and the texts that a model reads of them."""

from fleke_lib.facts.fact import Fact, Neighbour
from fleke_lib.facts.loading import Facts, load_facts

__all__ = ["Fact", "Facts", "Neighbour", "load_facts"]
