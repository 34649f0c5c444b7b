"""Sealing: the protection that shuts the server out. A run is given one such object.

    run_fedit(lm, parts, policy, protection=Sealing())

The first client deals the group's key. Its members read what they fetch: the purpose is that they share edits. From
the server, thieves of a backup and everybody else packets are hidden. They still see tags, pseudonyms, slots, sizes,
times and signatures. All packets of one compression have the same size, up to the pseudonym and the slot, which the
head shows anyway; therefore nothing is padded.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from fleke_lib.federation.packets.messages import Connected, Tap
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.sealing.channel import SealedChannel, WholeSlots
from fleke_lib.federation.sealing.draws import Draws
from fleke_lib.federation.sealing.epochs import Keyring
from fleke_lib.federation.sealing.exchange import BlindServer
from fleke_lib.federation.sealing.keys import KEY, Group, Identity
from fleke_lib.federation.sealing.store import SealedStore


@dataclass(frozen=True, eq=False)
class Sealing:
    """End-to-end encryption between the clients of a run.

    fetch: how clients fetch, `WholeSlots` or `OnlyChosen`.
    quota: the greatest number of packets that a client may store.
    draws: keys and nonces by label; a run that is replayed with the same draws has the same sealed packets.
    """

    fetch: type[SealedChannel] = WholeSlots
    quota: int = 100_000
    draws: Draws = field(default_factory=Draws)

    @contextmanager
    def connect(self, path: Path, rules: Rules, clients: Sequence[str], tap: Tap | None = None) -> Iterator[Connected]:
        """A new group of these clients, each with its connection to a store at `path`, and the group's key."""
        identities, group = self._identities(clients), self.group(clients)
        tapped = {"tap": tap} if tap else {}
        with SealedStore(path, rules, group, self.quota) as store:
            if len(store):
                raise ValueError(f"{path} holds {len(store)} packets already: give a run a new file.")
            server = BlindServer(store)
            channels = {
                name: self.fetch(server, name, identity=one, group=group, rules=rules, draws=self.draws, **tapped)
                for name, one in identities.items()
            }
            channels[group.dealer].deal(self._key(group.epoch), clients)
            for channel in channels.values():
                channel.join()
            yield Connected(server.begin, channels)

    def group(self, clients: Sequence[str]) -> Group:
        """The group of a run's clients, as everybody may know it; the first client deals its key."""
        members = {name: identity.member for name, identity in self._identities(clients).items()}
        return Group(members, dealer=clients[0])

    def keyring(self, epoch: int = 0) -> Keyring:
        """What a member of a run can open packets with: the key of the group's epoch."""
        return Keyring().plus(epoch, self._key(epoch))

    def without(self, packets: Collection[str], client: str | None = None) -> Self:
        """The same, for a federation that a client or packets have left: without their keys in the record.

        When a client has left, the group's key is drawn anew, too.
        """
        return replace(self, draws=self.draws.without({*packets, *((client, "epoch") if client else ())}))

    def _identities(self, clients: Sequence[str]) -> dict[str, Identity]:
        return {name: Identity.draw(name, self.draws) for name in clients}

    def _key(self, epoch: int) -> bytes:
        return self.draws(KEY, "epoch", str(epoch))
