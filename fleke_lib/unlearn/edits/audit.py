"""The audit of a withdrawal from an edited model: up to four checks, of which none follows from another.

    weights     dW equals that of the control, bit for bit; the control is the federation that the client never joined
    answers     P(new) at the withdrawn facts is equivalent to the base model's, within MARGIN; no control is needed
    bytes       no pieces of the withdrawn vectors in files
    replay      the ledger replays without the withdrawn packets, and the registry agrees (if a run is given)

Equal weights imply equal scores of all facts and an equal membership signal. Those are therefore reported as figures of
the first check and not counted as checks of their own. The second check can fail where the first holds: if the
"never-joined" control did contain the withdrawn facts.

The membership attacker sees the model's probabilities only. An observer without the base model scores a fact by its
margin; an observer with the base model scores it by the change of the margin:

    alone       log P(new | question) - log P(true | question)
    with base   the same, minus its value in the base model

The AUC is the probability that an edited fact scores higher than a control; at 0.5 the attacker learns nothing. The
control facts must be comparable: of the same relations, with new targets drawn in the same way. The AUC of a few dozen
facts is an average; a value near 0.5 does not exclude that a single fact stands out.

The audit does not cover what the base model knew before, copies that others made, and what was learned in the meantime.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score

from fleke_lib.edit import Edit
from fleke_lib.evaluation import likelihood, resampling
from fleke_lib.evaluation.metrics import PreparedEvaluation, evaluate, prepare_evaluation
from fleke_lib.evaluation.results import Evaluation, checked
from fleke_lib.facts.fact import Fact
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.rounds import Run
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.unlearn.edits.certificate import Check
from fleke_lib.unlearn.edits.replay import replay_check
from fleke_lib.unlearn.edits.traces import Search, traces

METRIC = "probability"  # P(new) at the question
MARGIN = 0.05  # of the mean of METRIC: a withdrawn fact that is still edited differs from the base by nearly 1
OBSERVERS = ("alone", "with_base")


@dataclass(frozen=True)
class Signal:
    """An AUC with its 95% interval, from a bootstrap over facts and over controls."""

    auc: float
    interval: tuple[float, float]

    def __repr__(self) -> str:
        return f"{self.auc:.3f} [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"


@dataclass(frozen=True)
class MembershipSignal:
    """How well edited facts are separated from controls, by an observer of the model alone and by one with the base."""

    alone: Signal
    with_base: Signal


@dataclass(frozen=True, eq=False)
class Evidence:
    """The findings of an audit.

    distance: greatest absolute difference between dW after the withdrawal and dW of the never-joined control.
    moved: the same for dW before the withdrawal: the size of the effect to undo.
    equal: whether dW equals the control's, bit for bit.
    withdrawn, retained: scores of the facts, by "base", "before", "after" and "control".
    membership: by "before", "after" and "control".
    traces: of the withdrawn packets in files.
    replay: whether the ledger replays; None if no run was given.
    """

    distance: float
    moved: float
    equal: bool
    withdrawn: Mapping[str, Evaluation] = field(repr=False)
    retained: Mapping[str, Evaluation] = field(repr=False)
    membership: Mapping[str, MembershipSignal]
    traces: Search
    replay: Check | None = None

    def checks(self) -> tuple[Check, ...]:
        """The independent checks for a certificate: weights, answers, bytes and, if a run was given, the replay."""
        figures = {"distance": self.distance, "before": self.moved} | self.implied()
        bytes_found = {"traces": len(self.traces), "pieces": self.traces.pieces, "files": self.traces.files}
        found = (
            Check("weights are the never-joined ones", self.equal, figures),
            self._answers(),
            Check("no bytes of the withdrawn packets in files", not len(self.traces), bytes_found),
        )
        return found if self.replay is None else (*found, self.replay)

    def implied(self) -> dict[str, float]:
        """Figures that must be 0 if the weights are equal: they add no evidence of their own.

        The greatest difference from the control of any fact's P(new) - P(true), and the difference of each AUC.
        """
        figures = {}
        for name, found in (("withdrawn", self.withdrawn), ("retained", self.retained)):
            after, control = (found[stage].per_fact["efficacy_magnitude"] for stage in ("after", "control"))
            figures[f"implied: {name} scores differ by"] = float(np.abs(after - control).max())
        for observer in OBSERVERS:
            after, control = (getattr(self.membership[stage], observer).auc for stage in ("after", "control"))
            figures[f"implied: AUC {observer} differs by"] = abs(after - control)
        return figures

    def _answers(self) -> Check:
        """Two one-sided tests: the 90% interval of the mean difference from the base model lies within MARGIN."""
        values = {stage: evaluation.per_fact[METRIC] for stage, evaluation in self.withdrawn.items()}
        apart = values["after"] - values["base"]
        low, high = np.clip(resampling.student_interval(apart), -1, 1)
        figures = {f"P(new) {stage}": float(column.mean()) for stage, column in values.items()}
        figures |= {f"top1 {stage}": evaluation.top1 for stage, evaluation in self.withdrawn.items()}
        figures |= {"difference": float(apart.mean()), "low": float(low), "high": float(high), "margin": MARGIN}
        figures |= {"greatest difference": float(np.abs(apart).max()), "facts": len(apart)}
        return Check(
            "withdrawn facts are answered as by the base model", bool(-MARGIN <= low <= high <= MARGIN), figures
        )


def audit(
    lm: LanguageModel,
    before: Edit | None,
    after: Edit | None,
    control: Edit | None,
    *,
    withdrawn: Sequence[Fact],
    retained: Sequence[Fact],
    controls: Sequence[Fact],
    folder: str | Path | Sequence[str | Path],
    packets: Sequence[Packet],
    kept: Sequence[Packet] = (),
    mkvs: Mapping[str, Mkv] = MappingProxyType({}),
    run: Run | None = None,
    registry: str | Path | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Evidence:
    """Compare one client's model after a withdrawal with the model before it and with the never-joined control.

    Args:
        before, after, control: edits of the base model `lm`; None where the client holds no packet.
        withdrawn, retained: the facts whose packets were withdrawn, and those that the model keeps.
        controls: facts comparable to the withdrawn ones that nobody ever edited.
        folder: where files are searched for bytes of the withdrawn `packets`; several folders may be given.
        kept: the packets that stay.
        mkvs: by the id of a withdrawn packet, its MKV, which is searched for as well (see `traces`).
        run: the run after the withdrawal, to be replayed; without it there is no check of the ledger.
        registry: the registry's file, to be compared with the replay.
        samples, seed: of the bootstrap.

    Raises:
        ValueError: an edit is applied to the model, some facts are missing, a fact is in two of the three groups, or a
            registry is given without a run.
    """
    if run is None and registry is not None:
        raise ValueError("a registry is compared with a replay: give the run after the withdrawal, too.")
    lm.check_unedited("the scores of an audit")
    groups = {"withdrawn": checked(withdrawn), "retained": checked(retained), "controls": checked(controls)}
    everything = [fact for facts in groups.values() for fact in facts]
    if len(set(everything)) < len(everything):
        raise ValueError("a fact is among withdrawn, retained and control facts twice: give each to one group, once.")
    edits = {"before": before, "after": after, "control": control}
    prepared = prepare_evaluation(lm, everything, below=_lowest(lm, edits.values()))
    found = {"base": prepared.before} | {stage: _evaluated(lm, edit, prepared) for stage, edit in edits.items()}
    first, second = len(withdrawn), len(withdrawn) + len(retained)
    apart = {stage: _distance(edit, control) for stage, edit in edits.items()}
    return Evidence(
        distance=apart["after"],
        moved=apart["before"],
        equal=_equal(after, control),
        withdrawn={stage: evaluation.subset(range(first)) for stage, evaluation in found.items()},
        retained={stage: evaluation.subset(range(first, second)) for stage, evaluation in found.items()},
        membership={
            s: membership_signal(lm, e, withdrawn, controls, samples=samples, seed=seed) for s, e in edits.items()
        },
        traces=traces(folder, packets, kept, mkvs),
        replay=None if run is None else replay_check(run, packets, registry),
    )


def membership_signal(
    lm: LanguageModel,
    edit: Edit | None,
    facts: Sequence[Fact],
    controls: Sequence[Fact],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> MembershipSignal:
    """How well the edited model's answers separate facts that are, or once were, edited from comparable controls.

    Source: Yeom et al. (arXiv 1709.01604) for the score of the model alone; Carlini et al. (arXiv 2112.03570) for the
    difference from a reference model, here the base model instead of shadow models.
    """
    lm.check_unedited("the margins that others are compared with")
    facts = [*checked(facts), *checked(controls)]
    prompts = [fact.question for fact in facts for _ in range(2)]
    targets = [target for fact in facts for target in (fact.target_new, fact.target_true)]
    queries = likelihood.prepare(lm, prompts, targets, below=_lowest(lm, [edit]))
    base = _margins(queries.scores)
    with _applied(lm, edit):
        observed = _margins(likelihood.score(lm, queries))
    n = len(facts) - len(controls)
    return MembershipSignal(*(signal(scores[:n], scores[n:], samples, seed) for scores in (observed, observed - base)))


def signal(
    members: Float[np.ndarray, " members"], others: Float[np.ndarray, " others"], samples: int = 1000, seed: int = 0
) -> Signal:
    """The AUC of two groups of scores; its interval is from a bootstrap that resamples each group separately."""
    n, m = len(members), len(others)
    auc = roc_auc_score(np.repeat([1, 0], [n, m]), np.concatenate([members, others]))
    wins = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    rng = np.random.default_rng(seed)
    rows, columns = (resampling.counts(k, samples, rng) for k in (n, m))
    return Signal(float(auc), resampling.interval(((rows @ wins) * columns).sum(1) / (n * m)))


def _margins(scores: likelihood.Scores) -> Float[np.ndarray, " facts"]:
    """Log-probability per token of the new target minus that of the true one; the two alternate in `scores`."""
    new, true = scores.log_prob.double().numpy().reshape(-1, 2).T
    return new - true


def _evaluated(lm: LanguageModel, edit: Edit | None, prepared: PreparedEvaluation) -> Evaluation:
    with _applied(lm, edit):
        return evaluate(lm, prepared.facts, prepared=prepared)


def _applied(lm: LanguageModel, edit: Edit | None) -> AbstractContextManager:
    return nullcontext(lm) if edit is None else edit.applied(lm)


def _lowest(lm: LanguageModel, edits: Sequence[Edit | None]) -> int:
    """The first layer that any of the edits changes."""
    return min((edit.layers[0] for edit in edits if edit is not None), default=lm.preset.layers[0])


def _distance(one: Edit | None, other: Edit | None) -> float:
    """The greatest absolute difference of two edits' dW; a layer without a change counts as zeros."""
    layers = {layer for edit in (one, other) if edit is not None for layer in edit.layers}
    return max((float((_delta(one, layer) - _delta(other, layer)).abs().max()) for layer in layers), default=0.0)


def _equal(one: Edit | None, other: Edit | None) -> bool:
    layers = [edit.layers if edit is not None else () for edit in (one, other)]
    bits = [[_delta(edit, layer).view(torch.int64) for layer in layers[0]] for edit in (one, other)]
    return layers[0] == layers[1] and all(map(torch.equal, *bits))


def _delta(edit: Edit | None, layer: int) -> torch.Tensor:
    if edit is None or layer not in edit.changes:
        return torch.zeros((), dtype=torch.float64)
    return edit.delta(layer).double()
