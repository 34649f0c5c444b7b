"""Attacks on vectors that are published without protection: one file for each thing attacked.

All but `poisoning`, whose attacker is a member, suppose the same attacker: an honest-but-curious server. It follows the
protocol and keeps what it sees. It has the public base model, this code, the second moments C and public lists of
subjects and templates. It does not have the clients' secret for tags, and it does not read MKVs of the facts under
attack from this repository. Each file says what it sees and knows besides.

The attacks return scores or ranks, one row for each victim; `rates` makes a rate of them, with an interval and a chance
level.
"""

from fleke_lib.privacy.attacks.rates import Rate, ranks, rate

__all__ = ["Rate", "ranks", "rate"]
