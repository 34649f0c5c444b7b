"""Pieces that a long run keeps on disk, so that an interrupted one goes on where it was.

A piece is written whole or not at all, under a digest of all that it depends on. So two runs may share a folder, more
facts may be asked for later, and nothing is ever taken for what it is not.

    kept/      small things that must not be drawn anew: context prefixes, clusters
    made/      MKVs and trajectories, 64 facts a file (`fleke_lib.federation.provider.StoredProvider`)
    scores/    what a model with an edit answered, 200 facts a file
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fleke_lib.facts.fact import Fact
from fleke_lib.storage.files import read_json, write_json

Progress = Callable[[str], None]  # is given a line when something has been written


def digest(*things: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(things, sort_keys=True, default=str).encode()).hexdigest()


def asks(fact: Fact) -> tuple[str, str, str]:
    """What an MKV depends on in a fact."""
    return fact.subject, fact.prompt, fact.target_new


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` returned the first time, as JSON gives it back."""
    if not path.exists():
        write_json(path, make())
    return read_json(path)


@contextmanager
def timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    """Adds the block's seconds to a step's."""
    begin = time.perf_counter()
    yield
    seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - begin
