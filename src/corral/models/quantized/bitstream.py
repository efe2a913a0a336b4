"""Small integers packed into bytes without gaps.

A stream of N codes of b bits holds code i in bits i b to (i + 1) b - 1, counted from the lowest bit of the first byte.
Only the last byte may have unused bits, which are zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from corral.core.errors import DataError

_BYTE = 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """The codes of a tensor, in row-major order, as one stream of ``packed_bytes`` bytes (uint8, one dimension).

    Args:
        codes: integers (or booleans) from 0 to 2^bits - 1, of any shape.
        bits: of a code, 1 to 8.
    """
    flat_N = codes.reshape(-1).to(torch.uint8)
    if _BYTE % bits == 0:
        return _gathered(_rows_of(flat_N, _BYTE // bits), bits)
    places = torch.arange(bits, dtype=torch.uint8, device=flat_N.device)
    stream = ((flat_N[:, None] >> places) & 1).reshape(-1)
    return _gathered(_rows_of(stream, _BYTE), 1)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first ``count`` codes of a stream, as uint8 of one dimension.

    Raises:
        DataError: the stream is not of the length that so many codes take.
    """
    if packed.dtype != torch.uint8 or packed.shape != (packed_bytes(count, bits),):
        raise DataError(
            f"{count} codes of {bits} bits take {packed_bytes(count, bits)} bytes, "
            f"got {packed.dtype} of shape {tuple(packed.shape)}"
        )
    if _BYTE % bits == 0:
        return _spread(packed, bits)[:count]
    stream = _spread(packed, 1)[: count * bits].view(count, bits)
    return _gathered(stream, 1)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits take."""
    return math.ceil(count * bits / _BYTE)


def _rows_of(values_N: Tensor, width: int) -> Tensor:
    """The values as rows of ``width``, the last filled up with zeros."""
    rows = values_N.new_zeros(math.ceil(len(values_N) / width), width)
    rows.view(-1)[: len(values_N)] = values_N
    return rows


def _gathered(parts_NP: Tensor, bits: int) -> Tensor:
    """Each row's parts, the first lowest, as one byte."""
    gathered = parts_NP[:, 0].clone()
    for place in range(1, parts_NP.shape[1]):
        gathered |= parts_NP[:, place] << (place * bits)
    return gathered


def _spread(packed_N: Tensor, bits: int) -> Tensor:
    """Each byte's parts of ``bits`` bits, the lowest first."""
    if bits == _BYTE:
        return packed_N
    shifts = torch.arange(0, _BYTE, bits, dtype=torch.uint8, device=packed_N.device)
    parts: Tensor = ((packed_N[:, None] >> shifts) & (2**bits - 1)).reshape(-1)
    return parts
