"""A model as one file that nothing can execute: safetensors.

    8 bytes: length of the header | header: JSON | tensors: raw float64, one after the other

Python's own pickle is shorter to use, but loading one runs whatever code it names. Here is a table
and numbers, nothing else: the header says where each tensor lies, and carries one JSON string of
metadata. The format is that of https://github.com/huggingface/safetensors, so other tools open the
file, while the standard library is enough to write it. Numbers are stored as they are, as F64. A
SHA-256 of the content travels along, so that a damaged file is refused instead of loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Optional

from tiny_llm.fast.tensors import shape
from tiny_llm.model import Parameters, Tensor, rows_of

METADATA = "tiny_llm"  # the key of the JSON string in the header's own `__metadata__`


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
    table, blocks, end = {}, [], 0
    for name, tensor in tensors.items():
        block = _to_bytes(name, tensor)
        begin, end = end, end + len(block)
        table[name] = {"dtype": "F64", "shape": list(shape(tensor)), "data_offsets": [begin, end]}
        blocks.append(block)
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    own = {METADATA: text, "sha256": _digest(text, table, b"".join(blocks))}
    header = json.dumps({"__metadata__": own, **table}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that the numbers begin at a multiple of 8
    replace_file(path, [len(header).to_bytes(8, "little"), header, *blocks])


def load(path: Path) -> Checkpoint:
    """The content of a file that `save` wrote.

    Raises CheckpointError, with what is wrong, for anything else, and OSError if it cannot be read.
    """
    content = path.read_bytes()
    try:
        header, body = _parse(content)
        own = header.pop("__metadata__", {})
        if not isinstance(own, dict) or not isinstance(own.get(METADATA), str):
            raise CheckpointError("it has no tiny_llm metadata, so another program wrote it")
        _check_table(header, len(body))
        if own.get("sha256") != _digest(own[METADATA], header, body):
            raise CheckpointError("its content does not match its checksum")
        metadata = _json_object(own[METADATA])
        tensors = {name: _from_bytes(name, entry, body) for name, entry in header.items()}
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint of tiny-lm: {error}") from None
    return Checkpoint(tensors, metadata)


def keep_old(path: Path) -> Optional[Path]:
    """Copy the file at `path` to `path`.bak, which is returned; None if there is no such file."""
    if not path.exists():
        return None
    backup = path.with_name(path.name + ".bak")
    copy_file(path, backup)
    return backup


def copy_file(source: Path, target: Path) -> None:
    """Copy a file so that `target` is the old one or the whole copy. Raises OSError about it."""
    copy = _temporary(target)
    try:
        shutil.copyfile(source, copy)
        copy.replace(target)
    except OSError as error:
        _remove(copy)
        raise OSError(error.errno, error.strerror, str(target)) from None


def check_writable(path: Path) -> None:
    """Make the folder of `path` and try to write there. Raises OSError with the reason if not."""
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise OSError(f"{path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file")
    path.parent.mkdir(parents=True, exist_ok=True)
    probe = _temporary(path)
    probe.write_bytes(b"")
    _remove(probe)


def replace_file(path: Path, parts: list[bytes]) -> None:
    """Write a temporary file beside `path`, flush it to the disk, and rename it over `path`."""
    path = Path(os.path.realpath(path))  # through a link to the file that it stands for
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise
    with suppress(
        OSError, AttributeError
    ):  # the rename itself; not every system can flush a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _temporary(path: Path) -> Path:
    """A hidden file in the same folder that no other process writes."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _to_bytes(name: str, tensor: Tensor) -> bytes:
    """The numbers of a tensor, row by row, as little-endian float64."""
    numbers = array("d")
    for row in rows_of(tensor):
        numbers.extend(row)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} holds a number that is not finite")
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _from_bytes(name: str, entry: dict[str, Any], body: bytes) -> Tensor:
    """The inverse of `_to_bytes`."""
    numbers = array("d")
    numbers.frombytes(body[slice(*entry["data_offsets"])])
    if sys.byteorder == "big":
        numbers.byteswap()
    if not all(map(math.isfinite, numbers)):
        raise CheckpointError(f"{name} holds a number that is not finite")
    if len(entry["shape"]) == 1:
        return numbers.tolist()
    rows, columns = entry["shape"]
    return [numbers[i * columns : (i + 1) * columns].tolist() for i in range(rows)]


def _digest(text: str, table: dict[str, Any], body: bytes) -> str:
    """SHA-256 of the metadata, and of the name, the shape and the numbers of each tensor."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(table):
        digest.update(json.dumps([name, table[name]["shape"]]).encode())
        digest.update(body[slice(*table[name]["data_offsets"])])
    return digest.hexdigest()


def _parse(content: bytes) -> tuple[dict[str, Any], bytes]:
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
    return _json_object(text), content[8 + length :]


def _json_object(text: str) -> dict[str, Any]:
    """The JSON object in `text`: no duplicate keys, no NaN or Infinity, which JSON has not got."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("duplicate keys")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its header cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError("its header is not a JSON object")
    return value


def _check_table(table: dict[str, Any], body_length: int) -> None:
    """Every entry must be well formed, and the tensors fill the body without gap or overlap."""
    for name, entry in table.items():
        well_formed = (
            isinstance(entry, dict)
            and entry.keys() == {"dtype", "shape", "data_offsets"}
            and _are_whole_numbers(entry["shape"], least=1, counts=(1, 2))
            and _are_whole_numbers(entry["data_offsets"], least=0, counts=(2,))
        )
        if not well_formed or entry["dtype"] != "F64":
            raise CheckpointError(f"tensor {name!r} is not an F64 vector or matrix with offsets")
    expected = 0
    for entry in sorted(table.values(), key=lambda entry: entry["data_offsets"]):
        begin, end = entry["data_offsets"]
        if begin != expected or end - begin != 8 * math.prod(entry["shape"]):
            raise CheckpointError("its tensors overlap, leave a gap or have another size")
        expected = end
    if expected != body_length:
        raise CheckpointError(f"its tensors need {expected} bytes, and it has {body_length}")


def _are_whole_numbers(value: Any, least: int, counts: tuple[int, ...]) -> bool:
    """Whether `value` is a list of as many whole numbers, none below `least`."""
    return (
        isinstance(value, list)
        and len(value) in counts
        and all(type(number) is int and number >= least for number in value)
    )
