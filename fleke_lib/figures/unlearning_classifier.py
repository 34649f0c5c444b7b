"""Figures of chapter 06 on hospitals: accuracy of each method, membership signal, and differential privacy."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from fleke_lib.figures.style import COLOURS, CYCLE, GREY, MARKS, Picture, canvas, finish, whiskers
from fleke_lib.unlearn.classifier.membership import MARGIN, MembershipAudit
from fleke_lib.unlearn.classifier.methods import STEPS, Comparison, Unlearned

FLOOR = 1e-12  # smaller distances are rounding and are drawn at this one


def four_steps(outcome: Unlearned, withdrawn: str, name: str = "06-four-steps") -> Picture:
    """The four steps of a withdrawal as a schematic, with the bytes sent in each.

    Args:
        outcome: of a method in which the remaining hospitals report and the server sums.
        withdrawn: who leaves, in words.
    """
    sent = {step: sum(m.bytes for m in outcome.messages if m.step == step) for step in STEPS}
    words = (
        "the hospital finds who leaves",
        "the others compute on their patients",
        "the server adds their reports up",
        "the server sends new weights",
    )
    with canvas(columns=4, width=10.5, height=3.2) as (figure, axes):
        for number, (axis, step, says) in enumerate(zip(axes, STEPS, words, strict=True)):
            axis.set(xlim=(0, 4), ylim=(-0.9, 4), aspect="equal", title=f"{number + 1}  {step}")
            axis.set_axis_off()
            _box(axis, 2, 3.2, "server", COLOURS["sky"] if step in STEPS[2:] else "white")
            for place, x in enumerate((0.7, 2.0, 3.3)):
                leaving = place == 0
                working = step == STEPS[1] and not leaving
                fill = "#dddddd" if leaving and number else COLOURS["sky"] if working else "white"
                _box(axis, x, 0.7, "leaves" if leaving else "stays", fill, dashed=leaving)
                if leaving and step == STEPS[0]:
                    _arrow(axis, (x, 1.15), (1.6, 2.75), COLOURS["vermilion"])
                if not leaving and step == STEPS[2]:
                    _arrow(axis, (x, 1.15), (1.7 + 0.3 * place, 2.75), COLOURS["blue"])
                if not leaving and step == STEPS[3]:
                    _arrow(axis, (1.7 + 0.3 * place, 2.75), (x, 1.15), COLOURS["green"])
            axis.text(2, -0.25, says, ha="center", fontsize=8.5)
            axis.text(2, -0.75, f"{sent[step]:,} bytes", ha="center", fontsize=8.5, color=GREY)
    said = "; ".join(f"{i + 1}, {s}: {w}, {sent[s]:,} bytes" for i, (s, w) in enumerate(zip(STEPS, words, strict=True)))
    return finish(
        figure,
        name,
        caption=f"The four steps of a withdrawal, here of {withdrawn} by the method '{outcome.method}', and the bytes "
        "sent in each.",
        alt=f"Four panels, each with a server above and three hospitals below, one of which leaves. {said}.",
        data={"method": outcome.method, "withdrawn": withdrawn, "bytes": sent},
    )


def distances(panels: Mapping[str, Mapping[str, Mapping[str, Comparison]]], name: str = "06-distances") -> Picture:
    """Each method's distance to the retrained weights, on a logarithmic scale; one panel per way of training.

    Retraining itself has distance zero, which a logarithmic scale cannot show: it is only in the numbers.

    Args:
        panels: by way of training, by request, by method.
    """
    every = [found for requests in panels.values() for found in requests.values()]
    methods = [method for method in every[0] if any(found[method].distance for found in every)]
    least = max(FLOOR, min(found[method].distance for found in every for method in methods))
    decades = range(int(np.floor(np.log10(least))), 2)
    with canvas(columns=len(panels), width=10, height=1.2 + 0.42 * len(methods), sharey=True, sharex=True) as (
        figure,
        axes,
    ):
        for axis, (title, requests) in zip(np.atleast_1d(axes), panels.items(), strict=True):
            for i, (request, found) in enumerate(requests.items()):
                places = [max(found[method].distance, FLOOR) for method in methods]
                rows = np.arange(len(methods)) + (i - (len(requests) - 1) / 2) * 0.2
                axis.plot(places, rows, MARKS[i % 4], color=CYCLE[i], label=request)
                axis.plot([places[0]] * 2, rows[[0, -1]], color=CYCLE[i], linestyle=":", linewidth=1)
            axis.set(xscale="log", xlabel="Distance to the retrained weights (log scale)", title=title)
            axis.set_xticks(
                [10.0**power for power in decades], [f"1e{power}" if power % 3 == 0 else "" for power in decades]
            )
            axis.minorticks_off()
            axis.grid(True, axis="x")
        first = np.atleast_1d(axes)[0]
        first.set_yticks(range(len(methods)), methods)
        first.set_ylabel("Method")
        first.invert_yaxis()
        handles, labels = first.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    words = "; ".join(
        f"{title}, {request}: " + ", ".join(f"{method} {c.distance:.1e}" for method, c in found.items())
        for title, requests in panels.items()
        for request, found in requests.items()
    )
    return finish(
        figure,
        name,
        caption="Distance of each method's weights from those of a federation that the withdrawn patients never joined "
        f"(further left is better). Dotted: doing nothing. Distances below {FLOOR:.0e} are drawn at {FLOOR:.0e}.",
        alt=f"Points on logarithmic scales, one panel for each way of training. {words}.",
        data={
            title: {request: {m: vars(c) for m, c in found.items()} for request, found in requests.items()}
            for title, requests in panels.items()
        },
    )


def membership(audits: Mapping[str, Mapping[str, MembershipAudit]], name: str = "06-membership") -> Picture:
    """The attack's AUC after each method, one panel per request, with 95% intervals and a line at chance.

    Args:
        audits: by request, by method; doing nothing is the model before the withdrawal.
    """
    methods = list(next(iter(audits.values())))
    with canvas(columns=len(audits), width=9.5, height=1.1 + 0.4 * len(methods), sharey=True, sharex=True) as (
        figure,
        axes,
    ):
        for axis, (request, found) in zip(np.atleast_1d(axes), audits.items(), strict=True):
            axis.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
            axis.axvspan(0.5 - MARGIN, 0.5 + MARGIN, color=GREY, alpha=0.15, linewidth=0)
            for row, method in enumerate(methods):
                audit = found[method]
                reach = whiskers(audit.auc, audit.interval)
                colour = COLOURS["blue" if audit.at_chance else "vermilion"]
                mark = "o" if audit.at_chance else "D"
                axis.errorbar([audit.auc], [row], xerr=reach, fmt=mark, color=colour, capsize=3)
            axis.set(xlabel="AUC of the attack (0 to 1)", title=request, yticks=range(len(methods)))
            axis.grid(True, axis="x")
        first = np.atleast_1d(axes)[0]
        first.set_yticklabels(methods)
        first.set_ylabel("Method")
        first.invert_yaxis()
    words = "; ".join(
        f"{request}: "
        + ", ".join(f"{m} {a.auc:.2f} ({a.interval[0]:.2f} to {a.interval[1]:.2f})" for m, a in found.items())
        for request, found in audits.items()
    )
    return finish(
        figure,
        name,
        caption="Can patients who left be distinguished from patients who were never there? The attack's AUC with 95% "
        f"bootstrap intervals over victims; 0.5 (dashed) is chance. Round and blue: at chance, the interval lies "
        f"within {MARGIN} of 0.5 (grey).",
        alt=f"Points with intervals, AUC of the attack, one panel for each request. {words}.",
        data={request: {m: _numbers(a) for m, a in found.items()} for request, found in audits.items()},
    )


def privacy(
    accuracies: Mapping[float, Sequence[float]],
    public: float,
    left: Mapping[str, Mapping[str, MembershipAudit]],
    delta: float,
    name: str = "06-privacy",
) -> Picture:
    """The cost of privacy and what remains to unlearn: accuracy by epsilon, and the attack on groups in the model.

    Args:
        accuracies: by epsilon, on test patients, one for each seed of the noise.
        public: the accuracy without privacy.
        left: by way of training, by request: the audit of a model from which nothing was withdrawn.
        delta: of the epsilons.
    """
    with canvas(columns=2, width=9.5, height=3.6) as (figure, (cost, promise)):
        epsilons = sorted(accuracies)
        means = [float(np.mean(accuracies[e])) for e in epsilons]
        lows, highs = ([float(f(accuracies[e])) for e in epsilons] for f in (np.min, np.max))
        cost.plot(epsilons, means, color=COLOURS["blue"], marker="o", label="mean over seeds")
        cost.fill_between(epsilons, lows, highs, color=COLOURS["blue"], alpha=0.15, label="least to most")
        cost.axhline(public, color=GREY, linestyle="--", linewidth=1, label="without privacy")
        cost.set(xscale="log", xlabel=f"Epsilon of one patient (log scale), delta {delta:g}")
        cost.set(ylabel="Accuracy on test patients (0 to 1)", title="what it costs")
        cost.set_xticks(epsilons, [f"{e:g}" for e in epsilons])
        cost.minorticks_off()
        cost.legend(loc="lower right")
        requests = list(next(iter(left.values())))
        for i, (training, found) in enumerate(left.items()):
            for row, request in enumerate(requests):
                auc, reach = found[request].auc, whiskers(found[request].auc, found[request].interval)
                place = [row + (i - (len(left) - 1) / 2) * 0.2]
                label = training if not row else None
                promise.errorbar(place, [auc], reach, fmt=MARKS[i % 4], color=CYCLE[i], capsize=3, label=label)
        promise.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
        promise.set_xticks(range(len(requests)), requests)
        promise.set(
            xlabel="Who asks to leave, nothing done yet", ylabel="AUC of the attack (0 to 1)", title="what it leaves"
        )
        promise.legend(loc="upper left")
    costs = ", ".join(f"{e:g}: {m:.3f}" for e, m in zip(epsilons, means, strict=True))
    words = "; ".join(
        f"{training}: " + ", ".join(f"{request} {a.auc:.2f}" for request, a in found.items())
        for training, found in left.items()
    )
    return finish(
        figure,
        name,
        caption="Left: test accuracy under differential privacy for single patients. Right: the attack's AUC on groups "
        "that are still in the model, with 95% bootstrap intervals; dashed is chance.",
        alt=f"A line chart and a point chart. Accuracy by epsilon: {costs}; without privacy {public:.3f}. AUC of the "
        f"attack by way of training: {words}.",
        data={
            "accuracy": {f"{e:g}": list(accuracies[e]) for e in epsilons},
            "without privacy": public,
            "delta": delta,
            "auc": {training: {r: _numbers(a) for r, a in found.items()} for training, found in left.items()},
        },
    )


def _numbers(audit: MembershipAudit) -> dict:
    return {"auc": audit.auc, "interval": audit.interval}


def _box(axis: Axes, x: float, y: float, text: str, fill: str, dashed: bool = False) -> None:
    style = "--" if dashed else "-"
    corner, size = (x - 0.55, y - 0.4), (1.1, 0.8)
    axis.add_patch(FancyBboxPatch(corner, *size, "round,pad=0,rounding_size=0.15", fc=fill, ec="black", ls=style))
    axis.text(x, y, text, ha="center", va="center", fontsize=9)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.6})
