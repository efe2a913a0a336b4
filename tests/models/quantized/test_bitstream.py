"""Codes are packed without gaps and come back as they were."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import DataError
from corral.models.quantized.bitstream import pack, packed_bytes, unpack


@given(bits=st.integers(1, 8), values=st.lists(st.integers(0, 255), max_size=40))
def test_codes_come_back(bits, values):
    codes = torch.tensor([value % 2**bits for value in values], dtype=torch.uint8)
    packed = pack(codes, bits)
    assert len(packed) == packed_bytes(len(values), bits) == -(-len(values) * bits // 8)
    assert torch.equal(unpack(packed, bits, len(values)), codes)


@given(bits=st.integers(1, 8), values=st.lists(st.integers(0, 255), min_size=1, max_size=20))
def test_code_i_lies_in_bits_i_b_and_up_of_one_little_endian_number(bits, values):
    codes = [value % 2**bits for value in values]
    number = sum(code << (i * bits) for i, code in enumerate(codes))
    assert bytes(pack(torch.tensor(codes), bits).tolist()) == number.to_bytes(packed_bytes(len(codes), bits), "little")


def test_matrices_are_packed_row_by_row():
    assert pack(torch.tensor([[1, 2], [3, 0]]), 2).tolist() == [0b00_11_10_01]


def test_a_stream_of_another_length_is_refused():
    with pytest.raises(DataError, match="5 codes of 3 bits take 2 bytes"):
        unpack(torch.zeros(3, dtype=torch.uint8), 3, 5)
