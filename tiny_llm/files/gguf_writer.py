"""GGUF, the container, as it is written: entries, the table of tensors, and their numbers.

Tensors follow each other in the order of the table, each at the next multiple of 32 bytes:
llama.cpp refuses a file that leaves any other gap. Only one of them is in memory at a time.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Callable, NamedTuple, Union

from tiny_llm.files.atomic import replacing
from tiny_llm.files.gguf import (
    ALIGNMENT,
    ARRAY,
    BOOL,
    FLOAT32,
    INT32,
    MAGIC,
    STRING,
    UINT32,
    VERSION,
    padded,
)
from tiny_llm.files.gguf_numbers import FORMS
from tiny_llm.files.portable import ForeignError
from tiny_llm.text.shown import shown

LONGEST_TENSOR_NAME = 63  # bytes: llama.cpp keeps 64, one of which ends the name


class Outgoing(NamedTuple):
    """A tensor to be written: its numbers as bytes, in as many parts as is convenient."""

    name: str
    shape: tuple[int, ...]
    form: str
    parts: Callable[[], Iterable[bytes]]

    @property
    def size(self) -> int:
        """In bytes."""
        form = FORMS[self.form]
        return prod(self.shape) // form.length * form.size


Writable = Union[bool, int, float, str, Sequence[str], "array[int]"]


def write(path: Path, entries: dict[str, Writable], tensors: Sequence[Outgoing]) -> None:
    """Write the file; no more than one tensor's part of it is in memory at a time.

    Whole numbers become UINT32, floats FLOAT32, those of an array INT32. Raises ForeignError for a
    tensor whose name is too long or whose numbers are not as many as its shape says, and OSError
    when it cannot be written; what stood at `path` before is then untouched.
    """
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(entries))]
    for key, value in entries.items():
        parts += [_string(key), _written(value)]
    offset = 0
    for tensor in tensors:
        if len(tensor.name.encode()) > LONGEST_TENSOR_NAME:
            raise ForeignError(f"the name {tensor.name} is too long for GGUF")
        n, shape = len(tensor.shape), tensor.shape[::-1]
        number = FORMS[tensor.form].number
        parts += [_string(tensor.name), struct.pack(f"<I{n}QIQ", n, *shape, number, offset)]
        offset += padded(tensor.size, ALIGNMENT)
    header = b"".join(parts)
    with replacing(path) as (file,):
        file.write(header + bytes(-len(header) % ALIGNMENT))
        for tensor in tensors:
            size = sum(map(file.write, tensor.parts()))
            if size != tensor.size:
                raise ForeignError(f"{tensor.name} has {size} bytes, and its shape asks for others")
            file.write(bytes(-size % ALIGNMENT))


def _string(text: str) -> bytes:
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ForeignError(f"{shown(repr(text))} holds half a character") from None
    return struct.pack("<Q", len(data)) + data


def _written(value: Writable) -> bytes:
    """The type and the value of an entry."""
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    if isinstance(value, array):
        return struct.pack(f"<IIQ{len(value)}i", ARRAY, INT32, len(value), *value)
    strings = b"".join(map(_string, value))
    return struct.pack("<IIQ", ARRAY, STRING, len(value)) + strings
