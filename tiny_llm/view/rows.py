"""Rows of tokens and numbers, drawn small: under one another, the first few, and as a strip.

    [-0.3, 0.9, 0.1, -1.2, 0.4]  --strip-->  ▄█▅▁▆      lowest ▁ to highest █

Every line keeps to the width of its style, whatever the tokens and the numbers are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from tiny_llm.matmul import Vector
from tiny_llm.view.terminal import (
    ELLIPSIS,
    HEIGHTS,
    Style,
    display_width,
    number_text,
    pad,
    paint,
)

INDENT = "  "
ASCII_HEIGHTS = " .:-=+*%#"  # as HEIGHTS: nothing, then eight steps with more ink each
NEGATIVE, POSITIVE = "38;5;173", "38;5;74"  # orange and blue, which all eyes can tell apart


def in_columns(rows: Mapping[str, Sequence[str]], style: Style, indent: str = "") -> Iterator[str]:
    """Rows of equally many texts under one another, each behind its name; cut to fit the width."""
    cell = 1 + max(display_width(text) for texts in rows.values() for text in texts)
    names = [indent + INDENT + name for name in rows]
    label = max(map(len, names))
    columns = list(zip(*rows.values()))
    at_once = max(1, (style.width - label) // cell)
    for start in range(0, len(columns), at_once):
        for name, texts in zip(names, zip(*columns[start : start + at_once])):
            yield pad(name, label) + "".join(pad(text, cell, right=True) for text in texts)


def first_numbers(row: Vector, columns: int, style: Style) -> str:
    """As many numbers as fit, and a mark if there are more."""
    text, more = INDENT + "[", " …]" if style.unicode else " ..]"
    for index, value in enumerate(row):
        longer = f"{text}{number_text(value):>6}"
        end = more if index + 1 < len(row) else "]"
        if len(longer) + len(end) > columns:
            return text + more
        text = longer
    return text + "]"


def strip(row: Vector, lowest: float, highest: float, columns: int, style: Style) -> str:
    """One character for each number, higher from `lowest` to `highest`; a mark if more than fit.

    In colour, numbers below 0 have another one than those above.
    """
    heights = (HEIGHTS if style.unicode else ASCII_HEIGHTS)[1:]
    mark = ELLIPSIS if style.unicode else "~"
    shown = row if len(row) <= columns else row[: columns - 1]
    span = highest / 2 - lowest / 2  # halves, since twice the largest number is infinite
    places = [(value / 2 - lowest / 2) / span if span > 0 else 0.0 for value in shown]
    levels = [min(len(heights) - 1, int(place * len(heights))) for place in places]
    drawn = ""
    for is_negative, run in groupby(zip(shown, levels), lambda pair: pair[0] < 0):
        text = "".join(heights[level] for _, level in run)
        drawn += paint(text, NEGATIVE if is_negative else POSITIVE, style)
    return drawn + (mark if len(row) > columns else "")
