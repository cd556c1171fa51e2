"""A model as one file that nothing can execute: safetensors.

    8 bytes: length of the header | header: JSON | tensors: raw numbers, one after the other

Python's own pickle is shorter to use, but loading one runs whatever code it names. Here is a table
and numbers, nothing else: the header says where each tensor lies, and carries one JSON string of
metadata. The format is that of https://github.com/huggingface/safetensors, so other tools open the
file, while the standard library is enough to write it. Numbers are stored as they are, as F64;
those of a packed matrix as I8, with a tensor for their scales. A SHA-256 of the content travels
along, so that a damaged file is refused instead of loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple, Union

from tiny_llm.fast.packed import Packed, is_table
from tiny_llm.fast.tensors import shape
from tiny_llm.files.atomic import replace_file
from tiny_llm.files.foreign import content_of, parsed
from tiny_llm.model import Parameters, Tensor, rows_of
from tiny_llm.text.shown import shown

METADATA = "tiny_llm"  # the key of the JSON string in the header's own `__metadata__`
BYTES = {"F64": 8, "I8": 1}  # of a number; the wider ones come first, so that all are aligned
SCALES = ".scales"  # ends the name of the tensor with the scales of a packed matrix


class CheckpointError(ValueError):
    """The file is not a checkpoint, or no longer what was written."""


class Checkpoint(NamedTuple):
    """What a file holds: plain data."""

    tensors: Parameters
    metadata: dict[str, Any]


def save(path: Path, tensors: Parameters, metadata: dict[str, Any]) -> None:
    """Write the file so that a crash at any moment leaves the old one or the new one, whole.

    Equal content gives equal bytes. Raises ValueError for a number that is not finite and OSError
    when the file cannot be written; what stood at `path` before is then untouched.
    """
    table: dict[str, Any] = {}
    blocks: dict[str, bytes] = {}
    end = 0
    for name, dtype, tensor in sorted(_plain(tensors), key=lambda entry: -BYTES[entry[1]]):
        blocks[name] = tensor.numbers.tobytes() if dtype == "I8" else _to_bytes(name, tensor)
        begin, end = end, end + len(blocks[name])
        table[name] = {"dtype": dtype, "shape": list(shape(tensor)), "data_offsets": [begin, end]}
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    own = {METADATA: text, "sha256": _digest(text, table, blocks)}
    header = json.dumps({"__metadata__": own, **table}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that the numbers begin at a multiple of 8
    replace_file(path, [len(header).to_bytes(8, "little"), header, *blocks.values()])


def load(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> Checkpoint:
    """The content of a file that `save` wrote, with those of its tensors whose names are wanted.

    The checksum is over all of them. Raises CheckpointError, with what is wrong, for anything else,
    and OSError if it cannot be read.
    """
    content = content_of(path)
    try:
        table, body = _parse(content)
        own = table.pop("__metadata__", {})
        if not isinstance(own, dict) or not isinstance(own.get(METADATA), str):
            raise CheckpointError("it has no tiny_llm metadata, so another program wrote it")
        blocks = _blocks(table, body)
        if own.get("sha256") != _digest(own[METADATA], table, blocks):
            raise CheckpointError("its content does not match its checksum")
        metadata = _json_object(own[METADATA])
        tensors = {
            name: _from_bytes(name, entry, blocks[name])
            for name, entry in table.items()
            if wanted(name)
        }
        tensors = {
            name: _packed(name, tensor, tensors, table)
            for name, tensor in tensors.items()
            if not _are_scales(name, tensors)
        }
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint of tiny-lm: {error}") from None
    return Checkpoint(tensors, metadata)


def _to_bytes(name: str, tensor: Tensor) -> bytes:
    """The numbers of a tensor, row by row, as little-endian float64."""
    numbers = array("d")
    for row in rows_of(tensor):
        numbers.extend(row)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} holds a number that is not finite")
    return numbers.tobytes()


def _from_bytes(name: str, entry: dict[str, Any], block: memoryview) -> Any:
    """The numbers of a tensor as lists, or those of a packed matrix as they are."""
    shape, is_int8 = entry["shape"], entry["dtype"] == "I8"
    numbers = array("b" if is_int8 else "d")
    numbers.frombytes(block)
    if is_int8:
        return numbers
    if not all(map(math.isfinite, numbers)):
        raise CheckpointError(f"{shown(name)} holds a number that is not finite")
    if len(shape) == 1:
        return numbers.tolist()
    rows, columns = shape
    return [numbers[i * columns : (i + 1) * columns].tolist() for i in range(rows)]


def _plain(tensors: Parameters) -> Iterator[tuple[str, str, Any]]:
    """The name, the type and the content of every tensor that is written."""
    for name, tensor in tensors.items():
        if isinstance(tensor, Packed):
            yield name, "I8", tensor
            yield name + SCALES, "F64", tensor.scales
        else:
            yield name, "F64", tensor


def _are_scales(name: str, tensors: Mapping[str, Any]) -> bool:
    return name.endswith(SCALES) and isinstance(tensors.get(name[: -len(SCALES)]), array)


def _packed(name: str, tensor: Any, tensors: Mapping[str, Any], table: dict[str, Any]) -> Any:
    """The tensor, or a packed matrix of it and its scales."""
    if not isinstance(tensor, array):
        return tensor
    scales: list[float] = tensors.get(name + SCALES, [])
    if len(table[name]["shape"]) != 2 or [len(scales)] != table[name]["shape"][:1]:
        raise CheckpointError(f"{shown(name)} has no scale for each of its rows")
    return Packed(tensor, scales, is_table(name))


def _digest(
    text: str, table: dict[str, Any], blocks: Mapping[str, Union[bytes, memoryview]]
) -> str:
    """SHA-256 of the metadata, and of the name, the shape and the numbers of each tensor."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(table):
        dtype = [] if table[name]["dtype"] == "F64" else [table[name]["dtype"]]
        digest.update(json.dumps([name, table[name]["shape"], *dtype]).encode())
        digest.update(blocks[name])
    return digest.hexdigest()


# ---------------------------------------------------------------- what a stranger may have written


def _parse(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header and what stands behind it."""
    if len(content) < 8:
        raise CheckpointError(f"it has {len(content)} bytes, too few for a header")
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8:
        raise CheckpointError(f"it claims a header of {length} bytes and has {len(content)} in all")
    try:
        text = content[8 : 8 + length].decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError("its header is not text") from None
    return _json_object(text), memoryview(content)[8 + length :]


def _json_object(text: str) -> dict[str, Any]:
    """The JSON object in `text`."""
    try:
        value = parsed(text)
    except ValueError as error:
        raise CheckpointError(f"its header cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError("its header is not a JSON object")
    return value


def _blocks(table: dict[str, Any], body: memoryview) -> dict[str, memoryview]:
    """The bytes of each tensor; together they fill the body, one behind the other.

    So the shapes alone say where each lies, and all of them take no more memory than the file,
    whatever sizes a stranger wrote into it.
    """
    blocks, end = {}, 0
    try:
        for name, entry in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
            shape = entry["shape"]
            if not 1 <= len(shape) <= 2 or not all(type(n) is int and n > 0 for n in shape):
                raise CheckpointError(f"tensor {shown(repr(name))} is not a vector or a matrix")
            dtype = entry["dtype"]
            if dtype not in BYTES:
                raise CheckpointError(f"tensor {shown(repr(name))} is neither F64 nor I8")
            begin, end = end, end + BYTES[dtype] * math.prod(shape)
            if entry != {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}:
                raise CheckpointError(f"tensor {shown(repr(name))} is not where it should be")
            blocks[name] = body[begin:end]
    except (TypeError, KeyError):
        raise CheckpointError("its table of tensors is none") from None
    if end != len(body):
        raise CheckpointError(f"its tensors need {end} bytes, and it has {len(body)}")
    return blocks
