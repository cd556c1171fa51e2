"""A tensor of a GGUF file in the order of this project, decoded when it is asked for.

    blocks in the file --rows put in order--> blocks --decoded, one by one--> rows of floats
    blocks in the file --decoded, all at once--> columns as rows      (the layers of GPT-2)

Rows are put in order as blocks, which is why no number has to be decoded for it: whoever can use
the blocks as they are takes `raw`.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from typing import Optional

from tiny_llm.fast.packed import Packed
from tiny_llm.fast.requantize import FORMATS, int8_rows
from tiny_llm.files.gguf import Entry
from tiny_llm.files.gguf_names import AS_COLUMNS, AS_HERE, HEADS, Part, places
from tiny_llm.files.gguf_numbers import FORMS, Bytes
from tiny_llm.files.portable import ForeignError, PortableTensor
from tiny_llm.matmul import Vector


class GgufTensor(PortableTensor):
    """A tensor of a mapped file. `form`: how its numbers are written, one of FORMS; `heads`: by how
    many its rows are paired, if they are."""

    def __init__(self, part: Part, entry: Entry, heads: int = 1) -> None:
        self.form, self._part, self._entry, self._heads = entry.form, part, entry, heads
        super().__init__(entry.shape[::-1] if part.lie == AS_COLUMNS else entry.shape, self._rows)

    def raw(self) -> Optional[Bytes]:
        """The blocks as they are in the file, row by row in the order of this project; None where
        its rows are the columns of the file's."""
        if self._part.lie == AS_COLUMNS:
            return None
        return self._entry.data if self._part.lie == AS_HERE else b"".join(self._raw_rows())

    def packed(self, is_table: bool) -> Packed:
        """Rounded to int8: from its blocks where these hold whole numbers, else from floats."""
        data = self.raw() if self.form in FORMATS else None
        if data is None:
            return super().packed(is_table)
        try:
            numbers, scales = int8_rows(data, self.form, *self.shape)
        except ValueError as error:
            raise ForeignError(f"its tensor {self._part.theirs}: {error}") from None
        return Packed(numbers, scales, is_table)

    def _raw_rows(self) -> Iterator[memoryview]:
        data = self._entry.data
        n_rows = self._entry.shape[0] if len(self._entry.shape) == 2 else 1
        size = len(data) // n_rows
        paired = self._part.lie in HEADS
        for row in places(n_rows, self._heads) if paired else range(n_rows):
            yield data[row * size : (row + 1) * size]

    def _rows(self) -> Iterator[Vector]:
        decode = FORMS[self.form].decode
        rows = map(decode, self._raw_rows())
        for row in columns(rows) if self._part.lie == AS_COLUMNS else rows:
            if not math.isfinite(sum(row)):  # of float32 numbers: no such sum is too large
                raise ForeignError(
                    f"its tensor {self._part.theirs} holds a number that is not finite"
                )
            yield row


def columns(rows: Iterator[Vector]) -> Iterator[Vector]:
    """The columns of float32 rows, which are all held meanwhile."""
    numbers, width = array("f"), 0
    for row in rows:
        numbers.extend(row)
        width = len(row)
    for column in range(width):
        yield numbers[column::width].tolist()
