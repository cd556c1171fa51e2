"""Pictures as inline SVG: loss curves, tokens on a map, bars.

    losses by step, yardsticks --loss_curves--> <svg>
    tokens at points           --token_map----> <svg>

Colours come from the page's style sheet, by class, so that they suit light and dark and paper. What
colour tells, a dash, a shape or a word tells, too. Every picture carries a title and a description
in words; all text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import NamedTuple, Optional

from tiny_llm.view.report.facts import Curves, EmbeddingMap, Measured, PlacedToken
from tiny_llm.view.terminal import display_width

WIDTH, HEIGHT = 460, 290  # of the curves
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 16, 46  # their margins
MAP = 460  # the longer side of the token map
MAP_MARGIN = 22
LETTER, LINE = 8.0, 14.0  # the room of a label: for each column, and in height
MARK = 2.8  # the size of a mark


class Yardstick(NamedTuple):
    """A loss to compare with, drawn as a level line."""

    name: str
    loss: float


def bar(share: float) -> str:
    """A bar as long as the share, from 0 to 1, of the room that it is given."""
    width = max(0.4, 100 * min(1.0, max(0.0, share))) if share else 0
    return (
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{_number(width)}" height="8"/></svg>'
    )


# ------------------------------------------------------------------------------------------- curves


class _Scale(NamedTuple):
    """From steps and losses to places in the picture."""

    last_step: int
    highest: float

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / self.last_step

    def y(self, loss: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - loss / self.highest)


def loss_curves(
    curves: Curves,
    yardsticks: Sequence[Yardstick],
    best: Optional[Measured],
    description: str,
    per: str = "token",
) -> str:
    """The losses of a run over its steps, beside level lines to compare them with."""
    everything = [*curves.batches, *curves.train, *curves.val]
    levels = [yardstick.loss for yardstick in yardsticks]
    highest = 1.04 * max([*levels, *(point.loss for point in everything)])
    scale = _Scale(max(point.step for point in everything), highest or 1.0)
    parts = [*_axes(scale, per)]
    for yardstick in yardsticks:
        level = scale.y(yardstick.loss)
        parts.append(f'<path class="yardstick" d="M{LEFT} {_number(level)}H{WIDTH - RIGHT}"/>')
        text = f"{yardstick.name} {yardstick.loss:.3f}"
        parts.append(_text(WIDTH - RIGHT, level - 5, text, "end", "halo"))
    parts.append(_line(curves.batches, scale, "batches"))
    parts.append(_line(curves.train, scale, "train"))
    parts += [_square(scale.x(p.step), scale.y(p.loss)) for p in curves.train]
    parts.append(_line(curves.val, scale, "val"))
    parts += [_dot(scale.x(p.step), scale.y(p.loss), "val") for p in curves.val]
    if best:
        x, y = scale.x(best.step), scale.y(best.loss)
        parts.append(f'<circle class="best" cx="{_number(x)}" cy="{_number(y)}" r="7"/>')
    return _svg(WIDTH, HEIGHT, "Loss curves", description, parts)


def _axes(scale: _Scale, per: str) -> Iterator[str]:
    """Both axes with their ticks."""
    for loss in ticks(scale.highest, 6):
        y = _number(scale.y(loss))
        yield f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>'
        yield _text(LEFT - 6, scale.y(loss) + 4, f"{loss:g}", "end")
    for step in ticks(scale.last_step, 6):
        x = _number(scale.x(step))
        yield f'<path class="grid" d="M{x} {HEIGHT - BOTTOM}v5"/>'
        anchor = "end" if scale.x(step) > WIDTH - RIGHT - 14 else "middle"
        yield _text(scale.x(step), HEIGHT - BOTTOM + 19, f"{step:,g}", anchor)
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, "step", "middle")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turn = f'transform="rotate(-90 12 {_number(middle)})"'
    yield f'<text x="12" y="{_number(middle)}" text-anchor="middle" {turn}>nats per {per}</text>'


def ticks(end: float, most: int) -> list[float]:
    """Round numbers from 0 to `end`, at most so many and one more: steps of 1, 2 or 5 times 10^n.

    >>> ticks(3.8, 6)
    [0.0, 1.0, 2.0, 3.0]
    """
    rough = end / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * (1 - 1e-9))
    return [float(f"{step * i:.6g}") for i in range(int(end / step + 1e-9) + 1)]


def _line(points: Sequence[Measured], scale: _Scale, name: str) -> str:
    if not points:
        return ""
    path = "L".join(f"{_number(scale.x(p.step))} {_number(scale.y(p.loss))}" for p in points)
    return f'<path class="curve {name}" d="M{path}"/>'


# ---------------------------------------------------------------------------------------------- map


class _Layout(NamedTuple):
    """Where the tokens of a map are drawn."""

    width: float
    height: float
    origin: tuple[float, float]
    places: list[tuple[float, float]]


def token_map(embeddings: EmbeddingMap, description: str) -> str:
    """Every token as a dot at its place; the first get their labels, as far as there is room."""
    width, height, origin, places = _layout(embeddings.tokens)
    labelled = set(_with_room(embeddings.tokens, places))
    x, y = map(_number, origin)
    parts = [f'<path class="grid" d="M{x} 0V{_number(height)}M0 {y}H{_number(width)}"/>']
    for number, (token, (x_token, y_token)) in enumerate(zip(embeddings.tokens, places)):
        name = escape(f"{token.label} ({token.x:.2f}, {token.y:.2f})")
        parts.append(f"<g><title>{name}</title>{_dot(x_token, y_token, 'token')}")
        if number in labelled:
            parts.append(_text(x_token, y_token - 5, token.label, "middle", "label"))
        parts.append("</g>")
    return _svg(width, height, "Map of the token embeddings", description, parts)


def _layout(tokens: Sequence[PlacedToken]) -> _Layout:
    """One scale for both axes, and no more room than the tokens and (0, 0) take."""
    xs, ys = [0.0, *(token.x for token in tokens)], [0.0, *(token.y for token in tokens)]
    left, right, bottom, top = min(xs), max(xs), min(ys), max(ys)
    scale = (MAP - 2 * MAP_MARGIN) / (max(right - left, top - bottom) or 1.0)

    def place(x: float, y: float) -> tuple[float, float]:
        return MAP_MARGIN + scale * (x - left), MAP_MARGIN + scale * (top - y)

    width, height = place(right, bottom)
    places = [place(token.x, token.y) for token in tokens]
    return _Layout(width + MAP_MARGIN, height + MAP_MARGIN, place(0.0, 0.0), places)


def _with_room(
    tokens: Sequence[PlacedToken], places: Sequence[tuple[float, float]]
) -> Iterator[int]:
    """The tokens whose labels cover none that came before."""
    taken: list[tuple[float, float, float]] = []  # x, y, half a width
    for number, (token, (x, y)) in enumerate(zip(tokens, places)):
        half = (LETTER * max(1, display_width(token.label)) + 2) / 2
        if all(abs(x - a) > half + b or abs(y - c) > LINE for a, c, b in taken):
            taken.append((x, y, half))
            yield number


def extremes(tokens: Sequence[PlacedToken], count: int = 3) -> str:
    """The map in words: which tokens lie farthest out on each side."""
    sides = (
        ("left", lambda token: token.x),
        ("right", lambda token: -token.x),
        ("top", lambda token: -token.y),
        ("bottom", lambda token: token.y),
    )
    return "; ".join(
        f"farthest {side}: {' '.join(token.label for token in sorted(tokens, key=key)[:count])}"
        for side, key in sides
    )


# ------------------------------------------------------------------------------------------- pieces


def _svg(width: float, height: float, title: str, description: str, parts: Iterable[str]) -> str:
    """A picture that is one thing to a screen reader: its title, and what it shows."""
    words = escape(f"{title}. {description}")
    return (
        f'<svg class="picture" viewBox="0 0 {_number(width)} {_number(height)}" role="img" '
        f'aria-label="{words}">'
        f"{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    place = f'x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}"'
    return f"<text{name} {place}>{escape(text)}</text>"


def _dot(x: float, y: float, kind: str) -> str:
    return f'<circle class="dot {kind}" cx="{_number(x)}" cy="{_number(y)}" r="{MARK}"/>'


def _square(x: float, y: float) -> str:
    place = f'x="{_number(x - MARK)}" y="{_number(y - MARK)}"'
    return f'<rect class="dot train" {place} width="{2 * MARK}" height="{2 * MARK}"/>'


def _number(value: float) -> str:
    """A coordinate, to a tenth of a unit."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
