"""CHAPTER 3. The one matrix product: nearly all the time of every model is spent here.

    a     x  b       ->  product        product[n][o] = sum over i of a[n][i] * b[i][o]
    N x I    I x O       N x O

A matrix is a list of rows, a row a list of floats: plain Python data. Below stands the definition.
It is slow, and there are many ways to be faster, but none of them is an idea of language models.
Whoever has a faster one plugs it in with `plug_in`, and no model knows which one runs.
"""

from collections.abc import Sequence
from typing import Any

Vector = list[float]
Matrix = list[Vector]
Rows = Sequence[Sequence[float]]


class PlainLoops:
    """The definition. Every other way is tested against it."""

    def dot(self, a: Sequence[float], b: Sequence[float]) -> float:
        total = 0.0
        for x, y in zip(a, b):
            total += x * y
        return total

    def transpose(self, a: Rows) -> Any:
        return list(zip(*a))

    def matmul(self, a: Rows, b: Rows) -> Matrix:
        return self.matmul_bt(a, self.transpose(b))

    def matmul_bt(self, a: Rows, b: Rows) -> Matrix:
        return [[self.dot(row, other) for other in b] for row in a]


_way = PlainLoops()  # until a faster one is plugged in, which __init__ does for the package


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """The product of two vectors of equal length: a number."""
    return _way.dot(a, b)


def transpose(a: Rows) -> Any:
    """The columns of a as rows: N x O -> O x N."""
    return _way.transpose(a)


def matmul(a: Rows, b: Rows) -> Matrix:
    """a b: N x I and I x O -> N x O."""
    return _way.matmul(a, b)


def matmul_bt(a: Rows, b: Rows) -> Matrix:
    """a b^T, every row of a with every row of b: N x I and O x I -> N x O."""
    return _way.matmul_bt(a, b)


def matmul_at(a: Rows, b: Rows) -> Matrix:
    """a^T b, every column of a with every column of b: N x I and N x O -> I x O."""
    return _way.matmul(_way.transpose(a), b)


# Try it: `tiny-lm bench` shows what each way that is plugged in costs on your machine. Put the
# loops of PlainLoops in another order, and train with them: `tiny-lm train --matmul loops`.

# ---------------------------------------------------------------- where a faster way is plugged in


def plug_in(way: PlainLoops) -> PlainLoops:
    """From now on, multiply in this way. Returns the one before."""
    global _way
    before, _way = _way, way
    return before
