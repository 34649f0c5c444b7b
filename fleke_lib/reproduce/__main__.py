"""The command line: `python -m fleke_lib.reproduce COMMAND`.

A command is a module of this package with a docstring, `add_arguments(parser)` and `main(arguments)`, which returns the
exit status. Adding it to `COMMANDS` registers it.
"""

import argparse
import sys
from collections.abc import Sequence

from fleke_lib.commands.line import parser_of, run
from fleke_lib.reproduce import figures, measure, paper, sensitivity
from fleke_lib.reproduce.tables import command as tables

COMMANDS = {
    "claims": measure,
    "sweep": sensitivity,
    "figures": figures,
    "paper": paper,
    "tables": tables,
}


def parser() -> argparse.ArgumentParser:
    """Every command with its arguments."""
    return parser_of(COMMANDS, "python -m fleke_lib.reproduce", "Make results again.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status, see `run`."""
    return run(COMMANDS, parser(), arguments)


if __name__ == "__main__":
    sys.exit(main())
