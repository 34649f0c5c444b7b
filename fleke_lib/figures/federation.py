"""Figures of chapter 5: how well re-editing keeps facts over time, methods compared, and the work that reuse saves."""

from collections.abc import Mapping, Sequence

import numpy as np

from fleke_lib.evaluation.results import Evaluation
from fleke_lib.federation.ledger import Ledger
from fleke_lib.figures.style import CYCLE, GREY, MARKS, Picture, canvas, finish, whiskers

KINDS = ("optimised", "reused")


def over_slots(
    by_form: Mapping[str, Mapping[int, Evaluation]], everything: Mapping[str, Evaluation], name: str = "05-over-slots"
) -> Picture:
    """The score on the first slot's facts after each slot, and the score on all facts at the end, by form.

    Args:
        by_form: for each form of re-editing and some slots, counted from 0: the first slot's facts after that slot.
        everything: for each form, the evaluation of all facts after the last slot.
    """
    with canvas(columns=2, width=9.5, sharey=True, width_ratios=[1.7, 1]) as (figure, (left, right)):
        for i, (form, evaluations) in enumerate(by_form.items()):
            slots = [slot + 1 for slot in evaluations]
            band = zip(*(e.interval("score") for e in evaluations.values()), strict=True)
            left.plot(slots, [e.score for e in evaluations.values()], color=CYCLE[i], marker=MARKS[i], label=form)
            left.fill_between(slots, *band, color=CYCLE[i], alpha=0.12)
            score, interval = everything[form].score, everything[form].interval("score")
            right.bar([i], [score], color=CYCLE[i])
            right.errorbar([i], [score], whiskers(score, interval), fmt="none", ecolor="black", capsize=3)
        left.set(xlabel="After slot", ylabel="Score (0 to 1)", ylim=(0, 1), title="the first slot's facts")
        left.set_xticks(range(1, 2 + max(max(evaluations) for evaluations in by_form.values())))
        right.set(xticks=[], title="all facts, at the end")
        left.legend(loc="lower left")
    words = "; ".join(
        f"{form}: first slot {evaluations[min(evaluations)].score:.2f} after slot {min(evaluations) + 1}, "
        f"{evaluations[max(evaluations)].score:.2f} after slot {max(evaluations) + 1}, "
        f"all facts {everything[form].score:.2f}"
        for form, evaluations in by_form.items()
    )
    return finish(
        figure,
        name,
        caption="Left: the score on the first slot's facts after each slot. Right: the score on all facts at the end. "
        "Bands and error bars: 95% bootstrap intervals over facts.",
        alt=f"A line chart of the score over slots, and a bar chart of the score on all facts. {words}.",
        data={
            form: {
                "first slot": [
                    {"slot": slot + 1, "score": e.score, "interval": e.interval("score")}
                    for slot, e in evaluations.items()
                ],
                "all": {"score": everything[form].score, "interval": everything[form].interval("score")},
            }
            for form, evaluations in by_form.items()
        },
    )


def methods(
    found: Mapping[str, Evaluation],
    metrics: Sequence[str] = ("score", "top1"),
    name: str = "05-methods",
    rows: str = "Method",
) -> Picture:
    """Metrics of several methods as points with 95% bootstrap intervals; `rows` names the rows if not methods."""
    with canvas(columns=len(metrics), width=9.5, height=0.9 + 0.42 * len(found), sharey=True) as (figure, axes):
        for axis, metric, colour in zip(np.atleast_1d(axes), metrics, CYCLE, strict=False):
            for row, evaluation in enumerate(found.values()):
                value, reach = getattr(evaluation, metric), evaluation.interval(metric)
                axis.errorbar([value], [row], xerr=whiskers(value, reach), fmt="o", color=colour, capsize=3)
            axis.set(xlabel=f"{metric.capitalize()} (0 to 1)", xlim=(-0.02, 1.02), yticks=range(len(found)))
            axis.grid(True, axis="x")
        first = np.atleast_1d(axes)[0]
        first.set_yticklabels(found)
        first.set_ylabel(rows)
        first.set_ylim(-0.6, len(found) - 0.4)
        first.invert_yaxis()
    words = "; ".join(
        f"{label}: " + ", ".join(f"{metric} {getattr(e, metric):.2f}" for metric in metrics)
        for label, e in found.items()
    )
    return finish(
        figure,
        name,
        caption="Each client's questions, answered by that client's own model; 95% bootstrap intervals over facts.",
        alt=f"Point charts with intervals, one for each metric. {words}.",
        data={
            label: {metric: {"mean": getattr(e, metric), "interval": e.interval(metric)} for metric in metrics}
            for label, e in found.items()
        },
    )


def work(ledger: Ledger, name: str = "05-work") -> Picture:
    """MKVs optimised and reused in every slot, and the bytes sent and received, by kind of event."""
    slots = range(max(event.slot for event in ledger) + 1)
    counts = {kind: [sum(e.slot == slot for e in ledger.select(kind)) for slot in slots] for kind in KINDS}
    bytes_ = {
        kind: [sum(e.sent + e.received for e in ledger.select(kind) if e.slot == slot) / 1e6 for slot in slots]
        for kind in ("published", "adopted", "asked", "reused")
    }
    with canvas(columns=2, width=9.5) as (figure, axes):
        for axis, stacks in zip(axes, (counts, bytes_), strict=True):
            below = np.zeros(len(slots))
            for (kind, values), colour in zip(stacks.items(), CYCLE, strict=False):
                axis.bar([slot + 1 for slot in slots], values, bottom=below, color=colour, label=kind)
                below += values
            axis.set(xlabel="Slot", xticks=[slot + 1 for slot in slots])
            axis.set_ylim(top=1.35 * below.max())  # room for the legend
            axis.legend(loc="upper right", ncols=2)
        axes[0].set_ylabel("MKVs")
        axes[1].set_ylabel("Megabytes sent and received")
        axes[1].axhline(0, color=GREY, linewidth=0.5)
    totals = ", ".join(f"{sum(values)} {kind}" for kind, values in counts.items())
    crossed = ", ".join(f"{sum(values):.2f} MB {kind}" for kind, values in bytes_.items())
    return finish(
        figure,
        name,
        caption="Left: MKVs that were optimised, and those that were reused instead. Right: megabytes sent and "
        "received, by kind of event.",
        alt=f"Two stacked bar charts over the slots. In total {totals}; {crossed}.",
        data={"counts": counts, "megabytes": bytes_},
    )
