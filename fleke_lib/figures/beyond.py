"""Figures of chapter 10, the image model: its pictures, where a fault comes from, and what mends it."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from fleke_lib.beyond.digits import GRID, Pictures
from fleke_lib.beyond.locating import ImageTrace
from fleke_lib.evaluation.resampling import Estimate
from fleke_lib.figures.style import CYCLE, MARKS, Picture, canvas, finish, whiskers


def shown(rows: Mapping[str, tuple[Pictures, Sequence[int]]], name: str = "10-pictures") -> Picture:
    """Rows of pictures, with the model's answer above each.

    Args:
        rows: by what a row shows, its pictures and the model's answers, equally many in every row.
    """
    columns = len(next(iter(rows.values()))[1])
    with canvas(len(rows), columns, width=1.0 * columns + 1.6, height=1.25 * len(rows), squeeze=False) as (
        figure,
        axes,
    ):
        for line, (what, (pictures, answers)) in zip(axes, rows.items(), strict=True):
            for axis, pixels, answer in zip(line, pictures.pixels[:, 0], answers, strict=True):
                axis.imshow(1 - pixels.numpy(), cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
                axis.set_title(f"→ {int(answer)}", loc="center")
            line[0].set_ylabel(what, rotation=0, ha="right", va="center")
    words = "; ".join(
        f"{what}: digits {', '.join(map(str, pictures.digits.tolist()))} are read as "
        f"{', '.join(str(int(a)) for a in answers)}"
        for what, (pictures, answers) in rows.items()
    )
    return finish(
        figure,
        name,
        caption="Pictures of 8 by 8 pixels, and the model's answer to each.",
        alt=f"Rows of handwritten digits with the model's answers. {words}.",
        data={
            what: {"digits": pictures.digits, "answers": [int(a) for a in answers]}
            for what, (pictures, answers) in rows.items()
        },
    )


def patch_maps(trace: ImageTrace, place: tuple[int, int], what: str, name: str = "10-patches") -> Picture:
    """The effect of each state as a map of the patches, one map a layer, and of the class token below it.

    Args:
        place: where the cause is, `(row, column)`; it is framed. what: what is restored, for the caption.
    """
    effect = trace.indirect.mean(0).numpy()
    layers, most = effect.shape[1], float(np.abs(effect).max())
    with canvas(2, layers, width=1.9 * layers + 1.2, height=3.3, height_ratios=[GRID, 1]) as (figure, axes):
        for layer, (upper, lower) in enumerate(axes.T):
            scale = {"vmin": 0.0, "vmax": most}
            image = upper.imshow(effect[1:, layer].reshape(GRID, GRID), **scale)
            lower.imshow(effect[:1, layer, None], **scale)
            row, column = place
            square = [column - 0.5, column + 0.5, column + 0.5, column - 0.5, column - 0.5]
            upper.plot(square, [row - 0.5, row - 0.5, row + 0.5, row + 0.5, row - 0.5], color=CYCLE[3])
            upper.set(title=f"layer {layer}", xticks=[], yticks=[])
            lower.set(xticks=[], yticks=[])
        axes[0, 0].set_ylabel("patches")
        axes[1, 0].set_ylabel("class\ntoken", rotation=0, ha="right", va="center")
        figure.colorbar(image, ax=axes, label="Indirect effect (probability)")
    tokens = effect.argmax(0)
    named = ["class token" if t == 0 else f"patch {((t - 1) // GRID, (t - 1) % GRID)}" for t in tokens.tolist()]
    best = ", ".join(
        f"layer {i} {effect[t, i]:.2f} at the {n}" for i, (t, n) in enumerate(zip(tokens, named, strict=True))
    )
    return finish(
        figure,
        name,
        caption=(
            f"Putting {what} of the faulty picture into the healthy one's run: what one state adds to the probability "
            f"of the wrong answer. Frame: the patch of the trigger. Mean over {len(trace.faulty)} pictures."
        ),
        alt=f"One map of {GRID} by {GRID} patches for each of {layers} layers. The greatest effects: {best}.",
        data={"kind": trace.kind, "place": place, "effect": effect, "faulty": trace.faulty.mean()},
    )


def effects(panels: Mapping[str, Mapping[str, Estimate]], name: str = "10-effects") -> Picture:
    """The effect by layer of kinds of tokens, one panel a fault, with 95% bands.

    Args:
        panels: by fault, the estimates by token and part, one number a layer.
    """
    with canvas(columns=len(panels), width=4.2 * len(panels), height=3.2, sharey=True, squeeze=False) as (figure, axes):
        for axis, (fault, lines) in zip(axes[0], panels.items(), strict=True):
            for (what, line), colour, mark in zip(lines.items(), CYCLE, MARKS, strict=False):
                layers = range(len(line.mean))
                axis.plot(layers, line.mean, f"{mark}-", color=colour, label=what)
                axis.fill_between(layers, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
            axis.set(title=fault, xlabel="Layer (from 0)", xticks=list(layers), ylim=(-0.05, 1.05))
        figure.legend(*axes[0, -1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        axes[0, 0].set_ylabel("Indirect effect (probability)")
    words = "; ".join(
        f"{fault}, {what}: " + ", ".join(f"{value:.2f}" for value in line.mean)
        for fault, lines in panels.items()
        for what, line in lines.items()
    )
    return finish(
        figure,
        name,
        caption="What one state of the faulty picture adds to the probability of the wrong answer, with 95% bands.",
        alt=f"Line charts over the layers. {words}.",
        data={fault: {what: line._asdict() for what, line in lines.items()} for fault, lines in panels.items()},
    )


def mended(models: Mapping[str, Mapping[str, Estimate]], name: str = "10-mended") -> Picture:
    """Rates of several models with 95% intervals, a row for each rate.

    Args:
        models: by model, its rates by name; every model has the same.
    """
    rates = list(next(iter(models.values())))
    step = 0.8 / len(models)
    with canvas(height=1.0 + 0.75 * len(rates)) as (figure, axis):
        for i, (model, found) in enumerate(models.items()):
            rows = [row + (i - (len(models) - 1) / 2) * step for row in range(len(rates))]
            for row, one in zip(rows, found.values(), strict=True):
                axis.errorbar(
                    [one.mean], [row], xerr=whiskers(one.mean, one[1:]), fmt="none", ecolor=CYCLE[i], capsize=3
                )
            axis.plot([one.mean for one in found.values()], rows, MARKS[i % len(MARKS)], color=CYCLE[i], label=model)
        axis.set(xlim=(-0.02, 1.02), yticks=range(len(rates)), xlabel="Share of pictures (0 to 1)", ylabel="Rate")
        axis.set_yticklabels(rates)
        axis.invert_yaxis()
        axis.grid(True, axis="x")
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    words = "; ".join(
        f"{model}: " + ", ".join(f"{rate} {one.mean:.3f}" for rate, one in found.items())
        for model, found in models.items()
    )
    return finish(
        figure,
        name,
        caption="Test pictures that no hospital has, with 95% intervals over pictures.",
        alt=f"A point chart of rates from 0 to 1. {words}.",
        data={model: {rate: one._asdict() for rate, one in found.items()} for model, found in models.items()},
    )


def similarities(
    cosines: Float[np.ndarray, "packets packets"], labels: Sequence[str], name: str = "10-cosines"
) -> Picture:
    """Cosines of all pairs of packets; labels name the hospital and the fault of each."""
    with canvas(width=6.4, height=5.2) as (figure, axis):
        image = axis.imshow(cosines, vmin=-1, vmax=1, cmap="PuOr")
        starts = [i for i, label in enumerate(labels) if i == 0 or label != labels[i - 1]]
        axis.set(xticks=starts, yticks=starts, xlabel="Packet", ylabel="Packet")
        axis.set_yticklabels([labels[i] for i in starts])
        axis.set_xticklabels([labels[i] for i in starts], rotation=30, ha="right")
        figure.colorbar(image, ax=axis, label="Cosine")
    groups = list(dict.fromkeys(labels))
    member = np.array([[label == group for label in labels] for group in groups], float)
    means = member @ cosines @ member.T / np.outer(member.sum(1), member.sum(1))
    words = "; ".join(
        f"{one} with {other} {means[i, j]:.2f}"
        for i, one in enumerate(groups)
        for j, other in enumerate(groups)
        if i <= j
    )
    return finish(
        figure,
        name,
        caption="Cosines of all pairs of packets, in the order of their hospital and fault.",
        alt=f"A square map of cosines from -1 to 1. Means: {words}.",
        data={"labels": list(labels), "cosines": cosines},
    )
