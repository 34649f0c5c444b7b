"""Figures of chapter 10 on rows: how withdrawals add up, who gets a loan, and who can tell that somebody was there."""

from collections.abc import Mapping

import numpy as np

from fleke_lib.beyond.credit import Fairness
from fleke_lib.beyond.successive import Drift
from fleke_lib.figures.style import CYCLE, GREY, MARKS, Picture, canvas, finish, whiskers
from fleke_lib.unlearn.classifier.membership import MARGIN, MembershipAudit

FLOOR = 1e-16  # smaller distances, such as that of the replay, which is zero, are drawn at this one


def drifts(found: Mapping[str, Mapping[int, Drift]], rows: str, name: str = "10-recommender") -> Picture:
    """How far each method ends from the never-joined weights after more and more withdrawals, one after another.

    Args:
        rows: what leaves, in words, such as "users".
    """
    with canvas(width=8, height=3.8) as (figure, axis):
        for (method, after), colour, mark in zip(found.items(), CYCLE, MARKS, strict=False):
            axis.plot(list(after), [max(one.missed, FLOOR) for one in after.values()], f"{mark}-", color=colour)
            axis.plot([], [], f"{mark}-", color=colour, label=method)
        axis.axhline(1, color=GREY, linestyle=":", label="doing nothing")
        counts = list(next(iter(found.values())))
        axis.set(xscale="log", yscale="log", xlabel=f"Withdrawn {rows}, one after another")
        axis.set(ylabel="Distance from the never-joined weights\n(share of what left; log scale)")
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.set_yticks([10.0**power for power in range(-16, 4, 4)], [f"1e{power}" for power in range(-16, 4, 4)])
        axis.minorticks_off()
        axis.grid(True, axis="y")
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    words = "; ".join(
        f"{method}: " + ", ".join(f"{one.missed:.1e} after {count}" for count, one in after.items())
        for method, after in found.items()
    )
    return finish(
        figure,
        name,
        caption=f"Distance from weights that never saw the withdrawn {rows}, as a share of their whole effect. The "
        f"replay's distance is zero and drawn at {FLOOR:.0e}.",
        alt=f"A line chart on logarithmic scales with a line for each method of withdrawal. {words}.",
        data={method: {count: vars(one) for count, one in after.items()} for method, after in found.items()},
    )


def approvals(found: Mapping[str, Fairness], name: str = "10-credit") -> Picture:
    """Who gets a loan before and after accounts were closed: rates of two groups, and their difference.

    Args:
        found: by what was withdrawn, the rates.
    """
    rows = np.arange(len(found))
    with canvas(columns=2, width=9.5, height=1.3 + 0.5 * len(found), sharey=True) as (figure, (left, right)):
        for group, colour, mark in zip(next(iter(found.values())).approved, CYCLE, MARKS, strict=False):
            left.plot([one.approved[group] for one in found.values()], rows, mark, color=colour, label=group)
        for row, one in zip(rows, found.values(), strict=True):
            reach = whiskers(one.parity_gap, one.parity_interval)
            right.errorbar([one.parity_gap], [row], xerr=reach, fmt="D", color=CYCLE[2], capsize=3)
        right.axvline(0, color=GREY, linestyle=":")
        left.set(title="Approved", xlabel="Share of applicants (0 to 1)", xlim=(0, 1), ylabel="Withdrawn")
        right.set(title="Others minus young", xlabel="Difference of shares, with 95% interval")
        left.set_yticks(rows, list(found))
        left.invert_yaxis()
        left.legend(loc="lower left")
    words = "; ".join(
        f"{what}: "
        + ", ".join(f"{group} {rate:.2f}" for group, rate in one.approved.items())
        + f", difference {one.parity_gap:.3f} ({one.parity_interval[0]:.3f} to {one.parity_interval[1]:.3f})"
        for what, one in found.items()
    )
    return finish(
        figure,
        name,
        caption="Share of applicants who get a loan (left), and the difference between the groups (right).",
        alt=f"Two point charts with a row for each withdrawal. {words}.",
        data={what: vars(one) for what, one in found.items()},
    )


def audits(found: Mapping[str, Mapping[str, MembershipAudit]], name: str = "10-voice-membership") -> Picture:
    """The AUC of a per-example membership attack on those who left and on those who stayed, after each method."""
    rows = np.arange(len(found))
    with canvas(width=8, height=1.3 + 0.5 * len(found)) as (figure, axis):
        groups = list(next(iter(found.values())))
        for i, group in enumerate(groups):
            for row, audits_of in zip(rows, found.values(), strict=True):
                one, place = audits_of[group], row + 0.2 * (i - (len(groups) - 1) / 2)
                reach = whiskers(one.auc, one.interval)
                axis.errorbar([one.auc], [place], xerr=reach, fmt=MARKS[i], color=CYCLE[i], capsize=3)
            axis.plot([], [], MARKS[i], color=CYCLE[i], label=group)
        axis.axvspan(0.5 - MARGIN, 0.5 + MARGIN, color=GREY, alpha=0.2, label="at chance")
        axis.set(xlabel="AUC of the attack, with 95% interval", ylabel="Model", xlim=(0.4, 1.02))
        axis.set_yticks(rows, list(found))
        axis.invert_yaxis()
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    words = "; ".join(
        f"{method}: "
        + ", ".join(
            f"{group} {one.auc:.2f} ({one.interval[0]:.2f} to {one.interval[1]:.2f})" for group, one in both.items()
        )
        for method, both in found.items()
    )
    return finish(
        figure,
        name,
        caption="How well an attacker tells members from those who were never there, for those who left and those who "
        f"stayed. Grey: within {MARGIN} of 0.5.",
        alt=f"A point chart of AUCs with a row for each model. {words}.",
        data={
            method: {group: {"auc": one.auc, "interval": one.interval} for group, one in both.items()}
            for method, both in found.items()
        },
    )
