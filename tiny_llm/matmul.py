"""The one matrix product: nearly all the time of every model is spent here.

    a     x  b       ->  product        product[i][j] = sum over k of a[i][k] * b[k][j]
    N x K    K x M       N x M

A matrix is a list of rows, a row a list of floats: plain Python data, no wrapper. All three forms
that a model needs (its backward multiplies by transposed matrices) come down to dot products of
rows with rows, so this file is the only one that knows what is fast on which Python.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from operator import mul
from typing import Callable

Vector = list[float]
Matrix = list[Vector]


def matmul_loops(a: Matrix, b: Matrix) -> Matrix:
    """a b as three plain loops, N x K and K x M -> N x M: the definition, and the reference."""
    product = [[0.0] * len(b[0]) for _ in a]
    for i in range(len(a)):
        for j in range(len(b[0])):
            for k in range(len(b)):
                product[i][j] += a[i][k] * b[k][j]
    return product


def _dot_loop(a: Sequence[float], b: Sequence[float]) -> float:
    total = 0.0
    for x, y in zip(a, b):
        total += x * y
    return total


def _dot_map(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(map(mul, a, b), 0.0)


def _fastest_dot() -> Callable[[Sequence[float], Sequence[float]], float]:
    """The dot product of two equally long rows, in the way that suits this Python."""
    if sys.implementation.name == "pypy":
        return _dot_loop  # the just-in-time compiler turns the loop into machine code
    if sys.version_info >= (3, 12):
        return math.sumprod  # one call in C, rounded only at its end
    return _dot_map  # the interpreter's loop runs in C


dot = _fastest_dot()


def transpose(a: Matrix) -> list[tuple[float, ...]]:
    """The columns of a as rows: N x M -> M x N."""
    return list(zip(*a))


def matmul(a: Matrix, b: Matrix) -> Matrix:
    """a b: N x K and K x M -> N x M."""
    columns = transpose(b)
    return [[dot(row, column) for column in columns] for row in a]


def matmul_bt(a: Matrix, b: Matrix) -> Matrix:
    """a b^T, every row of a with every row of b: N x K and M x K -> N x M."""
    return [[dot(row, other) for other in b] for row in a]


def matmul_at(a: Matrix, b: Matrix) -> Matrix:
    """a^T b, every column of a with every column of b: N x K and N x M -> K x M."""
    columns = transpose(b)
    return [[dot(row, column) for column in columns] for row in transpose(a)]
