"""Figures of chapter 3: the size of a packet, the cost of its compression, and the work that reuse saves."""

from collections.abc import Mapping, Sequence

import numpy as np

from fleke_lib.evaluation.results import Evaluation
from fleke_lib.federation.ledger import Ledger
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.precision import KINDS
from fleke_lib.figures.style import COLOURS, CYCLE, GREY, Picture, canvas, finish, whiskers

AMOUNTS = ("100", "1 kB", "10 kB", "100 kB", "1 MB", "10 MB", "100 MB", "1 GB")
LEAST = 0.04  # span of an axis of scores
CROSSING = ("asked", "published", "reused")
MEASURED = {"score": "Score (0 to 1, a part)", "top1": "Top-1 (0 to 1, a part)"}
METRICS = ("score", "efficacy", "paraphrase", "specificity")


def wire(costs: Mapping[str, Mapping[str, float]], name: str = "03-wire") -> Picture:
    """Bytes per fact in every form, for several models, on a logarithmic scale.

    Args:
        costs: by model, from `federation.costs`. Of a model's name the part after the last slash is shown.
    """
    costs = {model.rpartition("/")[2]: bytes_ for model, bytes_ in costs.items()}
    forms = list(next(iter(costs.values())))
    height = 0.8 / len(costs)
    with canvas(height=0.8 + 0.75 * len(forms)) as (figure, axis):
        for i, (model, bytes_) in enumerate(costs.items()):
            places = np.arange(len(forms)) + (i - (len(costs) - 1) / 2) * height
            axis.barh(places, [bytes_[form] for form in forms], height * 0.9, color=CYCLE[i], label=model)
        axis.set(xscale="log", xlabel="Bytes per fact (log scale)", ylabel="What is sent", yticks=range(len(forms)))
        axis.set_yticklabels(forms)
        axis.set_xticks([10**power for power in range(2, 10)], AMOUNTS)
        axis.minorticks_off()
        axis.invert_yaxis()
        axis.legend(loc="upper right")
    words = "; ".join(
        f"{model}: " + ", ".join(f"{form} {size:,.0f}" for form, size in sizes.items())
        for model, sizes in costs.items()
    )
    return finish(
        figure,
        name,
        caption="Bytes sent for one fact. A weight update has the same size for one fact and for a thousand; the "
        "low-rank update is of one fact alone, in 8 bits.",
        alt=f"Bar chart on a logarithmic scale, bytes per fact. {words}.",
        data={"costs": {model: dict(sizes) for model, sizes in costs.items()}},
    )


def compared(results: Mapping[str, Evaluation], before: Evaluation, name: str = "03-vectors-only") -> Picture:
    """Each metric of several edits of the same facts, with 95% bootstrap intervals over facts."""
    with canvas(height=3.2) as (figure, axis):
        width = 0.8 / len(results)
        for i, (label, evaluation) in enumerate(results.items()):
            means = [getattr(evaluation, metric) for metric in METRICS]
            places = np.arange(len(METRICS)) + (i - (len(results) - 1) / 2) * width
            reach = np.hstack([whiskers(getattr(evaluation, m), evaluation.interval(m)) for m in METRICS])
            axis.bar(places, means, width * 0.9, color=CYCLE[i], label=label)
            axis.errorbar(places, means, reach, fmt="none", ecolor=COLOURS["black"], capsize=3, linewidth=1)
        for place, metric in enumerate(METRICS):
            line = [getattr(before, metric)] * 2
            axis.plot([place - 0.45, place + 0.45], line, color=GREY, linestyle="--", linewidth=1)
        axis.set(ylabel="Share of facts (0 to 1)", xlabel="Metric", ylim=(0, 1.03), xticks=range(len(METRICS)))
        axis.set_xticklabels(METRICS)
        figure.legend(loc="outside right upper")
    words = "; ".join(
        f"{label}: " + ", ".join(f"{metric} {getattr(e, metric):.3f}" for metric in METRICS)
        for label, e in results.items()
    )
    return finish(
        figure,
        name,
        caption=f"Edits of the same {len(before.facts)} facts, with 95% bootstrap intervals; dashed: before any edit.",
        alt=f"Bar chart with four groups. {words}. Before: "
        + ", ".join(f"{metric} {getattr(before, metric):.3f}" for metric in METRICS)
        + ".",
        data={
            "results": {
                label: {m: {"mean": getattr(e, m), "interval": e.interval(m)} for m in METRICS}
                for label, e in {"before": before, **results}.items()
            }
        },
    )


def compressions(
    measured: Sequence[tuple[Compression, int, Evaluation]],
    whole: Evaluation,
    chosen: Compression,
    name: str = "03-compression",
) -> Picture:
    """Score and top-1 against the bytes of a packet, one line per precision, with the number of axes at each point.

    Args:
        measured: compressions, the bytes of a packet with each, and the edit's evaluation.
        whole: the evaluation with uncompressed trajectories.
        chosen: the compression to mark as the default.
    """
    with canvas(columns=2, width=10.5, height=4.0) as (figure, axes):
        for axis, (metric, label) in zip(axes, MEASURED.items(), strict=True):
            for colour, precision in zip(CYCLE, KINDS, strict=False):
                points = sorted((b, getattr(e, metric), d.axes) for d, b, e in measured if d.precision == precision)
                if points:
                    sizes, values, _ = zip(*points, strict=True)
                    axis.plot([size / 1000 for size in sizes], values, color=colour, marker="o", label=precision)
                for size, value, count in points:
                    axis.annotate(f"{count}", (size / 1000, value), xytext=(3, 5), textcoords="offset points")
            axis.axhline(getattr(whole, metric), color=GREY, linestyle="--", linewidth=1, label="whole trajectory")
            size, value = next((b, getattr(e, metric)) for d, b, e in measured if d == chosen)
            around = {"markersize": 13, "fillstyle": "none", "color": COLOURS["black"], "label": "default"}
            axis.plot([size / 1000], [value], "o", **around)
            axis.set(xlabel="Bytes of a packet (thousands, log scale)", ylabel=label, xscale="log")
            axis.margins(y=0.15)
            low, high = axis.get_ylim()
            if high - low < LEAST:  # differences that no reader should see as such
                axis.set_ylim((low + high - LEAST) / 2, (low + high + LEAST) / 2)
            ticks = sorted({round(size / 1000) for _, size, _ in measured})
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.minorticks_off()
        axes[0].legend(loc="lower right")
    words = "; ".join(
        f"{d.axes} axes in {d.precision}, {b:,} bytes: {e.score:.3f} and {e.top1:.3f}" for d, b, e in measured
    )
    rows = [
        {"axes": d.axes, "precision": d.precision, "bytes": b}
        | {metric: getattr(e, metric) for metric in MEASURED}
        | {f"{metric} interval": e.interval(metric) for metric in MEASURED}
        for d, b, e in measured
    ]
    return finish(
        figure,
        name,
        caption=f"Score and top-1 of an edit of {len(whole.facts)} facts from compressed packets. The number at each "
        "point is the number of axes d kept beside each mean key.",
        alt=f"Two line charts, of the score and of top-1 against a packet's bytes. Whole trajectories have "
        f"{whole.score:.3f} and {whole.top1:.3f}. {words}.",
        data={"whole": {metric: getattr(whole, metric) for metric in MEASURED}, "compressions": rows},
    )


def redundancy(ledgers: Mapping[float, Ledger], seconds: float, name: str = "03-redundancy") -> Picture:
    """The work that reuse saves as clients overlap more, per MKV that a client wants: share, seconds and kilobytes.

    The number of wanted MKVs grows with the overlap, since the facts stay the same; so all panels are per wanted MKV.

    Args:
        ledgers: by overlap, the share of wanted edits that another client has published before.
        seconds: time to optimise one MKV.
    """
    shares = list(ledgers)
    counts = {kind: [len(ledger.select(kind)) for ledger in ledgers.values()] for kind in ("optimised", "reused")}
    wanted = [sum(pair) for pair in zip(*counts.values(), strict=True)]

    def each(values: Sequence[float]) -> list[float]:
        return [value / number for value, number in zip(values, wanted, strict=True)]

    parts = {kind: each(values) for kind, values in counts.items()}
    spent = {
        "seconds of optimising": [part * seconds for part in parts["optimised"]],
        "seconds saved": [part * seconds for part in parts["reused"]],
        "kilobytes sent": each([ledger.total("sent", *CROSSING) / 1e3 for ledger in ledgers.values()]),
        "kilobytes received": each([ledger.total("received", *CROSSING) / 1e3 for ledger in ledgers.values()]),
    }
    with canvas(columns=3, width=10.5) as (figure, axes):
        places, below = range(len(shares)), np.zeros(len(shares))
        for (kind, values), colour, hatch in zip(parts.items(), CYCLE, ("", "//"), strict=False):
            axes[0].bar(places, values, bottom=below, color=colour, hatch=hatch, edgecolor="white", label=kind)
            below += values
        for axis, kinds in ((axes[1], list(spent)[:2]), (axes[2], list(spent)[2:])):
            for kind, colour, mark in zip(kinds, CYCLE, "os", strict=False):
                axis.plot(places, spent[kind], color=colour, marker=mark, label=kind)
            axis.set_ylim(bottom=0)
        labels = ("Share of wanted MKVs", "Seconds per wanted MKV", "Kilobytes per wanted MKV")
        for axis, label in zip(axes, labels, strict=True):
            axis.set(xlabel="Overlap", ylabel=label, xticks=places)
            axis.set_xticklabels([f"{share:.0%}" for share in shares])
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2 if axis is axes[0] else 1)
    words = "; ".join(
        f"{share:.0%}: {made} optimised, {again} reused"
        for share, made, again in zip(shares, *counts.values(), strict=True)
    )
    return finish(
        figure,
        name,
        caption="An edit that several clients want is optimised only once. Seconds: computed from the seconds per MKV "
        "on this machine. Kilobytes: for asking, publishing and reusing, without adoption.",
        alt=f"Three charts over the overlap between clients, per wanted MKV. {words}.",
        data={"overlap": shares, "seconds": seconds, "wanted": wanted, **counts, **spent},
    )
