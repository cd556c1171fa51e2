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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from operator import mul
from typing import Any, Callable, ContextManager

from tiny_llm.fast.lanes import LONG, SHORT, multiply_in_lanes
from tiny_llm.fast.packed import Packed
from tiny_llm.matmul import Matrix, PlainLoops, Rows, Vector, plug_in

PYPY = sys.implementation.name == "pypy"
WASM = sys.platform == "emscripten"  # CPython in a browser, where calls from C are dear
HAS_SUMPROD = sys.version_info >= (3, 12)
# The fastest of float64.
EXACT = "unrolled" if PYPY or WASM else "sumprod" if HAS_SUMPROD else "mapped"

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


def lanes(rows: Rows, columns: Rows) -> Matrix:
    """In lanes of 64 bits, the sums of a whole row at once: more exact than float32."""
    return _in_lanes(LONG, True, rows, columns)


def short_lanes(rows: Rows, columns: Rows) -> Matrix:
    """In lanes of 24 bits: about as exact as bfloat16, for half the time. For training only."""
    return _in_lanes(SHORT, True, rows, columns)


def _in_lanes(size: int, transposed: bool, a: Rows, b: Rows) -> Matrix:
    try:
        return multiply_in_lanes(a, b, size, transposed)
    except OverflowError:
        return WAYS[EXACT](a, b if transposed else _transpose(b))


# What takes the rows of b as they stand, in place of its columns, each where it belongs to a way:
# to transpose a large matrix costs as much as to round it, since its numbers lie far apart.
BY_ROWS: dict[Callable[[Rows, Rows], Matrix], Callable[[Rows, Rows], Matrix]] = {
    unrolled: combined,
    lanes: partial(_in_lanes, LONG, False),
    short_lanes: partial(_in_lanes, SHORT, False),
}


# ---------------------------------------------------------------- which way

WAYS: dict[str, Callable[[Rows, Rows], Matrix]] = {
    "loops": PlainLoops().matmul_bt,
    "mapped": mapped,
    "unrolled": unrolled,
    "distances": distances,
    "lanes": lanes,
    "short-lanes": short_lanes,
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
    if n * m >= 12 * (n + m):
        return "short-lanes"  # packing pays for itself
    if WASM:
        return "unrolled" if k * min(n, m) <= 64 else "distances"
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
        if isinstance(b, Packed):
            return b.multiply(a, True, self.matmul_bt)
        return WAYS[self._name(len(a), len(b[0]), len(b))](a, b)

    def matmul(self, a: Rows, b: Rows) -> Matrix:
        """Every row of a with every column of b: N x K and K x M -> N x M."""
        if isinstance(b, Packed):
            return b.multiply(a, False, self.matmul)
        if not a or not b or not b[0]:
            return [[] for _ in a]
        way = WAYS[self._name(len(a), len(b), len(b[0]))]
        return BY_ROWS[way](a, b) if way in BY_ROWS else way(a, _transpose(b))

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


@contextmanager
def multiply_with(way: PlainLoops) -> Iterator[None]:
    """Within it, every product goes this way."""
    before = plug_in(way)
    try:
        yield
    finally:
        plug_in(before)


def use(name: str) -> ContextManager[None]:
    """Within it, every product goes this way. Raises ValueError as `Chosen` does."""
    return multiply_with(Chosen(name))
