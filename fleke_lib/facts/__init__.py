"""Facts: the data type, the file formats, and the texts that a model reads for a fact."""

from fleke_lib.facts.contexts import context_weights, contexts_for
from fleke_lib.facts.fact import Fact, Neighbour
from fleke_lib.facts.loading import Facts, load_facts
from fleke_lib.facts.prompts import fact_texts, same_key

__all__ = ["Fact", "Facts", "Neighbour", "context_weights", "contexts_for", "fact_texts", "load_facts", "same_key"]
