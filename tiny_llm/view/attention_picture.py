"""Attention weights as a drawn picture: a square for each head, a cell for each weight.

    layers x heads x Q x K --> panels side by side: rows read, columns are read, deep means much

The same tokens, numbers and summaries as `attention_map` prints. A cell's colour runs from 0 to 1
in every panel, and its number stands in it where there is room: colour alone carries nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tiny_llm.matmul import Matrix
from tiny_llm.view.heads import PHRASES, Head, summarize
from tiny_llm.view.svg import FONT, document, escaped, short
from tiny_llm.view.terminal import Style, clip, display_width, fraction_text, visible

WIDTH = 860  # pixels; one panel with many tokens may need more
GAP, HEADING = 28, 44  # around a panel, and above its cells
LARGEST_CELL, SMALLEST_CELL = 23, 9
ROOM_FOR_NUMBER = 19  # pixels of a cell that holds its weight as a number
FONT_SIZE, LETTER = 11, 6.7  # pixels
LONGEST_LABEL = 8  # letters
FAINT, WRITTEN = 0.005, 0.05  # below the first a cell is left empty, below the second a number is
# Where black becomes easier to read than white on the light page's colour, and on the dark page's.
LIGHT_TURN, DARK_TURN = 0.92, 0.7
LIGHT = {"paper": "#ffffff", "ink": "#1f2328", "muted": "#59636e", "weight": "#0969da"}
DARK = {"paper": "#0d1117", "ink": "#e6edf3", "muted": "#9198a1", "weight": "#58a6ff"}

NOTE = (
    "Each row is a position that reads, each column one that is read;"
    " the weights of a row add up to 1."
)


class _Size(NamedTuple):
    """What all panels of a picture share."""

    labels: list[str]  # K, the tokens made visible
    cell: int  # pixels
    left: int  # pixels of the rows' labels
    top: int  # pixels of the heading and the columns' labels
    across: int  # panels side by side


def attention_svg(heads: list[Head], tokens: list[str], title: str) -> str:
    """The weights of some heads, each Q x K, on one text of K tokens, as an SVG picture."""
    size = _sizes(heads, tokens)
    rows = len(heads[0].weights)
    panel_width = size.left + len(tokens) * size.cell + GAP
    panel_height = size.top + rows * size.cell + GAP
    lines = -(-len(heads) // size.across)
    width = max(690.0, GAP + size.across * panel_width)
    body = [
        '<rect class="p" width="100%" height="100%"/>',
        f'<text class="h" x="{GAP}" y="34">{escaped(title)}</text>',
        f'<text class="m" x="{GAP}" y="54">{NOTE}</text>',
    ]
    for index, head in enumerate(heads):
        down, right = divmod(index, size.across)
        x, y = GAP + right * panel_width, 70 + down * panel_height
        body.append(f'<g transform="translate({short(x)} {short(y)})">')
        body.extend(_panel(head, tokens, size))
        body.append("</g>")
    says = f"On {''.join(size.labels)}. " + ". ".join(
        f"Layer {head.layer}, head {head.number}: {_summary(head) or 'one query'}" for head in heads
    )
    return document(width, 70 + lines * panel_height, title, _sheet(), body, says)


def _sizes(heads: list[Head], tokens: list[str]) -> _Size:
    style = Style()
    labels = [clip(visible(token, style), LONGEST_LABEL, style) for token in tokens]
    longest = max(map(display_width, labels))
    left = round(longest * LETTER) + 8
    across = 1 if len(heads) == 1 or _cell(len(tokens), left, 2) < SMALLEST_CELL else 2
    cell = max(SMALLEST_CELL, min(LARGEST_CELL, _cell(len(tokens), left, across)))
    upright = longest * LETTER <= cell
    return _Size(labels, cell, left, HEADING + (16 if upright else left), across)


def _cell(tokens: int, left: int, across: int) -> int:
    """The side of a cell, if so many panels side by side are to fit."""
    return int(((WIDTH - GAP) / across - left - GAP) / tokens)


def _panel(head: Head, tokens: list[str], size: _Size) -> Iterator[str]:
    """One head: its name and summary, the tokens on both sides, the cells."""
    yield f'<text class="b" x="0" y="16">layer {head.layer}, head {head.number}</text>'
    yield f'<text class="m" x="0" y="33">{_summary(head)}</text>'
    upright = size.top == HEADING + 16
    yield f'<g font-size="{min(FONT_SIZE, size.cell)}">'
    for place, label in enumerate(size.labels):
        x, y = size.left + (place + 0.5) * size.cell, size.top - 5
        turn = "" if upright else f' transform="rotate(-90 {short(x + 4)} {short(y)})"'
        x, anchor = (x, ' text-anchor="middle"') if upright else (x + 4, "")
        yield f'<text x="{short(x)}" y="{short(y)}"{anchor}{turn}>{escaped(label)}</text>'
    before = len(tokens) - len(head.weights)
    for index in range(len(head.weights)):
        top, label = size.top + index * size.cell, escaped(size.labels[before + index])
        middle = short(top + size.cell / 2 + 4)
        yield f'<text x="{size.left - 6}" y="{middle}" text-anchor="end">{label}</text>'
        yield (
            f'<rect class="s" x="{size.left}" y="{top}" '
            f'width="{(before + index + 1) * size.cell}" height="{size.cell}"/>'
        )
    yield "</g>"
    yield from _cells(head.weights, tokens, size)


def _summary(head: Head) -> str:
    """What it reads from, and how spread out its weight is."""
    summary = summarize(head.weights) if len(head.weights) > 1 else None
    if not summary:
        return ""
    place = summary.reads
    share = f" {fraction_text(getattr(summary, place))}" if place else ""
    return f"{PHRASES[place]}{share}; entropy {summary.entropy:.2f} of {summary.most:.2f} bits"


def _cells(weights: Matrix, tokens: list[str], size: _Size) -> Iterator[str]:
    """A square for each weight that can be seen; then the numbers, where there is room."""
    before = len(tokens) - len(weights)
    seen = [
        (query, key, weight)
        for query, row in enumerate(weights)
        for key, weight in enumerate(row[: before + query + 1])
        if weight >= FAINT
    ]
    yield '<g class="w">'
    for query, key, weight in seen:
        x, y = size.left + key * size.cell, size.top + query * size.cell
        says = f"{size.labels[before + query]} reads {size.labels[key]}: {weight:.3f}"
        yield (
            f'<rect x="{short(x)}" y="{short(y)}" width="{size.cell}" height="{size.cell}" '
            f'fill-opacity="{fraction_text(weight)}"><title>{escaped(says)}</title></rect>'
        )
    yield '</g><g class="n">'
    for query, key, weight in seen:
        if size.cell >= ROOM_FOR_NUMBER and weight >= WRITTEN:
            right, down = (key + 0.5) * size.cell, (query + 0.5) * size.cell + 3
            turns = ' class="l"' if weight >= LIGHT_TURN else ' class="d"'
            how = turns if weight >= DARK_TURN else ""
            yield (
                f'<text x="{short(size.left + right)}" y="{short(size.top + down)}"{how}>'
                f"{fraction_text(weight)}</text>"
            )
    yield "</g>"


def _sheet() -> str:
    """The style sheet: the page is light or dark, as the reader's is.

    Without variables, which not every program that draws SVG knows.
    """
    return (
        f"text{{font-family:{FONT};white-space:pre}}.n{{text-anchor:middle;pointer-events:none}}"
        f".h,.b{{font-weight:bold}}.h{{font-size:15px}}.b{{font-size:13px}}.m{{font-size:{FONT_SIZE}px}}"
        ".n text{font-size:9px}"
        f".s{{fill-opacity:.06}}{_colors(LIGHT, '#000', '#000', '#fff')}"
        f"@media(prefers-color-scheme:dark){{{_colors(DARK, '#fff', '#000', '#000')}}}"
    )


def _colors(page: dict[str, str], low: str, middle: str, full: str) -> str:
    """The rules of one scheme; the last three are the colours of numbers on more and more."""
    return (
        f".p{{fill:{page['paper']}}}text{{fill:{page['ink']}}}.m{{fill:{page['muted']}}}"
        f".s,.w{{fill:{page['weight']}}}.w rect{{stroke:{page['paper']}}}"
        f".n text{{fill:{low}}}.n .d{{fill:{middle}}}.n .l{{fill:{full}}}"
    )
