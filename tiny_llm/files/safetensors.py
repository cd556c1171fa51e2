"""Numbers as a file that nothing can execute: safetensors.

    8 bytes: length of the header | header: JSON | tensors: raw numbers, one after the other

    {"__metadata__": {"format": "pt"}, "wte.weight": {"dtype": "F32", "shape": [2, 3],
                                                      "data_offsets": [0, 24]}, ...}

Python's own pickle is shorter to use, but loading one runs whatever code it names. Here is a table
and numbers, nothing else: the header says where each tensor lies, and carries some strings as
metadata. The format is that of https://github.com/huggingface/safetensors (2022). The standard
library is enough for it: `struct` knows three of the four kinds of floats, and a bfloat16 is the
upper half of a float32.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Union

from tiny_llm.files.foreign import opened, parsed
from tiny_llm.files.portable import ForeignError
from tiny_llm.matmul import Vector
from tiny_llm.text.shown import shown

Content = Union[bytes, memoryview, mmap.mmap]
Table = dict[str, Any]

BYTES = {  # of a number, for all kinds that the format has
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
FLOATS = {"F64": "d", "F32": "f", "F16": "e", "BF16": "f"}  # what `struct` calls them
MOST_AXES = 8  # so that nobody multiplies a million sizes


class Stored(NamedTuple):
    """A tensor as it lies in a file. What was read from one has a single part."""

    dtype: str
    shape: tuple[int, ...]
    parts: Iterable[Union[bytes, memoryview]]  # its numbers row by row, each little-endian


# ---------------------------------------------------------------- reading


def mapped(path: Path) -> memoryview:
    """The content of a file, of which the system reads only what is looked at.

    Nobody may shorten the file meanwhile; replacing it, as `replace_file` does, is fine. Raises
    OSError if it cannot be read.
    """
    with closing(opened(path)) as file:
        if not file.seek(0, 2):
            return memoryview(b"")  # which cannot be mapped
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def parse(content: Content) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The metadata and the tensors, not decoded. Raises ForeignError for other content."""
    table, body = _parts(memoryview(content))
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ForeignError("its metadata are not a JSON object")
    return metadata, _stored(table, body)


def json_object(text: str) -> dict[str, Any]:
    """The JSON object in `text`. Raises ForeignError if there is none."""
    try:
        value = parsed(text)
    except ValueError as error:
        raise ForeignError(f"its header cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise ForeignError("its header is not a JSON object")
    return value


def _parts(content: memoryview) -> tuple[Table, memoryview]:
    """The header and what stands behind it."""
    if len(content) < 8:
        raise ForeignError(f"it has {len(content)} bytes, too few for a header")
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8:
        raise ForeignError(f"it claims a header of {length} bytes and has {len(content)} in all")
    try:
        text = str(content[8 : 8 + length], "utf-8")
    except UnicodeDecodeError:
        raise ForeignError("its header is not text") from None
    return json_object(text), content[8 + length :]


def _stored(table: Table, body: memoryview) -> dict[str, Stored]:
    """Each tensor; together they fill the body, one behind the other.

    So the shapes alone say where each lies, and all of them take no more memory than the file,
    whatever sizes a stranger wrote into it.
    """
    tensors, end = {}, 0
    try:
        for name, entry in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape = entry["dtype"], entry["shape"]
            if dtype not in BYTES:
                raise ForeignError(f"tensor {shown(repr(name))} has numbers of an unknown kind")
            if len(shape) > MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
                raise ForeignError(f"tensor {shown(repr(name))} has a shape that is none")
            begin, end = end, end + BYTES[dtype] * math.prod(shape)
            if entry != {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}:
                raise ForeignError(f"tensor {shown(repr(name))} is not where it should be")
            tensors[name] = Stored(dtype, tuple(shape), [body[begin:end]])
    except (TypeError, KeyError):
        raise ForeignError("its table of tensors is none") from None
    if end != len(body):
        raise ForeignError(f"its tensors need {end} bytes, and it has {len(body)}")
    return tensors


def rows(name: str, tensor: Stored) -> Iterator[Vector]:
    """The rows of a matrix of FLOATS that was read from a file; a vector as its only one.

    No number is rounded. Raises ForeignError for one that is not finite.
    """
    (block,) = tensor.parts
    size = BYTES[tensor.dtype] * tensor.shape[-1]
    for start in range(0, len(block), size):
        row = _decoded(tensor.dtype, block[start : start + size])
        if not _are_finite(row):
            raise ForeignError(f"{shown(name)} holds a number that is not finite")
        yield row


def _decoded(dtype: str, numbers: Union[bytes, bytearray, memoryview]) -> Vector:
    if dtype == "BF16":
        wide = bytearray(2 * len(numbers))
        wide[2::4], wide[3::4] = bytes(numbers[::2]), bytes(numbers[1::2])
        numbers, dtype = wide, "F32"
    return list(struct.unpack(f"<{len(numbers) // BYTES[dtype]}{FLOATS[dtype]}", numbers))


def _are_finite(row: Vector) -> bool:
    """A finite sum is one of finite numbers, and takes a fraction of the time."""
    return math.isfinite(sum(row)) or all(map(math.isfinite, row))


# ---------------------------------------------------------------- writing


def encoded(name: str, dtype: str, rows: Iterable[Vector]) -> Iterator[bytes]:
    """The inverse of `rows`, a part for each, as F64, F32 or F16, rounded to the nearest number.

    Raises ValueError for one that is not finite, or too large for its kind.
    """
    for row in rows:
        if not _are_finite(row):
            raise ValueError(f"{name} holds a number that is not finite")
        try:
            yield struct.pack(f"<{len(row)}{FLOATS[dtype]}", *row)
        except OverflowError:
            largest = max(row, key=abs)
            raise ValueError(f"{name} holds {largest:.6g}, too large for {dtype}") from None


def content(
    metadata: Mapping[str, str], tensors: Mapping[str, Stored]
) -> Iterator[Union[bytes, memoryview]]:
    """The parts of a file of these, in the order in which they are written."""
    # The wider numbers come first, so that all are aligned.
    order = sorted(tensors, key=lambda name: -BYTES[tensors[name].dtype])
    table: Table = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        dtype, shape, _ = tensors[name]
        begin, end = end, end + BYTES[dtype] * math.prod(shape)
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that the numbers begin at a multiple of 8
    yield len(header).to_bytes(8, "little")
    yield header
    for name in order:
        yield from tensors[name].parts
