"""The audit of a withdrawal from an edited model: five findings, each compared with a control that never learned it.

The control is the model of the federation that the client never joined.

    weights     the distance of dW from the control's
    withdrawn   the withdrawn facts' scores equal the control's; the base model's are reported beside them
    retained    all other facts' scores equal the control's
    membership  can an observer of the model distinguish facts that were once edited from facts that never were?
    bytes       pieces of the withdrawn vectors in files

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
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.unlearn.edits.certificate import Check
from fleke_lib.unlearn.edits.traces import Search, traces

METRIC = "efficacy_magnitude"  # P(new) - P(true) at the question
TOLERANCE = 0.01  # of each fact's METRIC and of an AUC
STAGES = ("before", "after", "control")


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
    """

    distance: float
    moved: float
    equal: bool
    withdrawn: Mapping[str, Evaluation] = field(repr=False)
    retained: Mapping[str, Evaluation] = field(repr=False)
    membership: Mapping[str, MembershipSignal]
    traces: Search

    def checks(self) -> tuple[Check, ...]:
        """The five findings for a certificate: exact for weights and bytes, within TOLERANCE for scores and AUCs.

        A check requires closeness to the control, not merely the absence of a significant difference. Having few facts
        therefore makes it no easier to pass.
        """
        return (
            Check("weights are the never-joined ones", self.equal, {"distance": self.distance, "before": self.moved}),
            self._scores("withdrawn facts score as in the control", self.withdrawn),
            self._scores("retained facts score as in the control", self.retained),
            self._signal(),
            Check(
                "no bytes of the withdrawn packets in files",
                not len(self.traces),
                {"traces": len(self.traces), "pieces": self.traces.pieces, "files": self.traces.files},
            ),
        )

    def _scores(self, name: str, found: Mapping[str, Evaluation]) -> Check:
        apart = np.abs(found["after"].per_fact[METRIC] - found["control"].per_fact[METRIC]).max()
        figures = {f"{metric} {stage}": getattr(e, metric) for stage, e in found.items() for metric in (METRIC, "top1")}
        return Check(name, bool(apart <= TOLERANCE), figures | {"greatest difference": float(apart)})

    def _signal(self) -> Check:
        figures, passed = {}, True
        for observer in ("alone", "with_base"):
            found = {stage: getattr(self.membership[stage], observer) for stage in STAGES}
            low, high = found["after"].interval
            figures |= {f"AUC {stage}, {observer}": one.auc for stage, one in found.items()}
            figures |= {f"after, {observer}, low": low, f"after, {observer}, high": high}
            passed &= abs(found["after"].auc - found["control"].auc) <= TOLERANCE
        return Check("membership signal is the control's", passed, figures)


def audit(
    lm: LanguageModel,
    before: Edit | None,
    after: Edit | None,
    control: Edit | None,
    *,
    withdrawn: Sequence[Fact],
    retained: Sequence[Fact],
    controls: Sequence[Fact],
    folder: str | Path,
    packets: Sequence[Packet],
    kept: Sequence[Packet] = (),
    samples: int = 1000,
    seed: int = 0,
) -> Evidence:
    """Compare one client's model after a withdrawal with the model before it and with the never-joined control.

    Args:
        before, after, control: edits of the base model `lm`; None where the client holds no packet.
        withdrawn, retained: the facts whose packets were withdrawn, and those that the model keeps.
        controls: facts comparable to the withdrawn ones that nobody ever edited.
        folder: the files that are searched for bytes of the withdrawn `packets`.
        kept: the packets that stay.
        samples, seed: of the bootstrap.

    Raises:
        ValueError: an edit is applied to the model, some facts are missing, or a fact is in two of the three groups.
    """
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
        traces=traces(folder, packets, kept),
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
