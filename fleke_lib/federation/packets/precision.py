"""How a packet stores its vectors: in full, in 16, in 8 or in 4 bits.

The greatest entry of a key is ten times as large as a usual one. With one scale for each vector, rounding to 8 bits
loses 3% of a key's norm, and to 4 bits 40%. With a scale for every 32 numbers 4 bits lose 15%, which is less than keys
of one fact differ between contexts.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

STATES = ("z", "h")  # 16 bits at least: one huge entry of a state sets a scale too coarse for r = z - h
KEYS = ("means", "moves", "axes")  # may be stored in 4 bits; the rest of a packet is small
EXACT = ("left",)  # a few numbers, always in float32
BLOCK = 32  # numbers with a common scale in 4 bits
KINDS = {
    "float32": (torch.float32, torch.float32, torch.float32),
    "float16": (torch.float16, torch.float16, torch.float16),
    "int8": (torch.float16, torch.int8, torch.int8),
    "int4": (torch.float16, torch.int8, torch.uint8),
}  # the stored type of states, of shares and of keys; uint8 holds two numbers of 4 bits


def stored_type(name: str, precision: str) -> torch.dtype:
    """The stored type of the vectors with this name."""
    states, others, keys = KINDS[precision]
    return torch.float32 if name in EXACT else states if name in STATES else keys if name in KEYS else others


def encode(name: str, vectors: Float[Tensor, "*rows width"], precision: str) -> dict[str, Tensor]:
    """Vectors in their stored type, with their scales where it has some: `x = scale * q`.

    In 8 bits a vector has one float32 scale, with q from -127 to 127. In 4 bits every `BLOCK` numbers have a bfloat16
    scale, with q from -7 to 7; two numbers share a byte in two's complement, the first in its low bits, and the last
    block is filled up with zeros. The largest |q| is 127 or 7, or everything including the scale is 0.
    """
    vectors, kind = vectors.detach().cpu().float(), stored_type(name, precision)
    if kind == torch.int8:
        scale = _scale(vectors, 127)
        return {name: _rounded(vectors, scale, 127), scale_of(name): scale}
    if kind == torch.uint8:
        blocks = pad(vectors, (0, -vectors.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
        scale = _scale(blocks, 7).bfloat16()
        low, high = (_rounded(blocks, scale.float(), 7) % 16).flatten(-2).unflatten(-1, (-1, 2)).unbind(-1)
        return {name: (low + 16 * high.int()).to(torch.uint8), scale_of(name): scale[..., 0]}
    return {name: vectors.to(kind)}


def decode(tensors: Mapping[str, Tensor], name: str, width: int) -> Float[Tensor, "*rows width"]:
    """The vectors with this name in float32: the input of `encode`, up to its rounding."""
    stored = tensors[name]
    if stored.dtype == torch.int8:
        return stored.float() * tensors[scale_of(name)]
    if stored.dtype == torch.uint8:
        return (_numbers(stored) * tensors[scale_of(name)].float()[..., None]).flatten(-2)[..., :width]
    return stored.float()


def scale_of(name: str) -> str:
    """The name under which the scales of these vectors are stored."""
    return f"{name}.scale"


def fault_of(tensors: Mapping[str, Tensor], name: str, width: int, precision: str) -> str:
    """What is wrong with the stored form of some vectors, or an empty string."""
    stored, scale, kind = tensors[name], tensors.get(scale_of(name)), stored_type(name, precision)
    blocks, rows = -(-width // BLOCK), stored.shape[:-1]
    if stored.shape[-1] != (blocks * BLOCK // 2 if kind == torch.uint8 else width):
        return "has vectors of different widths"
    wanted = {torch.int8: ((*rows, 1), torch.float32), torch.uint8: ((*rows, blocks), torch.bfloat16)}.get(kind)
    if not wanted:
        return ""
    if scale is None or (tuple(scale.shape), scale.dtype) != wanted:
        return f"has no {str(wanted[1]).partition('.')[2]} scale for every vector of {name}"
    if not scale.isfinite().all() or scale.signbit().any():
        return f"has a scale of {name} that is not finite or not positive"
    return "" if _canonical(stored, scale, width) else f"has {name} that are not rounded as `pack` rounds"


def _canonical(stored: Tensor, scale: Tensor, width: int) -> bool:
    """Whether no other numbers and scales mean the same: as `encode` writes, with zeros behind `width`."""
    if stored.dtype == torch.int8:
        numbers, scale, most = stored.int(), scale[..., 0], 127
    else:
        numbers, most = _numbers(stored), 7
        if numbers.flatten(-2)[..., width:].any():
            return False
    return bool((numbers.abs().amax(-1) == most * (scale > 0)).all())


def _numbers(stored: Tensor) -> Tensor:
    """Bytes of two numbers each as blocks of numbers from -8 to 7, `(*rows, blocks, BLOCK)`."""
    codes = torch.stack([stored % 16, stored // 16], -1).flatten(-2).int()
    return ((codes + 8) % 16 - 8).unflatten(-1, (-1, BLOCK))


def _scale(vectors: Tensor, most: int) -> Tensor:
    """The step for each row: its largest number is `most` steps. A row of numbers that are almost zero gets 0."""
    scale = vectors.abs().amax(-1, keepdim=True) / most
    return scale.where(scale > 1e-30, 0)


def _rounded(vectors: Tensor, scale: Tensor, most: int) -> Tensor:
    return (vectors / scale.where(scale > 0, torch.inf)).round().clamp(-most, most).to(torch.int8)
