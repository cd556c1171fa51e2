"""Weights of one byte each, which stand in the place of nested lists.

    weights  0.31 -0.07  0.52    = 0.0041 *   76  -17  127     int8 numbers, a scale for each row
    inputs   2.1   0.4  -0.9     = 0.03   *   70   13  -30     whole numbers, a scale for each row

Whoever only reads a model multiplies with the same weights again and again. So they are rounded to
int8 beforehand, and laid out as it suits the Python that runs: packed_lanes.py for CPython,
packed_words.py for PyPy. Then a product of one row, which is all that a model needs for its next
token, is a sum of products of whole numbers, and exact.

What goes into a product is rounded, too. Nothing may leave 24 bits, so a row of K inputs may be as
long as 2^23 over the length of a row of weights, 127 sqrt(K) at most (Cauchy and Schwarz). CPython
takes less time the fewer different inputs there are, and many of them are rounded to a length of
48 sqrt(K), so that one of usual size counts 24 to 48 units. A few inputs of a real model are twenty
times as large as the others: whole numbers like all, only larger, and no reason for the others to
be coarser (Dettmers et al., 2022, who found such inputs, keep them apart).

A packed matrix is multiplied in the direction of its forward alone: there is no way back through
rounded weights, and no training.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from operator import add
from typing import Any, Callable, TypeVar, Union, overload

from tiny_llm.fast.lanes import whole_numbers
from tiny_llm.fast.packed_lanes import Lanes
from tiny_llm.fast.packed_words import Words
from tiny_llm.matmul import Matrix, Rows, Vector
from tiny_llm.model import LanguageModel

Kernel = Union[Lanes, Words]
Kernels = list[tuple[slice, Any]]  # the inputs, and the kernel that multiplies with them
KERNEL: type[Kernel] = Words if sys.implementation.name == "pypy" else Lanes
LARGEST = 127  # of an int8 number; -128 is not used, so that a row and its negative are alike
WIDEST = 1536  # inputs of one kernel: for more, 24 bits would leave too few to each
MANY = 256  # inputs from which on CPython gains by rounding them more than they need
UNITS = 48  # that an input of usual size is rounded to then, or half as many


P = TypeVar("P", bound="Packed")


class Packed(Sequence[Vector]):
    """A matrix of R rows and C columns that is read like a list of lists, and not written.

    `is_table`: each row belongs to a token or a position, so that it is looked up, or multiplied
    as the columns of a product (x W^T); else the matrix is a layer's (x W).
    """

    def __init__(self, numbers: array[int], scales: Vector, is_table: bool) -> None:
        self.scales, self.is_table = scales, is_table
        self.width = width = len(numbers) // len(scales)
        outputs, inputs = (len(scales), width) if is_table else (width, len(scales))
        kernels: Kernels = []
        flat = numbers.tobytes()
        for start in range(0, inputs, WIDEST):
            stop = min(start + WIDEST, inputs)
            if not is_table:
                part = flat[start * width : stop * width]
            elif inputs > WIDEST:
                part = b"".join([flat[i + start : i + stop] for i in range(0, len(flat), width)])
            else:
                part = flat
            kernels.append((slice(start, stop), KERNEL.of(part, outputs, stop - start, is_table)))
        self.halves = [kernels]  # or two, which two processes could have: see halves.py

    @classmethod
    def of(cls: type[P], kernels: Kernels, scales: Vector, is_table: bool) -> P:
        """From kernels that are there."""
        packed = cls.__new__(cls)
        packed.scales, packed.is_table, packed.halves = scales, is_table, [kernels]
        packed.width = packed.inputs if is_table else kernels[0][1].outputs
        return packed

    @property
    def kernels(self) -> Kernels:
        """All of them: the inputs, and what multiplies with them."""
        return [kernel for half in self.halves for kernel in half]

    @property
    def inputs(self) -> int:
        """How many numbers go into a product."""
        return int(self.kernels[-1][0].stop)

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
        if not self.is_table:
            return self.rows[index]
        row = index % len(self)
        return [number * scale for _, k in self.kernels for number in k.numbers_of(row)]

    def __iter__(self) -> Iterator[Vector]:
        """Row by row; all numbers are taken out at once, which is faster than row after row."""
        numbers = self.numbers
        for row, scale in enumerate(self.scales):
            start = row * self.width
            yield [number * scale for number in numbers[start : start + self.width]]

    def multiply(
        self, a: Rows, transposed: bool, in_floats: Callable[[Rows, Rows], Matrix]
    ) -> Matrix:
        """a W, or a W^T for a table: N x R -> N x C, N x C -> N x R.

        `in_floats` does it where whole numbers cannot hold a. Raises ValueError for the other
        direction.
        """
        if transposed != self.is_table:
            raise ValueError("int8 weights have no backward; take those that they were made of")
        with suppress(OverflowError):
            return [self._product(row) for row in a]
        return in_floats(a, self.rows)

    def _product(self, row: Sequence[float]) -> Vector:
        """One row of the product. Raises OverflowError."""
        if not self.is_table:
            row = [x * scale for x, scale in zip(row, self.scales)]
        return _added([_added([self._part(row, *kernel) for kernel in half])
                       for half in self.halves])  # fmt: skip

    def _part(self, row: Sequence[float], inputs: slice, kernel: Any) -> Vector:
        """What one kernel makes of its inputs."""
        factors, unit = _rounded(row[inputs], longest_row(inputs.stop - inputs.start))
        unit *= kernel.unit
        if self.is_table:
            return [unit * x * scale for x, scale in zip(kernel.sums(factors), self.scales)]
        return [unit * x for x in kernel.sums(factors)]

    @property
    def numbers(self) -> array[int]:
        """The int8 numbers, one row after the other: R x C."""
        columns = [column for _, kernel in self.kernels for column in kernel.numbers()]
        if not self.is_table:  # whose inputs are its rows
            return array("b", b"".join(columns))
        flat = bytearray(len(self) * self.width)
        for place, column in enumerate(columns):
            flat[place :: self.width] = column
        return array("b", bytes(flat))

    @cached_property
    def rows(self) -> Matrix:
        """As floats, for a product that has no lanes."""
        return list(self)


def _added(rows: list[Vector]) -> Vector:
    """Their sum, number by number."""
    total = rows[0]
    for row in rows[1:]:
        total = list(map(add, total, row))
    return total


_last: tuple[Any, ...] = ([], 0, ())


def _rounded(row: Sequence[float], limit: float) -> tuple[Sequence[int], float]:
    """As `whole_numbers`, done once for what follows on one another: queries, keys and values have
    the same inputs."""
    global _last
    if _last[0] != row or _last[1] != limit:
        _last = row, limit, whole_numbers(row, limit)
    whole: tuple[Sequence[int], float] = _last[2]
    return whole


def longest_row(inputs: int) -> float:
    """How long a row of so many whole numbers may be, before each is rounded by at most 1/2."""
    room = 2**23 / (LARGEST * math.sqrt(inputs))
    if KERNEL is Lanes and inputs >= MANY:
        room = min(room, UNITS * math.sqrt(inputs))
    return room - math.sqrt(inputs) / 2 - 1


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
