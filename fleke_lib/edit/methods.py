"""All editing methods of this folder by name, with one call signature; chapter 02 compares them.

A method is a file with a function that returns an `Edit` and a constant `METHOD` that describes it. Every such file in
this folder is found automatically.
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
    """An editing method.

    name: as tables show it. edit: computes an `Edit` from a model, facts, MKVs and moments.
    vectors: the objective that its MKVs minimise, "memit" or "pmet"; None if it does not use MKVs.
    """

    name: str
    edit: Callable[[LanguageModel, Sequence[Fact], Sequence[Mkv] | None, Moments], Edit] = field(repr=False)
    vectors: Literal["memit", "pmet"] | None = "memit"


def methods() -> dict[str, Method]:
    """The methods by name, in alphabetical order of their files.

    Raises:
        ValueError: two files have methods with the same name.
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
