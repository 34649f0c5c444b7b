"""Figures of chapter 4: which vectors separate relations, how they cluster, and what policies retrieve."""

from collections.abc import Mapping, Sequence

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
BESIDE = (((6, 6), "left"), ((6, -6), "left"), ((-6, -6), "right"), ((-6, 6), "right"))


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
            place, side = BESIDE[i % len(BESIDE)]  # families cross, and so would labels that are all on one side
            for (setting, _), point in zip(members, points, strict=True):
                axis.annotate(
                    setting, point, xytext=place, textcoords="offset points", ha=side, va="center", fontsize=8,
                    color=CYCLE[i % len(CYCLE)],
                )  # fmt: skip
        axis.set(xlabel="Recall (0 to 1)", ylabel="Precision (0 to 1)", xlim=(-0.05, 1.1), ylim=(0, 1.05))
        figure.legend(loc="outside right upper")
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
