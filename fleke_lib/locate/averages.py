"""Averages of many causal traces, by class of token, and the critical layers that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.evaluation import resampling
from fleke_lib.evaluation.resampling import Estimate
from fleke_lib.locate.tracing import CLASSES, CausalTrace, token_classes


@dataclass(frozen=True, eq=False)
class TraceAverage:
    """Indirect effects averaged over facts, for each class of tokens and each layer, with 95% intervals.

    kind, window, severed: as in the traces. facts: number of facts. counts: for each class, the number of facts that
    have a token of it. mean, low, high: `(classes, layers)` in the order of `CLASSES`; nan if no fact has the class.
    total: the average total effect.
    """

    kind: str
    window: int
    severed: str
    facts: int
    counts: tuple[int, ...]
    mean: Float[Tensor, "classes layers"] = field(repr=False)
    low: Float[Tensor, "classes layers"] = field(repr=False)
    high: Float[Tensor, "classes layers"] = field(repr=False)
    total: Estimate

    def row(self, name: str) -> Estimate:
        """The indirect effect at one class of tokens, `(layers,)`. Raises ValueError for an unknown class."""
        if name not in CLASSES:
            raise ValueError(f"there is no class of tokens {name!r}: give one of {', '.join(CLASSES)}.")
        place = CLASSES.index(name)
        return Estimate(self.mean[place], self.low[place], self.high[place])

    def _repr_html_(self) -> str:
        rows = ""
        for name, count in zip(CLASSES, self.counts, strict=True):
            if count:
                mean, low, high = self.row(name)
                top = int(mean.argmax())
                interval = f"{mean[top]:.3f} ({low[top]:.3f} to {high[top]:.3f})"
                rows += f"<tr><td>{name}</td><td>{count}</td><td>{top}</td><td>{interval}</td></tr>"
        cut = f", {self.severed} severed" if self.severed else ""
        head = (
            f"<caption>{self.kind}{cut}: average over {self.facts} facts, total effect {self.total.mean:.3f} "
            f"({self.total.low:.3f} to {self.total.high:.3f})</caption>"
            "<tr><th>token</th><th>facts</th><th>best layer</th><th>indirect effect there (95%)</th></tr>"
        )
        return f"<table>{head}{rows}</table>"


def average_traces(traces: Sequence[CausalTrace], *, draws: int = 1000, seed: int = 0) -> TraceAverage:
    """Average indirect effects over facts; each fact counts once in every class for which it has a token.

    The 95% intervals are percentiles of `draws` bootstrap samples of the facts.

    Raises:
        ValueError: there are no traces, they differ in kind, window or severed part, or in the number of layers.
    """
    if not traces:
        raise ValueError("there are no traces to average: give at least one.")
    if len({(trace.kind, trace.window, trace.severed) for trace in traces}) > 1:
        raise ValueError("these traces differ in kind, window or what is severed: average traces of one sort.")
    if len({trace.scores.shape[1] for trace in traces}) > 1:
        raise ValueError("these traces have different numbers of layers: average traces of one model.")
    one, times = traces[0], resampling.counts(len(traces), draws, seed)
    by_class = torch.stack([_effects_by_class(trace) for trace in traces])
    counts = tuple((~by_class[:, :, 0].isnan()).sum(0).tolist())
    effects = _estimate(by_class, times)
    total = _estimate(torch.tensor([trace.total for trace in traces], dtype=torch.float64), times)
    return TraceAverage(one.kind, one.window, one.severed, len(traces), counts, *effects, Estimate(*map(float, total)))


def mediated(
    whole: Sequence[CausalTrace], severed: Sequence[CausalTrace], *, draws: int = 1000, seed: int = 0
) -> Estimate:
    """The part of a hidden state's indirect effect that needs the MLPs above it, at the last subject token, by layer.

        G(l) = IE(l) - IE(l, MLPs severed)

    G falls over the layers whose MLPs matter: the result of an MLP below l is already in the restored state.

    Returns:
        the mean of G over facts, `(layers,)`, and its paired 95% bootstrap interval.

    Source: MEMIT, arXiv 2210.07229, section 4.1 and figure 3.

    Raises:
        ValueError: these are not traces of hidden states, without and with the MLPs severed, of the same questions.
    """
    sorts = {(trace.kind, trace.severed) for trace in whole}, {(trace.kind, trace.severed) for trace in severed}
    if sorts != ({("hidden", "")}, {("hidden", "mlp")}):
        raise ValueError(
            "mediation compares traces of hidden states without and with the MLPs severed: give these two."
        )
    if [trace.tokens for trace in whole] != [trace.tokens for trace in severed]:
        raise ValueError("these are traces of different questions: trace the same facts in the same order.")
    place = CLASSES.index("last subject")
    gaps = [(_effects_by_class(a) - _effects_by_class(b))[place] for a, b in zip(whole, severed, strict=True)]
    return _estimate(torch.stack(gaps), resampling.counts(len(gaps), draws, seed))


def critical_layers(mediation: Estimate, middle: float = 0.5) -> tuple[int, ...]:
    """The layers whose MLPs account for the middle part of the mediated effect at the last subject token.

    With `middle=0.5`: from the layer at which the mean of `mediated` has fallen to three quarters of its maximum, to
    the layer at which it has fallen to one quarter, both included. MEMIT reads this range from its figure; here it has
    a definition.

    Raises:
        ValueError: `middle` is not between 0 and 1, or the mediated effect is nowhere positive.
    """
    if not 0 < middle < 1:
        raise ValueError(f"middle is {middle}: give a share between 0 and 1.")
    gap = mediation.mean
    top = int(gap.argmax())
    if gap[top] <= 0:
        raise ValueError("severing the MLPs costs nothing here, so no layer is critical: trace more facts.")
    upper, lower = (1 + middle) / 2 * gap[top], (1 - middle) / 2 * gap[top]
    first = next(layer for layer in range(top, len(gap)) if gap[layer] <= upper)
    return tuple(range(first, next(layer for layer in range(first, len(gap)) if gap[layer] <= lower) + 1))


def _effects_by_class(trace: CausalTrace) -> Float[Tensor, "classes layers"]:
    """The mean indirect effect over the tokens of each class; nan for a class without tokens."""
    found = token_classes(len(trace.tokens), trace.subject)
    return torch.stack([trace.indirect[tokens].double().mean(0) for tokens in found.values()])


def _estimate(values: Float[Tensor, "facts *numbers"], times: Float[np.ndarray, "draws facts"]) -> Estimate:
    """Means over the facts that have a value, `(*numbers)`, with their 95% intervals from the sample counts `times`."""
    drawn = resampling.means(values.reshape(len(values), -1).numpy(), times)
    low, high = (torch.tensor(end).view(values.shape[1:]) for end in np.apply_along_axis(resampling.interval, 0, drawn))
    return Estimate(values.nanmean(0), low, high)
