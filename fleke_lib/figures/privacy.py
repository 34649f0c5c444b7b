"""Figures of chapter 7: the rates of attacks with their intervals and chance levels, and what noise costs whom."""

from collections.abc import Mapping, Sequence

from fleke_lib.figures.style import CYCLE, GREY, MARKS, Picture, canvas, finish, whiskers
from fleke_lib.privacy.attacks.rates import Rate


def rates(groups: Mapping[str, Mapping[str, Rate]], name: str = "07-packets") -> Picture:
    """The rate of every attack with its 95% interval, and a grey bar for the rate of a guess.

    Args:
        groups: by what is attacked, the rates by attack; a group may lack some attacks.
    """
    attacks = list(dict.fromkeys(attack for found in groups.values() for attack in found))
    step = 0.8 / len(groups)
    with canvas(height=1.2 + 0.42 * len(attacks) + 0.25 * (len(groups) - 1)) as (figure, axis):
        for i, (group, found) in enumerate(groups.items()):
            rows = [attacks.index(attack) + (i - (len(groups) - 1) / 2) * step for attack in found]
            for row, one in zip(rows, found.values(), strict=True):
                reach = whiskers(one.share, one.interval)
                axis.errorbar([one.share], [row], xerr=reach, fmt="none", ecolor=CYCLE[i], capsize=3)
                axis.plot([one.chance] * 2, [row - step / 2, row + step / 2], color=GREY, linewidth=3, alpha=0.6)
            shares = [one.share for one in found.values()]
            axis.plot(shares, rows, MARKS[i], color=CYCLE[i], label=group)
        axis.plot([], [], color=GREY, linewidth=3, alpha=0.6, label="chance")
        axis.set(xlim=(-0.02, 1.02), yticks=range(len(attacks)), xlabel="Share of victims that the attack names")
        axis.set(ylabel="Attack")
        axis.set_yticklabels(attacks)
        axis.invert_yaxis()
        axis.grid(True, axis="x")
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    words = "; ".join(
        f"{group}: " + ", ".join(f"{attack} {one.share:.2f}" for attack, one in found.items())
        for group, found in groups.items()
    )
    return finish(
        figure,
        name,
        caption="Rates of attacks with 95% intervals (Wilson). Grey: the rate of a guess without the vectors.",
        alt=f"A point chart of attacks and their rates from 0 to 1. {words}.",
        data={
            group: {
                attack: {"share": one.share, "interval": one.interval, "n": one.n, "chance": one.chance}
                for attack, one in found.items()
            }
            for group, found in groups.items()
        },
    )


def defended(
    levels: Sequence[float],
    use: Mapping[str, Sequence[float]],
    attacked: Mapping[str, Sequence[Rate]],
    *,
    level: str = "Noise, in units of each vector's length",
    name: str = "07-noise",
) -> Picture:
    """What a defence costs the edit, and what it costs the attacker, against the strength of the defence.

    Args:
        levels: strengths. use: by metric, its value at each strength. attacked: by attack, its rate at each strength.
    """
    with canvas(columns=2, height=3.4, sharey=True) as (figure, (left, right)):
        for (metric, values), colour, mark in zip(use.items(), CYCLE, MARKS, strict=False):
            left.plot(range(len(levels)), values, f"{mark}-", color=colour, label=metric)
        for i, (attack, found) in enumerate(attacked.items()):
            places = [place + 0.06 * (i - (len(attacked) - 1) / 2) for place in range(len(levels))]
            right.plot(places, [one.share for one in found], f"{MARKS[i]}-", color=CYCLE[i + 3], label=attack)
            for place, one in zip(places, found, strict=True):
                reach = whiskers(one.share, one.interval)
                right.errorbar([place], [one.share], reach, fmt="none", ecolor=CYCLE[i + 3], capsize=3)
        for axis, title in ((left, "The edit"), (right, "The attacker")):
            axis.set(title=title, xlabel=level, ylim=(-0.04, 1.04), xticks=range(len(levels)))
            axis.set_xticklabels([f"{value:g}" for value in levels])
            axis.legend(loc="lower left")
        left.set_ylabel("Score, or share of facts (0 to 1)")
    words = [f"{metric} " + ", ".join(f"{value:.2f}" for value in values) for metric, values in use.items()]
    words += [f"{attack} " + ", ".join(f"{one.share:.2f}" for one in found) for attack, found in attacked.items()]
    strengths = ", ".join(f"{value:g}" for value in levels)
    return finish(
        figure,
        name,
        caption="What the defence costs the edit (left) and the attacker (right, with 95% intervals).",
        alt=f"Two line charts over a defence of strength {strengths}: {'; '.join(words)}.",
        data={
            "levels": levels,
            "use": use,
            "attacked": {attack: [one.share for one in found] for attack, found in attacked.items()},
        },
    )
