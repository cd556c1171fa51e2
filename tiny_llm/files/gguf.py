"""GGUF: a whole model in one file, as llama.cpp has it; here the container, and how it is read.

    "GGUF" version | how many tensors, how many entries
    entries        | name, type, value: sizes, the tokenizer, the chat template
    tensors        | name, dimensions, form of the numbers, where they begin
    padding        |
    numbers        | of one tensor after the other, each begins at a multiple of the alignment

All is little-endian. A string is its length and its bytes, an array its type, its length and its
values. Dimensions are listed innermost first: a matrix of R rows and C columns says C, R. The
format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (2023).

The file is mapped into memory and not read: what is not asked for costs nothing, and every size
that it claims is compared with its length before anything is made of it. (A loader that believed
the table of tensors gave away what else was in its server's memory: CVE-2026-7482.)
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import deque
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, TypeVar

from tiny_llm.files.foreign import opened
from tiny_llm.files.gguf_numbers import FORMS
from tiny_llm.files.portable import ForeignError
from tiny_llm.text.shown import shown

MAGIC = b"GGUF"
VERSION, OLDEST = 3, 2  # they differ in nothing but that 3 may be big-endian, which is not read
ALIGNMENT = 32  # bytes, unless the file says another

# Type of a value: its number in the file, and how struct writes it.
NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
WHOLE = {0, 1, 2, 3, 4, 5, 10, 11}  # those types that are whole numbers

# Far above what any file has that can be read here; a string is made of them only when asked for.
MOST_ENTRIES, MOST_TENSORS, MOST_STRINGS = 10_000, 100_000, 1_000_000
MOST_ASKED = 2**17  # values of one array: the tokens of a vocabulary, or its merges
LONGEST_NAME, LONGEST_TEXT, LONGEST_TEXTS = 2**10, 2**20, 2**23  # bytes of one, and of an array's


class Value(NamedTuple):
    """An entry as it lies in the file. `length` is None for a single value."""

    type: int
    length: Optional[int]
    data: memoryview


class Entry(NamedTuple):
    """A tensor as it lies in the file: shape is (length,) or (rows, columns)."""

    shape: tuple[int, ...]
    form: str  # one of gguf_numbers.FORMS
    data: memoryview


Expected = TypeVar("Expected")


class Gguf(NamedTuple):
    """What a file holds. All methods raise ForeignError for an entry that is missing, if there is
    no default, or of another type."""

    entries: dict[str, Value]
    tensors: dict[str, Entry]

    def whole(self, key: str, default: Optional[int] = None) -> int:
        """A whole number."""
        return self._get(key, default, "a whole number", WHOLE, _number)

    def number(self, key: str, default: Optional[float] = None) -> float:
        """A floating-point number."""
        return self._get(key, default, "a number", {FLOAT32, 12}, _number)

    def flag(self, key: str, default: Optional[bool] = None) -> bool:
        """Yes or no."""
        return self._get(key, default, "true or false", {BOOL}, _flag)

    def text(self, key: str, default: Optional[str] = None) -> str:
        """A string."""
        return self._get(key, default, "a string", {STRING}, _text)

    def texts(self, key: str) -> list[str]:
        """An array of strings."""
        return self._get(key, None, "an array of strings", {STRING}, _texts, True)

    def wholes(self, key: str) -> list[int]:
        """An array of whole numbers."""
        return self._get(key, None, "an array of whole numbers", WHOLE, _numbers, True)

    def single(self, key: str) -> Any:
        """Whatever it is; an array as None."""
        value = self.entries[key]
        if value.length is not None:
            return None
        return self.text(key) if value.type == STRING else _number(value)

    def _get(
        self,
        key: str,
        default: Optional[Expected],
        what: str,
        types: set[int],
        decode: Callable[[Value], Expected],
        is_array: bool = False,
    ) -> Expected:
        if key not in self.entries:
            if default is None:
                raise ForeignError(f"it has no {key}")
            return default
        value = self.entries[key]
        if value.type not in types or (value.length is not None) != is_array:
            raise ForeignError(f"its {key} is not {what}")
        if (value.length or 0) > MOST_ASKED:
            raise ForeignError(f"its {key} has {value.length} values, more than are read here")
        try:
            return decode(value)
        except UnicodeDecodeError:
            raise ForeignError(f"its {key} is not text in UTF-8") from None
        except OverflowError:
            raise ForeignError(f"its {key} is far longer than such a file needs") from None


def _number(value: Value) -> Any:
    return struct.unpack("<" + NUMBERS[value.type], value.data)[0]


def _flag(value: Value) -> bool:
    return bool(_number(value))


def _numbers(value: Value) -> list[Any]:
    return list(struct.unpack(f"<{value.length}{NUMBERS[value.type]}", value.data))


def _text(value: Value) -> str:
    if len(value.data) > LONGEST_TEXT:
        raise OverflowError
    return str(value.data, "utf-8")


def _texts(value: Value) -> list[str]:
    if len(value.data) > LONGEST_TEXTS:
        raise OverflowError
    return [str(data, "utf-8") for data in _Cursor(value.data).strings(value.length or 0)]


def is_gguf(beginning: bytes) -> bool:
    """Whether a file that begins with these bytes says that it is one."""
    return beginning.startswith(MAGIC)


# ---------------------------------------------------------------- reading what a stranger wrote


def read(path: Path) -> Gguf:
    """The file, mapped into memory for as long as any part of it is in use.

    Raises ForeignError with what is wrong with it, and OSError if it cannot be read.
    """
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size < len(MAGIC) or file.read(len(MAGIC)) != MAGIC:
            raise ForeignError("it does not begin with GGUF")
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    cursor = _Cursor(content)
    cursor.take(len(MAGIC))
    version = cursor.number("I")
    if version and version % 2**16 == 0:
        raise ForeignError("it is big-endian, and only little-endian GGUF is known here")
    if not OLDEST <= version <= VERSION:
        raise ForeignError(f"it is GGUF version {version}; {OLDEST} and {VERSION} are known here")
    n_tensors, n_entries = cursor.number("Q"), cursor.number("Q")
    if n_tensors > MOST_TENSORS or n_entries > MOST_ENTRIES:
        raise ForeignError(f"it claims {n_tensors} tensors and {n_entries} entries")
    found = Gguf(_entries(cursor, n_entries), {})
    alignment = found.whole("general.alignment", ALIGNMENT)
    if alignment < 1 or alignment & (alignment - 1):
        raise ForeignError(f"its general.alignment is {alignment}, which is no power of two")
    found.tensors.update(_tensors(cursor, n_tensors, alignment))
    return found


class _Cursor:
    """A place in bytes that moves on. Raises ForeignError where they end too early."""

    def __init__(self, content: memoryview) -> None:
        self.content, self.place = content, 0

    def take(self, size: int) -> memoryview:
        """So many bytes."""
        if size > len(self.content) - self.place:
            raise ForeignError(f"it ends before {size} bytes that it claims at {self.place}")
        self.place += size
        return self.content[self.place - size : self.place]

    def number(self, kind: str) -> int:
        """A whole number, as struct writes it."""
        number: int = struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]
        return number

    def string(self) -> memoryview:
        """The bytes of a string."""
        return self.take(self.number("Q"))

    def strings(self, count: int) -> Iterator[memoryview]:
        """The bytes of so many strings, in less time than one by one."""
        content, place = self.content, self.place
        length_at = struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                begin = place + 8
                place = begin + length_at(content, place)[0]
                yield content[begin:place]
        except (struct.error, OverflowError):  # there is no such place
            place = len(content) + 1
        self.take(place - self.place)

    def name(self) -> str:
        """A short string, of an entry or a tensor."""
        data = self.string()
        if len(data) > LONGEST_NAME:
            raise ForeignError(f"it has a name of {len(data)} bytes")
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            raise ForeignError("it has a name that is not text in UTF-8") from None


def _entries(cursor: _Cursor, count: int) -> dict[str, Value]:
    entries: dict[str, Value] = {}
    strings = 0
    for _ in range(count):
        key = cursor.name()
        if key in entries:
            raise ForeignError(f"it has two entries {shown(repr(key))}")
        kind, length = cursor.number("I"), None
        if kind == ARRAY:
            kind, length = cursor.number("I"), cursor.number("Q")
        begin = cursor.place
        if kind in NUMBERS:
            cursor.take(struct.calcsize("<" + NUMBERS[kind]) * (1 if length is None else length))
        elif kind == STRING and length is None:
            begin += 8
            cursor.string()
        elif kind == STRING and length is not None:
            strings += length
            if strings > MOST_STRINGS:
                raise ForeignError(f"its arrays hold {strings} strings or more")
            deque(cursor.strings(length), maxlen=0)
        else:
            what = "an array of arrays" if kind == ARRAY else f"of type {kind}"
            raise ForeignError(f"its {shown(repr(key))} is {what}, which is not known here")
        entries[key] = Value(kind, length, cursor.content[begin : cursor.place])
    return entries


FORM_OF_NUMBER = {form.number: name for name, form in FORMS.items()}


def _tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, Entry]:
    """Each lies right behind the one before it, so that none overlaps another, or leaves a gap."""
    table: dict[str, tuple[tuple[int, ...], str, int]] = {}
    end = 0
    for _ in range(count):
        name = cursor.name()
        if name in table:
            raise ForeignError(f"it has two tensors {shown(repr(name))}")
        said, n_dimensions = f"its tensor {shown(repr(name))}", cursor.number("I")
        if not 1 <= n_dimensions <= 2:
            raise ForeignError(f"{said} has {n_dimensions} dimensions, not 1 or 2")
        shape = tuple(cursor.number("Q") for _ in range(n_dimensions))[::-1]
        number, offset = cursor.number("I"), cursor.number("Q")
        if number not in FORM_OF_NUMBER:
            raise ForeignError(
                f"{said} has numbers of form {number}; known here are {', '.join(FORMS)}"
            )
        form = FORM_OF_NUMBER[number]
        if not all(shape) or shape[-1] % FORMS[form].length:
            raise ForeignError(f"{said} of shape {list(shape)} cannot be of form {form}")
        size = prod(shape) // FORMS[form].length * FORMS[form].size
        if offset != end:
            raise ForeignError(f"{said} begins at {offset} and not at {end}, as it should")
        if size > len(cursor.content):
            raise ForeignError(f"{said} needs {size} bytes, and the file has {len(cursor.content)}")
        table[name] = shape, form, size
        end += padded(size, alignment)
    begin = padded(cursor.place, alignment)
    tensors = {}
    for name, (shape, form, size) in table.items():
        if begin + size > len(cursor.content):
            raise ForeignError(f"it ends within its tensor {shown(repr(name))}")
        tensors[name] = Entry(shape, form, cursor.content[begin : begin + size])
        begin += padded(size, alignment)
    return tensors


def padded(size: int, alignment: int) -> int:
    """The next multiple of the alignment."""
    return -(-size // alignment) * alignment
