"""From the blocks of a GGUF file to int8 rows, without a list of floats between them.

    a block      scale d, offset m | 32 small numbers q      each of them says q d + m
    a row        blocks, each with a scale of its own
    int8         one scale s for the row: q d + m = s * whole number, the largest one 127

Files of open models hold 4 or 8 bits for a weight (the block formats of llama.cpp, 2023). A packed
matrix has 8 bits and one scale for a row, so each number has to be multiplied and rounded anew:

    whole number = (q d + m) / s = q A + B      A and B are the same in the whole block

For a model of 10^8 weights, CPython does that for a block at once, with its 32 numbers side by side
in one integer: A and B count 2^-16, a lane has 24 bits, and its uppermost byte is the whole part.
PyPy compiles a loop over the numbers. Both are within 0.51 of q A + B.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from math import inf
from typing import NamedTuple, Union

from tiny_llm.matmul import Vector

LARGEST = 127
BLOCK = 32  # numbers
AT_ONCE = 256  # rows: so few that their bytes stay in the cache
LOOPS_PAY = sys.implementation.name == "pypy"
_ONES = int.from_bytes(b"\x01\x00\x00" * BLOCK, "little")
_LOW = bytes(byte % 16 for byte in range(256))
_HIGH = bytes(byte // 16 for byte in range(256))
_PLUS_128 = bytes(byte ^ 128 for byte in range(256))


class Format(NamedTuple):
    """One kind of block. Each number is written as a byte or half a byte, `zero` for q = 0."""

    scales: str  # the block's beginning as `struct` has it
    size: int  # bytes of a block
    in_halves: bool
    zero: int  # taken off each number; in Q4_1, the offset says that instead
    extremes: tuple[int, int]  # the greatest and the smallest number, as written


FORMATS = {
    "Q8_0": Format("e", 34, False, 128, (255, 1)),
    "Q4_0": Format("e", 18, True, 8, (15, 0)),
    "Q4_1": Format("ee", 20, True, 0, (15, 0)),
}


def int8_rows(
    data: Union[bytes, bytearray, memoryview], dtype: str, rows: int, width: int
) -> tuple[array[int], Vector]:
    """Blocks of `rows` x `width` numbers -> the int8 numbers row by row, a scale for each row.

    Raises ValueError for another dtype than those of FORMATS, for a width that is no multiple of
    32, for data of another length than these rows have, and for scales that are no finite numbers.
    """
    if dtype not in FORMATS:
        raise ValueError(f"{dtype} is no kind of block here; these are: {', '.join(FORMATS)}")
    form, line = FORMATS[dtype], width // BLOCK * FORMATS[dtype].size
    if width % BLOCK or len(data) != rows * line:
        raise ValueError(f"{len(data)} bytes do not hold {rows} x {width} numbers of {dtype}")
    numbers, scales = bytearray(), array("d")
    for start in range(0, len(data), AT_ONCE * line):
        numbers += _some_rows(bytes(data[start : start + AT_ONCE * line]), form, width, scales)
    return array("b", bytes(numbers)), scales.tolist()


def _some_rows(data: bytes, form: Format, width: int, scales: array[float]) -> bytes:
    """The int8 numbers of rows of blocks; their scales are appended."""
    header = struct.iter_unpack(f"<{form.scales}{form.size - 2 * len(form.scales)}x", data)
    steps, *rest = zip(*header)
    offsets = rest[0] if rest else [-form.zero * step for step in steps]
    written, parts = _written(data, form), []
    for start in range(0, len(steps), width // BLOCK):
        blocks = slice(start, start + width // BLOCK)
        numbers = written[start * BLOCK : start * BLOCK + width]
        largest = _largest(numbers, steps[blocks], offsets[blocks], form)
        if not largest < inf:
            raise ValueError("the scale of a block is not a finite number")
        scales.append(largest / LARGEST)
        if largest:
            parts.append(_rounded(numbers, steps[blocks], offsets[blocks], scales[-1]))
        else:
            parts.append(bytes(width))
    return b"".join(parts)


def _written(data: bytes, form: Format) -> bytes:
    """The numbers of all blocks as they are written, a byte for each and none negative."""
    numbers = bytearray(len(data) // form.size * BLOCK)
    begin = 2 * len(form.scales)
    for place in range(form.size - begin):  # in a block: all that stand there at once
        there = data[begin + place :: form.size]
        if form.in_halves:
            numbers[place::BLOCK] = there.translate(_LOW)
            numbers[place + BLOCK // 2 :: BLOCK] = there.translate(_HIGH)
        else:
            numbers[place::BLOCK] = there.translate(_PLUS_128)
    return bytes(numbers)


def _largest(
    numbers: bytes, steps: Sequence[float], offsets: Sequence[float], form: Format
) -> float:
    """The largest absolute value of the row; NaN or infinite where a scale is.

    Whoever made a block made use of its range, so the block that could hold the largest value
    usually does. Else every number is looked at.
    """
    high, low = form.extremes
    above = [high * d + m for d, m in zip(steps, offsets)]
    below = [low * d + m for d, m in zip(steps, offsets)]
    total = sum(above) + sum(below)
    if not -inf < total < inf:
        return inf
    largest = max(max(above), -min(above), max(below), -min(below))
    for values, extreme in (above, high), (below, low):
        for value in largest, -largest:
            if value in values and (form.in_halves or 0 not in numbers):  # 0 is -128, beyond both
                start = BLOCK * values.index(value)
                if extreme in numbers[start : start + BLOCK]:
                    return largest
    return max(
        abs(q * d + m)
        for i, (d, m) in enumerate(zip(steps, offsets))
        for q in set(numbers[BLOCK * i : BLOCK * i + BLOCK])
    )


def _rounded(
    numbers: bytes, steps: Sequence[float], offsets: Sequence[float], scale: float
) -> bytes:
    """Every q d + m in whole units of the scale, as int8."""
    way = _in_loops if LOOPS_PAY else _in_lanes
    return way(numbers, [d / scale for d in steps], [m / scale + 128.5 for m in offsets])


def _in_loops(numbers: bytes, factors: Vector, addends: Vector) -> bytes:
    """The whole part of q A + B, less 128. B is 128 1/2 larger than said above, so that no number
    is negative, and cutting rounds."""
    result = bytearray(len(numbers))
    for block, (factor, addend) in enumerate(zip(factors, addends)):
        for place in range(block * BLOCK, block * BLOCK + BLOCK):
            result[place] = int(numbers[place] * factor + addend) ^ 128
    return bytes(result)


def _in_lanes(numbers: bytes, factors: Vector, addends: Vector) -> bytes:
    """The same, a block at once."""
    wide = bytearray(3 * len(numbers))
    wide[::3] = numbers
    lanes = bytes(wide)  # which slices faster
    size, number, ones = 3 * BLOCK, int.from_bytes, _ONES
    whole = [
        (
            number(lanes[i : i + size], "little") * int(factor * 65536) + ones * int(addend * 65536)
        ).to_bytes(size, "little")
        for i, factor, addend in zip(range(0, len(lanes), size), factors, addends)
    ]
    return b"".join(whole)[2::3].translate(_PLUS_128)
