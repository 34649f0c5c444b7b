"""A member that publishes rubbish: each kind is refused with a reason, and the others have what they have without it.

The member has its keys, and seals and signs what it likes. Desk and nodes are in one process and exchange real bytes;
what else such a member can send to the desk is in tests/federation/flower/test_desk.py.
"""

import contextlib
import hashlib
import re
from dataclasses import replace

import pytest
import torch

from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.packets.messages import cut_apart, joined
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.retrieval.policies import Everyone
from fleke_lib.federation.sealing.sealed import Card, Sealed
from fleke_lib.privacy.attacks.poisoning import forged
from tests.federation.flower.loopback import Loopback, desk_of, nodes_of
from tests.federation.flower.test_desk import APART, ids, in_one_process

ALL = ClientConfig(Everyone())
BAD = APART[2].name  # the other two never lie, and one of them deals the key


def nan(packet):
    return forged(packet, BAD, packet.slot, means={at: torch.full_like(m, torch.nan) for at, m in packet.means.items()})


def infinite(packet):
    return forged(packet, BAD, packet.slot, z=torch.full_like(packet.z, torch.inf))


def long_share(packet):
    return forged(packet, BAD, packet.slot, shares={at: 50 * share for at, share in packet.shares.items()})


def far_state(packet):
    return forged(packet, BAD, packet.slot, z=packet.h + 20 * packet.residual)


def another_model(packet):
    return forged(replace(packet, fingerprint="ab" * 32), BAD, packet.slot)


def wide(packet):
    axes = {at: 0.1 * torch.randn(9, len(packet.means[at])) for at in packet.layers}
    return forged(packet, BAD, packet.slot, axes=axes)


KINDS = [
    (nan, "NaN|not finite"),
    (infinite, "not finite"),
    (long_share, "has a norm of .* for a share"),
    (far_state, "norm of .* for z - h"),
    (another_model, "is of model 'abababababab' and these are of"),
    (wide, "carries 9 axes|more than the"),
]


@pytest.mark.parametrize(("change", "reason"), KINDS, ids=[change.__name__ for change, _ in KINDS])
def test_a_member_that_publishes_rubbish_is_refused_and_changes_nothing(tmp_path, change, reason):
    nodes, desk, lines = federation(tmp_path)
    own = nodes[BAD].channel
    honest = own.put

    def put(data):
        with contextlib.suppress(Refused):  # it does not open its own rubbish, which is published by then
            honest(change(Packet.read(data)).data)

    own.put = put
    desk.run(3)
    check_unaffected(tmp_path, nodes)
    check_refused(nodes, lines, reason)


def garbage_body(message, identity):
    """The sealed packet with noise in place of its body, signed anew by its member."""
    data, wrapped = cut_apart(message)
    card, noise = Sealed.read(data).card, b"\x5a" * 5000
    unsigned = Card(card.head, card.offer, hashlib.sha256(noise).digest(), b"")
    signed = Card(card.head, card.offer, unsigned.body_hash, identity.signing.sign(unsigned.signed))
    return joined([Sealed(signed, noise).data, wrapped])


def garbage_keys(message, _):
    data, wrapped = cut_apart(message)
    return joined([data, bytes(len(wrapped))])


def another_signature(message, _):
    data, wrapped = cut_apart(message)
    sealed = Sealed.read(data)
    return joined([Sealed(replace(sealed.card, signature=bytes(64)), sealed.body).data, wrapped])


def huge(message, _):
    data, wrapped = cut_apart(message)
    return joined([data + bytes(10_000_000), wrapped])


SEALED = [
    (garbage_body, "do not open"),
    (garbage_keys, "do not open"),
    (another_signature, "does not have the signature"),
    (huge, "more than the"),
]


@pytest.mark.parametrize(("change", "reason"), SEALED, ids=[change.__name__ for change, _ in SEALED])
def test_what_a_member_seals_wrongly_is_refused_and_changes_nothing(tmp_path, change, reason):
    nodes, desk, lines = federation(tmp_path)
    bad = nodes[BAD]
    publish = bad.channel._publish
    bad.channel._publish = lambda sealed, message, id: publish(sealed, change(message, bad.settings.identity), id)
    bad.channel.settle = lambda answers: bad.channel.abandon()  # it does not care what the server calls its packets
    desk.run(3)
    check_unaffected(tmp_path, nodes)
    check_refused(nodes, lines, reason)


def federation(folder):
    nodes, group = nodes_of(folder, APART, ALL)
    lines = []
    return nodes, desk_of(folder / "store.db", group, Loopback(nodes), progress=lines.append), lines


def check_unaffected(folder, nodes):
    """The others have the packets of the federation that this member is not in."""
    expected = in_one_process(folder / "one.db", APART[:2], config=ALL)
    assert {name: ids(node) for name, node in nodes.items() if name != BAD} == expected


def check_refused(nodes, lines, reason):
    """The server has said the reason, each once, or else each of the others has it."""
    said = [line for line in lines if line.startswith("refused")]
    assert len(said) == len(set(said)) and all(BAD in line for line in said)
    if any(re.search(reason, line) for line in said):
        return
    for name, node in nodes.items():
        if name != BAD:
            found = [*node.channel.refusals.values(), *node.client.refused.values()]
            assert found and any(re.search(reason, one) for one in found), found
