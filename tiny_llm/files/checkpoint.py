"""A model as one file: its numbers, and all else that a run is, in the format of safetensors.py.

    tensors + plain data --save--> FILE --load--> the same, to the last bit, or one line of refusal

The metadata are one JSON string in the header of the file, so other tools open it, and the standard
library is enough to write it. Numbers are stored as they are, as F64; those of a packed matrix as
I8, with a tensor for their scales. A SHA-256 of the content travels along, so that a damaged file
is refused instead of loaded.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple

from tiny_llm.fast.packed import Packed, is_table
from tiny_llm.fast.tensors import shape
from tiny_llm.files import safetensors
from tiny_llm.files.atomic import replace_file
from tiny_llm.files.foreign import content_of
from tiny_llm.files.portable import ForeignError
from tiny_llm.files.safetensors import Stored
from tiny_llm.model import Parameters, Tensor, rows_of
from tiny_llm.text.shown import shown

METADATA = "tiny_llm"  # the key of the JSON string in the header's own `__metadata__`
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
    stored: dict[str, Stored] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Packed):
            size = len(tensor), tensor.width
            stored[name] = Stored("I8", size, [tensor.numbers.tobytes()])
            stored[name + SCALES] = _stored(name + SCALES, tensor.scales)
        else:
            stored[name] = _stored(name, tensor)
    write(path, stored, metadata)


def write(path: Path, stored: Mapping[str, Stored], metadata: dict[str, Any]) -> None:
    """The same with tensors as they lie in a file, for whoever has them so."""
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    own = {METADATA: text, "sha256": _digest(text, stored)}
    replace_file(path, safetensors.content(own, stored))


def load(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> Checkpoint:
    """The content of a file that `save` wrote, with those of its tensors whose names are wanted.

    The checksum is over all of them. Raises CheckpointError, with what is wrong, for anything else,
    and OSError if it cannot be read.
    """
    metadata, stored = read(path)
    try:
        tensors = {
            name: _loaded(name, stored)
            for name in stored
            if wanted(name) and not _are_scales(name, stored)
        }
    except ForeignError as error:
        raise _damaged(path, error) from None
    return Checkpoint(tensors, metadata)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The metadata, and the tensors as they lie in the file. Raises as `load` does."""
    content = content_of(path)
    try:
        own, stored = safetensors.parse(content)
        if not isinstance(own.get(METADATA), str):
            raise ForeignError("it has no tiny_llm metadata, so another program wrote it")
        for name, tensor in stored.items():
            if not 1 <= len(tensor.shape) <= 2 or not all(tensor.shape):
                raise ForeignError(f"tensor {shown(repr(name))} is not a vector or a matrix")
            if tensor.dtype not in ("F64", "I8"):
                raise ForeignError(f"tensor {shown(repr(name))} is neither F64 nor I8")
        if own.get("sha256") != _digest(own[METADATA], stored):
            raise ForeignError("its content does not match its checksum")
        return safetensors.json_object(own[METADATA]), stored
    except ForeignError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: ForeignError) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or no checkpoint of tiny-lm: {error}")


def _stored(name: str, tensor: Tensor) -> Stored:
    rows = safetensors.encoded(name, "F64", rows_of(tensor))
    return Stored("F64", shape(tensor), [b"".join(rows)])


def _loaded(name: str, stored: Mapping[str, Stored]) -> Any:
    """A vector, a matrix, or a packed matrix of the tensor and its scales."""
    tensor = stored[name]
    if tensor.dtype == "F64":
        matrix = list(safetensors.rows(name, tensor))
        return matrix if len(tensor.shape) == 2 else matrix[0]
    scales = stored.get(name + SCALES)
    if len(tensor.shape) != 2 or scales is None or scales.shape != tensor.shape[:1]:
        raise ForeignError(f"{shown(name)} has no scale for each of its rows")
    numbers = array("b")
    for part in tensor.parts:
        numbers.frombytes(part)
    return Packed(numbers, _loaded(name + SCALES, stored), is_table(name))


def _are_scales(name: str, stored: Mapping[str, Stored]) -> bool:
    matrix = stored.get(name[: -len(SCALES)]) if name.endswith(SCALES) else None
    return matrix is not None and matrix.dtype == "I8"


def _digest(text: str, stored: Mapping[str, Stored]) -> str:
    """SHA-256 of the metadata, and of the name, the shape and the numbers of each tensor."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name, (dtype, size, parts) in sorted(stored.items()):
        kind = [] if dtype == "F64" else [dtype]
        digest.update(json.dumps([name, list(size), *kind]).encode())
        for part in parts:
            digest.update(part)
    return digest.hexdigest()
