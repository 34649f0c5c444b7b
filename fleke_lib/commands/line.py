"""A command line of several commands, and what each exit status means.

A command is a module with a docstring, `add_arguments(parser)` and `main(arguments)`, which returns the exit status.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType


def parser_of(commands: Mapping[str, ModuleType], prog: str, description: str) -> argparse.ArgumentParser:
    """Every command with its arguments; its module's docstring is its help."""
    top = argparse.ArgumentParser(prog=prog, description=description)
    found = top.add_subparsers(dest="command", required=True)
    for name, module in commands.items():
        first, _, rest = (module.__doc__ or "").partition("\n")
        raw = argparse.RawDescriptionHelpFormatter
        module.add_arguments(found.add_parser(name, help=first, description=first + "\n" + rest, formatter_class=raw))
    return top


def run(
    commands: Mapping[str, ModuleType], parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> int:
    """Run a command; returns the exit status: 0 on success, 1 on failure, 2 for a wrong call, 130 after Ctrl-C."""
    options = parser.parse_args(arguments)
    try:
        return commands[options.command].main(options)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped by hand; what was finished is in place", file=sys.stderr)
        return 130


def show(kind: str, text: str) -> None:
    """Print a line. On a terminal, a status is printed too, and the next line replaces it."""
    live = sys.stdout.isatty()
    if kind == "line":
        print(f"\r\033[K{text}" if live else text, flush=True)
    elif kind == "status" and live:
        print(f"\r\033[K{text}", end="", flush=True)
