"""Tensors as such: shapes, finite numbers, weighted sums of gradients computed in parts."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tiny_llm.fast.packed import Packed
from tiny_llm.matmul import Vector
from tiny_llm.model import Parameters, Tensor, rows_of


def shape(tensor: Tensor) -> tuple[int, ...]:
    """(length,) of a vector, (rows, columns) of a matrix. Raises ValueError for uneven rows."""
    if isinstance(tensor, Packed):  # whose rows would have to be decoded
        return len(tensor), tensor.width
    widths = {len(row) for row in rows_of(tensor)}
    if len(widths) != 1:
        raise ValueError(f"a tensor has rows of one length, not of {sorted(widths)}")
    return (len(tensor), *widths) if isinstance(tensor[0], list) else (len(tensor),)


def count(tensors: Parameters) -> int:
    """How many numbers there are."""
    return sum(math.prod(shape(tensor)) for tensor in tensors.values())


def scaled(tensors: Parameters, factor: float) -> Parameters:
    """The tensors times a number, in new lists."""
    return {name: _scaled(tensor, factor) for name, tensor in tensors.items()}


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    rows = [[factor * value for value in row] for row in rows_of(tensor)]
    return rows if isinstance(tensor[0], list) else rows[0]


def add_scaled(total: Parameters, tensors: Parameters, factor: float) -> None:
    """total <- total + factor * tensors, in place, number by number: equal names and shapes."""
    for name, tensor in tensors.items():
        for row, addend in zip(rows_of(total[name]), rows_of(tensor)):
            row[:] = [a + factor * b for a, b in zip(row, addend)]


def check_finite(rows: Iterable[Vector]) -> None:
    """Raises ValueError, with what to do, unless all that a model computed are finite numbers."""
    if not all(math.isfinite(value) for row in rows for value in row):
        raise ValueError(
            "the model computes numbers that are not finite: its weights are too large, so its "
            "training went wrong; take an earlier checkpoint, or train it anew with a lower "
            "learning rate"
        )
