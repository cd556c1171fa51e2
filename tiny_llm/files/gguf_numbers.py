"""How a GGUF file writes numbers: each form as a block of bytes, and the floats that it stands for.

    F32 F16 BF16   one number a block: 4 bytes, or 2; BF16 is the upper half of an F32
    Q8_0           scale | 32 bytes                            x = scale * q           q -128 to 127
    Q4_0           scale | 16 bytes, two numbers each          x = scale * (q - 8)     q 0 to 15
    Q4_1           scale | least | 16 bytes                    x = scale * q + least
    Q5_0           scale | 32 fifth bits | 16 bytes            x = scale * (q - 16)    q 0 to 31
    Q5_1           scale | least | 32 fifth bits | 16 bytes    x = scale * q + least
    Q4_K Q5_K      256 numbers in 8 groups; scales of 6 bits for the groups' own scales and leasts
    Q6_K           256 numbers in 16 groups; scales of 8 bits for the groups' own scales

A weight of a trained model says little beyond its first few bits, and its neighbours are of its
size. So 32 of them share one scale, and each takes a byte, or half of one. In such halves, the low
four bits of the 16 bytes are the first 16 numbers, and the high ones the last 16. The forms are
those of ggml (Gerganov, 2022); the K forms came with Kawrakow (2023). Scales are F16.

What is decoded is to the bit what ggml computes in float32. Each product here fits into 24 bits, so
only the sums have to be rounded.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterable, Sequence
from operator import add
from typing import Callable, NamedTuple, Union

from tiny_llm.matmul import Vector

Bytes = Union[bytes, bytearray, memoryview]

LOW = bytes(byte & 15 for byte in range(256))  # for bytes.translate: a byte to its low four bits
HIGH = bytes(byte >> 4 for byte in range(256))
# Of each byte: its 8 bits, as 0 or 16.
FIFTH = [bytes(byte >> i << 4 & 16 for i in range(8)) for byte in range(256)]
# For bytes.translate: a byte to one of its bits, as 0 or 16; to two of them, as 0 to 48.
BIT_AS_16 = [bytes(byte >> i << 4 & 16 for byte in range(256)) for i in range(8)]
PAIR_AS_48 = [bytes(byte >> i << 4 & 48 for byte in range(256)) for i in (0, 2, 4, 6)]


def halves(data: bytes) -> bytes:
    """16 bytes -> 32 numbers of four bits."""
    return data.translate(LOW) + data.translate(HIGH)


def singles(values: Iterable[float]) -> Vector:
    """Each rounded to float32."""
    return array("f", values).tolist()


# ---------------------------------------------------------------- one number a block


def _f32(data: Bytes) -> Vector:
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def _f16(data: Bytes) -> Vector:
    return list(struct.unpack(f"<{len(data) // 2}e", data))


def _bf16(data: Bytes) -> Vector:
    whole = bytearray(2 * len(data))
    whole[2::4], whole[3::4] = data[0::2], data[1::2]
    return _f32(whole)


# ---------------------------------------------------------------- blocks of 32


def _q8_0(data: Bytes) -> Vector:
    floats: Vector = []
    for scale, *block in struct.iter_unpack("<e32b", data):
        floats += [scale * q for q in block]
    return floats


def _q4_0(data: Bytes) -> Vector:
    floats: Vector = []
    for scale, block in struct.iter_unpack("<e16s", data):
        floats += [scale * (q - 8) for q in halves(block)]
    return floats


def _q4_1(data: Bytes) -> Vector:
    floats: Vector = []
    for scale, least, block in struct.iter_unpack("<ee16s", data):
        floats += [scale * q + least for q in halves(block)]
    return singles(floats)


def _q5_0(data: Bytes) -> Vector:
    floats: Vector = []
    for scale, bits, block in struct.iter_unpack("<e4s16s", data):
        floats += [scale * (q - 16) for q in _with_fifth_bits(block, bits)]
    return floats


def _q5_1(data: Bytes) -> Vector:
    floats: Vector = []
    for scale, least, bits, block in struct.iter_unpack("<ee4s16s", data):
        floats += [scale * q + least for q in _with_fifth_bits(block, bits)]
    return singles(floats)


def _with_fifth_bits(block: bytes, bits: bytes) -> list[int]:
    """32 numbers of five bits; bit i of the 32 belongs to number i."""
    fifths = b"".join(map(FIFTH.__getitem__, bits))
    return list(map(add, halves(block), fifths))


# ---------------------------------------------------------------- blocks of 256, in groups


def _q4_k(data: Bytes) -> Vector:
    floats: Vector = []
    for scale, least, packed, block in struct.iter_unpack("<ee12s128s", data):
        _add_groups(floats, scale, least, packed, _in_groups_of_32(block))
    return singles(floats)


def _q5_k(data: Bytes) -> Vector:
    """Bit g of byte i of the 32 bytes of fifth bits belongs to number i of group g."""
    floats: Vector = []
    for scale, least, packed, bits, block in struct.iter_unpack("<ee12s32s128s", data):
        groups = [
            list(map(add, group, bits.translate(fifth)))
            for group, fifth in zip(_in_groups_of_32(block), BIT_AS_16)
        ]
        _add_groups(floats, scale, least, packed, groups)
    return singles(floats)


def _in_groups_of_32(block: bytes) -> list[bytes]:
    """128 bytes -> 8 groups: of 32 bytes, first all low halves, then all high ones."""
    parts = [block[i : i + 32] for i in range(0, 128, 32)]
    return [part.translate(half) for part in parts for half in (LOW, HIGH)]


def _add_groups(
    floats: Vector, scale: float, least: float, packed: bytes, groups: Iterable[Sequence[int]]
) -> None:
    """x = scale * own scale * q - least * own least, for each of 8 groups."""
    for own_scale, own_least, group in zip(*_sixes(packed), groups):
        d, m = scale * own_scale, least * own_least
        floats += [d * q - m for q in group]


def _sixes(packed: bytes) -> tuple[list[int], list[int]]:
    """12 bytes -> the 8 scales and the 8 leasts of the groups, of six bits each.

    bytes 0 to 3     scale 0 to 3, six bits, and the upper two of scale 4 to 7
    bytes 4 to 7     least 0 to 3, six bits, and the upper two of least 4 to 7
    bytes 8 to 11    the lower four bits of scale 4 to 7, and those of least 4 to 7
    """
    a, b, c = packed[:4], packed[4:8], packed[8:]
    scales = [x & 63 for x in a] + [z & 15 | x >> 6 << 4 for x, z in zip(a, c)]
    leasts = [y & 63 for y in b] + [z >> 4 | y >> 6 << 4 for y, z in zip(b, c)]
    return scales, leasts


def _q6_k(data: Bytes) -> Vector:
    """Two halves of 128 numbers: four bits of each in 64 bytes, two more in 32 bytes."""
    floats: Vector = []
    for fours, twos, own_scales, scale in struct.iter_unpack("<128s64s16se", data):
        numbers: list[int] = []
        for low, high in ((fours[:64], twos[:32]), (fours[64:], twos[32:])):
            upper = b"".join(high.translate(pair) for pair in PAIR_AS_48)
            four_bits = low.translate(LOW) + low.translate(HIGH)
            numbers += [a + b - 32 for a, b in zip(four_bits, upper)]
        for group, own_scale in enumerate(memoryview(own_scales).cast("b")):
            d = scale * own_scale
            floats += [d * q for q in numbers[16 * group : 16 * group + 16]]
    return floats


class Form(NamedTuple):
    """A way to write numbers."""

    number: int  # of this form in a file
    length: int  # numbers in a block
    size: int  # bytes of a block
    decode: Callable[[Bytes], Vector]  # of whole blocks


FORMS = {
    "F32": Form(0, 1, 4, _f32),
    "F16": Form(1, 1, 2, _f16),
    "Q4_0": Form(2, 32, 18, _q4_0),
    "Q4_1": Form(3, 32, 20, _q4_1),
    "Q5_0": Form(6, 32, 22, _q5_0),
    "Q5_1": Form(7, 32, 24, _q5_1),
    "Q8_0": Form(8, 32, 34, _q8_0),
    "Q4_K": Form(12, 256, 144, _q4_k),
    "Q5_K": Form(13, 256, 176, _q5_k),
    "Q6_K": Form(14, 256, 210, _q6_k),
    "BF16": Form(30, 1, 2, _bf16),
}


# ---------------------------------------------------------------- to be written


def to_f32(row: Vector) -> bytes:
    """Raises OverflowError for a number that is too large."""
    return struct.pack(f"<{len(row)}f", *row)


def to_f16(row: Vector) -> bytes:
    """Rounded to nearest, halves to even. Raises OverflowError for a number beyond 65,504."""
    return struct.pack(f"<{len(row)}e", *row)


def to_q8_0(row: Vector) -> bytes:
    """As ggml does it, in float32: the largest of 32 numbers is 127 or -127 of their scale, halves
    are rounded away from 0. Raises OverflowError for a scale beyond 65,504."""
    row, blocks = singles(row), []
    for start in range(0, len(row), 32):
        block = row[start : start + 32]
        (scale,) = singles([max(map(abs, block)) / 127])
        if math.isinf(scale):
            raise OverflowError
        # Below 2^-128 its inverse is none; the scale is 0 as F16 long before that.
        (inverse,) = singles([1 / scale if scale > 2**-127 else 0.0])
        parts = singles([x * inverse for x in block])
        blocks.append(struct.pack("<e32b", scale, *(int(x + math.copysign(0.5, x)) for x in parts)))
    return b"".join(blocks)


ENCODERS: dict[str, Callable[[Vector], bytes]] = {"F32": to_f32, "F16": to_f16, "Q8_0": to_q8_0}
