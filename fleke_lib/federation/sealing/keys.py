"""Members and their group: who may publish, who may read, and which keys prove it.

A member has two key pairs: Ed25519 (RFC 8032) signs what it publishes, X25519 (RFC 7748) receives the group's keys. The
group is a list of public keys. Everybody must get this list from a source other than the server: a server that hands
out the keys could put one of its own on the list, and would then read everything.

Whoever leaves is revoked for good. Its signatures are refused from then on, also on packets that it has published
before; what others have adopted stays with them until it is withdrawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.sealing.draws import Draws

KEY = 32  # bytes of every key
SIGNATURE = 64


@dataclass(frozen=True)
class Member:
    """The public side of a member: its pseudonym, and its Ed25519 and X25519 keys in raw bytes."""

    name: str
    signing: bytes = field(repr=False)
    agreement: bytes = field(repr=False)

    def signed(self, signature: bytes, data: bytes) -> bool:
        """Whether this member's signature is on these bytes."""
        try:
            Ed25519PublicKey.from_public_bytes(self.signing).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class Identity:
    """The secret side of a member."""

    name: str
    signing: Ed25519PrivateKey = field(repr=False)
    agreement: X25519PrivateKey = field(repr=False)

    @classmethod
    def draw(cls, name: str, draws: Draws) -> "Identity":
        signing = Ed25519PrivateKey.from_private_bytes(draws(KEY, "identity", name, "signing"))
        return cls(name, signing, X25519PrivateKey.from_private_bytes(draws(KEY, "identity", name, "agreement")))

    @property
    def member(self) -> Member:
        public = (self.signing.public_key().public_bytes_raw(), self.agreement.public_key().public_bytes_raw())
        return Member(self.name, *public)


@dataclass(frozen=True)
class Group:
    """The members of a federation at one epoch.

    members: by pseudonym. dealer: the member that deals the epoch's key.
    epoch: counts up when somebody leaves. revoked: signing and agreement keys that are refused for good.
    """

    members: Mapping[str, Member] = field(repr=False)
    dealer: str
    epoch: int = 0
    revoked: frozenset[bytes] = field(default=frozenset(), repr=False)

    def member(self, name: str) -> Member:
        """A present member. Raises Refused for everybody else."""
        if name not in self.members:
            raise Refused(f"{name!r} is no member of this group, or was revoked: its packets are refused.")
        return self.members[name]

    def joined(self, member: Member) -> "Group":
        """The group with a new member. It reads earlier epochs only if their keys are dealt to it.

        Raises:
            Refused: the pseudonym is taken, or a key was revoked.
        """
        if member.name in self.members:
            raise Refused(f"{member.name!r} is a member already: give the new member another pseudonym.")
        if not self.revoked.isdisjoint((member.signing, member.agreement)):
            raise Refused(f"a key of {member.name!r} was revoked: draw a new identity.")
        return replace(self, members={**self.members, member.name: member})

    def left(self, name: str) -> "Group":
        """The group without a member, in a new epoch, whose key must be dealt to all who stay.

        Raises:
            Refused: there is no such member, or nobody would be left.
        """
        gone, stay = self.member(name), {other: m for other, m in self.members.items() if other != name}
        if not stay:
            raise Refused(f"{name!r} is the last member of this group: delete the store instead.")
        dealer = self.dealer if name != self.dealer else min(stay)
        return Group(stay, dealer, self.epoch + 1, self.revoked | {gone.signing, gone.agreement})
