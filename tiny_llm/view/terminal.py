"""What all displays share: colour or none, how wide, and characters that keep to their columns.

    stream, --color, environment --style_for--> Style --> every display --> text

A display that lines up is only as good as its widths, and a text may hold anything: spaces that
cannot be seen, letters two columns wide, marks with no width of their own, commands to the
terminal. `visible` turns each into something that can be seen and has a known width.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

from tiny_llm.text.shown import LONGEST_MESSAGE, escape, shown

BLOCKS = " ▏▎▍▌▋▊▉█"  # 0 to 8 eighths of a column, from the left
HEIGHTS = " ▁▂▃▄▅▆▇█"  # 0 to 8 eighths of a line, from the bottom
SIGNS = {" ": "·", "\n": "↵", "\t": "⇥", "\x7f": "␡"}
ASCII_SIGNS = {" ": "_", "\n": "\\n", "\t": "\\t"}
DOTTED_CIRCLE, ELLIPSIS, CONTROL_PICTURES = "◌", "…", "␀"

NARROWEST = 40  # columns; a narrower terminal wraps the lines
BOLD = "1"

_ESCAPE_CODE = re.compile("\x1b\\[[0-9;]*m")
# Characters that count as letters or marks and yet draw nothing, or nothing on their own.
_UNSEEN = re.compile(
    "[\u034f\u115f-\u11ff\u17b4\u17b5\u180b-\u180f\u2800\u3164\ud7b0-\ud7ff\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
# Some terminals reorder right-to-left letters and what stands between them. With this mark of no
# width on both sides, each letter stays in the column that it was given.
_LEFT_TO_RIGHT = "\u200e"


@dataclass(frozen=True)
class Style:
    """How to draw: with colours, with more than ASCII, and in how many columns."""

    color: bool = False
    unicode: bool = True
    width: int = 80


def style_for(
    stream: TextIO, color: str = "auto", environ: Mapping[str, str] = os.environ
) -> Style:
    """The style that suits what stands behind `stream`; `color` is auto, always or never.

    Raises ValueError for another `color`.
    """
    if color not in ("auto", "always", "never"):
        raise ValueError(f"color must be auto, always or never, not {color!r}")
    is_terminal = stream.isatty()
    # https://no-color.org: any value that is not empty asks for none. `always` is more explicit.
    welcome = is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return Style(
        color=color == "always" or (color == "auto" and welcome),
        unicode=_can_encode(stream, "".join(SIGNS.values()) + BLOCKS + HEIGHTS),
        width=max(NARROWEST, columns_of(stream, environ)) if is_terminal else 80,
    )


def _can_encode(stream: TextIO, text: str) -> bool:
    """Whether `text` can be written to `stream`; one without an encoding keeps it as it is."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def tell(line: str) -> None:
    """A line beside the results, to standard error. Where that is full, the results matter more."""
    with suppress(OSError):
        print(shown(line, LONGEST_MESSAGE), file=sys.stderr, flush=True)


def columns_of(stream: TextIO, environ: Mapping[str, str] = os.environ) -> int:
    """The columns of the terminal behind `stream` now; COLUMNS goes first, 80 where nobody knows.

    shutil.get_terminal_size would ask about standard output, whatever the stream.
    """
    return _size(stream, environ.get("COLUMNS", ""), 0) or 80


def lines_of(stream: TextIO, environ: Mapping[str, str] = os.environ) -> int:
    """The lines of the terminal behind `stream`; LINES goes first, 24 where nobody knows."""
    return _size(stream, environ.get("LINES", ""), 1) or 24


def _size(stream: TextIO, asked: str, which: int) -> int:
    """Columns or lines, as asked for or as the terminal says; 0: nobody knows."""
    try:
        asked_for = int(asked) if asked.isdecimal() else 0
        return asked_for or os.get_terminal_size(stream.fileno())[which]
    except (OSError, ValueError, AttributeError):
        return 0


def visible(text: str, style: Style) -> str:
    """`text` with every character in sight: a·b↵ for "a b\\n", an escape for what draws nothing."""
    return "".join(_visible_character(character, style.unicode) for character in text)


def _visible_character(character: str, unicode: bool) -> str:
    sign = (SIGNS if unicode else ASCII_SIGNS).get(character)
    if sign:
        return sign
    if character.isascii() and character.isprintable():
        return character
    if unicode and character < " ":
        return chr(ord(CONTROL_PICTURES) + ord(character))
    if not unicode or not character.isprintable() or _UNSEEN.match(character):
        return escape(character)
    if unicodedata.category(character).startswith("M"):
        return DOTTED_CIRCLE + character  # or it would join whatever stands before it
    if unicodedata.bidirectional(character) in ("R", "AL", "AN"):
        return _LEFT_TO_RIGHT + character + _LEFT_TO_RIGHT
    return character


def plain(text: str) -> str:
    """`text` without the codes that colour it."""
    return _ESCAPE_CODE.sub("", text)


def display_width(text: str) -> int:
    """The columns that `text` takes in a terminal; colour takes none."""
    text = plain(text)
    return len(text) if text.isascii() else sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def pad(text: str, columns: int, right: bool = False) -> str:
    """`text` filled up with spaces to `columns`; `right` moves it to the right end."""
    space = " " * (columns - display_width(text))
    return space + text if right else text + space


def clip(text: str, columns: int, style: Style) -> str:
    """`text` (no colour in it) in at most `columns`, with a mark where it was cut."""
    if display_width(text) <= columns:
        return text
    mark = ELLIPSIS if style.unicode else "~"
    while display_width(text) > columns - 1:
        text = text[:-1]
    return text + mark


def wrap(text: str, style: Style, indent: str = "") -> list[str]:
    """A sentence in plain letters as lines that fit."""
    return textwrap.wrap(
        text, style.width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def paint(text: str, code: str, style: Style) -> str:
    """`text` between the escape codes that switch this colour or weight on and off again."""
    return f"\x1b[{code}m{text}\x1b[0m" if style.color else text


def bar(fraction: float, columns: int, style: Style) -> str:
    """A bar of `columns` at fraction 1 and of none at 0, in eighths of a column (ASCII: whole)."""
    steps = 8 if style.unicode else 1
    fraction = min(1.0, max(0.0, fraction))
    full, rest = divmod(round(fraction * columns * steps), steps)
    if not style.unicode:
        return "#" * full
    return BLOCKS[8] * full + (BLOCKS[rest] if rest else "")


def fraction_text(fraction: float, digits: int = 2) -> str:
    """A number from 0 to 1 in `digits` + 1 columns: .07, 1.0."""
    text = f"{fraction:.{digits}f}"
    return text[1:] if text.startswith("0") else text[: digits + 1]


def loss_text(loss: float) -> str:
    """A loss in nats: three decimals, or two figures of what no sound model has."""
    return number_text(loss, 3)


def number_text(value: float, digits: int = 2) -> str:
    """Any number, with `digits` decimals below 1000 and two figures above: -0.12, 1.5e+04."""
    text = f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.1e}"
    return text.lstrip("-") if float(text) == 0 else text  # not -0.00
