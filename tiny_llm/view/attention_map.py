"""Attention as people look at it: one table for each head, and what one position reads from.

            t    h    e  entropy       columns: the keys, which are read
            0    1    2  bits/max
    t 0  █1.0            0.00/0.00     rows: the queries, which read
    h 1  ▃.33 ▅.67       0.91/1.00
    e 2  ▁.10 ▂.20 ▆.70  1.16/1.58     blank: later than the query, so it cannot be seen

Shade and colour always run from 0 to 1, so that two tables can be compared. Heads are never
averaged: an average shows a pattern that no head has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

from tiny_llm.matmul import Matrix, Vector
from tiny_llm.view.heads import choose_heads, entropy, recall, summary_table
from tiny_llm.view.terminal import (
    BOLD,
    ELLIPSIS,
    HEIGHTS,
    Style,
    bar,
    clip,
    display_width,
    fraction_text,
    number_text,
    pad,
    paint,
    visible,
    wrap,
)

# One hue, blue, from nearly black to pale: palette numbers of 256 colours, for weights 0 to 1.
RAMP = (17, 18, 19, 20, 21, 63, 105, 147, 189)
FIRST_LIGHT = 6  # from here on black is easier to read than white
WHITE, BLACK = 231, 16
ASCII_SHADES = " :*#@"  # no minus, plus or point, which would read as part of the number

LONGEST_LABEL, LONGEST_BAR = 7, 40  # columns
NUMBER, SHADE = 3, 1  # columns of a weight, and of the character before it that is its shade
TOP_KEYS = 5  # how many a report ranks for each head, when there are more queries than one

MORE_HEADS = "One head with --layer and --head, all with --full; heads not shown here:"
CAVEAT = "Attention shows where information was read from; it does not explain the prediction."


class _Grid(NamedTuple):
    """Where things stand in a table of queries x keys."""

    labels: list[str]  # K, the tokens made visible
    label: int  # columns of a row's label
    cell: int  # columns of a number with the space before it
    first: int  # the first position that is shown; 0 when all are


def attention_matrix(weights: Matrix, tokens: list[str], style: Style) -> str:
    """One head's weights, Q x K, as a table; the K `tokens` are those that were read.

    Each row ends with its entropy in bits beside the most that it could be: 0 when one key has all
    the weight, log2 of the keys in sight when all have the same. If the table would be too wide,
    the shades take the place of the spaces; if it still is, the last positions are shown, and the
    weight on all before them is added up in one column.
    """
    grid = _grid(tokens, _cell(style), tail=len("  0.00/0.00"), sums=True, style=style)
    if grid.first:
        grid = _grid(tokens, NUMBER, tail=len("  0.00/0.00"), sums=True, style=style)
    lines = _headings(grid, ("  entropy", "  bits/max"), sums=True, style=style)
    for place, row in _shown_rows(weights, grid):
        cells = row[grid.first : place + 1]
        if grid.first:
            cells = [sum(row[: grid.first]), *cells]
        blank = " " * (grid.cell * (len(row) - 1 - place))  # keys later than the query
        line = _row_label(place, grid) + "".join(_shaded(c, grid.cell, style) for c in cells)
        lines.append(line + blank + _entropy_text(row[: place + 1]))
    return "\n".join(lines + _cut_note(grid, True, style))


def score_matrix(scores: Matrix, tokens: list[str], style: Style) -> str:
    """One head's scores before softmax, Q x K, as a table like that of the weights they become.

    Scores have no fixed range, so there is no shade.
    """
    seen = len(tokens) - len(scores) + 1  # the keys that the first query sees
    texts = [[number_text(s, 1) for s in row[: seen + i]] for i, row in enumerate(scores)]
    content = max(len(text) for row in texts for text in row)
    grid = _grid(tokens, content, tail=0, sums=False, style=style)
    lines = _headings(grid, ("", ""), sums=False, style=style)
    for place, row in _shown_rows(texts, grid):
        cells = "".join(pad(text, grid.cell, right=True) for text in row[grid.first :])
        lines.append(_row_label(place, grid) + cells)
    return "\n".join(lines + _cut_note(grid, False, style))


def ranked_keys(
    weights_row: Vector, tokens: list[str], style: Style, most: Optional[int] = None
) -> str:
    """What the last of the K tokens reads from: the keys by weight, the heaviest first.

    Each with its weight, its position, how many positions back that is, and a bar from 0 to 1.
    `most` shows only so many, and adds up the others.
    """
    ranked = sorted(range(len(tokens)), key=lambda place: -weights_row[place])
    shown = ranked[:most]
    labels = {place: clip(visible(tokens[place], style), LONGEST_LABEL, style) for place in shown}
    column = max(len("key"), *map(display_width, labels.values()))
    heading = f"weight  {pad('key', column)}  position  back  "
    bar_columns = min(LONGEST_BAR, style.width - len(heading))
    lines = [heading.rstrip()]
    for place in shown:
        weight = weights_row[place]
        numbers = f"{place:8}  {len(tokens) - 1 - place:4}"
        line = f"{fraction_text(weight, 3):>6}  {pad(labels[place], column)}  {numbers}"
        lines.append(f"{line}  {bar(weight, bar_columns, style)}".rstrip())
    rest = ranked[len(shown) :]
    if rest:
        together = fraction_text(sum(weights_row[place] for place in rest), 3)
        lines.append(f"{together:>6}  on the other {len(rest)} together")
    return "\n".join(lines)


def attention_report(
    all_weights: list[list[Matrix]],
    tokens: list[str],
    style: Style,
    layer: Optional[int] = None,
    head: Optional[int] = None,
    query: Optional[int] = None,
    most: Optional[int] = None,
) -> str:
    """Layers x heads x Q x K weights of one context of K tokens -> every head, and how to read it.

    Or one `layer`, one `head` of each layer, counted from 1, and one `query`, by its position. With
    one query, all keys are ranked; otherwise the first few, as the last query reads them. `most`
    shows the tables of so many heads only; the summary has all. Raises
    ValueError for a layer, head or query that is not there.
    """
    heads = choose_heads(all_weights, layer, head)
    parts = ["\n".join(_legend(style))]
    summary = "\n".join(summary_table(heads, style))
    parts += [summary] if summary else []
    recalled = recall(choose_heads(all_weights), tokens)
    parts += ["\n".join(wrap(recalled, style))] if recalled else []
    for place, number, weights in heads[:most]:
        rows, seen = (weights, tokens) if query is None else one_query(weights, tokens, query)
        of_all = f"layer {place} of {len(all_weights)}, head {number} of {len(all_weights[0])}"
        parts.append(paint(of_all, BOLD, style) + "\n" + attention_matrix(rows, seen, style))
        last = f"{visible(seen[-1], style)} at {len(seen) - 1} reads from:"
        ranking = ranked_keys(rows[-1], seen, style, None if len(rows) == 1 else TOP_KEYS)
        parts.append(clip(last, style.width, style) + "\n" + ranking)
    left_out = len(heads) - len(heads[:most])
    if left_out:
        parts.append("\n".join(wrap(f"{MORE_HEADS} {left_out}", style)))
    parts.append("\n".join(wrap(CAVEAT, style)))
    return "\n\n".join(parts)


def one_query(weights: Matrix, tokens: list[str], query: int) -> tuple[Matrix, list[str]]:
    """Q x K weights -> the row of the query at this position, 1 x keys in sight, and their tokens.

    Raises ValueError for a position that does not ask.
    """
    last = len(tokens) - 1
    first = len(tokens) - len(weights)
    if not first <= query <= last:
        asking = f"positions {first} to {last} ask" if len(weights) > 1 else f"only {last} asks"
        raise ValueError(f"there is no query at position {query}; here, {asking}")
    return [weights[query - first][: query + 1]], tokens[: query + 1]


def _cell(style: Style) -> int:
    """The columns of a weight with its shade; colour lies behind it and takes none."""
    return NUMBER if style.color else NUMBER + SHADE


def _grid(tokens: list[str], content: int, tail: int, sums: bool, style: Style) -> _Grid:
    """The table for these tokens: cells with room for `content` columns, `tail` columns behind."""
    labels = [clip(visible(token, style), LONGEST_LABEL, style) for token in tokens]
    longest = max(map(display_width, labels))
    label = longest + len(" ") + len(str(len(tokens) - 1)) + len(" ")
    cell = len(" ") + max(content, longest, len(f"<{len(tokens) - 1}"))
    room = (style.width - label - tail) // cell
    shown = len(tokens) if room >= len(tokens) else max(1, room - sums)
    return _Grid(labels, label, cell, len(tokens) - shown)


def _headings(grid: _Grid, tails: tuple[str, str], sums: bool, style: Style) -> list[str]:
    """Two lines: the tokens, and their positions, since a token may stand at several."""
    places = range(grid.first, len(grid.labels))
    tokens = [grid.labels[place] for place in places]
    numbers = [str(place) for place in places]
    if grid.first and sums:
        tokens.insert(0, ELLIPSIS if style.unicode else "...")
        numbers.insert(0, f"<{grid.first}")
    lines = []
    for texts, tail in zip((tokens, numbers), tails):
        cells = "".join(pad(text, grid.cell, right=True) for text in texts)
        lines.append(" " * grid.label + cells + tail)
    return lines


def _shown_rows(rows: list[list[Any]], grid: _Grid) -> Iterator[tuple[int, list[Any]]]:
    """Each query's position and row, of those shown: the queries are the last of the positions."""
    before = len(grid.labels) - len(rows)
    for place, row in enumerate(rows, before):
        if place >= grid.first:
            yield place, row


def _row_label(place: int, grid: _Grid) -> str:
    digits = len(str(len(grid.labels) - 1))
    return pad(grid.labels[place], grid.label - digits - 1) + f"{place:{digits}} "


def _shaded(weight: float, columns: int, style: Style) -> str:
    """A weight in a cell: on a colour, or behind a character that grows with it."""
    text = fraction_text(weight)
    level = min(1.0, max(0.0, weight))
    if not style.color:
        shades = HEIGHTS if style.unicode else ASCII_SHADES
        return (shades[round(level * (len(shades) - 1))] + text).rjust(columns)
    step = round(level * (len(RAMP) - 1))
    ink = BLACK if step >= FIRST_LIGHT else WHITE
    return paint(text.rjust(columns), f"38;5;{ink};48;5;{RAMP[step]}", style)


def _entropy_text(seen: Vector) -> str:
    return f"  {entropy(seen):.2f}/{math.log2(len(seen)):.2f}"


def _cut_note(grid: _Grid, sums: bool, style: Style) -> list[str]:
    """What is not shown, in a sentence, if anything is not."""
    if not grid.first:
        return []
    total = len(grid.labels)
    note = f"last {total - grid.first} of {total} positions shown"
    if sums:
        note += f"; column <{grid.first} adds up the weight on all before them"
    return wrap(note, style)


def _legend(style: Style) -> list[str]:
    """How to read the tables."""
    ramp = "".join(_shaded(step / 4, 1 + _cell(style), style) for step in range(5))
    reading = (
        "Each row is a position that reads, each column one that is read, and the weights of a row "
        "add up to 1. Blank: later than the reader, so out of its sight. Entropy: 0 when one "
        "position has all the weight, and at its most when all in sight have the same."
    )
    return ["weights " + ramp, *wrap(reading, style)]
