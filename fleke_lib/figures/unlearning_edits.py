"""Figures of chapter 06b on edits: the error of each way to withdraw, withdrawn and retained facts, and time."""

from collections.abc import Mapping, Sequence

from fleke_lib.evaluation.results import Evaluation
from fleke_lib.figures.style import COLOURS, CYCLE, GREY, MARKS, Picture, canvas, finish, whiskers

EXACT = 1e-17  # where the logarithmic scale shows a distance of zero


def misses(found: Mapping[str, Mapping[str, float]], name: str = "06b-misses") -> Picture:
    """The distance to the never-joined control for each way of withdrawing, on a logarithmic scale.

    Args:
        found: by request and method, the distance as a share of the withdrawn facts' whole effect; a request may lack
            some methods.
    """
    everything = {method for shares in found.values() for method in shares}
    methods = sorted(everything, key=lambda method: (max(s.get(method, 0) for s in found.values()), method))
    with canvas(width=8.5, height=1.0 + 0.42 * len(methods)) as (figure, axis):
        for i, ((request, shares), colour, mark) in enumerate(zip(found.items(), CYCLE, MARKS, strict=False)):
            rows = [row for row, method in enumerate(methods) if method in shares]
            values = [max(shares[methods[row]], EXACT) for row in rows]
            aside = 0.7 * ((i + 0.5) / len(found) - 0.5)  # requests with equal distances would hide one another
            axis.plot(values, [row + aside for row in rows], mark, color=colour, label=request, markersize=5)
        axis.axvline(1, color=GREY, linestyle="--", linewidth=1)
        axis.set(xscale="log", xlim=(EXACT / 10, 30), yticks=range(len(methods)), ylabel="Way of withdrawing")
        axis.set(xlabel="Distance to the never-joined weights, as a share of the withdrawn facts' effect (log scale)")
        axis.set_xticks([EXACT, 1e-12, 1e-8, 1e-4, 1], ["0", "10⁻¹²", "10⁻⁸", "10⁻⁴", "1"])
        axis.minorticks_off()
        axis.set_yticklabels(methods)
        axis.invert_yaxis()
        axis.grid(True, axis="x")
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    words = "; ".join(
        f"{request}: " + ", ".join(f"{method} {shares[method]:.2g}" for method in methods if method in shares)
        for request, shares in found.items()
    )
    return finish(
        figure,
        name,
        caption="Distance of each way of withdrawing from the weights of a federation that was never joined. At 0 the "
        "weights are equal bit for bit; the dashed line at 1 is doing nothing.",
        alt=f"A point chart on a logarithmic scale, distance to the never-joined weights. {words}.",
        data={request: dict(shares) for request, shares in found.items()},
    )


def forgotten(
    withdrawn: Mapping[str, Evaluation],
    retained: Mapping[str, Evaluation],
    metric: str = "efficacy_magnitude",
    name: str = "06b-forgotten",
) -> Picture:
    """A metric of withdrawn and of retained facts for several models, with 95% bootstrap intervals over facts.

    Args:
        withdrawn, retained: evaluations by model, such as "base", "before", "after", "control".
    """
    with canvas(height=3.4) as (figure, axis):
        for i, (label, found) in enumerate((("withdrawn facts", withdrawn), ("retained facts", retained))):
            places = [place + (i - 0.5) * 0.25 for place in range(len(found))]
            values = [getattr(evaluation, metric) for evaluation in found.values()]
            for place, value, evaluation in zip(places, values, found.values(), strict=True):
                reach = whiskers(value, evaluation.interval(metric))
                axis.errorbar([place], [value], reach, fmt="none", ecolor=CYCLE[i], capsize=3)
            axis.plot(places, values, MARKS[i], color=CYCLE[i], label=label)
        axis.axhline(0, color=COLOURS["black"], linewidth=0.6)
        axis.set(xticks=range(len(withdrawn)), ylabel="P(new) - P(true)", xlabel="Model", ylim=(-1.02, 1.02))
        axis.set_xticklabels(withdrawn)
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    words = "; ".join(
        f"{model}: withdrawn {getattr(withdrawn[model], metric):.2f}, retained {getattr(retained[model], metric):.2f}"
        for model in withdrawn
    )
    return finish(
        figure,
        name,
        caption="Probability of the new answer minus that of the true one, with 95% bootstrap intervals over facts: in "
        "the base model, before the withdrawal, after it, and in the federation that was never joined.",
        alt=f"A point chart with intervals, {len(withdrawn)} models. {words}.",
        data={
            kind: {model: {"mean": getattr(e, metric), "interval": e.interval(metric)} for model, e in found.items()}
            for kind, found in (("withdrawn", withdrawn), ("retained", retained))
        },
    )


def times(sizes: Sequence[int], seconds: Mapping[str, Sequence[float]], name: str = "06b-times") -> Picture:
    """Seconds of several ways to withdraw against the number of facts, on logarithmic scales.

    Args:
        sizes: facts in the federation. seconds: by way, one number for each size.
    """
    with canvas(height=3.6) as (figure, axis):
        for (way, values), colour, mark in zip(seconds.items(), CYCLE, MARKS, strict=False):
            axis.plot(sizes, values, mark + "-", color=colour, label=way)
        axis.set(xscale="log", yscale="log", xlabel="Facts in the federation", ylabel="Seconds")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    words = "; ".join(f"{way}: " + ", ".join(f"{value:.3g}" for value in values) for way, values in seconds.items())
    return finish(
        figure,
        name,
        caption="Seconds for one withdrawal, on one machine, against the number of facts in the federation.",
        alt=f"A line chart on logarithmic scales, seconds for {', '.join(map(str, sizes))} facts. {words}.",
        data={"facts": list(sizes), "seconds": {way: list(values) for way, values in seconds.items()}},
    )
