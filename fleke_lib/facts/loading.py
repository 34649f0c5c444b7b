"""Loading facts: `load_facts` reads a data set by name or from a file.

The atlas ships with the package. The data sets of the papers are downloaded once from their publishers into the
user's cache and verified; without a network, the error says where to put the file. `formats.py` reads the schemas.
"""

import json
import random
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from fleke_lib.facts import formats
from fleke_lib.facts.fact import Fact, Neighbour
from fleke_lib.storage.download import download
from fleke_lib.storage.files import DATA, cache, part_of_repository, user_path

ATLAS = DATA / "atlas.json"
TUNED_ON = 111  # the atlas's first facts: layers, lambda and other settings are chosen on them, no table reports them
SCHEMAS = "CounterFact, flattened CounterFact (EasyEdit), KnowEdit or zsRE (MEND)"


@dataclass(frozen=True)
class LeftOut:
    """A record that could not be read as a fact, and the reason."""

    id: str
    reason: str


class Facts(tuple[Fact, ...]):
    """An immutable sequence of `Fact`; a slice of it is a `Facts` too.

    `source` is the name or path that the facts were read from. `left_out` lists the records of the whole file that
    could not be read, with reasons; a slice keeps the whole list.
    """

    source: str
    left_out: tuple[LeftOut, ...]

    def __new__(cls, facts: Iterable[Fact] = (), source: str = "", left_out: Iterable[LeftOut] = ()) -> "Facts":
        self = super().__new__(cls, facts)
        self.source, self.left_out = source, tuple(left_out)
        return self

    def __getitem__(self, index):
        found = super().__getitem__(index)
        return Facts(found, self.source, self.left_out) if isinstance(index, slice) else found

    def __repr__(self) -> str:
        return f"Facts({len(self)} facts from {self.source or 'memory'}; {len(self.left_out)} records left out)"

    def _repr_html_(self) -> str:
        head = "<tr><th>question</th><th>true</th><th>new</th><th>paraphrases</th><th>neighbours</th></tr>"
        rows = "".join(
            f"<tr><td>{escape(fact.question)}</td><td>{escape(fact.target_true)}</td><td>{escape(fact.target_new)}</td>"
            f"<td>{len(fact.paraphrases)}</td><td>{len(fact.neighbours)}</td></tr>"
            for fact in self[:5]
        )
        return f"<table><caption>{escape(repr(self))}</caption>{head}{rows}</table>"


@dataclass(frozen=True)
class Published:
    """A file at its publisher's URL, and the values that it is verified against."""

    url: str
    records: int
    size: int | None = None  # bytes
    sha256: str | None = None


# Sizes and SHA-256 of the first two were recorded by independent public projects that downloaded from these URLs
# (several for CounterFact, one a Git LFS pointer in scalable-model-editing/rebuilding-rome; two for zsRE). None was
# found for multi-CounterFact, so only its number of records is checked.
PUBLISHED = {
    "counterfact": Published(
        "https://rome.baulab.info/data/dsets/counterfact.json",
        records=21_919,
        size=45_108_470,
        sha256="d017056125178a13728594e66a801357a8db9ed7973a7425554bb4271de9fc6f",
    ),
    "zsre": Published(
        "https://rome.baulab.info/data/dsets/zsre_mend_eval.json",
        records=19_086,
        size=8_091_864,
        sha256="8a371d512f8a6ab175db4ef672181d5c0e52da23298cb51e5a2eeea2f89aa9cd",
    ),
    "multi-counterfact": Published(
        "https://memit.baulab.info/data/dsets/multi_counterfact.json",
        records=20_877,
    ),
}


def load_facts(source: str | Path = "atlas", limit: int | None = None, seed: int | None = None) -> Facts:
    """Read facts by name ("atlas", "counterfact", "multi-counterfact", "zsre") or from a JSON file.

    The schema is recognised by the records' keys: CounterFact and multi-CounterFact (the same), CounterFact as EasyEdit
    flattens it, KnowEdit, or MEND's zsRE. A data set given by name is downloaded on first use into `facts` in the
    user's cache and verified against the published file. A file given by its path is read without verification. Records
    that are not facts are left out: a warning gives their number, and `.left_out` gives their ids and the reasons.
    Another warning names the fields of records that no part of a fact can hold.

    Args:
        source: a name or a path.
        limit: how many facts to return; all by default.
        seed: with a seed, the facts are a random sample in random order; without, the first ones of the file.

    Raises:
        ValueError: the name is unknown, the file is not a list of such records, or `limit` exceeds their number.
        FileNotFoundError: there is no such file.
        DownloadError: a data set cannot be downloaded.
    """
    path = _path(source)
    records = _records(path)
    if source in PUBLISHED and len(records) != (expected := PUBLISHED[source].records):
        raise ValueError(f"{path} has {len(records)} records instead of {expected}: delete it and run again.")
    facts, left_out, unused = [], [], Counter()
    for place, record in enumerate(records):
        name = str(record.get("case_id", place)) if isinstance(record, dict) else str(place)
        try:
            facts.append(_fact(record, name, unused))
        except ValueError as error:
            left_out.append(LeftOut(name, str(error)))
    if left_out:
        told = f"{len(left_out)} of the {len(records)} records in {path} are left out, with the reasons in .left_out"
        warnings.warn(f"{told}; the first, {left_out[0].id}: {left_out[0].reason}", stacklevel=2)
    if unused:
        names = ", ".join(f"{what} (in {count} records)" for what, count in unused.items())
        warnings.warn(f"{path} has fields that a fact has no place for, they are not used: {names}", stacklevel=2)
    return Facts(_choose(facts, limit, seed, path), str(source), left_out)


def _path(source: str | Path) -> Path:
    """The file of a source; a published data set is downloaded if necessary."""
    if source in PUBLISHED:
        file = PUBLISHED[source]
        return download(file.url, cache() / "facts" / Path(file.url).name, file.size, file.sha256)
    if source == "atlas":
        return part_of_repository(ATLAS)
    path = user_path(source)
    if path.is_file():
        return path
    names = ", ".join(["atlas", *PUBLISHED])
    if not path.suffix and len(path.parts) == 1:
        raise ValueError(f"There are no facts called {str(source)!r}: give one of {names}, or the path of a JSON file.")
    raise FileNotFoundError(f"There is no file {path}: give the path of a JSON file, or one of {names}.")


def _records(path: Path) -> list:
    """The list of records in a file. Raises ValueError unless at least one record has a known schema."""
    accepted = f"give a JSON list of records as {SCHEMAS} has them"
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): {accepted}.") from error
    if not isinstance(records, list):
        raise ValueError(f"{path} holds a JSON {type(records).__name__}, not a list: {accepted}.")
    if not any(map(formats.is_known, records)):
        known = "a known schema" + (formats.why_unknown(records[0]) if records else "")
        raise ValueError(f"None of the {len(records)} records in {path} has the keys of {known}: {accepted}.")
    return records


def _fact(record: dict, name: str, unused: Counter[str]) -> Fact:
    """The fact of a record; what it does not use is counted in `unused`."""
    fields = formats.read(record)
    without = fields.pop("unused")
    neighbours = [Neighbour(*pair) for pair in fields.pop("neighbours")]
    fact = Fact(**fields, neighbours=neighbours, id=name)
    unused.update(without)
    return fact


def _choose(facts: list[Fact], limit: int | None, seed: int | None, path: Path) -> list[Fact]:
    """The first `limit` facts, or a random sample of this size."""
    wanted = len(facts) if limit is None else limit
    if not 0 <= wanted <= len(facts):
        raise ValueError(f"limit={limit} is not possible, {path} has {len(facts)} facts: give 0 to {len(facts)}.")
    return facts[:wanted] if seed is None else random.Random(seed).sample(facts, wanted)
