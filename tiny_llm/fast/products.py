"""Faster ways to multiply than the plain loops of matmul.py, which plug in there.

    rows     columns   ->  product
    N x K    M x K         N x M        each row with each column

Each way below is one function, and `Chosen` makes of it what chapter 3 takes. Two ways exchange a
few of the last digits for speed; only training uses them, through `use("auto")` or a name. All else
is a product of float64.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence
from itertools import repeat
from operator import add, mul
from typing import Any, Callable, ContextManager

from tiny_llm.matmul import Matrix, PlainLoops, Rows, Vector, multiply_with

PYPY = sys.implementation.name == "pypy"
HAS_SUMPROD = sys.version_info >= (3, 12)
EXACT = "unrolled" if PYPY else "sumprod" if HAS_SUMPROD else "mapped"  # the fastest of float64

# ---------------------------------------------------------------- exact up to the last bits


def mapped(rows: Rows, columns: Rows) -> Matrix:
    """The innermost loop handed to CPython: `map` and `sum` run it in C."""
    return [[sum(map(mul, row, column), 0.0) for column in columns] for row in rows]


def sumprod(rows: Rows, columns: Rows) -> Matrix:
    """One call in C for each number, rounded only at its end. Python 3.12 and newer."""
    dot = math.sumprod  # type: ignore[attr-defined, unused-ignore]
    return [[dot(row, column) for column in columns] for row in rows]


def unrolled(rows: Rows, columns: Rows) -> Matrix:
    """Loops for a compiler such as PyPy's: see `combined`, which takes the rows of b instead."""
    b = _transpose(columns)
    return combined(rows, b) if b else [[0.0] * len(columns) for _ in rows]


def combined(rows: Rows, b: Rows) -> Matrix:
    """Every row of the product as a combination of the rows of b, four at a time: a sum is fetched
    and stored once for four products. N x K and K x M -> N x M; b has at least one row.

    Each number adds up in the order of the plain loops, to the same bits. And b need not be
    transposed, which would take most of the time where there are few rows: on PyPy, 1 x 128 times
    128 x 384 takes 0.03 ms in this form, and 0.5 ms in one that needs the columns of b.
    """
    inner = range(len(b[0]))
    in_fours = len(b) - len(b) % 4
    product = []
    for row in rows:
        sums = [0.0] * len(inner)
        for k in range(0, in_fours, 4):
            p, q, r, s = b[k : k + 4]
            w, x, y, z = row[k : k + 4]
            for j in inner:
                sums[j] = sums[j] + w * p[j] + x * q[j] + y * r[j] + z * s[j]
        for x, p in zip(row[in_fours:], b[in_fours:]):
            for j in inner:
                sums[j] += x * p[j]
        product.append(sums)
    return product


# ---------------------------------------------------------------- faster, and nearly as exact

BALANCED = 1e7  # largest norm / smallest norm for which distances keep 8 digits


def distances(rows: Rows, columns: Rows) -> Matrix:
    """Products from distances, because `math.dist` does in one call in C what a product needs:

        |r - c|^2 = |r|^2 + |c|^2 - 2 r c        r c = (|r|^2 + |c|^2 - |r - c|^2) / 2

    (the polarization identity). Every term carries an error of about 1e-16 times |r|^2 + |c|^2,
    so r and c must be of similar size: one that is more than `BALANCED` times shorter than the
    longest is first scaled up by a power of two, which is exact. Then the error is below
    1e-8 |r| |c|, and for norms within 100 of each other below 1e-13 |r| |c|.
    """
    rows, columns = list(map(tuple, rows)), list(map(tuple, columns))
    row_norms, column_norms = _norms(rows), _norms(columns)
    norms = [norm for norm in row_norms + column_norms if norm] or [1.0]
    if not (min(norms) > 1e-150 and sum(norms) < 1e150):  # their squares leave the range; or NaN
        return WAYS[EXACT](rows, columns)
    largest = max(norms)
    if BALANCED * min(norms) > largest:
        return _distances(rows, columns, row_norms, column_norms)
    row_scales = _balancing_scales(row_norms, largest)
    column_scales = _balancing_scales(column_norms, largest)
    rows, columns = _divided(rows, row_scales), _divided(columns, column_scales)
    product = _distances(rows, columns, _norms(rows), _norms(columns))
    return [
        [value * scale * s for value, s in zip(row, column_scales)]
        for row, scale in zip(product, row_scales)
    ]


def _distances(rows: Rows, columns: Rows, row_norms: Vector, column_norms: Vector) -> Matrix:
    dist = math.dist
    row_halves = [0.5 * norm * norm for norm in row_norms]
    column_halves = [0.5 * norm * norm for norm in column_norms]
    return [
        [
            half + other - 0.5 * d * d
            for other, d in zip(column_halves, map(dist, repeat(row), columns))
        ]
        for row, half in zip(rows, row_halves)
    ]


def _norms(rows: Rows) -> Vector:
    """The length of each row as a vector."""
    origin = (0.0,) * len(rows[0])
    return list(map(math.dist, rows, repeat(origin)))


def _balancing_scales(norms: Vector, largest: float) -> Vector:
    """What to divide each row by: 1, or a power of two that makes a far shorter one as long."""
    return [
        1.0 if norm == 0 or BALANCED * norm > largest else 2.0 ** round(math.log2(norm / largest))
        for norm in norms
    ]


def _divided(rows: Rows, scales: Vector) -> Rows:
    return [
        row if scale == 1 else tuple([value / scale for value in row])
        for row, scale in zip(rows, scales)
    ]


FACTOR_BITS = 23  # of the integers that numbers are rounded to
LANE_BITS = 64
# A lane holds a sum of K products, each below 2^23 * 2^23 = 2^46 in size. For K up to 2^16 that is
# below 2^62, so a signed lane of 64 bits cannot overflow into the next. (A negative lane borrows 1
# from the next one: one unit where the largest product is 2^46.)
LONGEST_SUM = 1 << (LANE_BITS - 2 - 2 * FACTOR_BITS)
# Adding 1.5 * 2^52 to a small float rounds it to a whole number n and leaves the bits of the sum at
# ROUNDER_BITS + n, n itself in the lower half: floats turned into integers without leaving C.
ROUNDER = 1.5 * 2.0**52
ROUNDER_BITS = int.from_bytes(array("d", [ROUNDER]), "little")


def lanes(rows: Rows, columns: Rows) -> Matrix:
    """A whole row of the product at once, in one big integer.

    A Python integer can hold M numbers side by side, in lanes of 64 bits. Multiplying it by one
    small integer multiplies every lane, adding two of them adds every lane, and both run in C. So
    row i of the product is the sum over k of (integer i, k) * (all of b's row k in lanes).

    Rows and columns are first scaled so that their largest number becomes 2^23 - 1, and rounded: an
    error below 1.2e-7 of (row maximum * column maximum * K), about that of float32.
    """
    inner = len(columns[0])
    if inner > LONGEST_SUM:
        half = inner // 2
        halves = [lanes([r[s] for r in rows], [c[s] for c in columns])
                  for s in (slice(half), slice(half, None))]  # fmt: skip
        return [list(map(add, *lines)) for lines in zip(*halves)]
    row_maxima = [max(map(abs, row), default=0.0) for row in rows]
    column_maxima = [max(map(abs, column), default=0.0) for column in columns]
    are_moderate = all(1e-150 < size < 1e150 for size in row_maxima + column_maxima if size)
    if not (are_moderate and _are_finite(rows) and _are_finite(columns)):
        return WAYS[EXACT](rows, columns)  # a lane cannot hold these
    largest = (1 << FACTOR_BITS) - 1
    packed = _pack(columns, [largest / m if m else 0.0 for m in column_maxima])
    units = [m / largest / largest for m in column_maxima]
    product = []
    for row, maximum in zip(rows, row_maxima):
        scale = largest / maximum if maximum else 0.0
        total = sum(map(mul, _rounded(row, scale), packed))
        cut = memoryview(total.to_bytes(8 * len(columns), "little", signed=True)).cast("q")
        product.append([value * maximum * unit for value, unit in zip(cut, units)])
    return product


def _are_finite(rows: Rows) -> bool:
    """Whether the rows hold no NaN and no infinity, and do not add up to one."""
    return math.isfinite(sum(map(sum, rows)))


def _rounded(row: Sequence[float], scale: float) -> array[int]:
    """Each number times the scale, as a whole number below 2^31."""
    halves = array("i", array("d", [value * scale + ROUNDER for value in row]).tobytes())
    return halves[::2]


def _pack(columns: Rows, scales: Vector) -> list[int]:
    """M columns of K numbers -> K big integers, each with one row's M numbers in its lanes."""
    scaled = [[value * s + ROUNDER for value in c] for c, s in zip(columns, scales)]
    rounder = int.from_bytes(array("Q", [ROUNDER_BITS]) * len(columns), "little")
    return [int.from_bytes(array("d", row), "little") - rounder for row in zip(*scaled)]


# ---------------------------------------------------------------- which way

WAYS: dict[str, Callable[[Rows, Rows], Matrix]] = {
    "loops": PlainLoops().matmul_bt,
    "mapped": mapped,
    "unrolled": unrolled,
    "distances": distances,
    "lanes": lanes,
}
if HAS_SUMPROD:
    WAYS["sumprod"] = sumprod


def fastest(n: int, k: int, m: int) -> str:
    """The way that `auto` takes for N x K times K x M on this Python.

    The constants come from `benchmarks/products.py`, which measures every way at many shapes. They
    are not measured at run time, so that equal runs give equal bits.
    """
    if PYPY:
        return "unrolled"
    if n * m >= 64 * (n + m):
        return "lanes"  # packing pays for itself
    if HAS_SUMPROD:
        return "sumprod" if min(n, m) <= 8 else "distances"  # few rows to share a norm with
    return "unrolled" if k * min(n, m) <= 32 else "distances"


class Chosen(PlainLoops):
    """A way to multiply by its name: one of WAYS, `float64` for the fastest exact one, or `auto`.

    Raises ValueError for another name.
    """

    def __init__(self, name: str) -> None:
        if name not in ("auto", "float64", *WAYS):
            raise ValueError(
                f"{name!r} is no way to multiply here; these are: auto, float64, {', '.join(WAYS)}"
            )
        self.name = EXACT if name == "float64" else name

    def _name(self, n: int, k: int, m: int) -> str:
        return fastest(n, k, m) if self.name == "auto" else self.name

    def matmul_bt(self, a: Rows, b: Rows) -> Matrix:
        """Every row of a with every row of b: N x K and M x K -> N x M."""
        if not a or not b:
            return [[] for _ in a]
        return WAYS[self._name(len(a), len(b[0]), len(b))](a, b)

    def matmul(self, a: Rows, b: Rows) -> Matrix:
        """Every row of a with every column of b: N x K and K x M -> N x M."""
        if not a or not b or not b[0]:
            return [[] for _ in a]
        name = self._name(len(a), len(b), len(b[0]))
        return combined(a, b) if WAYS[name] is unrolled else WAYS[name](a, _transpose(b))

    def dot(self, a: Sequence[float], b: Sequence[float]) -> float:
        """The product of two vectors of equal length."""
        if HAS_SUMPROD:
            return math.sumprod(a, b)  # type: ignore[attr-defined, no-any-return, unused-ignore]
        return sum(map(mul, a, b), 0.0)

    def transpose(self, a: Rows) -> Any:
        """The columns of a as rows: N x M -> M x N."""
        return _transpose(a)


def _transpose(a: Rows) -> Any:
    if PYPY and a:  # where zip takes 5 times as long for a tuple of floats
        return [[row[j] for row in a] for j in range(len(a[0]))]
    return list(zip(*a))


def use(name: str) -> ContextManager[None]:
    """Within it, every product goes this way. Raises ValueError as `Chosen` does."""
    return multiply_with(Chosen(name))
