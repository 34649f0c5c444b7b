"""The command line of a federation: `python -m fleke_lib.federation COMMAND`.

A command is a module of `fleke_lib.commands` with a docstring, `add_arguments(parser)` and `main(arguments)`, which
returns the exit status. Adding it to `COMMANDS` registers it.
"""

import argparse
import sys
from collections.abc import Sequence

from fleke_lib.commands import (
    adopt,
    group,
    identity,
    node,
    publish,
    rules,
    server,
    status,
    verify_certificate,
    withdraw,
)
from fleke_lib.commands.line import parser_of, run

COMMANDS = {
    "publish": publish,
    "adopt": adopt,
    "withdraw": withdraw,
    "verify-certificate": verify_certificate,
    "status": status,
    "identity": identity,
    "group": group,
    "rules": rules,
    "node": node,
    "server": server,
}


def parser() -> argparse.ArgumentParser:
    """Every command with its arguments."""
    return parser_of(COMMANDS, "python -m fleke_lib.federation", "Share edits, and withdraw them.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status, see `run`."""
    return run(COMMANDS, parser(), arguments)


if __name__ == "__main__":
    sys.exit(main())
