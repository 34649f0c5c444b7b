"""Masked totals are the plain totals, bit for bit, whoever drops out; everything else is refused."""

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fleke_lib.federation.fixed_point import FixedPoint
from fleke_lib.federation.masks import Participant, least, stream, unmask

NAMES = [f"client {i}" for i in range(8)]
ROUND = "edit 1|4|sums"


def vectors(length: int = 50, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.integers(0, 2**64, length, dtype=np.uint64) for name in NAMES}


def plain(given, names) -> list[int]:
    """Python's own integers."""
    return [sum(int(given[name][i]) for name in names) % 2**64 for i in range(len(next(iter(given.values()))))]


def dealt(round: str = ROUND, names=NAMES):
    members = {name: Participant(round, name) for name in names}
    adverts = [member.advertise() for member in members.values()]
    sealed = {name: member.share(adverts) for name, member in members.items()}
    for sender, shares in sealed.items():
        for receiver, share in shares.items():
            members[receiver].receive(sender, share)
    return members, adverts


def played(gone=(), late=(), given=None):
    """All messages of a round in which some drop out before their vectors, and `late` after theirs."""
    given = given or vectors()
    members, adverts = dealt()
    masked = [members[name].masked(given[name]) for name in NAMES if name not in gone]
    came = [one.client for one in masked]
    revealed = [members[name].reveal(ROUND, came) for name in came if name not in late]
    return adverts, masked, revealed


@pytest.mark.parametrize("gone", [(), ("client 3",), ("client 0", "client 4", "client 7")])
@pytest.mark.parametrize("late", [0, 1])
def test_totals_are_the_plain_ones_bit_for_bit(gone, late):
    if late and len(gone) == 3:
        late = 0  # five of eight must be left
    given, stay = vectors(), [name for name in NAMES if name not in gone]
    total = unmask(ROUND, *played(gone, stay[:late]))
    assert total.dtype == np.uint64 and total.tolist() == plain(given, stay)


def test_a_masked_vector_looks_like_noise_and_differs_in_every_round():
    zeros = {name: np.zeros(4000, dtype=np.uint64) for name in NAMES}
    _, masked, _ = played(given=zeros)
    _, again, _ = played(given=zeros)
    for one, other in zip(masked, again, strict=True):
        bits = np.unpackbits(one.numbers.view(np.uint8)).mean()
        assert abs(bits - 0.5) < 5 * 0.5 / (64 * 4001) ** 0.5  # five standard errors
        assert not np.intersect1d(one.numbers, other.numbers).size


def test_the_key_stream_is_chacha20s():
    """RFC 8439: of the AEAD with this key and nonce 0, the plain stream from block 1 on."""
    key = bytes(range(32))
    sealed = ChaCha20Poly1305(key).encrypt(bytes(12), bytes(128), None)[:128]
    assert stream(key, 24).tobytes()[64:] == sealed


def test_withdrawn_sums_cancel_exactly():
    given = vectors()
    total = unmask(ROUND, *played(given=given))
    leaving = NAMES[2:4]  # two together, since a difference of totals shows who leaves alone
    negative = {name: -given[name] if name in leaving else np.zeros_like(given[name]) for name in NAMES}
    after = total + unmask(ROUND, *played(given=negative))
    assert after.tolist() == plain(given, [name for name in NAMES if name not in leaving])


def test_what_is_of_another_round():
    adverts, masked, revealed = played()
    old = [replace(masked[0], round="edit 0|4|sums"), *masked[1:]]
    with pytest.raises(ValueError, match=r"^what 'client 0' sent is of round 'edit 0\|4\|sums', and this is round"):
        unmask(ROUND, adverts, old, revealed)
    with pytest.raises(ValueError, match="what 'client 1' sent is of round"):
        unmask(ROUND, adverts, masked, [revealed[0], replace(revealed[1], round="x"), *revealed[2:]])
    renamed, _, _ = played()
    with pytest.raises(
        ValueError, match="do not give the seed that it has announced"
    ):  # a replay under this round's name
        unmask(ROUND, renamed, masked, revealed)
    other = Participant("other", "client 0").advertise()
    with pytest.raises(ValueError, match="the key of 'client 0' is of round 'other'"):
        Participant(ROUND, "client 1").share([other])
    members, _ = dealt()
    with pytest.raises(ValueError, match="the request is of round 'other'"):
        members["client 0"].reveal("other", NAMES)


def test_a_missing_mask():
    given = vectors()
    members, adverts = dealt()
    del members["client 2"]._held["client 5"]  # its pairwise mask is not added
    masked = [members[name].masked(given[name]) for name in NAMES]
    revealed = [members[name].reveal(ROUND, NAMES) for name in NAMES]
    with pytest.raises(ValueError, match=r"the masks of round .* do not cancel, one is missing or another's"):
        unmask(ROUND, adverts, masked, revealed)
    adverts, masked, revealed = played()
    changed = masked[3].numbers.copy()
    changed[7] += np.uint64(1)
    with pytest.raises(ValueError, match="do not cancel"):
        unmask(ROUND, adverts, [*masked[:3], replace(masked[3], numbers=changed), *masked[4:]], revealed)


def test_too_few_are_left():
    adverts, masked, revealed = played()
    with pytest.raises(ValueError, match=r"^4 of 8 clients are left, and 5 are needed: begin a new round\.$"):
        unmask(ROUND, adverts, masked, revealed[:4])
    with pytest.raises(ValueError, match="4 of 8 clients are left"):
        unmask(ROUND, adverts, masked[:4], revealed)
    with pytest.raises(ValueError, match="4 of 8 vectors came"):
        played(NAMES[:4])
    without = [replace(one, seeds={k: v for k, v in one.seeds.items() if k != "client 6"}) for one in revealed[:4]]
    with pytest.raises(ValueError, match="4 shares of 'client 6' came, and 5 are needed"):
        unmask(ROUND, adverts, masked, [*without, *revealed[4:]])
    assert [least(n) for n in (2, 3, 8, 9)] == [2, 2, 5, 5]
    with pytest.raises(ValueError, match="shares of 1 of 8 clients are here"):
        alone = Participant(ROUND, "client 0")
        others = [Participant(ROUND, name).advertise() for name in NAMES[1:]]
        alone.share([alone.advertise(), *others])
        alone.masked(vectors()["client 0"])


def flipped(share: bytes) -> bytes:
    return share[:-1] + bytes([share[-1] ^ 1])


def test_tampered_shares():
    adverts, masked, revealed = played(("client 1",))
    seeds = replace(revealed[0], seeds=revealed[0].seeds | {"client 4": flipped(revealed[0].seeds["client 4"])})
    with pytest.raises(ValueError, match="the shares of 'client 4' do not"):
        unmask(ROUND, adverts, masked, [seeds, *revealed[1:]])
    keys = replace(revealed[0], keys={"client 1": flipped(revealed[0].keys["client 1"])})
    with pytest.raises(ValueError, match="the shares of 'client 1' do not"):
        unmask(ROUND, adverts, masked, [keys, *revealed[1:]])
    members = {name: Participant(ROUND, name) for name in NAMES[:3]}
    adverts = [member.advertise() for member in members.values()]
    sealed = {name: member.share(adverts) for name, member in members.items()}
    with pytest.raises(ValueError, match="share from 'client 0' was changed on its way, or is of another round"):
        members["client 1"].receive("client 0", flipped(sealed["client 0"]["client 1"]))
    for wrong in (sealed["client 0"]["client 2"], b"", b"short"):  # another receiver's, and rubbish
        with pytest.raises(ValueError, match="was changed on its way"):
            members["client 1"].receive("client 0", wrong)
    with pytest.raises(ValueError, match="a share came from 'mallory', who is not in round"):
        members["client 1"].receive("mallory", sealed["client 0"]["client 1"])


def test_a_client_sends_and_reveals_once():
    """Two vectors under the same masks show their difference; both shares of one client unmask its vector."""
    members, _ = dealt()
    members["client 0"].masked(vectors()["client 0"])
    with pytest.raises(ValueError, match="'client 0' has sent its vector of round"):
        members["client 0"].masked(vectors()["client 0"])
    members["client 0"].reveal(ROUND, NAMES)
    with pytest.raises(ValueError, match="'client 0' has revealed its shares of round"):
        members["client 0"].reveal(ROUND, NAMES[:7])


def test_an_error_shows_no_key():
    _, masked, revealed = played()
    text = repr((masked, revealed))
    assert not any(share.hex() in text or repr(share) in text for one in revealed for share in one.seeds.values())


def test_adverts_name_everybody_once():
    members = [Participant(ROUND, name) for name in NAMES[:3]]
    adverts = [member.advertise() for member in members]
    for wrong in (adverts[1:], [*adverts, adverts[1]], [Participant(ROUND, "client 0").advertise(), *adverts[1:]]):
        with pytest.raises(ValueError, match="do not name 'client 0' and others once each"):
            members[0].share(wrong)


def test_fixed_point_is_exact_and_bounded():
    point = FixedPoint(largest=1000.0, clients=8)
    assert 8 * 1000 * 2**point.bits < 2**63 <= 8 * 1000 * 2 ** (point.bits + 2)
    numbers = np.array([0.0, 1.0, -1.0, 1000.0, -1000.0, 2.0**-point.bits, 1 / 3])
    back = point.decode(point.encode(numbers))
    assert np.abs(back - numbers).max() <= 2.0 ** -(point.bits + 1) and back[:6].tolist() == numbers[:6].tolist()
    total = sum(point.encode(np.full(1, -1000.0)) for _ in range(8))
    assert point.decode(total).tolist() == [-8000.0]
    for bad in (1000.1, float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=r"^a number of size \S+ overflows the fixed point, .* 1000 at most: agree"
        ):
            point.encode(np.array([0.0, bad]))
    with pytest.raises(ValueError, match="do not fit into 64 bits"):
        FixedPoint(2.0**60, 8)
    assert point.encode(np.array([])).tolist() == []
