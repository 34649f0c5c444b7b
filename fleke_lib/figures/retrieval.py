"""Figures of chapter 4: which vectors separate relations, how they cluster, and what policies retrieve."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import PCA
from torch import Tensor

from fleke_lib.federation.retrieval.clusters import Clusters
from fleke_lib.federation.retrieval.precision import Retrieval
from fleke_lib.federation.retrieval.separation import Separation
from fleke_lib.figures.style import COLOURS, CYCLE, GREY, Picture, canvas, finish

BINS = np.linspace(-1, 1, 81)
MARKS = "osD^vPX*"
WEAK = 0.25  # Kaufman and Rousseeuw, Finding Groups in Data (1990): a lower mean silhouette shows no structure
ROUND = [(1, 1), (1, -1), (-1, -1), (-1, 1), (1, 0), (-1, 0), (0, 1), (0, -1)]  # where a label can be, best first


def similarities(by: Mapping[str, Separation], tau: float = 0.4, name: str = "04-similarities") -> Picture:
    """Histograms of cosines within and between relations, one panel per representation, with the threshold tau."""
    data = {}
    with canvas(columns=len(by), width=3.1 * len(by), sharex=True) as (figure, axes):
        for axis, (kind, found) in zip(np.atleast_1d(axes), by.items(), strict=True):
            for label, colour, pairs in (("within", "blue", found.within), ("between", "orange", found.between)):
                density, _ = np.histogram(pairs.numpy(), BINS, density=True)
                axis.stairs(density, BINS, fill=True, alpha=0.5, color=COLOURS[colour], label=f"{label} relations")
                data.setdefault(kind, {})[label] = density
            axis.axvline(tau, color=GREY, linestyle="--", linewidth=1, label=f"tau = {tau}")
            axis.set(title=f"{kind}: AUC {found.auc:.2f}", xlabel="Cosine of two facts' vectors", yticks=[])
            data[kind] |= {"auc": found.auc, "nearest": found.nearest, "over tau": found.over(tau)}
        np.atleast_1d(axes)[0].set_ylabel("Density of pairs")
        figure.legend(*np.atleast_1d(axes)[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    words = "; ".join(
        f"{kind}: AUC {found.auc:.2f}, over tau {found.over(tau)[0]:.0%} of the pairs within and "
        f"{found.over(tau)[1]:.0%} between relations"
        for kind, found in by.items()
    )
    return finish(
        figure,
        name,
        caption=f"Cosines of pairs of facts, of the same relation and of two relations, in {len(by)} representations.",
        alt=f"Histograms, one panel for each representation. {words}.",
        data=data | {"bins": BINS},
    )


def map_of(
    vectors: Float[Tensor, "facts d"],
    labels: Sequence[str],
    clusters: Mapping[str, Clusters],
    shown: int = 6,
    name: str = "04-clusters",
) -> Picture:
    """The facts in the plane of their first two principal components, and silhouettes by number of clusters.

    Args:
        labels: of each fact, as shown in the legend; the `shown` most frequent are coloured.
        clusters: by method, with the silhouettes that were tried.
    """
    flat = PCA(2, random_state=0).fit_transform(vectors.numpy())
    most = sorted(set(labels), key=lambda label: (-list(labels).count(label), label))[:shown]
    with canvas(columns=2, width=9.5, height=5.0, width_ratios=[1.2, 1]) as (figure, (left, right)):
        rest = [label not in most for label in labels]
        left.scatter(*flat[rest].T, s=6, color="#cccccc", label="others")
        for i, label in enumerate(most):
            here = [other == label for other in labels]
            left.scatter(*flat[here].T, s=18, color=CYCLE[i % len(CYCLE)], marker=MARKS[i % len(MARKS)], label=label)
        left.set(xlabel="First principal component", ylabel="Second principal component", xticks=[], yticks=[])
        for (method, found), colour in zip(clusters.items(), CYCLE, strict=False):
            right.plot(*zip(*sorted(found.silhouettes.items()), strict=True), color=colour, marker="o", label=method)
        right.set(xlabel="Number of clusters", ylabel="Mean silhouette (-1 to 1)")
        right.axhline(WEAK, color=GREY, linestyle="--", linewidth=1, label=f"no substantial structure below {WEAK}")
        least, most = right.get_ylim()
        right.set_ylim(min(0, least), max(1.3 * WEAK, most))  # from zero: what looks like a peak is nearly flat
        right.legend()
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    words = "; ".join(
        f"{method} is best with {found.n} clusters, silhouette {max(found.silhouettes.values()):.3f}"
        for method, found in clusters.items()
    )
    return finish(
        figure,
        name,
        caption="Left: facts in the plane of their first two principal components, some relations coloured. Right: the "
        "mean silhouette of clusterings, by number of clusters; dashed: the bound of Kaufman and Rousseeuw (1990).",
        alt=f"A scatter plot of {len(labels)} facts in which relations form loose groups, and a line chart of "
        f"silhouettes by number of clusters: {words}.",
        data={
            "plane": flat,
            "labels": list(labels),
            "silhouettes": {method: found.silhouettes for method, found in clusters.items()},
        },
    )


def trade_off(found: Mapping[str, Sequence[tuple[str, Retrieval]]], name: str = "04-policies") -> Picture:
    """Precision against recall, one line per family of policies, with each member's setting at its point."""
    with canvas(height=4.4) as (figure, axis):
        for i, (family, members) in enumerate(found.items()):
            points = [(r.recall, r.precision) for _, r in members]
            axis.plot(
                *zip(*points, strict=True), color=CYCLE[i % len(CYCLE)], marker=MARKS[i % len(MARKS)], markersize=5,
                linewidth=1, label=family,
            )  # fmt: skip
        axis.set(xlabel="Recall (0 to 1)", ylabel="Precision (0 to 1)", xlim=(-0.05, 1.1), ylim=(0, 1.05))
        figure.legend(loc="outside right upper")
        figure.draw_without_rendering()  # fixes the axis, and with it where points are
        labels = [
            (setting, (r.recall, r.precision), CYCLE[i % len(CYCLE)])
            for i, members in enumerate(found.values())
            for setting, r in members
        ]
        where = axis.transData.transform([point for _, point, _ in labels]) * 72 / figure.dpi
        ways = [axis.transData.transform(line.get_xydata()) * 72 / figure.dpi for line in axis.lines]
        offsets = apart(where, [setting for setting, _, _ in labels], np.concatenate([dense(way) for way in ways]))
        for (setting, point, colour), beside in zip(labels, offsets, strict=True):
            axis.annotate(
                setting, point, xytext=beside, textcoords="offset points", ha="center", va="center", fontsize=8,
                color=colour,
            )  # fmt: skip
    best = {family: max(members, key=lambda member: member[1].f1) for family, members in found.items()}
    words = "; ".join(
        f"{family}, best at {setting}: precision {r.precision:.2f}, recall {r.recall:.2f}"
        for family, (setting, r) in best.items()
    )
    return finish(
        figure,
        name,
        caption="Precision and recall of policies for the facts that are relevant to a client, over all clients.",
        alt=f"Line chart of precision against recall, one line for each family of policies. {words}.",
        data={
            family: [
                {"setting": setting, "precision": r.precision, "recall": r.recall, "f1": r.f1, "adopted": r.adopted}
                for setting, r in members
            ]
            for family, members in found.items()
        },
    )


def apart(points: np.ndarray, labels: Sequence[str], lines: np.ndarray | None = None) -> list[tuple[float, float]]:
    """From each point to its label's middle, so that labels cover neither points nor each other where there is room.

    Points and offsets are in typographic points, and a label's size is that of 8-point digits. lines: points of lines,
    which labels avoid too if nothing else speaks against it.
    """
    lines = np.empty((0, 2)) if lines is None else lines
    taken, offsets = [], []  # middles and half sizes of the labels so far
    for point, label in zip(points, labels, strict=True):
        half = np.array([2.6 * len(label), 4.5])

        def covered(offset: np.ndarray, point: np.ndarray = point, half: np.ndarray = half) -> float:
            middle = point + offset
            on_points = (np.abs(points - middle) < half + 3).all(1).sum()
            on_labels = sum((np.abs(other - middle) < half + size).all() for other, size in taken)
            return on_points + on_labels + 0.5 * (np.abs(lines - middle) < half).all(1).any()

        tried = [np.array(way) * (half + 3.5) * far for far in (1, 1.7, 2.4) for way in ROUND]
        offset = min(tried, key=covered)
        taken.append((point + offset, half))
        offsets.append((float(offset[0]), float(offset[1])))
    return offsets


def dense(way: np.ndarray, steps: int = 40) -> np.ndarray:
    """Points along a line through the points of `way`, its corners."""
    parts = np.linspace(0, 1, steps)[:, None]
    return np.concatenate([way[:1], *(a + parts * (b - a) for a, b in pairwise(way))])
