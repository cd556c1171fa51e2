"""A whole row of a product at once: its numbers side by side in one big integer.

    columns   -10    3   12   ->   ..|-10|..3|.12|   one integer for each k, a lane for each column
    row         7                  * 7               one multiplication in C
              -70   21   84        + those of the other k, one addition in C each

A Python integer has as many bits as it needs, so it can hold M numbers in lanes of so many bytes.
Multiplied by a small integer, every lane is multiplied; added to another, every lane is added, and
both run in C. So row i of a product is the sum over k of (integer i, k) * (all of b's row k).

The width of a lane is the price of a multiply-add, as it is in a processor: `LONG` lanes keep more
digits than float32, `SHORT` ones about as many as bfloat16. (Mixed precision: Micikevicius et al.,
2018. What is multiplied is rounded; weights, the optimizer's averages and long sums are not.)

What fits? Rows and columns are first scaled to whole numbers of a length that is chosen by the
width. No sum of products is greater than |row| |column| (Cauchy and Schwarz), so none leaves its
lane however long it is, and no number needs to be as small as the worst case would have it.
The scales are powers of two: they round nothing, and whole numbers that fit come out exactly.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from operator import add, mul

from tiny_llm.matmul import Matrix, Rows, Vector

LONG, MIDDLE, SHORT = 8, 4, 3  # bytes of a lane
# Adding 1.5 * 2^52 to a float below 2^51 rounds it to a whole number n and leaves n itself in the
# low bits of the sum (negative ones as their complement): floats become integers without leaving C.
ROUNDER = 1.5 * 2.0**52
LOOPS_PAY = sys.implementation.name == "pypy"  # which compiles them, and where hypot is slow


def longest(size: int, inner: int) -> float:
    """How long a row or column of `inner` whole numbers may be for lanes of `size` bytes.

    The product of two such lengths must stay below half of 2^(8 size), since lanes have a sign, and
    a factor below 2^30, one digit of Python's integers. Rounding K numbers by at most 1/2 each
    makes a row longer by at most sqrt(K) / 2; a unit is left for the rounding of the length itself.
    """
    return min(math.sqrt(2.0 ** (8 * size - 1)), 2.0**30) - math.sqrt(inner) / 2 - 1


def multiply_in_lanes(a: Rows, b: Rows, size: int, transposed: bool) -> Matrix:
    """a b, or with `transposed` a b^T, in lanes of `size` bytes: N x K, K x M or M x K -> N x M.

    The error is below (2 sqrt(K) + 1) |row| |column| / `longest`. Raises OverflowError for rows of
    a length beyond 1e150, below 1e-150, or that is none because of an infinity or NaN.
    """
    count, inner = len(b) if transposed else len(b[0]), len(a[0])
    if count < len(a):  # fewer and longer integers
        flipped = b if transposed else list(zip(*b))
        return list(map(list, zip(*multiply_in_lanes(flipped, a, size, True))))
    limit = longest(size, inner)
    if inner > limit:  # rounding would take up what it may be
        parts = slice(inner // 2), slice(inner // 2, None)
        halves = [
            multiply_in_lanes(
                [row[s] for row in a],
                [row[s] for row in b] if transposed else b[s],
                size,
                transposed,
            )
            for s in parts
        ]
        return [list(map(add, *lines)) for lines in zip(*halves)]
    scales = _scales(b if transposed else zip(*b), limit)
    columns = _packed(b, scales, size, transposed)
    units = _inverses(scales)
    sums = sums_in_lanes(a, limit, columns, count, size)
    return [[value * unit * other for value, other in zip(row, units)] for row, unit in sums]


def sums_in_lanes(
    rows: Rows, limit: float, columns: list[int], count: int, size: int
) -> Iterator[tuple[memoryview, float]]:
    """Each row, rounded to a length of `limit`, with `count` columns that were packed before.

    N x K, K integers -> N times the sums in its lanes, and the unit that they count.
    """
    whole = [whole_numbers(row, limit) for row in rows]
    totals = [sum(map(mul, factors, columns)) for factors, _ in whole]
    unit = 1 / 256 ** (-size % 4)
    return zip(cut(totals, count, size), [unit * u for _, u in whole])


def whole_numbers(row: Sequence[float], limit: float) -> tuple[array[int], float]:
    """The row, rounded to a length of `limit` at most but for the rounding, and the unit it counts.

    Raises OverflowError as `multiply_in_lanes` does.
    """
    scales = _scales([row], limit)
    return rounded([row], scales), _inverses(scales)[0]


def _scales(rows: Iterable[Sequence[float]], limit: float) -> Vector:
    """The power of two that makes each row nearly as long as the limit; 0 for a row of zeros."""
    lengths = list(map(_length, rows))
    if not all(1e-150 < length < 1e150 for length in lengths if length):
        raise OverflowError("no lane can hold these numbers")
    return [2.0 ** (math.frexp(limit / x)[1] - 1) if x else 0.0 for x in lengths]


def _length(row: Sequence[float]) -> float:
    if not LOOPS_PAY:
        return math.hypot(*row)
    squares = 0.0
    for value in row:
        squares += value * value
    # Where a square leaves the range, hypot does not.
    return math.sqrt(squares) if 1e-280 < squares < 1e280 else math.hypot(*row)


def _inverses(scales: Vector, unit: float = 1.0) -> Vector:
    return [unit / scale if scale else 0.0 for scale in scales]


def rounded(rows: Rows, scales: Vector) -> array[int]:
    """Every number of one row after the other as a whole number below 2^31."""
    halves = array("d", [value * s + ROUNDER for row, s in zip(rows, scales) for value in row])
    return array("i", halves.tobytes())[::2]  # the lower ones


def _packed(b: Rows, scales: Vector, size: int, transposed: bool) -> list[int]:
    """K big integers, each with one row of b in its lanes, or one column of it: M numbers."""
    middle = ROUNDER + 2.0 ** (8 * min(size, 4) - 1)  # so that no lane is negative yet
    if transposed:
        flat = array("d", [value * s + middle for row, s in zip(b, scales) for value in row])
        doubles = b"".join([flat[k :: len(b[0])].tobytes() for k in range(len(b[0]))])
    else:
        flat = array("d", [value * s + middle for row in b for value, s in zip(row, scales)])
        doubles = flat.tobytes()
    lanes, width = bytearray(len(doubles) // 8 * size), size * len(scales)
    for byte in range(size):
        lanes[byte::size] = doubles[byte::8]
    middles = int.from_bytes(array("d", [middle]).tobytes()[:size] * len(scales), "little")
    return [
        int.from_bytes(lanes[start : start + width], "little") - middles
        for start in range(0, len(lanes), width)
    ]


def cut(totals: list[int], count: int, size: int) -> list[memoryview]:
    """Each total -> the numbers in its `count` lanes, times 2^8 for each byte below 4.

    A negative lane has borrowed 1 from the next. Half of a lane's range added to all makes them
    positive; taken off again by exclusive or, which borrows nothing, leaves each as its complement.
    """
    half = int.from_bytes((bytes(size - 1) + b"\x80") * count, "little")
    lanes = b"".join([((x + half) ^ half).to_bytes(size * count, "little") for x in totals])
    spare = -size % 4
    if spare:  # there is no array of such numbers; as the upper bytes of wider ones, with the sign
        wide = bytearray(len(lanes) // size * (size + spare))
        for byte in range(size):
            wide[byte + spare :: size + spare] = lanes[byte::size]
        lanes = bytes(wide)
    numbers = memoryview(lanes).cast("i" if size <= 4 else "q")
    return [numbers[start : start + count] for start in range(0, len(numbers), count)]
