"""Losses as curves in a terminal, made of braille dots, or of letters where there is only ASCII.

    Curves, Scales --> dots and letters in cells --> lines with axes, a legend below

      loss, nats per token
      4 ┤⢣
        │ ⠱⡀            each run has a letter: small on the curve of its training loss,
      2 ┤  ⠈a⢄A         capital for its validation losses
        │    ⠈⠒⠢A
      0 ┤
        └┬──────┬
         0     90

A braille character is 2 x 4 dots, so a curve has eight times as many places as letters would have.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import NamedTuple, Optional

from tiny_llm.view.curves import (
    LOSS,
    Curves,
    Point,
    Scale,
    Subject,
    loss_scale,
    lowest,
    step_scale,
    tick_labels,
)
from tiny_llm.view.terminal import (
    BOLD,
    Style,
    clip,
    display_width,
    number_text,
    pad,
    paint,
    visible,
    wrap,
)

MOST_RUNS = len(string.ascii_lowercase)
BRAILLE = 0x2800  # the empty one; the eight bits of its dots follow, column by column:
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
SEVERAL = "*"  # where letters of two runs fall on one cell
STEPS = ("step", "step, logarithmic")  # what the axis is called
COLORS = ("34", "31", "32", "35", "33", "36")  # of the runs, in turn
FEWEST_ROWS = 4
ROWS_A_TICK, COLUMNS_A_TICK = 3, 9
LETTERS_ON_A_CURVE = 3
NARROW = 60  # columns; below it, the legend leaves out where a loss was the lowest


class Cell(NamedTuple):
    """What stands in one character of the canvas: dots, or a letter over them."""

    dots: int = 0
    letter: str = ""
    run: int = 0  # the last that drew here, and gives its colour


class Canvas:
    """Characters in rows and columns, and finer places in them for dots."""

    def __init__(self, columns: int, rows: int, unicode: bool) -> None:
        self.columns, self.rows = columns, rows
        self.across, self.down = (2, 4) if unicode else (1, 1)  # dots in a cell
        self.cells: dict[tuple[int, int], Cell] = {}  # (column, row) -> what is there

    def spot(self, x: float, y: float) -> tuple[int, int]:
        """The dot, from the left and from the top, that lies nearest to 0 to 1 across and up."""
        return (
            round(x * (self.columns * self.across - 1)),
            round((1 - y) * (self.rows * self.down - 1)),
        )

    def cell_of(self, x: float, y: float) -> tuple[int, int]:
        """The column and the row of that dot."""
        right, below = self.spot(x, y)
        return right // self.across, below // self.down

    def dot(self, right: int, below: int, run: int) -> None:
        """Set a dot."""
        where = right // self.across, below // self.down
        old = self.cells.get(where, Cell())
        bit = DOTS[right % self.across][below % self.down]
        self.cells[where] = Cell(old.dots | bit, old.letter, run)

    def line(self, start: tuple[int, int], end: tuple[int, int], run: int) -> None:
        """Set the dots between two of them, both included."""
        across, down = end[0] - start[0], end[1] - start[1]
        length = max(abs(across), abs(down), 1)
        for i in range(length + 1):
            self.dot(
                start[0] + round(across * i / length), start[1] + round(down * i / length), run
            )

    def letter(self, where: tuple[int, int], letter: str, run: int) -> None:
        """Put a letter in a cell; with another one there already, a mark for several."""
        old = self.cells.get(where, Cell())
        both = old.letter.isupper() and letter.isupper() and old.letter != letter
        self.cells[where] = Cell(
            old.dots, SEVERAL if both or old.letter == SEVERAL else letter, run
        )

    def text(self, row: int, style: Style) -> str:
        """One row, painted."""
        filled = [column for column, at in self.cells if at == row]
        line = ""
        for column in range(max(filled, default=-1) + 1):
            cell = self.cells.get((column, row))
            line += self._character(cell, style) if cell else " "
        return line

    def _character(self, cell: Cell, style: Style) -> str:
        small = string.ascii_lowercase[cell.run]
        shown = cell.letter or (chr(BRAILLE + cell.dots) if style.unicode else small)
        code = COLORS[cell.run % len(COLORS)]
        return paint(shown, f"{BOLD};{code}" if cell.letter else code, style)


def plot(
    runs: list[Curves], style: Style, lines: int = 24, log: bool = False, subject: Subject = LOSS
) -> Iterator[str]:
    """Yield the lines of a plot of some runs: curves over steps with axes, and a legend.

    About as many as `lines`; `log`: equal ways on the axis of steps are equal ratios. Raises
    ValueError if there is nothing to draw, or for more runs than there are letters.
    """
    if not any(run.points for run in runs):
        raise ValueError("there is no loss to draw")
    if len(runs) > MOST_RUNS:
        raise ValueError(f"there are letters for {MOST_RUNS} runs, not for {len(runs)}")
    legend = list(_legend(runs, style, subject))
    rows = max(FEWEST_ROWS, lines - len(legend) - 5)
    losses = loss_scale(runs, max(2, rows // ROWS_A_TICK + 1))
    labels = tick_labels(losses.ticks)
    margin = max(map(len, labels)) + len(" |")
    steps = step_scale(runs, max(2, (style.width - margin) // COLUMNS_A_TICK), log)
    canvas = Canvas(style.width - margin, rows, style.unicode)
    for number, run in enumerate(runs):
        _draw(run, number, canvas, steps, losses)
    for number, run in enumerate(runs):  # letters above all lines
        _mark(run, number, canvas, steps, losses)
    yield subject.axis
    at = {canvas.cell_of(0, losses.place(t))[1]: text for t, text in zip(losses.ticks, labels)}
    tick, wall = "┤│" if style.unicode else "+|"
    for row in range(rows):
        side = at.get(row, "").rjust(margin - 2) + " " + (tick if row in at else wall)
        yield (side + canvas.text(row, style)).rstrip()
    yield from _step_axis(steps, canvas, margin, style)
    yield ""
    yield from legend


def _spots(
    points: list[Point], canvas: Canvas, steps: Scale, losses: Scale
) -> list[tuple[int, int]]:
    return [canvas.spot(steps.place(step), losses.place(loss)) for step, loss in points]


def _draw(run: Curves, number: int, canvas: Canvas, steps: Scale, losses: Scale) -> None:
    """The curve of the training loss, or of the validation loss where that is alone."""
    spots = _spots(run.train or run.val, canvas, steps, losses)
    for start, end in zip(spots, spots[1:] or spots):
        canvas.line(start, end, number)


def _mark(run: Curves, number: int, canvas: Canvas, steps: Scale, losses: Scale) -> None:
    """A small letter on the curve here and there, and a capital for each validation."""
    letter = string.ascii_lowercase[number]
    places = [(steps.place(step), losses.place(loss)) for step, loss in run.train]
    for turn in range(LETTERS_ON_A_CURVE if places and canvas.across > 1 else 0):
        wanted = (turn + (number % 5 + 1) / 6) / LETTERS_ON_A_CURVE  # not where other runs have it
        place = min(places, key=lambda place: abs(place[0] - wanted * places[-1][0]))
        canvas.letter(canvas.cell_of(*place), letter, number)
    for step, loss in run.val:
        where = canvas.cell_of(steps.place(step), losses.place(loss))
        canvas.letter(where, letter.upper(), number)


def _step_axis(steps: Scale, canvas: Canvas, margin: int, style: Style) -> Iterator[str]:
    """The axis with its ticks, the numbers under these, and what they count."""
    corner, flat, tick = "└─┬" if style.unicode else "+-+"
    columns = [canvas.cell_of(steps.place(step), 0)[0] for step in steps.ticks]
    axis = "".join(tick if column in columns else flat for column in range(canvas.columns))
    yield " " * (margin - 1) + corner + axis
    numbers = ""
    for column, label in zip(columns, tick_labels(steps.ticks)):
        start = margin + column - len(label) // 2
        start = min(start, style.width - len(label))
        if not numbers or start > len(numbers):
            numbers = numbers.ljust(start) + label
    yield numbers
    yield " " * margin + STEPS[steps.log].center(canvas.columns).rstrip()


def _legend(runs: list[Curves], style: Style, subject: Subject) -> Iterator[str]:
    """A line for each run: its letters, its name, its last losses; then what the letters mean."""
    has_val = any(run.val for run in runs)
    has_train = any(run.train for run in runs)
    wide = style.width >= NARROW and has_val and subject.lowest_is_best
    titles = ["training"] * has_train + ["validation"] * has_val + ["lowest", "at step"] * wide
    rows = [_figures(run, has_train, has_val, wide) for run in runs]
    tail = sum(2 + max(map(len, column)) for column in zip(titles, *rows))
    names = [clip(visible(run.name, Style(unicode=style.unicode)), 40, style) for run in runs]
    room = min(max(8, *map(display_width, names)), style.width - 5 - tail)
    yield _legend_line("", subject.last, titles, [titles, *rows], room)
    for number, (name, row) in enumerate(zip(names, rows)):
        letter = string.ascii_lowercase[number]
        keys = letter * bool(runs[number].train) + letter.upper() * bool(runs[number].val)
        line = _legend_line(keys, clip(name, room, style), row, [titles, *rows], room)
        yield paint(keys, f"{BOLD};{COLORS[number % len(COLORS)]}", style) + line[len(keys) :]
    yield from wrap(_meaning(runs, has_train, has_val, subject), style)


def _legend_line(keys: str, name: str, cells: list[str], table: list[list[str]], room: int) -> str:
    widths = [max(map(len, column)) for column in zip(*table)]
    numbers = "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths))
    return (f"{keys:<3}" + pad(name, room) + numbers).rstrip()


def _figures(run: Curves, has_train: bool, has_val: bool, wide: bool) -> list[str]:
    """The last losses of a run, and its lowest validation loss with the step."""

    def text(point: Optional[Point]) -> str:
        return number_text(point[1], 3) if point else ""

    best = lowest(run.val)
    cells = [text(run.train[-1] if run.train else None)] if has_train else []
    cells += [text(run.val[-1] if run.val else None)] if has_val else []
    return cells + ([text(best), f"{best[0]:,.0f}" if best else ""] if wide else [])


def _meaning(runs: list[Curves], has_train: bool, has_val: bool, subject: Subject) -> str:
    """What was drawn, in a sentence."""
    parts = []
    if has_train:
        parts.append(f"Small letters: training loss, {smoothing_text(runs)}.")
    if has_val:
        parts.append(f"Capitals: {subject.measured}.")
    if len(runs) > 1 and has_val:
        parts.append(f"{SEVERAL}: of several runs.")
    return " ".join(parts)


def smoothing_text(runs: list[Curves]) -> str:
    """How the training loss was smoothed."""
    windows = sorted({run.window for run in runs if run.train})
    if windows[-1] == 1:
        return "every step"
    count = f"{windows[0]}" if len(windows) == 1 else f"{windows[0]} to {windows[-1]}"
    return f"the mean of the last {count} steps (2% of the run)"
