"""Secret sharing against Lagrange's formula over the rationals, and what too few shares say."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_lib.federation.shamir import BYTES, PRIME, combine, split


def interpolated_at_zero(points: dict[int, int]) -> int:
    """The textbook: sum of y_i prod x_j / (x_j - x_i) over the rationals, then modulo the prime."""
    total = Fraction(0)
    for x, y in points.items():
        term = Fraction(y)
        for other in points:
            if other != x:
                term *= Fraction(other, other - x)
        total += term
    return total.numerator * pow(total.denominator, -1, PRIME) % PRIME


@given(st.binary(max_size=64), st.integers(1, 5), st.integers(0, 3))
def test_any_threshold_of_shares_gives_the_secret(secret, threshold, more):
    holders = [3, 1, 2**256, 17, 5, 40, 77, 100][: threshold + more]
    shares = split(secret, threshold, holders)
    for chosen in itertools.islice(itertools.combinations(holders, threshold), 12):
        some = {x: shares[x] for x in chosen}
        assert combine(some) == secret
        whole = interpolated_at_zero({x: int.from_bytes(share, "big") for x, share in some.items()})
        assert whole == int.from_bytes(b"\1" + secret, "big")
    assert combine(shares) == secret and {len(share) for share in shares.values()} == {BYTES}


def test_one_share_less_fits_every_secret():
    """For any other secret there is one missing share that fits: the shares at hand exclude nothing."""
    shares = split(b"secret", 3, [1, 2, 3])
    known = {x: int.from_bytes(shares[x], "big") for x in (1, 2)}
    other = int.from_bytes(b"\1guess!", "big")
    # the polynomial through (0, other) and the known shares, evaluated at 3
    points = {0: other, **known}
    at_three = sum(
        y * Fraction(1) * _product(Fraction(3 - o, x - o) for o in points if o != x) for x, y in points.items()
    )
    share = at_three.numerator * pow(at_three.denominator, -1, PRIME) % PRIME
    assert combine({1: shares[1], 2: shares[2], 3: share.to_bytes(BYTES, "big")}) == b"guess!"


def _product(factors) -> Fraction:
    total = Fraction(1)
    for factor in factors:
        total *= factor
    return total


def test_too_few_or_changed_shares():
    secret = bytes(range(32))
    shares = split(secret, 3, [1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"^these 2 shares are not of one secret: ask their holders again\.$"):
        combine({x: shares[x] for x in (1, 2)})
    with pytest.raises(ValueError, match="not of one secret"):
        combine(shares | {2: bytes([shares[2][0], shares[2][1] ^ 1]) + shares[2][2:]})
    with pytest.raises(ValueError, match="no shares to combine"):
        combine({})


@pytest.mark.parametrize(
    "secret, threshold, holders, reason",
    [
        (bytes(65), 1, [1], "has 65 bytes"),
        (b"", 0, [1], "threshold is 0 for 1 holders: give a number from 1 to 1"),
        (b"", 3, [1, 2], "threshold is 3 for 2 holders"),
        (b"", 2, [1, 1], "are not different ones from 1"),
        (b"", 1, [0, 1], "are not different ones from 1"),
    ],
)
def test_bad_arguments(secret, threshold, holders, reason):
    with pytest.raises(ValueError, match=reason):
        split(secret, threshold, holders)
