"""Shamir's secret sharing: any `threshold` shares give the secret, fewer say nothing about it.

The secret is the value at 0 of a random polynomial of degree `threshold - 1` over the integers modulo a prime, and a
share its value at the holder's number. Source: Shamir, "How to share a secret", CACM 22 (1979).

PyCryptodome has a kept implementation. It would be a second cryptographic library beside `cryptography`, and it shares
16 bytes at a time, where a key has 32. These are twenty lines, tested against Lagrange's formula over the rationals.
"""

import secrets
from collections.abc import Collection, Mapping

PRIME = 2**521 - 1  # a Mersenne prime, larger than any key
BYTES = 66  # of a share


def split(secret: bytes, threshold: int, holders: Collection[int]) -> dict[int, bytes]:
    """The share of each holder.

    Args:
        holders: their numbers, different ones from 1 to `PRIME - 1`.

    Raises:
        ValueError: the secret has more than 64 bytes, a number occurs twice or is out of range, or the threshold is not
            from 1 to the number of holders.
    """
    if len(secret) > 64:
        raise ValueError(f"the secret has {len(secret)} bytes: share a key of 64 bytes at most.")
    if not 1 <= threshold <= len(holders):
        most = len(holders)
        raise ValueError(f"the threshold is {threshold} for {most} holders: give a number from 1 to {most}.")
    if len(set(holders)) < len(holders) or not all(0 < x < PRIME for x in holders):
        raise ValueError(f"the numbers of {len(holders)} holders are not different ones from 1: give each its own.")
    first = int.from_bytes(b"\1" + secret, "big")  # the leading byte keeps the secret's length
    coefficients = [first, *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {x: _value(coefficients, x).to_bytes(BYTES, "big") for x in holders}


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret, from at least `threshold` shares by their holders' numbers; noise, or an error, from others.

    Raises:
        ValueError: there are no shares, or they are not shares of one secret.
    """
    if not shares:
        raise ValueError("there are no shares to combine: give as many as the threshold.")
    total = 0
    for x, share in shares.items():
        term = int.from_bytes(share, "big")
        for other in shares:
            if other != x:
                term = term * other * pow(other - x, -1, PRIME) % PRIME
        total = (total + term) % PRIME
    whole = total.to_bytes(BYTES, "big").lstrip(b"\0")
    if whole[:1] != b"\1" or len(whole) > 65:
        raise ValueError(f"these {len(shares)} shares are not of one secret: ask their holders again.")
    return whole[1:]


def _value(coefficients: list[int], x: int) -> int:
    """The polynomial's value by Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value
