"""Figures of chapter 1: the states whose restoration recovers a fact."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fleke_lib.evaluation.resampling import Estimate
from fleke_lib.figures.style import COLOURS, GREY, Picture, canvas, finish
from fleke_lib.locate.averages import TraceAverage
from fleke_lib.locate.tracing import CLASSES, CausalTrace

PARTS = {"hidden": "hidden state", "mlp": "MLP", "attention": "attention"}
LINES = {
    "last subject": (COLOURS["blue"], "-"),
    "last": (COLOURS["vermilion"], "-"),
    "first subject": (COLOURS["sky"], "--"),
    "middle subject": (COLOURS["green"], "-."),
    "first further": (COLOURS["orange"], "--"),
    "further": (COLOURS["purple"], ":"),
}


def heatmap(trace: CausalTrace, name: str = "01-heatmap") -> Picture:
    """ROME's figure for one fact: a row per token (those of the subject starred), a column per layer, colour is P."""
    return heatmaps([trace], name)


def heatmaps(traces: Sequence[CausalTrace], name: str = "01-heatmaps") -> Picture:
    """`heatmap` for several kinds of state of one fact, with a common colour scale."""
    least = min(float(np.nanmin(t.scores)) for t in traces)
    most = max(float(np.nanmax(t.scores)) for t in traces)
    tokens = _starred(traces[0])
    with _panels(len(traces), rows=len(tokens)) as (figure, axes):
        for ax, trace in zip(axes, traces, strict=True):
            image = _paint(ax, trace.scores, trace.kind, trace.window, tokens, least, most)
        axes[0].set_ylabel("Token (* subject)")
        figure.colorbar(image, ax=list(axes), label=f"Probability of “{traces[0].answer.strip()}”, 0 to 1")
    one = traces[0]
    caption = (
        f"The probability of “{one.answer.strip()}” is {one.clean:.3f} in the clean run and {one.corrupted:.3f} in the "
        f"corrupted one. Each cell: its probability after restoring {_listed(traces)} at one token and layer."
    )
    data = {
        "tokens": one.tokens,
        "subject": one.subject,
        "clean": one.clean,
        "corrupted": one.corrupted,
        "windows": {t.kind: t.window for t in traces},
        "scores": {t.kind: t.scores for t in traces},
    }
    return finish(figure, name, caption, " ".join(_trace_in_words(t) for t in traces), data)


def average_heatmap(average: TraceAverage, name: str = "01-average-heatmap") -> Picture:
    """Average indirect effects: a row per class of tokens, a column per layer."""
    return average_heatmaps([average], name)


def average_heatmaps(averages: Sequence[TraceAverage], name: str = "01-average-heatmaps") -> Picture:
    """`average_heatmap` for several kinds of state, with a common colour scale."""
    shown = [i for i, count in enumerate(averages[0].counts) if count]
    labels = [f"{CLASSES[i]} ({averages[0].counts[i]} facts)" for i in shown]
    effects = [average.mean[shown] for average in averages]
    least, most = min(float(e.min()) for e in effects), max(float(e.max()) for e in effects)
    with _panels(len(averages), rows=len(labels)) as (figure, axes):
        for ax, average, effect in zip(axes, averages, effects, strict=True):
            image = _paint(ax, effect, average.kind, average.window, labels, least, most)
        axes[0].set_ylabel("Class of token")
        figure.colorbar(image, ax=list(axes), label="Indirect effect (probability)")
    caption = (
        f"Average over {averages[0].facts} facts: how much restoring {_listed(averages)} at one class of tokens and "
        "one layer raises the answer's probability above that of the corrupted run."
    )
    return finish(figure, name, caption, " ".join(map(_average_in_words, averages)), _data(averages))


def profile(averages: Sequence[TraceAverage], layers: Sequence[int] = (), name: str = "01-profile") -> Picture:
    """Average indirect effects as lines over the layers with 95% bands; the chosen `layers` are shaded."""
    with _panels(len(averages), rows=9) as (figure, axes):
        for ax, average in zip(axes, averages, strict=True):
            if layers:
                ax.axvspan(min(layers) - 0.5, max(layers) + 0.5, color=GREY, alpha=0.2, lw=0, label="chosen layers")
            ax.axhline(0, color=GREY, lw=0.8)
            for kind in _present(average):
                mean, low, high = map(np.asarray, average.row(kind))
                colour, dashes = LINES[kind]
                ax.plot(mean, color=colour, ls=dashes, label=f"{kind} token")
                ax.fill_between(range(len(mean)), low, high, color=colour, alpha=0.15, lw=0)
            ax.set(title=PARTS[average.kind])
            _over_layers(ax, average.window)
        axes[0].set_ylabel("Indirect effect (probability)")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4)
    marked = f" Grey: layers {min(layers)} to {max(layers)}." if layers else ""
    caption = f"Average indirect effect over {averages[0].facts} facts, with 95% bootstrap bands.{marked}"
    data = _data(averages) | {"chosen layers": list(layers)}
    return finish(figure, name, caption, " ".join(map(_average_in_words, averages)) + marked, data)


def mediation(
    whole: TraceAverage,
    severed: TraceAverage,
    difference: Estimate,
    critical: Sequence[int],
    chosen: Sequence[int],
    name: str = "01-mediation",
) -> Picture:
    """MEMIT's figure: restoring the hidden state at the last subject token, with the MLPs above active and severed.

    Args:
        difference: from `mediated`.
        critical: hatched layers, from `critical_layers`.
        chosen: layers marked with triangles, such as the preset's.
    """
    lines = (
        (whole.row("last subject"), "blue", "-", "MLPs active"),
        (severed.row("last subject"), "vermilion", "--", "MLPs severed"),
        (difference, "black", ":", "difference"),
    )
    with canvas() as (figure, axes):
        edges = {"facecolor": "none", "edgecolor": GREY, "hatch": "..", "lw": 0.8}
        axes.axvspan(critical[0] - 0.5, critical[-1] + 0.5, alpha=0.6, label="critical layers", **edges)
        for line, colour, dashes, label in lines:
            mean, low, high = map(np.asarray, line)
            axes.plot(mean, color=COLOURS[colour], ls=dashes, label=label)
            if dashes == ":":  # a third filled band could not be told from the other two
                for edge in (low, high):
                    axes.plot(edge, color=COLOURS[colour], ls=dashes, lw=0.7)
            else:
                axes.fill_between(range(len(mean)), low, high, color=COLOURS[colour], alpha=0.15, lw=0)
        axes.plot(chosen, [0] * len(chosen), "^", color=COLOURS["green"], clip_on=False, label="layers of the preset")
        axes.set(ylabel="Indirect effect (probability)")
        _over_layers(axes)
        figure.legend(loc="outside right center")
    span = f"layers {critical[0]} to {critical[-1]}"
    caption = (
        f"Restoring the hidden state at the last subject token, average over {whole.facts} facts with 95% bootstrap "
        "intervals: bands, and thin dotted lines for the difference. The difference falls from three quarters to one "
        f"quarter of its peak over {span} (dots)."
    )
    alt = (
        f"Line chart over layers. Severing the MLPs lowers the effect by at most {float(difference.mean.max()):.2f}, "
        f"at layer {int(difference.mean.argmax())}; this difference falls over {span}. The preset has layers "
        f"{', '.join(map(str, chosen))}."
    )
    data = {
        "facts": whole.facts,
        "whole": whole.row("last subject")._asdict(),
        "severed": severed.row("last subject")._asdict(),
        "difference": difference._asdict(),
        "critical": critical,
        "chosen": chosen,
    }
    return finish(figure, name, caption, alt, data)


@contextmanager
def _panels(columns: int, rows: int) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Axes side by side with a common y axis, high enough for this many rows of cells."""
    width = 6.5 if columns == 1 else 3.2 * columns + 0.6
    with canvas(columns=columns, width=width, height=1.5 + 0.26 * rows, sharey=True, squeeze=False) as (figure, axes):
        yield figure, axes[0]
        for ax in axes[0, 1:]:
            ax.tick_params(left=False)


def _paint(ax: Axes, values, kind: str, window: int, rows: Sequence[str], least: float, most: float):
    image = ax.imshow(np.asarray(values), aspect="auto", vmin=least, vmax=most, interpolation="nearest")
    ax.set_yticks(range(len(rows)), rows)
    ax.set(title=PARTS[kind])
    _over_layers(ax, window)
    ax.spines[:].set_visible(False)
    return image


def _over_layers(ax: Axes, window: int = 1) -> None:
    """The x axis counts layers: its ticks are whole numbers, however few layers a model has."""
    ax.set_xlabel("Layer (from 0)" if window == 1 else f"Middle of {window} layers (from 0)")
    ax.xaxis.get_major_locator().set_params(integer=True)


def _starred(trace: CausalTrace) -> list[str]:
    first, last = trace.subject
    names = [token.strip() or repr(token) for token in trace.tokens]
    return [f"{name}*" if first <= i <= last else name for i, name in enumerate(names)]


def _present(average: TraceAverage) -> list[str]:
    return [name for name in LINES if average.counts[CLASSES.index(name)]]


def _listed(panels: Sequence) -> str:
    names = [f"the {PARTS[panel.kind]}" for panel in panels]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _data(averages: Sequence[TraceAverage]) -> dict:
    return {
        "facts": averages[0].facts,
        "classes": CLASSES,
        "counts": averages[0].counts,
        "kinds": {
            a.kind: {"window": a.window, "total": a.total._asdict(), "mean": a.mean, "low": a.low, "high": a.high}
            for a in averages
        },
    }


def _trace_in_words(trace: CausalTrace) -> str:
    spots = {trace.subject[1]: "the last subject token", len(trace.tokens) - 1: "the last token"}
    found = [f"at {spot} at layer {trace.best(i)[0]} ({trace.best(i)[1]:.2f})" for i, spot in spots.items()]
    return (
        f"Heat map of the {PARTS[trace.kind]}, {len(trace.tokens)} tokens by {trace.scores.shape[1]} layers: "
        f"restoring recovers the highest probability {' and '.join(found)}."
    )


def _average_in_words(average: TraceAverage) -> str:
    found = []
    for name in _present(average):
        mean = average.row(name).mean
        found.append(f"{name} token {float(mean.max()):.2f} at layer {int(mean.argmax())}")
    return f"Greatest average effects of the {PARTS[average.kind]}: {', '.join(found)}."
