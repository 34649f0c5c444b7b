"""Secure aggregation: a total of clients' vectors, of which the server sees only masked ones.

Double masking of Bonawitz et al. (2017, ACM CCS, figure 4), for a server that follows the protocol. Vectors are of
integers modulo 2^64. Client i sends

    y_i = x_i + PRG(b_i) + sum over j > i of PRG(s_ij) - sum over j < i of PRG(s_ij)

The *pairwise masks* s_ij cancel in the total. The *self-mask* b_i protects a vector that arrives late, after its
pairwise masks were recovered. One round has four steps:

    advertise   a fresh X25519 key, and the hash of b_i
    share       Shamir shares of this key's secret half and of b_i, sealed for each other client
    masked      y_i
    reveal      for each client whose vector came, a share of its b; for each that dropped out, a share of its key

A client reveals once a round, and never both shares of one client, because both together would unmask its vector.
Integers modulo 2^64 add up exactly. The total has the same bits as that of unmasked vectors, whoever drops out.

The last number of a vector is a checksum, a sum of all others with public weights. It adds up like them, so a total
whose masks did not cancel is noticed.

Flower keeps SecAgg+ (`flwr.server.workflow.secure_aggregation`, read in version 1.42.0). With its defaults, numbers
clipped at 8 and 22 bits, the solve from 96 facts of 8 clients fails: the clipped S is not positive definite. Clipped at
each layer's largest number it works with the same score; dW differs by 1.5e-2, and by 1.2e-4 with the 29 bits that 8
clients leave of its 32; here by 2e-13. Its rounding is random, so a client's negative sums would not cancel exactly.
Its masks come from a generator with a 32-bit seed, the exclusive or of a secret's eight words (`pseudo_rand_gen`). All
seeds can be tried in about 110 hours on one core. Masks here are therefore this file's own.

What it hides: who of the clients knows a fact. What it does not hide: the total, in which the facts can be recognised;
nor what changes between two totals, which is one client's vector if only one has left. Add up a batch of withdrawals.
"""

import hashlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fleke_lib.federation import shamir

KEY, NONCE = 32, 12  # bytes of a key and of a seed, and of a nonce


@dataclass(frozen=True)
class Advert:
    """A client's public half of a round: its mask key and the hash of its self-mask's seed."""

    round: str
    client: str
    key: bytes
    seed: bytes


@dataclass(frozen=True, eq=False)
class Masked:
    """A masked vector, with its checksum as the last number."""

    round: str
    client: str
    numbers: NDArray[np.uint64] = field(repr=False)


@dataclass(frozen=True)
class Revealed:
    """One client's shares for the server: of the seeds whose owners' vectors came, and of the keys of the others."""

    round: str
    client: str
    seeds: Mapping[str, bytes] = field(repr=False)
    keys: Mapping[str, bytes] = field(repr=False)


class Participant:
    """A client in one round. Keys are drawn anew for each: a dropped client's key is opened in recovery.

    Args:
        round: a name that no other round has.
        client: a pseudonym.
        threshold: number of clients that must be there at the end, the same for all; at least `least`, the default.
    """

    def __init__(self, round: str, client: str, threshold: int | None = None) -> None:
        self.round, self.client, self._threshold = round, client, threshold
        self._key, self._seed = X25519PrivateKey.generate(), secrets.token_bytes(KEY)
        self._adverts: dict[str, Advert] = {}
        self._held: dict[str, tuple[bytes, bytes]] = {}  # by owner, shares of its key and of its seed
        self._sent = self._revealed = False

    def advertise(self) -> Advert:
        public = self._key.public_key().public_bytes_raw()
        return Advert(self.round, self.client, public, hashlib.sha256(self._seed).digest())

    def share(self, adverts: Collection[Advert]) -> dict[str, bytes]:
        """Sealed shares of this client's key and seed, by receiver.

        Raises:
            ValueError: an advert is of another round, two are of one client, or this client's own is missing.
        """
        for advert in adverts:
            check_round(advert.round, self.round, f"the key of {advert.client!r}")
        self._adverts = {advert.client: advert for advert in sorted(adverts, key=lambda one: one.client)}
        if len(self._adverts) < len(adverts) or self._adverts.get(self.client) != self.advertise():
            raise ValueError(f"{len(adverts)} keys do not name {self.client!r} and others once each: send all again.")
        numbers = {name: number_of(name) for name in self._adverts}
        keys = shamir.split(self._key.private_bytes_raw(), self._least, [*numbers.values()])
        seeds = shamir.split(self._seed, self._least, [*numbers.values()])
        self._held = {self.client: (keys[numbers[self.client]], seeds[numbers[self.client]])}
        sealed = {}
        for name, number in numbers.items():
            if name != self.client:
                nonce, sealing = secrets.token_bytes(NONCE), ChaCha20Poly1305(self._agreed(name, "share"))
                head = f"{self.round}|{self.client}|{name}".encode()
                sealed[name] = nonce + sealing.encrypt(nonce, keys[number] + seeds[number], head)
        return sealed

    def receive(self, sender: str, sealed: bytes) -> None:
        """Keep another client's share.

        Raises:
            ValueError: it is not what that client sealed for this one in this round.
        """
        if sender not in self._adverts or sender == self.client:
            raise ValueError(f"a share came from {sender!r}, who is not in round {self.round!r}: leave it out.")
        try:
            opening = ChaCha20Poly1305(self._agreed(sender, "share"))
            head = f"{self.round}|{sender}|{self.client}".encode()
            opened = opening.decrypt(sealed[:NONCE], sealed[NONCE:], head)
        except (InvalidTag, ValueError):  # a nonce that is too short is a ValueError
            raise ValueError(
                f"the share from {sender!r} was changed on its way, or is of another round: ask for it again."
            ) from None
        self._held[sender] = (opened[: shamir.BYTES], opened[shamir.BYTES :])

    def masked(self, numbers: NDArray[np.uint64]) -> Masked:
        """The vector with its checksum, masked for all clients that this one holds a share of.

        Raises:
            ValueError: fewer clients have sent shares than could unmask, or a vector was sent before: two vectors under
                the same masks would show their difference.
        """
        if self._sent:
            raise ValueError(f"{self.client!r} has sent its vector of round {self.round!r}: begin a new round.")
        if len(self._held) < self._least:
            raise ValueError(f"shares of {len(self._held)} of {len(self._adverts)} clients are here: wait for more.")
        self._sent = True
        whole = with_checksum(numbers, self.round)
        whole += stream(self._seed, len(whole))
        for name in self._held:
            if name != self.client:
                _add(whole, stream(self._agreed(name, "mask"), len(whole)), self.client < name)
        return Masked(self.round, self.client, whole)

    def reveal(self, round: str, came: Collection[str]) -> Revealed:
        """Shares with which the server unmasks the total of the clients whose vectors came.

        Raises:
            ValueError: it is another round, this client has revealed before, or too few vectors came.
        """
        check_round(round, self.round, "the request")
        if self._revealed:
            raise ValueError(f"{self.client!r} has revealed its shares of round {self.round!r}: begin a new round.")
        if len(set(came) & set(self._held)) < self._least:
            raise ValueError(f"{len(set(came))} of {len(self._adverts)} vectors came: begin a new round.")
        self._revealed = True
        seeds = {name: seed for name, (_, seed) in self._held.items() if name in came}
        keys = {name: key for name, (key, _) in self._held.items() if name not in came}
        return Revealed(self.round, self.client, seeds, keys)

    def _agreed(self, name: str, purpose: str) -> bytes:
        return agreed(self._key, self._adverts[name].key, self.round, purpose)

    @property
    def _least(self) -> int:
        return max(self._threshold or 0, least(len(self._adverts)))


def unmask(
    round: str,
    adverts: Collection[Advert],
    masked: Collection[Masked],
    revealed: Collection[Revealed],
    threshold: int | None = None,
) -> NDArray[np.uint64]:
    """The total of the vectors that came, modulo 2^64, as the server computes it.

    Args:
        adverts: of all clients that have sent shares, whether their vectors came or not.
        revealed: of at least `threshold` clients.

    Raises:
        ValueError: a vector or shares are of another round, too few clients are left, a share was changed, or the masks
            do not cancel.
    """
    known = {advert.client: advert for advert in adverts}
    for one in (*masked, *revealed):
        check_round(one.round, round, f"what {one.client!r} sent")
        if one.client not in known:
            raise ValueError(f"{one.client!r} is not in round {round!r}: leave it out.")
    came, needed = sorted({one.client for one in masked}), max(threshold or 0, least(len(known)))
    if len({one.client for one in revealed}) < needed or len(came) < needed:
        left = min(len({one.client for one in revealed}), len(came))
        raise ValueError(f"{left} of {len(known)} clients are left, and {needed} are needed: begin a new round.")
    if len(came) < len(masked) or len({len(one.numbers) for one in masked}) > 1:
        raise ValueError(f"{len(masked)} masked vectors are not one of each client and of one length: send them again.")
    total = np.sum([one.numbers for one in masked], axis=0, dtype=np.uint64)
    for name in came:
        seed = _opened(name, {one.client: one.seeds[name] for one in revealed if name in one.seeds}, needed)
        if hashlib.sha256(seed).digest() != known[name].seed:
            raise ValueError(f"the shares of {name!r} do not give the seed that it has announced: one was changed.")
        total -= stream(seed, len(total))
    for name in sorted(set(known) - set(came)):
        secret = _opened(name, {one.client: one.keys[name] for one in revealed if name in one.keys}, needed)
        key = X25519PrivateKey.from_private_bytes(secret) if len(secret) == KEY else None
        if key is None or key.public_key().public_bytes_raw() != known[name].key:
            raise ValueError(f"the shares of {name!r} do not give the key that it has announced: one was changed.")
        for other in came:
            _add(total, stream(agreed(key, known[other].key, round, "mask"), len(total)), name < other)
    if not np.array_equal(with_checksum(total[:-1], round), total):
        raise ValueError(f"the masks of round {round!r} do not cancel, one is missing or another's: begin a new round.")
    return total[:-1]


def agreed(own: X25519PrivateKey, other: bytes, round: str, purpose: str) -> bytes:
    """The key that two clients share for one purpose in one round: X25519, then HKDF."""
    secret = own.exchange(X25519PublicKey.from_public_bytes(other))
    return HKDF(SHA256(), KEY, None, f"fleke-masks|{round}|{purpose}".encode()).derive(secret)


def stream(key: bytes, length: int) -> NDArray[np.uint64]:
    """So many integers of ChaCha20's key stream."""
    cipher = Cipher(ChaCha20(key, bytes(16)), None).encryptor()
    return np.frombuffer(cipher.update(bytes(8 * length)), dtype="<u8").astype(np.uint64)


def with_checksum(numbers: NDArray[np.uint64], round: str) -> NDArray[np.uint64]:
    """A copy with the sum of all numbers, with weights that follow from the round, behind them."""
    weights = stream(hashlib.sha256(f"fleke-checksum|{round}".encode()).digest(), len(numbers))
    return np.append(numbers, (numbers * weights).sum(dtype=np.uint64))


def number_of(client: str) -> int:
    """A client's number as a holder of shares: it does not depend on who else is there."""
    return int.from_bytes(hashlib.sha256(client.encode()).digest(), "big") + 1


def least(clients: int) -> int:
    """More than half: two disjoint groups cannot both unmask."""
    return clients // 2 + 1


def check_round(given: str, expected: str, what: str) -> None:
    """Raises ValueError if a message is of another round: a replayed one would open what this round keeps closed."""
    if given != expected:
        raise ValueError(f"{what} is of round {given!r}, and this is round {expected!r}: send this round's.")


def _opened(name: str, shares: Mapping[str, bytes], needed: int) -> bytes:
    if len(shares) < needed:
        raise ValueError(f"{len(shares)} shares of {name!r} came, and {needed} are needed: begin a new round.")
    try:
        return shamir.combine({number_of(holder): share for holder, share in shares.items()})
    except ValueError as error:
        raise ValueError(f"the shares of {name!r} do not fit together, one was changed ({error})") from None


def _add(total: NDArray[np.uint64], mask: NDArray[np.uint64], plus: bool) -> None:
    """Add a pairwise mask in place, or subtract it: of two clients the first in the order of names adds."""
    if plus:
        total += mask
    else:
        total -= mask
