"""Files that a stranger may have written: only what has an end is read, and only so much JSON.

A few bytes can ask for much: a pipe or a device for ever, `[[[[` for a deep stack, `[],[],[],` for
thirty times its size in memory, and a number of a million digits for minutes.
"""

from __future__ import annotations

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

# Of one JSON text, far above what any file of this project or a vocabulary of 200,000 tokens has.
MOST_CONTAINERS, MOST_VALUES, DEEPEST = 500_000, 2_000_000, 20
BEGINNING = 1000  # bytes
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)  # and strings, which may hold some
MOST_DIGITS = 18  # of a whole number: it then fits in 64 bits, and in a float


def opened(path: Path, buffering: int = -1) -> BinaryIO:
    """The file, to be read. Raises OSError if it cannot be, or if it is a pipe or a device."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError("it is no regular file but a pipe or a device, which may never end")
    return path.open("rb", buffering)


def content_of(path: Path) -> bytes:
    """All bytes of the file. Raises as `opened` does."""
    with opened(path) as file:
        return file.read()


def text_of(content: bytes) -> str:
    """The text in the bytes of a file. Raises ValueError if it is none."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"its byte {error.start:,} is no text in UTF-8") from None


def beginning_of(path: Path) -> bytes:
    """What tells the kind of a file. Raises as `opened` does."""
    with opened(path) as file:
        return file.read(BEGINNING)


def parsed(text: str, all_floats: bool = False, most_digits: int = MOST_DIGITS) -> Any:
    """The value that this JSON text stands for. Raises ValueError if it is damaged or immoderate.

    Numbers are finite, unless `all_floats`: then there may be NaN and Infinity.
    """
    if text.count("[") + text.count("{") > MOST_CONTAINERS or text.count(",") > MOST_VALUES:
        raise ValueError("it holds far more than such a file needs")
    _check_depth(text)
    try:
        return json.loads(
            text,
            parse_int=partial(_whole_number, most_digits),
            parse_float=float if all_floats else _finite,
            parse_constant=float if all_floats else _finite,
        )
    except json.JSONDecodeError as error:
        problem = f"it is not JSON: {error.msg}, at character {error.pos + 1:,}"
        raise ValueError(problem) from None


def parsed_object(text: str, most_digits: int = MOST_DIGITS) -> dict[str, Any]:
    """The JSON object that this text stands for. Raises ValueError as `parsed` does, or if it is
    none."""
    value = parsed(text, most_digits=most_digits)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def _whole_number(most_digits: int, digits: str) -> int:
    if len(digits) > most_digits:
        raise ValueError(f"it holds a whole number of {len(digits)} digits")
    return int(digits)


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError("it holds a number that is not finite")
    return float(number)


def _check_depth(text: str) -> None:
    """Raises ValueError for more containers within one another than anybody means to write.

    Before the text is parsed: where the stack is small, as in a browser, nothing catches its end.
    """
    depth = 0
    for found in BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
