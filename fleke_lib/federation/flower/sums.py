"""A member's side of a summed edit over turns: the messages of all its masked rounds, as bytes.

    advertise   fresh keys for every round, signed by the member           <- the session's name
    share       for every other member, sealed shares for every round      <- the keys of all who take part
    masked      the masked numbers of the present round                    <- first the shares, then the last total
    reveal      shares of seeds and keys for the present round             <- whose numbers came
    learn       nothing; the edit is complete                              <- the last total

On the right is what the turn tells. `masked` and `reveal` take turns for every step of `federation.summed`, which also
computes the numbers, and `federation.masks` does all that is secret. Keys and shares of all rounds are dealt at the
beginning, because a turn over Flower costs seconds. Every key is for one round and is in memory alone. A member that
was stopped has lost them and is out until the next session, so it cannot send two vectors under the same masks.

The server relays keys. The signatures, and a threshold of more than half of all members, keep it from taking part
itself, and from adding up few members by themselves. A session's name holds a hash of the rules and of the list of
members, so members that have agreed on something else have other rounds, and other checksums.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from fleke_lib.edit.edit import Edit
from fleke_lib.federation.masks import KEY, Advert, Participant, Revealed, least
from fleke_lib.federation.packets.messages import cut_apart, joined
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.sealing.keys import Group, Identity
from fleke_lib.federation.summed import Solving, Step, Summand, steps_of
from fleke_lib.ridge.solve import LowRank

FORMAT = "fleke-sums-1"


class SummingMember:
    """One member in one session. Each method takes what a turn tells and gives the message of the reply.

    Args:
        session: its name, for all members the same and for no other session.
        summand: what this member adds to each total.
        fingerprint: of the model.

    Every method raises ValueError if what was told does not fit; the member must then leave the session.
    """

    def __init__(
        self, session: str, identity: Identity, group: Group, summand: Summand, solving: Solving, fingerprint: str
    ) -> None:
        self.session, self._identity, self._group = session, identity, group
        self._summand, self._solving, self._fingerprint = summand, solving, fingerprint
        self.steps, self._at, self._came = steps_of(solving.scales.layers), 0, 0
        threshold = least(len(group.members))
        rounds = {step: step.round(session) for step in self.steps}
        self._rounds = {step: Participant(name, identity.name, threshold) for step, name in rounds.items()}
        self._changes: dict[int, LowRank] = {}

    @property
    def order(self) -> tuple[str, ...]:
        """The turns of a session after `advertise`."""
        return ("share", *(what for _ in self.steps for what in ("masked", "reveal")), "learn")

    def advertise(self) -> bytes:
        adverts = [one.advertise() for one in self._rounds.values()]
        keys = [one.key + one.seed for one in adverts]
        return joined([*keys, self._identity.signing.sign(_signed(self.session, self._identity.name, keys))])

    def share(self, told: bytes) -> bytes:
        """Raises Refused if the signature of a member is not on its keys."""
        found = [adverts_of(body, name, self.session, self.steps, self._group) for name, body in pairs(told)]
        by_round = zip(self._rounds.values(), *found, strict=True) if found else ()
        sealed = [one.share(adverts) for one, *adverts in by_round]
        receivers = sorted(set(sealed[0])) if sealed else ()
        return paired((name, joined(each[name] for each in sealed)) for name in receivers)

    def masked(self, told: bytes) -> bytes:
        if self._at:
            self._learn(told)
        else:
            for sender, shares in pairs(told):
                for one, share in zip(self._rounds.values(), cut_apart(shares), strict=True):
                    one.receive(sender, share)
        step = self.steps[self._at]
        whole = self._rounds[step].masked(self._summand.numbers(step, self._solving))
        return numbers_as_bytes(whole.numbers)

    def reveal(self, told: bytes) -> bytes:
        came = [name.decode() for name in cut_apart(told)]
        step = self.steps[self._at]
        shares = self._rounds[step].reveal(step.round(self.session), came)
        self._at, self._came = self._at + 1, len(came)
        return joined([paired(shares.seeds.items()), paired(shares.keys.items())])

    def learn(self, told: bytes) -> bytes:
        self._learn(told)
        return b""

    @property
    def edit(self) -> Edit:
        """After `learn`: the edit, the same for everybody."""
        return Edit(self._changes, self._fingerprint, "trajectory", {"clients": str(self._came)})

    def _learn(self, told: bytes) -> None:
        step = self.steps[self._at - 1]
        size = step.size(len(self._solving.moments[step.layer]), self._solving.d_model)
        learned = self._solving.learned(step, numbers_of(told, size))
        self._summand = self._summand.after(step, learned)
        if isinstance(learned, LowRank):
            self._changes[step.layer] = learned


def adverts_of(body: bytes, client: str, session: str, steps: Sequence[Step], group: Group) -> tuple[Advert, ...]:
    """A member's keys, one for each step. Raises Refused if they are not so many, or not signed by this member."""
    *keys, signature = cut_apart(body) or [b""]
    right = len(keys) == len(steps) and all(len(key) == 2 * KEY for key in keys)
    if not right or not group.member(client).signed(signature, _signed(session, client, keys)):
        raise Refused(f"the keys of {client!r} are not {len(steps)} that it has signed for session {session!r}.")
    rounds = [step.round(session) for step in steps]
    return tuple(Advert(name, client, key[:KEY], key[KEY:]) for name, key in zip(rounds, keys, strict=True))


def revealed_of(body: bytes, client: str, round: str) -> Revealed:
    """What a member has revealed. Raises ValueError if the bytes are something else."""
    seeds, keys = cut_apart(body)
    return Revealed(round, client, dict(pairs(seeds)), dict(pairs(keys)))


def numbers_as_bytes(numbers: np.ndarray) -> bytes:
    """Integers modulo 2^64 as 8 bytes each, the lowest first; `numbers_of` reads them."""
    return numbers.astype("<u8").tobytes()


def numbers_of(body: bytes, size: int) -> np.ndarray:
    """Integers modulo 2^64. Raises Refused if there are not so many."""
    if len(body) != 8 * size:
        raise Refused(f"{len(body)} bytes came where {size} numbers of 8 bytes were expected: send them again.")
    return np.frombuffer(body, dtype="<u8").astype(np.uint64)


def paired(parts: Iterable[tuple[str, bytes]] | Mapping[str, bytes]) -> bytes:
    """Names and what belongs to each, as one message."""
    return joined(piece for name, part in parts for piece in (name.encode(), part))


def pairs(message: bytes) -> list[tuple[str, bytes]]:
    """What `paired` has put together. Raises ValueError for other bytes, and if a name occurs twice."""
    parts = cut_apart(message)
    found = [(name.decode(), part) for name, part in zip(parts[::2], parts[1::2], strict=True)]
    if len({name for name, _ in found}) < len(found):
        raise ValueError(f"a name occurs twice among {len(found)}: send each once.")
    return found


def _signed(session: str, client: str, keys: Collection[bytes]) -> bytes:
    return joined([FORMAT.encode(), session.encode(), client.encode(), *keys])
