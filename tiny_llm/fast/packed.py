"""Weights of one byte each, which stand in the place of nested lists.

    weights  0.31 -0.07  0.52    = 0.0041 *   76  -17  127     int8 numbers, a scale for each row
                                             ..76|.-17|.127    in lanes, once for all products

Whoever only reads a model multiplies with the same weights again and again. So they are rounded to
int8 and laid side by side in big integers beforehand, and a product of one row, which is all that
a model needs for its next token, costs no more for each multiply-add than one of many. The numbers
that go through the model stay what they were (Dettmers et al., 2022, find the same for models of
billions of weights: eight bits are enough for them, a little more is needed for what they read).

A packed matrix is multiplied in the direction of its forward alone: there is no way back through
rounded weights, and no training.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Callable, overload

from tiny_llm.fast.lanes import LONG, MIDDLE, SHORT, longest, sums_in_lanes
from tiny_llm.matmul import Matrix, Rows, Vector
from tiny_llm.model import LanguageModel

LANES_PAY = sys.implementation.name != "pypy"  # where loops over floats are compiled, and faster
LARGEST = 127  # of an int8 number; -128 is not used, so that a row and its negative are alike
ENOUGH = 2**12  # units of length for a row to be rounded to; lanes that give it fewer are too short


class Packed(Sequence[Vector]):
    """A matrix of R rows and C columns that is read like a list of lists, and not written.

    `is_table`: each row belongs to a token or a position, so that it is looked up, or multiplied
    as the columns of a product (x W^T); else the matrix is a layer's (x W).
    """

    def __init__(self, numbers: array[int], scales: Vector, is_table: bool) -> None:
        self.numbers, self.scales, self.is_table = numbers, scales, is_table
        self.width = len(numbers) // len(scales)

    def __len__(self) -> int:
        return len(self.scales)

    @overload
    def __getitem__(self, index: int) -> Vector: ...
    @overload
    def __getitem__(self, index: slice) -> Matrix: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        scale = self.scales[index]  # raises IndexError
        start = index % len(self) * self.width
        return [number * scale for number in self.numbers[start : start + self.width]]

    def multiply(
        self, a: Rows, transposed: bool, in_floats: Callable[[Rows, Rows], Matrix]
    ) -> Matrix:
        """a W, or a W^T for a table: N x R -> N x C, N x C -> N x R.

        `in_floats` does it where lanes do not pay or cannot hold a. Raises ValueError for the other
        direction.
        """
        if transposed != self.is_table:
            raise ValueError("int8 weights have no backward; take those that they were made of")
        if LANES_PAY:
            with suppress(OverflowError):
                return self._in_lanes(a)
        return in_floats(a, self.rows)

    def _in_lanes(self, a: Rows) -> Matrix:
        size, limit, integers = self._lanes
        if self.is_table:
            sums = sums_in_lanes(a, limit, integers, len(self), size)
            return [[x * unit * s for x, s in zip(row, self.scales)] for row, unit in sums]
        a = [[x * s for x, s in zip(row, self.scales)] for row in a]
        sums = sums_in_lanes(a, limit, integers, self.width, size)
        return [[x * unit for x in row] for row, unit in sums]

    @cached_property
    def rows(self) -> Matrix:
        """As floats, for a product that has no lanes."""
        return list(self)

    @cached_property
    def _lanes(self) -> tuple[int, float, list[int]]:
        """The bytes of a lane, how long a row may be that is multiplied with them, the integers."""
        width, numbers = self.width, self.numbers
        along = [numbers[i : i + width] for i in range(0, len(numbers), width)]
        across = [numbers[i::width] for i in range(width)]
        vectors, integers = (along, across) if self.is_table else (across, along)
        length = max(math.hypot(*vector) for vector in vectors) or 1.0
        for size in (SHORT, MIDDLE, LONG):
            room = longest(size, 1) ** 2 / length - math.sqrt(len(integers)) / 2 - 1
            if room >= ENOUGH:
                break
        limit = min(room, longest(LONG, len(integers)))
        middles = int.from_bytes((b"\x80" + bytes(size - 1)) * len(vectors), "little")
        return size, limit, [_laid_out(row, size) - middles for row in integers]


def _laid_out(numbers: array[int], size: int) -> int:
    """Each number + 128 in a lane of its own."""
    lanes = bytearray(len(numbers) * size)
    lanes[::size] = numbers.tobytes().translate(_PLUS_128)
    return int.from_bytes(lanes, "little")


_PLUS_128 = bytes(byte ^ 128 for byte in range(256))


def pack(rows: Iterable[Vector], is_table: bool) -> Packed:
    """Rounded so that the largest number of each row is 127 or -127 of its scale."""
    numbers, scales = array("b"), []
    for row in rows:
        scale = max(map(abs, row)) / LARGEST
        scales.append(scale)
        numbers.extend([round(value / scale) for value in row] if scale else [0] * len(row))
    return Packed(numbers, scales, is_table)


def is_table(name: str) -> bool:
    """Whether the matrix of this name has a row for each token or position, or for each output, as
    Llama's layers have, which are multiplied like tables."""
    return name.split(".")[0] in TABLES


TABLES = {
    "embedding", "token_embedding", "position_embedding", "wte", "wpe", "lm_head",
    "embed_tokens", "layers",
}  # fmt: skip


def quantize(model: LanguageModel) -> None:
    """Pack every matrix of the model; the vectors stay, which are few."""
    for name, tensor in model.parameters.items():
        if isinstance(tensor[0], list) and not isinstance(tensor, Packed):
            model.parameters[name] = pack(tensor, is_table(name))
