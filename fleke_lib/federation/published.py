"""FedEdit as published: the paper's retrieval rule, and its re-editing slot after slot with text.

This is the paper's method, to be shown under its own name beside this course's closed form (`weights.cumulative`),
which differs in both stages: it solves from vectors alone, from the base weights. The order of a slot is the paper's:
each client edits its own facts, and later re-edits with what it retrieves.

Two things are not as in the paper. MKVs are computed on the base model, not on the client's edited one, so that all
methods here write the same vectors. And a client that wants a fact which is published already reuses its vectors.
"""

from fleke_lib.edit import Edit
from fleke_lib.edit.moments import Moments
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.retrieval.policies import Majority
from fleke_lib.federation.rounds import Run
from fleke_lib.federation.weights import sequential_with_text
from fleke_lib.model.language_model import LanguageModel

# Raw MKVs, at least half of a client's own of the slot nearer than tau = 0.4, only offers of the present slot.
PUBLISHED = ClientConfig(Majority(tau=0.4, share=0.5), representation="raw", looks_back=False)


def published_fedit(run: Run, lm: LanguageModel, client: str, moments: Moments) -> Edit:
    """A client's edit after the last slot of a run, by MEMIT on the edited model, own facts first, then adopted ones.

        run = run_fedit(lm, parts, PUBLISHED, secret=secret)
        edit = published_fedit(run, lm, "client 0", moments)

    The texts of adopted facts are looked up in the run, which a real client cannot do.

    Raises:
        ValueError: the client holds no packet.

    Source: the FLEKE paper, arXiv 2502.15677.
    """
    last = run.slots - 1
    return sequential_with_text(run, lm, client, moments, slots=[last])[last]
