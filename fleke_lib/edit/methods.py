"""Every editing method of this folder by its name, in one form: what chapter 02 compares.

A method is a file with a function that returns an `Edit` and a `METHOD` that names it. The file is found by being here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal

import fleke_lib.edit
from fleke_lib.edit.edit import Edit
from fleke_lib.edit.moments import Moments
from fleke_lib.facts.fact import Fact
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.model.language_model import LanguageModel


@dataclass(frozen=True)
class Method:
    """name: as tables show it. edit: from a model, facts, MKVs and moments to an `Edit`.

    vectors: whose objective its MKVs minimise, "memit" or "pmet"; None where it takes none.
    """

    name: str
    edit: Callable[[LanguageModel, Sequence[Fact], Sequence[Mkv] | None, Moments], Edit] = field(repr=False)
    vectors: Literal["memit", "pmet"] | None = "memit"


def methods() -> dict[str, Method]:
    """The methods by name, in the order of their files.

    Raises:
        ValueError: two files have methods of one name.
    """
    found: dict[str, Method] = {}
    for file in iter_modules(fleke_lib.edit.__path__):
        method = getattr(import_module(f"fleke_lib.edit.{file.name}"), "METHOD", None)
        if method is None:
            continue
        if method.name in found:
            raise ValueError(f"edit/{file.name}.py has a second method {method.name!r}: give it another name.")
        found[method.name] = method
    return found
