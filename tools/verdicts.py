"""Compare two records of claims: ``python -m tools.verdicts COMMITTED MEASURED``.

Prints a Markdown table of both; the exit status is 1 when a claim has another verdict or is in one record alone.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from fleke_lib.reproduce.claims import Finding, plain
from fleke_lib.reproduce.record import Record

HEAD = ("claim", "committed", "measured", "verdict")


def changes(committed: Sequence[Finding], measured: Sequence[Finding]) -> list[str]:
    """A sentence for each claim whose verdict changed, or that only one of the two records has."""
    before, after = ({finding.name: finding.verdict for finding in record} for record in (committed, measured))
    found = [
        f"{name}: committed as {before[name]!r}, but measured as {after[name]!r}: find the cause, or commit the record."
        for name in before
        if name in after and before[name] != after[name]
    ]
    found += [f"{name}: in the committed record, but not measured." for name in before if name not in after]
    return found + [f"{name}: measured, but not in the committed record." for name in after if name not in before]


def table(committed: Sequence[Finding], measured: Sequence[Finding]) -> str:
    """Every measured claim with its mean in both records, as Markdown."""
    before = {finding.name: finding for finding in committed}
    rows = [HEAD, ("---",) * len(HEAD)]
    for finding in measured:
        old = before.get(finding.name)
        rows.append((finding.name, plain(old.mean) if old else "", plain(finding.mean), finding.verdict))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 when all verdicts are the same, 1 when one is not, 2 when the call was wrong."""
    if len(arguments) != 2:
        print("give two files, the committed record and the measured one.", file=sys.stderr)
        return 2
    try:
        committed, measured = (Record.load(Path(name)) for name in arguments)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"committed: {committed.conditions}\n\nmeasured: {measured.conditions}\n")
    print(table(committed.findings, measured.findings))
    found = changes(committed.findings, measured.findings)
    print("\n" + "\n".join(f"- {sentence}" for sentence in found or ["No verdict has changed."]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
