"""The pictures of the editing chapters (00 and 02)."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from fleke_lib.evaluation.results import Evaluation
from fleke_lib.figures.style import COLOURS, CYCLE, GREY, Picture, canvas, finish

METRICS = ("efficacy", "paraphrase", "specificity")
FEWEST = 10  # facts that a curve begins with: fewer are other facts, and an interval over them says little
MARKERS = ("o", "s", "^", "D")  # another one where the colours begin again


def before_after(
    before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]], labels: Sequence[str], name: str
) -> Picture:
    """Probabilities of the true and the new answer for some prompts, before and after an edit.

    Args:
        before, after: (P(true), P(new)) for each prompt.
        labels: of the prompts.
    """
    with canvas(columns=2, sharey=True, height=0.9 + 0.55 * len(labels)) as (figure, axes):
        for axis, rows, title in zip(axes, (before, after), ("before the edit", "after the edit"), strict=True):
            places = range(len(labels))
            axis.barh([p - 0.2 for p in places], [true for true, _ in rows], 0.4, color=COLOURS["blue"], label="true")
            axis.barh([p + 0.2 for p in places], [new for _, new in rows], 0.4, color=COLOURS["orange"], label="new")
            axis.set(title=title, xlabel="Probability (0 to 1)", xlim=(0, 1), yticks=[*places], yticklabels=labels)
        axes[0].invert_yaxis()
        axes[0].set_ylabel("Prompt")
        handles, names = axes[1].get_legend_handles_labels()
        figure.legend(handles, names, title="answer", loc="outside right upper")
    words = "; ".join(
        f"{label}: true {b[0]:.2f} to {a[0]:.2f}, new {b[1]:.2f} to {a[1]:.2f}"
        for label, b, a in zip(labels, before, after, strict=True)
    )
    return finish(
        figure,
        name,
        caption="Probability of the true answer and of the new one, before and after the edit.",
        alt=f"Two bar charts side by side. From before to after the edit: {words}.",
        data={"labels": list(labels), "before": before, "after": after},
    )


def curves(results: Mapping[str, Mapping[int, Evaluation]], before: Evaluation, name: str) -> Picture:
    """Each metric against the number of facts in one edit, one line per method, with 95% bootstrap bands.

    Args:
        results: evaluations of the edited facts, by method and number of facts; numbers under 10 are left out where a
            method has greater ones.
        before: the unedited model on the largest set; its specificity is drawn as a dashed line.
    """
    data: dict = {"before": {metric: getattr(before, metric) for metric in METRICS}, "methods": {}}
    with canvas(columns=3, sharey=True, width=9.5) as (figure, axes):
        for axis, metric in zip(axes, METRICS, strict=True):
            for i, (method, runs) in enumerate(results.items()):
                colour, marker = CYCLE[i % len(CYCLE)], MARKERS[i // len(CYCLE) % len(MARKERS)]
                sizes = sorted(n for n in runs if n >= FEWEST) or sorted(runs)
                means = [getattr(runs[n], metric) for n in sizes]
                bands = [runs[n].interval(metric) for n in sizes]
                axis.plot(sizes, means, color=colour, marker=marker, markersize=4, label=method)
                axis.fill_between(sizes, *zip(*bands, strict=True), color=colour, alpha=0.15)
                data["methods"].setdefault(method, {"facts": sizes})[metric] = {"mean": means, "interval": bands}
            if metric == "specificity":
                axis.axhline(before.specificity, color=GREY, linestyle="--", linewidth=1, label="unedited model")
            axis.set(title=metric, xlabel="Facts in one edit (log scale)", ylim=(0, 1.03))
            _log_ticks(axis, sorted({n for method in data["methods"].values() for n in method["facts"]}))
        axes[0].set_ylabel("Share of facts (0 to 1)")
        figure.legend(*axes[2].get_legend_handles_labels(), loc="outside right upper")
    largest = {method: max(runs.items(), key=lambda run: run[0]) for method, runs in results.items()}
    ends = "; ".join(
        f"{method} with {size} facts in one edit: " + ", ".join(f"{m} {getattr(found, m):.2f}" for m in METRICS)
        for method, (size, found) in largest.items()
    )
    return finish(
        figure,
        name,
        caption="Efficacy, paraphrase and specificity against the number of facts in one edit; bands are 95% bootstrap "
        "intervals over facts.",
        alt=f"Three line charts with one line for each method. At the greatest number of facts: {ends}.",
        data=data,
    )


def token_growth(
    tokens: Sequence[int], distance: Sequence[float], score: Sequence[float], d_mlp: int, name: str
) -> Picture:
    """How the edit and its score converge when the second moments are measured on more tokens.

    Args:
        tokens: numbers of tokens that the second moments are measured on.
        distance: |dW - dW_all| / |dW_all| over all layers for each number of tokens.
        score: the score of the edit for each number of tokens.
    """
    with canvas(columns=2) as (figure, (left, right)):
        left.plot(tokens, distance, marker="o", color=COLOURS["blue"])
        left.set(ylabel="Distance from the edit with all tokens\n(relative, 0 is equal)", ylim=(0, None))
        right.plot(tokens, score, marker="o", color=COLOURS["green"])
        right.set(ylabel="Score (0 to 1)", ylim=(0, 1))
        for axis in (left, right):
            axis.axvspan(2 * d_mlp, 10 * d_mlp, color=COLOURS["yellow"], alpha=0.25, label="2 to 10 x d_mlp")
            axis.set(xlabel="Tokens that C is measured on (log scale)")
            _log_ticks(axis, tokens)
        right.legend(loc="lower right")
    steps = "; ".join(
        f"{t} tokens: distance {d:.2f}, score {s:.2f}" for t, d, s in zip(tokens, distance, score, strict=True)
    )
    return finish(
        figure,
        name,
        caption="The edit when C is measured on more tokens. Shaded: the range that FastMEMIT found sufficient.",
        alt=f"Two line charts over the number of tokens: distance from the edit with all tokens, and score. {steps}.",
        data={"tokens": list(tokens), "distance": list(distance), "score": list(score), "d_mlp": d_mlp},
    )


def losses(
    steps: Sequence[int], curve: Sequence[float], probability: Sequence[float], stop: float, name: str
) -> Picture:
    """The objective and P(target_new) of one fact, each after the given numbers of Adam steps."""
    with canvas(columns=2) as (figure, (left, right)):
        left.plot(steps, curve, marker="o", markersize=4, color=COLOURS["blue"])
        left.axhline(stop, color=GREY, linestyle="--", linewidth=1, label=f"stop under {stop}")
        left.set(xlabel="Adam steps", ylabel="Loss (nats)", ylim=(0, None))
        left.legend()
        right.plot(steps, probability, marker="o", markersize=4, color=COLOURS["orange"])
        right.set(xlabel="Adam steps", ylabel="P(new target) at the bare prompt (0 to 1)", ylim=(0, 1))
    return finish(
        figure,
        name,
        caption="The optimisation of one MKV. Left: the objective. Right: the probability of the new target when the "
        "current delta is added.",
        alt=f"Two line charts over Adam steps. The loss falls from {curve[0]:.1f} to {curve[-1]:.2f} while the "
        f"probability of the new target rises from {probability[0]:.3f} to {probability[-1]:.2f}.",
        data={"steps": list(steps), "loss": list(curve), "probability": list(probability), "stop": stop},
    )


def _log_ticks(axis: Axes, places: Sequence[int]) -> None:
    """A logarithmic axis with a tick at each measured place and nowhere else."""
    axis.set_xscale("log")
    axis.set_xticks(places, [f"{place:,}" for place in places])
    axis.minorticks_off()
    axis.grid(True)
