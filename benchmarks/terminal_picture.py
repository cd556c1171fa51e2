"""What a terminal shows, as a picture: for README.md, which shows a trace.

    text with colours --> lines --> cells with pens --> rectangles and glyphs, each in its column

The codes of colours: ECMA-48, section 8.3.117.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple, Optional

from tiny_llm.view.svg import FONT, document, escaped, short
from tiny_llm.view.terminal import BLOCKS, HEIGHTS, display_width

FONT_SIZE, CELL, LINE, ASCENT = 14, 8.4, 18, 13.5  # a cell is 0.6 of the size in most such fonts
TAB = 8  # columns
MARGIN, BAR = 14, 30  # around the text, and above it for the title
PAPER, INK, FRAME, MUTED = "#ffffff", "#1f2328", "#d0d7de", "#59636e"
# The first 16 of 256 colours, dark enough to be read on white.
BASIC = (
    *("#24292f", "#b3202a", "#116329", "#7d4e00", "#0550ae", "#8250df", "#1b7c83", "#6e7781"),
    *("#57606a", "#a40e26", "#1a7f37", "#633c01", "#0969da", "#a475f9", "#3192aa", "#8c959f"),
)
CUBE = (0, 95, 135, 175, 215, 255)  # the steps of the 6 x 6 x 6 colours that follow

_CODE = re.compile("\x1b\\[([0-9;]*)m")
_COMMAND = re.compile("\x1b\\[[0-9;?]*[A-Za-ln-z]")  # moves the cursor, clears a line


class Pen(NamedTuple):
    """How the next characters are drawn: two colours (None: the terminal's own), and weight."""

    ink: Optional[str] = None
    paper: Optional[str] = None
    bold: bool = False
    dim: bool = False


class Glyph(NamedTuple):
    """A character with the marks that join it, the column it begins in, and its columns."""

    text: str
    column: int
    width: int
    pen: Pen


def terminal_svg(text: str, title: str) -> str:
    """What a terminal shows of `text`, colours included, as a picture with `title` above it.

    Every character stands in its own column, whatever fonts there are. Dark text on white.
    """
    lines = _glyphs(_COMMAND.sub("", text.replace("\r\n", "\n")).rstrip("\n"))
    ends = [line[-1].column + line[-1].width for line in lines if line]
    columns = max([display_width(title) + 16, *ends])
    width, height = 2 * MARGIN + columns * CELL, BAR + MARGIN + len(lines) * LINE + MARGIN
    style = (
        f"text{{font:{FONT_SIZE}px {FONT};fill:{INK};white-space:pre}}"
        f".b{{font-weight:bold}}.d{{opacity:.65}}.t{{font-size:12px;fill:{MUTED}}}"
        "rect+rect,text+rect{shape-rendering:crispEdges}"  # no seams between neighbours
    )
    body = [
        f'<rect x=".5" y=".5" width="{short(width - 1)}" height="{height - 1}" rx="8" '
        f'fill="{PAPER}" stroke="{FRAME}"/>',
        *(f'<circle cx="{18 + 16 * i}" cy="16" r="5" fill="{FRAME}"/>' for i in range(3)),
        f'<text class="t" x="{short(width / 2)}" y="20" text-anchor="middle">{escaped(title)}'
        "</text>",
    ]
    for number, glyphs in enumerate(lines):
        body.extend(_line(glyphs, BAR + MARGIN + number * LINE))
    return document(width, height, title, style, body)


def _glyphs(text: str) -> list[list[Glyph]]:
    """The characters of each line, each with its column and the pen that the codes make of it."""
    lines: list[list[Glyph]] = [[]]
    pen, column = Pen(), 0
    for index, part in enumerate(_CODE.split(text)):
        if index % 2:  # what stands between ESC [ and m
            pen = _changed(pen, [int(code or 0) for code in part.split(";")])
            continue
        for character in part:
            line, width = lines[-1], display_width(character)
            if character == "\n":
                lines.append([])
                column = 0
            elif character == "\t":
                spaces = TAB - column % TAB
                line.extend(Glyph(" ", column + i, 1, pen) for i in range(spaces))
                column += spaces
            elif width:
                line.append(Glyph(character, column, width, pen))
                column += width
            elif line:
                line[-1] = line[-1]._replace(text=line[-1].text + character)
    return lines


def _changed(pen: Pen, codes: list[int]) -> Pen:
    """The pen after these codes; unknown ones leave it as it is."""
    while codes:
        code = codes.pop(0)
        if code == 0:
            pen = Pen()
        elif code in (1, 2):
            pen = pen._replace(bold=code == 1, dim=code == 2)
        elif code == 22:
            pen = pen._replace(bold=False, dim=False)
        elif code in (38, 48) and codes[:1] == [5] and len(codes) > 1:
            pen = _colored(pen, code == 38, palette_color(codes[1]))
            del codes[:2]
        elif code in (39, 49):
            pen = _colored(pen, code == 39, None)
        elif 30 <= code < 38 or 90 <= code < 98:
            pen = pen._replace(ink=BASIC[code % 10 + 8 * (code >= 90)])
        elif 40 <= code < 48 or 100 <= code < 108:
            pen = pen._replace(paper=BASIC[code % 10 + 8 * (code >= 100)])
    return pen


def _colored(pen: Pen, is_ink: bool, color: Optional[str]) -> Pen:
    return pen._replace(ink=color) if is_ink else pen._replace(paper=color)


def palette_color(number: int) -> str:
    """The colour of this number of 256, as #rrggbb: 16 basic ones, a cube of 216, 24 greys."""
    if number < 16:
        return BASIC[number]
    if number < 232:
        channels = [CUBE[(number - 16) // size % 6] for size in (36, 6, 1)]
    else:
        channels = [8 + 10 * (min(number, 255) - 232)] * 3
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def _line(glyphs: list[Glyph], top: float) -> Iterator[str]:
    """The elements of one line: what lies behind the text, then the text."""
    for paper, group in groupby(glyphs, key=lambda glyph: glyph.pen.paper):
        if paper:
            run = list(group)
            x, columns = run[0].column, run[-1].column + run[-1].width - run[0].column
            yield _rectangle(x, top, columns, 1.0, 0.0, paper)
    for pen, group in groupby(glyphs, key=lambda glyph: glyph.pen):
        for _, same in groupby(group, key=_kind):
            yield from _run(list(same), top, pen)


def _kind(glyph: Glyph) -> str:
    """How a glyph is drawn: as letters in a row, as a rectangle, or by itself."""
    if glyph.text in HEIGHTS[1:] or glyph.text in BLOCKS[1:]:
        return "block"
    return "letters" if glyph.text.isascii() else "alone"


def _run(glyphs: list[Glyph], top: float, pen: Pen) -> Iterator[str]:
    """Glyphs of one pen and kind that follow one another."""
    kind = _kind(glyphs[0])
    if kind == "block":
        yield from _blocks(glyphs, top, pen.ink or INK)
    elif kind == "alone":
        for glyph in glyphs:
            yield _text(glyph.text, glyph.column, glyph.width, top, pen)
    else:
        text = "".join(glyph.text for glyph in glyphs)
        for word in re.finditer(r"\S+(?: \S+)*", text):
            yield _text(word[0], glyphs[word.start()].column, len(word[0]), top, pen)


def _text(text: str, column: int, columns: int, top: float, pen: Pen) -> str:
    """Text stretched over exactly its columns."""
    kinds = " ".join(name for name, on in (("b", pen.bold), ("d", pen.dim)) if on)
    how = f' class="{kinds}"' if kinds else ""
    how += f' style="fill:{pen.ink}"' if pen.ink else ""
    length = f' textLength="{short(columns * CELL)}" lengthAdjust="spacingAndGlyphs"'
    return (
        f'<text x="{short(MARGIN + column * CELL)}" y="{short(top + ASCENT)}"{length}{how}>'
        f"{escaped(text)}</text>"
    )


def _blocks(glyphs: list[Glyph], top: float, ink: str) -> Iterator[str]:
    """Bars and shades as rectangles: fonts leave seams between them. Full ones become one."""
    for character, group in groupby(glyphs, key=lambda glyph: glyph.text):
        run = list(group)
        if character == BLOCKS[8]:
            yield _rectangle(run[0].column, top, len(run), 1.0, 0.0, ink)
        elif character in HEIGHTS:
            height = HEIGHTS.index(character) / 8
            for glyph in run:
                yield _rectangle(glyph.column, top, 1.0, height, 1 - height, ink)
        else:
            for glyph in run:
                yield _rectangle(glyph.column, top, BLOCKS.index(character) / 8, 1.0, 0.0, ink)


def _rectangle(
    column: float, top: float, columns: float, height: float, down: float, color: str
) -> str:
    """A filled part of some cells: `height` of a line, `down` from its top."""
    return (
        f'<rect x="{short(MARGIN + column * CELL)}" y="{short(top + down * LINE)}" '
        f'width="{short(columns * CELL)}" height="{short(height * LINE)}" fill="{color}"/>'
    )
