"""Whether weights are still what they were: a checksum of all their bits, in about the time that reading them takes.

A tensor's version counter would be free, but a change through `.data` or through a NumPy view does not count there; a
cryptographic hash of the default model takes eight times as long.
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

INTEGER = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}  # by bytes
ROWS = 64  # of a weight that are added up together: few enough to stay in the processor's cache between the two sums


def checksum(weights: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over each weight's name, type and shape, and over the sums of its bits, along and across every 64 rows.

    Bits are mixed before they are added up. Without that a sum, which is taken modulo 2^32, would miss an even number
    of changed signs, or 512 doubled numbers. One changed number changes two sums, whatever it was; a change of many
    leaves any one sum as it was with a chance of about 2^-32, unless it was made to exchange equal amounts.
    """
    digest, known = hashlib.sha256(), {}
    for name, weight in weights:
        place = weight.data_ptr(), weight.shape, weight.stride(), weight.dtype
        if place not in known:  # a tied weight has two names
            known[place] = _sums(weight.detach()).cpu().numpy().tobytes()
        digest.update(repr((name, str(weight.dtype), tuple(weight.shape))).encode() + known[place])
    return digest.hexdigest()


def total(weight: Tensor) -> int:
    """The sum of a weight's bits as integers of 64 bits, four times as fast; blind to exchanged numbers."""
    bits = weight.detach().contiguous().flatten()
    size = weight.element_size()
    whole = bits.view(INTEGER[8 if bits.numel() * size % 8 == 0 else size])
    return int(whole.sum(dtype=torch.int64))


def _sums(weight: Tensor) -> Tensor:
    size = weight.element_size()
    bits = weight.contiguous().view(INTEGER[size])
    if bits.ndim < 2:
        return bits.flatten()
    mixed = (part ^ (part >> (4 * size - 1)) for part in bits.flatten(1).split(ROWS))
    return torch.cat([part.sum(way, dtype=INTEGER[max(4, size)]) for part in mixed for way in (0, 1)])
