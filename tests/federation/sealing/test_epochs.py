"""Epochs: who was dealt which key, who has left, and deals that are not accepted."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleke_lib.federation.registry.admission import Refused
from fleke_lib.federation.sealing.draws import Draws
from fleke_lib.federation.sealing.epochs import WRAPPED, Deal, Keyring, accept, deal
from fleke_lib.federation.sealing.keys import KEY, Identity
from fleke_lib.federation.sealing.sealed import Sealed, open_body, open_offer
from tests.federation.sample_packets import packet_of
from tests.federation.sealing.members import DRAWS, EPOCH_KEY, GROUP, IDENTITIES, KEYRING, MEMBERS, sealed_of

ADA = IDENTITIES["ada"]
DEALT = deal(EPOCH_KEY, 0, ADA, MEMBERS["bob"], DRAWS)


def test_a_dealt_key_reaches_its_member_alone():
    assert accept(Deal.read(DEALT.data), IDENTITIES["bob"], GROUP) == EPOCH_KEY
    assert EPOCH_KEY not in DEALT.data and EPOCH_KEY.hex() not in repr(DEALT)
    with pytest.raises(Refused, match="dealt to 'bob' and not to 'cleo'"):
        accept(DEALT, IDENTITIES["cleo"], GROUP)
    another = Identity.draw("bob", Draws())
    with pytest.raises(Refused, match="epoch 0 does not open: ask the dealer"):
        accept(DEALT, another, GROUP)


def test_only_the_dealer_deals():
    forged = deal(EPOCH_KEY, 0, IDENTITIES["cleo"], MEMBERS["bob"], DRAWS)
    for wrong in (
        forged,
        replace(DEALT, secret=DEALT.secret[:-1] + b"x"),
        replace(DEALT, ephemeral=bytes(32)),
        replace(DEALT, epoch=1),
        replace(forged, dealer="ada"),
    ):
        with pytest.raises(Refused, match="does not have the dealer's signature"):
            accept(wrong, IDENTITIES["bob"], GROUP)
    ahead = deal(EPOCH_KEY, 3, ADA, MEMBERS["bob"], DRAWS)
    with pytest.raises(Refused, match="of epoch 3 and the group is at 0"):
        accept(ahead, IDENTITIES["bob"], GROUP)
    unsigned = replace(DEALT, ephemeral=bytes(32))  # a key that agrees on zeros, signed by the dealer
    signed = replace(unsigned, signature=ADA.signing.sign(unsigned.signed))
    with pytest.raises(Refused, match="does not open"):
        accept(signed, IDENTITIES["bob"], GROUP)


def test_a_former_member_opens_nothing_that_is_published_after_it_left():
    before, _, wrapped = sealed_of(packet_of(1, "bob"))
    cleo = Keyring().plus(0, EPOCH_KEY)
    assert open_body(before, cleo.unwrap(before.card, wrapped), MEMBERS["bob"]).id == packet_of(1, "bob").id
    group = GROUP.left("cleo")
    assert (group.epoch, sorted(group.members), group.dealer) == (1, ["ada", "bob"], "ada")
    key = DRAWS(KEY, "epoch", "1")
    stay = {name: Keyring().plus(1, accept(deal(key, 1, ADA, group.member(name), DRAWS), IDENTITIES[name], group))
            for name in group.members}  # fmt: skip
    after, _, wrapped = sealed_of(packet_of(2, "bob"), 1, stay["bob"])
    assert open_body(after, stay["ada"].unwrap(after.card, wrapped), MEMBERS["bob"]).id == packet_of(2, "bob").id
    with pytest.raises(Refused, match="the key of epoch 1 was not dealt to this member"):
        cleo.unwrap(after.card, wrapped)
    with pytest.raises(Refused, match="do not open with this group's key"):
        cleo.plus(1, EPOCH_KEY).unwrap(after.card, wrapped)
    with pytest.raises(Refused, match="'cleo' is no member"):
        deal(key, 1, ADA, group.member("cleo"), DRAWS)


def test_a_new_member_gets_the_present_epoch_and_earlier_ones_only_if_dealt():
    old, _, wrapped = sealed_of(packet_of(1, "bob"))
    group = GROUP.left("cleo").joined(MEMBERS["mallory"])
    key = DRAWS(KEY, "epoch", "1")
    dealt = accept(deal(key, 1, ADA, MEMBERS["mallory"], DRAWS), IDENTITIES["mallory"], group)
    ring = Keyring().plus(1, dealt)
    with pytest.raises(Refused, match="epoch 0 was not dealt"):
        ring.unwrap(old.card, wrapped)
    ring = ring.plus(0, accept(deal(EPOCH_KEY, 0, ADA, MEMBERS["mallory"], DRAWS), IDENTITIES["mallory"], group))
    assert open_offer(old.card, ring.unwrap(old.card, wrapped), MEMBERS["bob"]).id == packet_of(1, "bob").id


def test_revoked_keys_stay_out():
    group = GROUP.left("ada")
    assert group.dealer == "bob"
    with pytest.raises(Refused, match="'ada' is no member of this group, or was revoked"):
        group.member("ada")
    with pytest.raises(Refused, match="a key of 'ada' was revoked"):
        group.joined(MEMBERS["ada"])
    with pytest.raises(Refused, match="a key of 'eve' was revoked"):
        group.joined(replace(MEMBERS["ada"], name="eve"))
    with pytest.raises(Refused, match="'bob' is a member already"):
        group.joined(replace(MEMBERS["mallory"], name="bob"))
    with pytest.raises(Refused, match="last member"):
        group.left("bob").left("cleo")


def test_wrapped_keys_belong_to_one_packet_and_one_group():
    one, keys, wrapped = sealed_of(packet_of(1))
    other, _, _ = sealed_of(packet_of(2))
    assert len(wrapped) == WRAPPED and KEYRING.unwrap(one.card, wrapped) == keys
    for card, ring, some in (
        (other.card, KEYRING, wrapped),
        (one.card, Keyring().plus(0, bytes(32)), wrapped),
        (one.card, KEYRING, wrapped[:-1]),
        (one.card, KEYRING, b""),
    ):
        with pytest.raises(Refused, match=r"the keys of sealed packet \w+ do not open with this group's key"):
            ring.unwrap(card, some)
    assert EPOCH_KEY.hex() not in repr(KEYRING) and repr(EPOCH_KEY) not in repr(KEYRING)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.integers(0, len(DEALT.data) - 1)), st.binary(max_size=3))
def test_the_reader_of_deals_refuses_any_other_bytes(some, more):
    data = some if isinstance(some, bytes) else DEALT.data[:some] + more
    try:
        assert Deal.read(data).data == data
    except Refused as error:
        assert "\n" not in str(error)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_wrapped_keys_are_refused_with_one_sentence(wrapped):
    sealed = Sealed.read(sealed_of(packet_of(1))[0].data)
    with pytest.raises(Refused, match="do not open"):
        KEYRING.unwrap(sealed.card, wrapped)
