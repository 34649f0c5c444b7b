"""A scenario: the federation of one seed, and everything that claims measure on it, computed once and on demand.

Every seed has facts of its own, none of which was used to choose layers or lambda (`sampling.py`). MKVs are read from
disk (those of the atlas ship with the repository). Trajectories take 0.1 s per fact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from fleke_lib.edit import Edit, alphaedit, memit, pmet, rome
from fleke_lib.edit.closed_form import lambda_of
from fleke_lib.edit.disturbance import within_budget
from fleke_lib.edit.downdate import FactoredEdit, factorise
from fleke_lib.edit.moments import Moments
from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.evaluation.metrics import PreparedEvaluation, evaluate, free_decoding, prepare_evaluation
from fleke_lib.evaluation.results import Evaluation
from fleke_lib.facts.fact import Fact
from fleke_lib.federation import baselines, weights
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.outcome import outcome, wanted
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.partitioning import Part, partition
from fleke_lib.federation.provider import VectorProvider
from fleke_lib.federation.published import PUBLISHED, published_fedit
from fleke_lib.federation.retrieval.policies import Everyone, Policy, TopK
from fleke_lib.federation.retrieval.precision import Retrieval
from fleke_lib.federation.rounds import Run, run_fedit
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.mkv.store import stored_mkvs
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.unlearn.edits.withdrawal import withdraw

SECRET = b"the clients' own"  # of the keyed tags; an experiment in one process has nobody to keep it from
CHOOSY = ClientConfig(TopK(2), representation="centred")


@dataclass(frozen=True, eq=False)
class Scenario:
    """A federation of `clients` clients that edits `facts` in `slots` slots.

    batch: number of facts whose vectors are computed together, as in `VectorProvider`. by: how `partition` distributes.

    Costs for n facts on two cores: a `score` takes about n / 20 seconds, `central` about n / 10.
    """

    lm: LanguageModel = field(repr=False)
    facts: tuple[Fact, ...] = field(repr=False)
    moments: Moments = field(repr=False)
    seed: int = 0
    clients: int = 8
    slots: int = 10
    batch: int = 1
    by: str = "relation"

    @cached_property
    def provider(self) -> VectorProvider:
        provider = VectorProvider(self.lm, batch=self.batch)
        provider(self.facts)
        return provider

    @cached_property
    def mkvs(self) -> list[Mkv]:
        return [prepared.mkv for prepared in self.provider(self.facts)]

    @cached_property
    def paths(self) -> list[Trajectory]:
        return [prepared.trajectory for prepared in self.provider(self.facts)]

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        return tuple(partition(self.facts, self.clients, self.by, slots=self.slots, seed=self.seed))

    def run(self, policy: Policy | ClientConfig, **changes) -> Run:
        """Run the federation with this policy; `changes` are arguments of `partition` (overlap, conflicts)."""
        parts = partition(self.facts, self.clients, self.by, slots=self.slots, seed=self.seed, **changes)
        self.provider([fact for part in parts for fact in part.facts])
        return run_fedit(self.lm, parts, policy, provider=self.provider, secret=SECRET)

    @cached_property
    def everyone(self) -> Run:
        """The run in which every client adopts everything."""
        return self.run(Everyone())

    @cached_property
    def published(self) -> Run:
        """The run with the paper's retrieval rule."""
        return self.run(PUBLISHED)

    @cached_property
    def choosy(self) -> Run:
        """The run with this repository's policy, the two nearest by centred MKVs."""
        return self.run(CHOOSY)

    @property
    def lam(self) -> float:
        """The weight of C in the closed form of few facts."""
        return lambda_of(self.lm.preset)

    @property
    def first(self) -> str:
        """The client that is measured where all clients have the same edit."""
        return self.parts[0].name

    @cached_property
    def as_published(self) -> Edit:
        """The first client's edit in FedEdit's published form: slot after slot, with text, by the published rule."""
        return published_fedit(self.published, self.lm, self.first, self.moments)

    # Edits of all facts, one model for everybody

    @cached_property
    def fedit(self) -> Edit:
        return weights.cumulative(self.everyone, self.first, self.moments)

    @cached_property
    def whole(self) -> Edit:
        """The edit from uncompressed trajectories."""
        return within_budget(self.lm, self.paths, self.moments)

    @cached_property
    def central(self) -> Edit:
        return baselines.centralised(self.lm, self.facts, self.mkvs, self.moments)

    @cached_property
    def local(self) -> list[Edit]:
        return baselines.local_only(
            [[prepared.trajectory for prepared in self.provider(part.facts)] for part in self.parts],
            self.moments,
            self.lam,
        )

    @cached_property
    def fedavg(self) -> Edit:
        """The plain mean of the clients' updates, a server step of 1. A tuned step is another baseline."""
        return baselines.fedavg(self.local, [len(part.facts) for part in self.parts])

    @cached_property
    def last(self) -> Edit:
        return baselines.last_client(self.local)

    @cached_property
    def plain_sum(self) -> Edit:
        return baselines.fedsum(self.local)

    @cached_property
    def collabedit(self) -> Edit:
        facts = [part.facts for part in self.parts]
        return baselines.collabedit(
            self.lm, facts, [[prepared.mkv for prepared in self.provider(own)] for own in facts], self.moments
        )

    @cached_property
    def one_layer(self) -> Edit:
        """MEMIT that writes only the last of its layers."""
        hparams = self.lm.preset.memit
        return memit(self.lm, self.facts, self.mkvs, self.moments, hparams=replace(hparams, layers=(hparams.layer,)))

    @cached_property
    def rome(self) -> Edit:
        """ROME from MKVs of its own, optimised with its published clamp; MEMIT's clamp is smaller."""
        mkvs = stored_mkvs(self.lm, self.facts, hparams=self.lm.preset.rome)
        return rome(self.lm, self.facts, mkvs, self.moments)

    @cached_property
    def alphaedit(self) -> Edit:
        return alphaedit(self.lm, self.facts, self.mkvs, self.moments)

    @cached_property
    def pmet(self) -> Edit:
        return pmet(self.lm, self.facts, self.pmet_mkvs, self.moments)

    @cached_property
    def pmet_mkvs(self) -> list[Mkv]:
        return stored_mkvs(self.lm, self.facts, "pmet", batch=self.batch)

    @cached_property
    def pmet_fedit(self) -> Edit:
        """The closed form over packets with PMET's MLP residual as z - h."""
        pairs = zip(self.mkvs, self.pmet_mkvs, strict=True)
        vectors = [Mkv(memits.h + pmets.residual, memits.h) for memits, pmets in pairs]
        found = dict(zip(self.facts, vectors, strict=True))
        provider = VectorProvider(self.lm, lambda facts: [found[fact] for fact in facts])
        provider(self.facts)
        run = run_fedit(self.lm, self.parts, Everyone(), provider=provider, secret=SECRET)
        return weights.cumulative(run, self.first, self.moments)

    # What models answer

    @cached_property
    def prepared(self) -> PreparedEvaluation:
        return prepare_evaluation(self.lm, self.facts)

    def score(self, edit: str) -> Evaluation:
        """The evaluation of all facts on the model with one of the edits above, given by name."""
        return self.remember(("score", edit), lambda: self.asked(getattr(self, edit)))

    def asked(self, edit: Edit) -> Evaluation:
        with edit.applied(self.lm):
            return evaluate(self.lm, self.facts, prepared=self.prepared)

    def says(self, edit: str) -> float:
        """The share of facts whose new answer the model generates by itself."""

        def ask() -> float:
            with getattr(self, edit).applied(self.lm):
                return free_decoding(self.lm, self.facts).says

        return self.remember(("says", edit), ask)

    def by_client(self, run: str) -> Evaluation:
        """The facts that each client wants, on its own model after a run: "published", "choosy" or "everyone"."""

        def ask() -> Evaluation:
            edits = {name: weights.cumulative(getattr(self, run), name, self.moments) for name in self.names}
            return outcome(self.lm, edits, wanted(self.parts))

        return self.remember(("by_client", run), ask)

    @cached_property
    def alone(self) -> Evaluation:
        """The facts that each client wants, on a model with this client's own edits only."""
        return outcome(self.lm, dict(zip(self.names, self.local, strict=True)), wanted(self.parts))

    @cached_property
    def wanted_of_central(self) -> Evaluation:
        """The facts that each client wants, on the model with the centralised edit."""
        place = {fact: i for i, fact in enumerate(self.facts)}
        return self.score("central").subset([place[fact] for asked in wanted(self.parts).values() for fact in asked])

    def of_the_first(self, edit: str) -> Evaluation:
        """The facts that the first client wants, on the model with one of the edits above, given by name."""
        place = {fact: i for i, fact in enumerate(self.facts)}
        return self.score(edit).subset([place[fact] for fact in wanted(self.parts)[self.first]])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    def retrieval(self, run: str) -> Retrieval:
        """What all clients adopted in a run, compared with what was relevant to them."""
        counts = [getattr(self, run).retrieval(name) for name in self.names]
        return Retrieval(*(sum(getattr(c, n) for c in counts) for n in ("adopted", "relevant", "both", "offered")))

    def kept(self, edits: Sequence[Edit]) -> float:
        """The score on the first slot's facts after the last of these edits, divided by that after the first."""
        early = [fact for part in self.parts for fact in part.slots[0]]
        found = []
        for edit in (edits[0], edits[-1]):
            with edit.applied(self.lm):
                found.append(evaluate(self.lm, early).score)
        return found[1] / found[0]

    # Withdrawal: the last client leaves

    @cached_property
    def after(self) -> Run:
        return withdraw(self.everyone, client=self.names[-1])

    @cached_property
    def never(self) -> Run:
        """The federation that the last client never joined, run independently with its own provider."""
        parts, provider = never_joined(self.parts, self.names[-1]), VectorProvider(self.lm)
        provider(
            [*dict.fromkeys(fact for part in parts for fact in part.facts)]
        )  # together: a look-up hashes the model
        return run_fedit(self.lm, parts, Everyone(), provider=provider, secret=SECRET)

    @cached_property
    def system(self) -> FactoredEdit:
        """The first client's edit with coupling 0, with its Cholesky factors."""
        return factorise(weights.held(self.everyone, self.first), self.moments, self.lam)

    @property
    def gone(self) -> list[Packet]:
        return [packet for packet in self.everyone.packets.values() if packet.client == self.names[-1]]

    def remember(self, key, compute):
        """What `compute()` gives, computed once for a key."""
        known = self.__dict__.setdefault("_known", {})
        if key not in known:
            known[key] = compute()
        return known[key]


def never_joined(parts: Sequence[Part], client: str) -> list[Part]:
    """The parts of a federation that this client never joined."""
    stay = [part for part in parts if part.name != client]
    known = {fact for part in stay for fact in part.facts}
    return [replace(part, relevant=tuple(fact for fact in part.relevant if fact in known)) for part in stay]


def gap(one: Edit, other: Edit) -> float:
    """The greatest relative distance of two edits over their layers; exactly 0 if all bits are equal."""
    if all(torch.equal(one.delta(i), other.delta(i)) for i in other.layers):
        return 0.0
    return max(float((one.delta(i) - other.delta(i)).norm() / other.delta(i).norm()) for i in other.layers)
