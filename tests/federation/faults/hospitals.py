"""Hospitals on Flower with a tiny model, which a test can stop at any place: the harness of `make federation`.

The processes are real: a SuperLink, SuperNodes under TLS with keys, and what Flower starts for them. Two things are
the test's: a tiny model in place of the default one, and `site/sitecustomize.py`, by which a process waits at a place.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleke_lib.edit.moments import second_moments
from fleke_lib.federation.client import Client, ClientConfig
from fleke_lib.federation.flower.bounds import save_rules
from fleke_lib.federation.flower.settings import save_group, save_identity
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.federation.partitioning import Part
from fleke_lib.federation.provider import StoredProvider
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.federation.sealing import Draws, Group, Identity, Sealing
from fleke_lib.federation.weights import settled
from fleke_lib.model.language_model import LanguageModel, load_model
from tests.commands.site import facts_file
from tests.federation.small import facts
from tests.tiny import tiny
from tools.federation.certificates import node_key
from tools.federation.comparison import one_thread
from tools.federation.hospitals import Hospitals
from tools.federation.processes import Processes, environment

SITE = Path(__file__).parent / "site"
SECRET = b"the hospitals' own secret"


def hospitals(folder: Path, number: int, slots: int):
    """The files of a federation with one fact a hospital and slot, and its processes, none of which is started."""
    lm, each = tiny_model(folder / "tiny"), facts()
    parts, identities, keys = [], {}, {}
    for i in range(number):
        name, mine = f"hospital-{i}", each[i * slots : (i + 1) * slots]
        facts_file(folder / f"{name}.json", mine)
        parts.append(Part(name, tuple((fact,) for fact in mine), ()))
        identities[name] = Identity.draw(name, Draws())
        save_identity(identities[name], folder / f"{name}.identity")
        keys[name] = node_key(folder / f"{name}.key")
    group = Group({name: one.member for name, one in identities.items()}, dealer="hospital-0")
    save_group(group, keys, folder / "group.json")
    (folder / "secret.bin").write_bytes(SECRET)
    save_rules(Rules.of(lm), folder / "rules.json")
    second_moments(lm)  # into the cache that all hospitals read
    around = with_holds(folder, environment())
    return Hospitals(folder, Processes(folder, around), tuple(parts), "everyone", str(folder / "tiny"))


def with_holds(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of processes that a test can hold, see `Holds`."""
    (folder / "hold").mkdir(), (folder / "held").mkdir()
    paths = filter(None, [str(SITE), environment.get("PYTHONPATH")])
    return {**environment, "FLEKE_HOLDS": str(folder), "PYTHONPATH": os.pathsep.join(paths)}


def tiny_model(folder: Path) -> LanguageModel:
    """The tiny model as every node loads it."""
    if not folder.exists():
        made = tiny("llama")
        made.model.save_pretrained(folder), made.tokenizer.save_pretrained(folder)
    return load_model(folder)


@dataclass
class Holds:
    """Which processes wait at which places, see `site/sitecustomize.py`."""

    folder: Path
    seconds: float = 300.0

    def at(self, *places: str) -> None:
        """From now on, whoever comes to one of these places waits there."""
        for place in places:
            (self.folder / "hold" / place).touch()

    def wait(self, *places: str) -> None:
        """Until somebody waits at each of these places. Raises AssertionError if nobody comes."""
        until(lambda: all((self.folder / "held" / place).exists() for place in places), self.seconds, str(places))

    def free(self, *places: str) -> None:
        for place in places:
            (self.folder / "hold" / place).unlink()
            (self.folder / "held" / place).unlink(missing_ok=True)

    def patience(self, seconds: float) -> None:
        """How long the desk waits for the replies to each turn that begins from now on."""
        (self.folder / "patience.new").write_text(str(seconds))
        (self.folder / "patience.new").replace(self.folder / "patience")


def until(done, seconds: float, what: str) -> None:
    """Wait until something is so. Raises AssertionError if it is not in time."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


@one_thread()
def in_one_process(
    folder: Path, lm: LanguageModel, parts: Sequence[Part], late: Sequence[str], missed: int
) -> dict[str, tuple[Packet, ...]]:
    """What each hospital holds in one process if `late` ones miss a slot and do everything in the next one."""
    rules, provider = Rules.of(lm), StoredProvider(lm, folder / "one-process")
    with Sealing().connect(folder / "one-process.db", rules, [part.name for part in parts]) as connected:
        clients = {
            name: Client(line, rules, Tags(SECRET), provider, ClientConfig(Everyone()))
            for name, line in connected.clients.items()
        }
        behind: dict[str, list[int]] = {part.name: [] for part in parts}
        for slot in range(len(parts[0].slots)):
            connected.begin(slot)
            here = [part for part in parts if slot != missed or part.name not in late]
            for part in parts:
                behind[part.name].append(slot)
            for part in here:
                due = [fact for old in behind[part.name] for fact in part.slots[old]]
                clients[part.name].edit(due, slot)
            for part in here:
                for old in behind[part.name]:
                    clients[part.name].retrieve(old)
                behind[part.name] = []
    return {name: settled(*(packets(held) for held in (one.own, one.adopted))) for name, one in clients.items()}


def packets(held) -> list[Packet]:
    return [packet for _, packet in held.values()]
