"""Whether the edits of two ways are equal, and what the edited models answer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from fleke_lib.edit import Edit
from fleke_lib.federation import Part
from fleke_lib.federation.outcome import outcome, wanted
from fleke_lib.model.language_model import LanguageModel

COLUMNS = ("score", "top1", "specificity")


def edits_of(folder: Path, names: Sequence[str]) -> dict[str, Edit]:
    """The edits that the nodes have written, by hospital."""
    return {name: Edit.load(folder / f"{name}.memory" / "edit.safetensors") for name in names}


def equal(there: Mapping[str, Edit], here: Mapping[str, Edit]) -> list[str]:
    """The hospitals whose two edits have the same bits in every layer."""
    pairs = {name: (there[name], edit) for name, edit in here.items() if name in there}
    return [
        name
        for name, (one, other) in pairs.items()
        if one.layers == other.layers and all(torch.equal(one.delta(at), other.delta(at)) for at in one.layers)
    ]


def table(lm: LanguageModel, parts: Sequence[Part], ways: Mapping[str, Mapping[str, Edit]]) -> list[str]:
    """Lines: what each hospital's model answers to its own and relevant questions, by way and metric."""
    lines = [f"{'':<14}" + "".join(f"{way:^36}" for way in ways)]
    lines += [f"{'':<14}" + len(ways) * "".join(f"{name:>12}" for name in COLUMNS)]
    for part in parts:
        asked, cells = {part.name: wanted([part])[part.name]}, ""
        for edits in ways.values():
            found = outcome(lm, edits, asked)
            cells += "".join(f"{getattr(found, name):>12.3f}" for name in COLUMNS)
        lines.append(f"{part.name:<14}{cells}")
    return lines


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, as hospitals do: the number of threads changes the last bits of a float32 sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
