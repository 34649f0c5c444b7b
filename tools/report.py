"""The report of a run: a table, and a comparison of each notebook with its declaration."""

from collections.abc import Sequence

from tools.execute import Run

TOLERANCE = 1.5  # of the declared minutes, which depend on the machine and on what else it does
DECLARED_FOR = "lesson"  # the scale to which a notebook's declaration applies
HEADINGS = ("notebook", "minutes", "declared", "peak GB", "declared", "figures", "claims", "")


def is_slow(run: Run) -> bool:
    """Whether a run took much longer than its notebook declares; only at the declared scale."""
    return run.scale == DECLARED_FOR and run.minutes > TOLERANCE * run.declared.minutes


def is_large(run: Run) -> bool:
    """Whether a run took more memory than its notebook declares; only at the declared scale."""
    return run.scale == DECLARED_FOR and run.peak_gb > run.declared.memory_gb


def warnings(run: Run) -> list[str]:
    """Sentences about a run that do not make it fail: what it took depends on the machine, too."""
    stop, found = run.declared, []
    if is_slow(run):
        found.append(
            f"{stop.name} took {run.minutes:.1f} minutes, where it declares {stop.minutes:g}; its results hold."
        )
    if is_large(run):
        found.append(f"{stop.name} took {run.peak_gb:.1f} GB, where it declares {stop.memory_gb:g}; its results hold.")
    return found


def not_held(run: Run) -> list[str]:
    """A sentence for each claim about the default model that does not hold on the model that this ran on."""
    return [f"{run.declared.name}, not held on {run.model}: {claim}" for claim in run.unheld if claim.measured]


def errors(run: Run) -> list[str]:
    """Sentences about a run that make it fail: a failed cell does, and a claim that must hold on every model."""
    stopped = [f"{run.declared.name} stopped at {run.failure}"] if run.failure else []
    broken = [claim for claim in run.unheld if not claim.measured]
    return stopped + [f"{run.declared.name}, {claim}: this must hold on every model." for claim in broken]


def word(run: Run) -> str:
    """The last column of the table."""
    if run.failure:
        return f"FAILED at cell {run.failure.cell}"
    return ", ".join(
        text for text, holds in (("over its memory", is_large(run)), ("over its minutes", is_slow(run))) if holds
    )


def row(run: Run) -> tuple[str, ...]:
    """One line of the table."""
    return (
        run.declared.name,
        f"{run.minutes:.1f}",
        f"{run.declared.minutes:g}",
        f"{run.peak_gb:.1f}",
        f"{run.declared.memory_gb:g}",
        str(run.figures),
        f"{run.held} of {run.claims}" if run.model else str(run.claims),
        word(run),
    )


def table(runs: Sequence[Run]) -> str:
    """The runs as aligned text, one line each."""
    rows = [HEADINGS, *map(row, runs)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(HEADINGS))]
    lines = []
    for cells in rows:
        numbers = [cell.rjust(width) for cell, width in zip(cells[1:-1], widths[1:-1], strict=True)]
        lines.append("  ".join([cells[0].ljust(widths[0]), *numbers, cells[-1]]).rstrip())
    return "\n".join(lines)
