"""The command line of a federation: `python -m fleke_lib.federation COMMAND`.

A command is a module of `fleke_lib.commands` with a docstring, `add_arguments(parser)` and `main(arguments)`, which
returns the exit status. Adding it to `COMMANDS` registers it.
"""

import argparse
import sys
from collections.abc import Sequence

from fleke_lib.commands import adopt, publish, status, verify_certificate, withdraw

COMMANDS = {
    "publish": publish,
    "adopt": adopt,
    "withdraw": withdraw,
    "verify-certificate": verify_certificate,
    "status": status,
}


def parser() -> argparse.ArgumentParser:
    """Every command with its arguments."""
    top = argparse.ArgumentParser(prog="python -m fleke_lib.federation", description="Share edits, and withdraw them.")
    commands = top.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        first, _, rest = (module.__doc__ or "").partition("\n")
        raw = argparse.RawDescriptionHelpFormatter
        module.add_arguments(
            commands.add_parser(name, help=first, description=first + "\n" + rest, formatter_class=raw)
        )
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 on success, 1 on failure, 2 for a wrong call, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        return COMMANDS[options.command].main(options)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped by hand; what was finished is in place", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
