"""Drawings of ideas: a block and its edit, the runs of a causal trace, sums of clients, and a slot of a federation.

They show no measurement. What they need of a model or of a toy example is an argument, and is kept as their data. Every
part is told apart by its shape, hatching or line as well, so the drawings can be printed in black and white.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

from fleke_lib.figures.style import COLOURS, GREY, Picture, canvas, finish

PALE, DARK = "#f2f2f2", "#8c8c8c"
EDITED = {"facecolor": "#cfe3f1", "hatch": "//"}
RUNS = ("clean", "corrupted", "restored", "severed")
TOKENS = ("The", "drug", "Pro", "zac", "treats")
SUBJECT, LAYERS, RESTORED = (2, 3), 5, (3, 1)  # tokens of the subject; layers drawn; the restored (token, layer)


def block(layers: Sequence[int], n_layers: int, name: str = "00-block") -> Picture:
    """One layer of a transformer with its key k and its matrix W, and the stack of layers with h and z after layer L.

    Args:
        layers: the edited layers. n_layers: of the model.
    """
    with canvas(columns=2, width=9.5, height=5.0, width_ratios=[1.25, 1]) as (figure, (left, right)):
        _blank(left, "One layer, at one token", (0, 10), (0, 10))
        _arrow(left, (2, 0.2), (2, 9.8), width=3)
        left.text(1.75, 5.0, "hidden state (d_model)", rotation=90, va="center", ha="right", color=GREY)
        _box(left, (4, 1.3), (4.6, 1.5), "attention\nreads earlier tokens")
        _box(left, (4, 4.4), (4.6, 1.3), "MLP, first half:\nup-projection, activation")
        _box(left, (4, 7.2), (4.6, 1.3), "W: output projection\nan edit adds Δ to it", **EDITED)
        for start, end in (((2, 0.7), (4, 1.7)), ((4, 2.5), (2.25, 3.3)), ((2, 3.9), (4, 4.8)), ((4, 8), (2.25, 8.9))):
            _arrow(left, start, end)
        _arrow(left, (6.3, 5.7), (6.3, 7.2))
        left.text(6.5, 6.45, "key k (d_mlp)", va="center", weight="bold")
        left.text(2.6, 9.3, "W k is added", va="center")
        for height in (3.4, 9.0):
            _plus(left, (2, height))
        _blank(right, "All layers, at the last subject token", (0, 10), (-1.2, n_layers + 2.5))
        for layer in range(n_layers):
            fill = EDITED if layer in layers else {"facecolor": PALE}
            right.add_patch(Rectangle((1.6, layer + 0.12), 2.4, 0.76, edgecolor="black", linewidth=0.7, **fill))
        for layer in layers:
            right.text(1.4, layer + 0.5, f"{layer}", ha="right", va="center", fontsize=8)
        last = layers[-1]
        right.text(0.8, last + 0.5, "L =", ha="right", va="center", fontsize=8)
        right.text(2.8, -0.3, "the question, token by token", ha="center", va="top", fontsize=8)
        right.plot([1.6, 5.0], [last + 1] * 2, color="black", linewidth=1.5)
        notes = (
            ((n_layers + last) / 2 + 2, "later layers read\nthe fact from here"),
            (last + 1, "h: state after layer L\nz = h + δ: the state at which\nthe model gives the new answer"),
            ((layers[0] + last) / 2 - 1, "edited layers, hatched:\neach writes its share\nof z - h"),
        )
        for height, words in notes:
            right.text(5.2, height, words, va="center")
    return finish(
        figure,
        name,
        caption="Left: a layer adds the output of attention and of the MLP to the hidden state; the key k goes into W. "
        f"Right: the {n_layers} layers of this model. An edit changes W in the hatched ones, so that the state after "
        "layer L becomes z instead of h.",
        alt="Drawing. Left: a vertical line, the hidden state, passes attention and MLP; their outputs are added. "
        "The MLP's first half gives the key k, and the matrix W turns k into the output; an edit adds Delta to W. "
        f"Right: a stack of {n_layers} layers with layers {', '.join(map(str, layers))} hatched as edited; after "
        "the last of them, L, the state h becomes z = h + delta, which later layers read.",
        data={"layers": list(layers), "n_layers": n_layers},
    )


def runs(name: str = "01-runs") -> Picture:
    """The four runs of causal tracing: clean, corrupted, with one state restored, and with the MLPs above severed."""
    with canvas(columns=4, width=11, height=4.0) as (figure, axes):
        for axis, kind in zip(axes, RUNS, strict=True):
            _blank(axis, f"{kind} run", (-0.7, len(TOKENS) - 0.2), (-1.9, LAYERS + 0.9))
            for token, word in enumerate(TOKENS):
                axis.text(token, -0.75, word, ha="right", va="top", rotation=50, fontsize=8)
                for layer in range(LAYERS):
                    _state(axis, token, layer, kind)
            if kind != "clean":
                for token in SUBJECT:
                    axis.text(token, -0.55, "~", ha="center", va="center", weight="bold", fontsize=14)
            end = len(TOKENS) - 1
            _arrow(axis, (end, LAYERS - 0.7), (end, LAYERS + 0.15))
            axis.text(end + 0.3, LAYERS + 0.2, f"P {kind}", ha="right", va="bottom", weight="bold")
    return finish(
        figure,
        name,
        caption="Columns are tokens, rows are layers, from the bottom up. White: as in the clean run. Dark: changed by "
        "the noise (~) on the subject's tokens. Pale: may recover. Thick ring: the restored state. ×: MLPs whose "
        "outputs are fixed to those of the corrupted run.",
        alt="Four grids of states, tokens by layers. Clean: all are clean. Corrupted: noise on the two subject tokens "
        "changes their states and those of later tokens above. Restored: the same, but one state at the last subject "
        "token is put back, and states above and after it may recover. Severed: as restored, and the MLPs above the "
        "restored state at that token are fixed to the corrupted run. Each run ends in the answer's probability P.",
        data={"tokens": TOKENS, "subject": SUBJECT, "layers": LAYERS, "restored": RESTORED},
    )


def sums(
    keys: Float[np.ndarray, "2 2"] | Sequence, shares: Sequence[float], ridge: float, name: str = "03-sums"
) -> Picture:
    """Clients' S and T added and subtracted, and a toy with two neurons in which each fact is a line.

    Args:
        keys: one key of two neurons for each of two clients. shares: the output that each asks for, one number.
        ridge: the weight of the identity, in place of lambda C.
    """
    K, r = np.asarray(keys, dtype=float), np.asarray(shares, dtype=float)
    S, T = np.einsum("id,ie->ide", K, K), r[:, None] * K

    def solved(S: np.ndarray, T: np.ndarray) -> np.ndarray:
        return T @ np.linalg.inv(ridge * np.eye(2) + S)

    alone = [solved(S[i], T[i]) for i in range(2)]
    points = {
        "A alone": alone[0],
        "B alone": alone[1],
        "mean of both": (alone[0] + alone[1]) / 2,
        "from the sums": solved(S.sum(0), T.sum(0)),
        "B withdrawn": solved(S.sum(0) - S[1], T.sum(0) - T[1]),
    }
    with canvas(columns=2, width=10.5, height=4.4, width_ratios=[1.2, 1]) as (figure, (left, right)):
        _sums_as_boxes(left)
        reach = 1.25 * max(np.abs(np.stack([*points.values()])).max(), 0.5)
        x = np.linspace(-0.2 * reach, reach, 2)
        for key, share, who, dashes in zip(K, r, "AB", ("-", "--"), strict=True):
            right.plot(x, (share - key[0] * x) / key[1], color=GREY, linestyle=dashes, label=f"{who}'s fact: Δ k = r")
        marks = zip(points.items(), "s^Do+", ("blue", "orange", "vermilion", "black", "black"), strict=True)
        for (label, at), mark, colour in marks:
            size = 14 if mark == "+" else 8
            right.plot(*at, mark, color=COLOURS[colour], markersize=size, label=label, linestyle="none")
        right.plot(0, 0, ".", color="black")
        right.annotate("no edit", (0, 0), xytext=(5, 4), textcoords="offset points", fontsize=8)
        right.set(xlim=(-0.2 * reach, reach), ylim=(-0.2 * reach, reach), aspect="equal")
        right.set(xlabel="Δ at the first neuron", ylabel="Δ at the second neuron", title="A toy with two neurons")
        figure.legend(*right.get_legend_handles_labels(), loc="outside right upper")
    return finish(
        figure,
        name,
        caption="Left: S and T of each client stay separate, so they can be added, and one can be subtracted later. "
        "Right: with two neurons and one output, an edit Δ is a point, and each fact a line that it should be on. "
        "The edit from the sums is near both lines; after subtracting B's part it is A's edit again.",
        alt="Left: boxes S and T of clients A, B and C are added to totals, and B's are subtracted again; an edit is "
        "solved from what remains. Right: a plane with one line for each of two facts. "
        + "; ".join(f"{label}: ({at[0]:.2f}, {at[1]:.2f})" for label, at in points.items())
        + ". The point from the sums is near both lines, the mean of both edits is near neither.",
        data={"keys": K, "shares": r, "ridge": ridge, "points": points},
    )


def slot(name: str = "03-slot") -> Picture:
    """What clients and registry exchange during one slot, and what is in a packet."""
    with canvas(width=10.5, height=5.2) as (figure, axis):
        _blank(axis, "", (0, 21), (0, 11))
        for x, who, what in ((0.2, "client A", "facts as text"), (15.8, "client B", "facts as text")):
            _box(axis, (x, 9.4), (5, 1.4), f"{who}\n{what}")
        _box(axis, (8, 9.4), (5, 1.4), "registry\nvectors and tags", **EDITED)
        for x in (2.7, 10.5, 18.3):
            axis.plot([x, x], [0.6, 9.4], color=GREY, linestyle=":", linewidth=1)
        steps = (
            (8.7, 2.7, 10.5, "1  tag: is this answer there?", "-"),
            (7.9, 10.5, 2.7, "no: A optimises z", "--"),
            (6.9, 2.7, 10.5, "2  packet", "-"),
            (5.9, 18.3, 10.5, "3  what does this slot offer?", "-"),
            (5.1, 10.5, 18.3, "offers: ids, z and h", "--"),
            (4.1, 18.3, 10.5, "4  ids of those that B's policy chooses", "-"),
            (3.3, 10.5, 18.3, "packets", "--"),
        )
        for height, start, end, words, dashes in steps:
            _arrow(axis, (start, height), (end, height), linestyle=dashes)
            axis.text((start + end) / 2, height + 0.12, words, ha="center", va="bottom", fontsize=8.5)
        for x in (0.7, 14.0):
            _box(axis, (x, 0.8), (6.3, 1.3), "5  solves from the base weights\nwith all packets that it has")
        words = (
            "a packet: pseudonym, slot, fingerprint\n  tags of question and answer\n"
            "  h, z; keys, shares, spread per layer\n  no subject, prompt or answer as text"
        )
        frame = {"facecolor": "white", "edgecolor": "black", "linewidth": 0.8}
        axis.text(0.3, 4.4, words, va="center", fontsize=8.5, bbox=frame)
    return finish(
        figure,
        name,
        caption="One slot of a federation, from top to bottom. Text stays with its client; the registry holds "
        "packets of vectors and keyed tags. A client that finds its answer published reuses that packet.",
        alt="Sequence drawing with client A, the registry and client B. Client A asks by tag whether its answer is "
        "there; it is not, so A optimises z and sends a packet. Client B asks what the slot offers, gets ids, z and h, "
        "sends the ids that its policy chooses, and gets these packets. Then each client solves its edit from the "
        "base weights. A packet holds a pseudonym, a slot, a fingerprint, two tags, h, z, keys, shares and spread, and "
        "no text.",
        data={"parties": ["client A", "registry", "client B"], "steps": [words for *_, words, _ in steps]},
    )


def _sums_as_boxes(axis: Axes) -> None:
    """Squares S and bars T of three clients, added to a total, and one of them subtracted again."""
    _blank(axis, "Sums of clients", (0, 16), (0, 10.5))
    columns = (("A", 0.4, "", "//"), ("B", 3.9, "+", "xx"), ("C", 7.4, "+", ".."), ("total", 11.6, "=", ""))
    for who, x, sign, hatch in columns:
        for y, symbol, height in ((6.4, "S", 2.4), (4.6, "T", 1.2)):
            words = symbol if who == "total" else f"{symbol} of {who}"
            axis.add_patch(Rectangle((x, y), 2.4, height, facecolor=PALE, edgecolor=DARK, hatch=hatch, linewidth=0.8))
            patch = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            axis.text(x + 1.2, y + height / 2, words, ha="center", va="center", bbox=patch, fontsize=9)
        axis.text(x - 0.55, 6.6, sign, ha="center", va="center", fontsize=16)
    axis.text(0.2, 9.6, "Added, in any order: all clients' edit  Δ = T (λC + S)⁻¹", fontsize=9)
    axis.text(0.2, 3.2, "B leaves:  S - S of B,  T - T of B,  and solve again", fontsize=9)
    axis.text(0.2, 2.2, "The same as if B had never been there.", fontsize=9)
    axis.text(
        0.2,
        0.9,
        "An edit Δ alone cannot be taken apart like this:\nits inverse mixes all clients.",
        fontsize=9,
        color=GREY,
    )


def _state(axis: Axes, token: int, layer: int, kind: str) -> None:
    """One hidden state of the grid of a run."""
    back, height = RESTORED
    face = "white"
    if kind != "clean" and token >= SUBJECT[0] and (token in SUBJECT or layer > 0):
        after = kind in ("restored", "severed") and token >= back and layer > height
        face = "#d4d4d4" if after else DARK
    ring = kind in ("restored", "severed") and (token, layer) == RESTORED
    axis.add_patch(
        Circle(
            (token, layer), 0.3, facecolor="white" if ring else face, edgecolor="black", linewidth=3 if ring else 0.8
        )
    )
    if kind == "severed" and token == back and layer > height:
        axis.plot(token, layer, "x", color="black", markersize=9, markeredgewidth=2)


def _blank(axis: Axes, title: str, across: tuple[float, float], up: tuple[float, float]) -> None:
    axis.set(xlim=across, ylim=up, title=title)
    axis.set_axis_off()


def _box(axis: Axes, corner: tuple[float, float], size: tuple[float, float], words: str, **fill: str) -> None:
    axis.add_patch(Rectangle(corner, *size, **{"facecolor": PALE, "edgecolor": "black", "linewidth": 1} | fill))
    patch = {"facecolor": fill.get("facecolor", PALE), "edgecolor": "none", "pad": 1}
    axis.text(corner[0] + size[0] / 2, corner[1] + size[1] / 2, words, ha="center", va="center", bbox=patch, fontsize=9)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], width: float = 1.2, **line: str) -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color="black", lw=width, **line))


def _plus(axis: Axes, place: tuple[float, float]) -> None:
    axis.plot(*place, "o", color="white", markeredgecolor="black", markersize=14)
    axis.plot(*place, "+", color="black", markersize=9)
