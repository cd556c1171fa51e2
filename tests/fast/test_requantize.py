"""GGUF's blocks as int8 rows: near the exact rounding of the numbers that the blocks say."""

import math
import random
import struct

import pytest

from tiny_llm.fast import requantize
from tiny_llm.fast.requantize import FORMATS, LARGEST, int8_rows

KINDS = pytest.mark.parametrize("kind", sorted(FORMATS))


@pytest.fixture(params=[True, False], ids=["loops", "lanes"], autouse=True)
def way(request, monkeypatch):
    monkeypatch.setattr(requantize, "LOOPS_PAY", request.param)


def block(kind, scales, numbers):
    header = struct.pack("<" + "e" * len(scales), *scales)
    if kind == "Q8_0":
        return header + struct.pack("32b", *numbers)
    return header + bytes([low + 16 * high for low, high in zip(numbers[:16], numbers[16:])])


def said(kind, data):
    """The numbers of the blocks, as their formats define them."""
    size, count = (34, 1) if kind == "Q8_0" else (18, 1) if kind == "Q4_0" else (20, 2)
    values = []
    for start in range(0, len(data), size):
        d, *m = struct.unpack_from("<" + "e" * count, data, start)
        numbers = data[start + 2 * count : start + size]
        if kind == "Q8_0":
            values += [q * d for q in struct.unpack("32b", numbers)]
        else:
            halves = [x % 16 for x in numbers] + [x // 16 for x in numbers]
            values += [q * d + m[0] if m else (q - 8) * d for q in halves]
    return values


def some_block(kind, rng, size):
    scales = [rng.uniform(-size, size) for _ in range(2 if kind == "Q4_1" else 1)]
    low, high = rng.choice([(-128, 127), (-127, 127), (-3, 9), (5, 5)])
    if kind != "Q8_0":
        low, high = rng.choice([(0, 15), (4, 11), (15, 15)])
    return block(kind, scales, [rng.randint(low, high) for _ in range(32)])


@KINDS
@pytest.mark.parametrize("rows, blocks", [(1, 1), (3, 2), (300, 3)])
@pytest.mark.parametrize("size", [0.02, 60000, 1e-7])
def test_each_number_is_the_nearest_one_and_the_largest_is_127(kind, rows, blocks, size):
    rng = random.Random(f"{kind} {rows} {size}")
    data = b"".join([some_block(kind, rng, size) for _ in range(rows * blocks)])
    for given in data, memoryview(data):
        numbers, scales = int8_rows(given, kind, rows, 32 * blocks)
    exact = said(kind, data)
    assert (len(numbers), len(scales), numbers.typecode) == (len(exact), rows, "b")
    for i, scale in enumerate(scales):
        row = slice(32 * blocks * i, 32 * blocks * (i + 1))
        largest = max(map(abs, exact[row]))
        assert math.isclose(scale * LARGEST, largest, rel_tol=1e-12)
        if largest:
            assert max(map(abs, numbers[row])) == LARGEST
            assert all(abs(x / scale - n) < 0.51 for x, n in zip(exact[row], numbers[row]))
        else:
            assert not any(numbers[row])


@KINDS
def test_rows_of_zeros_and_beside_them_others(kind):
    count = 2 if kind == "Q4_1" else 1
    zero = block(kind, [0.0] * count, [7] * 32)
    one = block(kind, [0.5] * count, [1, 15] * 16)
    numbers, scales = int8_rows(zero + one + zero, kind, 3, 32)
    assert scales[0] == scales[2] == 0 < scales[1]
    assert not any(numbers[:32]) and any(numbers[32:64]) and not any(numbers[64:])


@KINDS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scales_that_are_no_numbers_are_refused(kind, bad):
    count = 2 if kind == "Q4_1" else 1
    good = block(kind, [0.5] * count, [3] * 32)
    for place in range(count):
        scales = [0.5] * count
        scales[place] = bad
        with pytest.raises(ValueError, match="not a finite number"):
            int8_rows(good + block(kind, scales, [3] * 32), kind, 1, 64)


def test_what_does_not_fit_is_refused():
    good = block("Q8_0", [0.5], [3] * 32)
    with pytest.raises(ValueError, match="Q5_K is no kind of block here; these are: Q8_0, Q4_0"):
        int8_rows(good, "Q5_K", 1, 32)
    for rows, width in (1, 31), (2, 32), (1, 64), (1, 33), (0, 32):
        with pytest.raises(ValueError, match=f"34 bytes do not hold {rows} x {width} numbers"):
            int8_rows(good, "Q8_0", rows, width)
