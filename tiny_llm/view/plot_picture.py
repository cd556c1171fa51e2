"""The same curves as `plot` draws, as an SVG picture for a page.

    Curves, Scales --> lines and marks at pixels --> SVG, light or dark as the reader's page is

Each run has a colour, a dash and a mark of its own, so it can be told from the others without the
colour. The figures stand in the legend and, for who cannot see the picture, in its description.
"""

from __future__ import annotations

from collections.abc import Iterator

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
from tiny_llm.view.plot import STEPS, smoothing_text
from tiny_llm.view.svg import document, escaped, short
from tiny_llm.view.terminal import number_text

WIDTH, HEIGHT = 760, 320  # pixels, of the picture and of the curves
LEFT, RIGHT, TOP, BOTTOM, LEGEND = 62, 24, 66, 56, 24  # around the curves; a line of the legend
LOSS_TICKS, STEP_TICKS = 10, 8  # at most
MOST_MARKS = 24  # on a curve
LONGEST_NAME = 28  # letters
DASHES = ("none", "8 4", "2 4", "10 3 2 3", "14 5", "5 2")
MARKS = (  # around 0, 0
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-4-4h8v8h-8z",
    "M0-5L5 4H-5z",
    "M0-6L5 0L0 6L-5 0z",
    "M-5-4H5L0 5z",
    "M-2-5h4v3h3v4h-3v3h-4v-3h-3v-4h3z",
)
# Blue, orange, green, purple, red, grey, told apart by most colour-blind people, too.
LIGHT = ("#0969da", "#b35900", "#1a7f37", "#8250df", "#cf222e", "#57606a")
DARK = ("#58a6ff", "#f0883e", "#56d364", "#bc8cff", "#ff7b72", "#b1bac4")
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


def plot_svg(runs: list[Curves], log: bool = False, subject: Subject = LOSS) -> str:
    """The losses of some runs over their steps, as a picture.

    Raises ValueError if there is nothing to draw.
    """
    if not any(run.points for run in runs):
        raise ValueError("there is no loss to draw")
    losses, steps = loss_scale(runs, LOSS_TICKS), step_scale(runs, STEP_TICKS, log)
    height = TOP + HEIGHT + BOTTOM + LEGEND * len(runs) + 12
    body = [
        '<rect class="paper" width="100%" height="100%"/>',
        f'<text class="title" x="{LEFT}" y="28">{subject.title}</text>',
        f'<text class="muted" x="{LEFT}" y="48">{_subtitle(runs, subject)}</text>',
        *_axes(losses, steps, subject),
    ]
    for number, run in enumerate(runs):
        body.extend(_curve(run, number, losses, steps))
    for number, run in enumerate(runs):
        body.extend(_legend(run, number, TOP + HEIGHT + BOTTOM + LEGEND * (number + 0.5), subject))
    says = " ".join(f"{run.name}: {_figures(run, subject)}." for run in runs)
    return document(WIDTH, height, subject.title, _sheet(), body, says)


def _subtitle(runs: list[Curves], subject: Subject) -> str:
    """What the two kinds of lines are."""
    parts = []
    if any(run.val for run in runs):
        parts.append(f"With marks: {subject.measured}.")
    if any(run.train for run in runs):
        parts.append(f"Thin: training loss, {smoothing_text(runs)}.")
    return " ".join(parts)


def _spot(point: Point, losses: Scale, steps: Scale) -> tuple[float, float]:
    """Step and loss -> pixels from the left and from the top."""
    x = LEFT + steps.place(point[0]) * (WIDTH - LEFT - RIGHT)
    return x, TOP + (1 - losses.place(point[1])) * HEIGHT


def _axes(losses: Scale, steps: Scale, subject: Subject) -> Iterator[str]:
    """A line across for each loss on the axis, a tick for each step, and what they are."""
    bottom, right = TOP + HEIGHT, WIDTH - RIGHT
    for loss, label in zip(losses.ticks, tick_labels(losses.ticks)):
        _, y = _spot((steps.low, loss), losses, steps)
        yield f'<path class="grid" d="M{LEFT} {short(y)}H{right}"/>'
        yield f'<text class="muted end" x="{LEFT - 8}" y="{short(y + 4)}">{label}</text>'
    for step, label in zip(steps.ticks, tick_labels(steps.ticks)):
        x, _ = _spot((step, losses.low), losses, steps)
        yield f'<path class="tick" d="M{short(x)} {bottom}v5"/>'
        yield f'<text class="muted mid" x="{short(x)}" y="{bottom + 19}">{label}</text>'
    yield f'<path class="tick" d="M{LEFT} {bottom}H{right}"/>'
    name = STEPS[steps.log]
    yield f'<text class="mid" x="{(LEFT + right) // 2}" y="{bottom + 40}">{name}</text>'
    middle = TOP + HEIGHT // 2
    turn = f'transform="rotate(-90 16 {middle})"'
    yield f'<text class="mid" x="16" y="{middle}" {turn}>{subject.axis}</text>'


def _curve(run: Curves, number: int, losses: Scale, steps: Scale) -> Iterator[str]:
    """The lines of one run, and a mark at each validation, or at some."""
    kind = number % len(LIGHT)
    for points, name in ((run.train, "thin" if run.val else "thick"), (run.val, "thick")):
        spots = [_spot(point, losses, steps) for point in points]
        by_pixel = {round(x): (x, y) for x, y in spots}  # the last one in each
        path = " ".join(f"{short(x)},{short(y)}" for x, y in by_pixel.values())
        if len(by_pixel) > 1:
            yield f'<polyline class="{name} s{kind}" points="{path}"/>'
    marked = run.val or run.train[:1] * (len(run.train) == 1)
    for point in marked[:: -(-len(marked) // MOST_MARKS) or 1]:
        yield _mark(kind, *_spot(point, losses, steps))


def _mark(kind: int, x: float, y: float) -> str:
    place = f"translate({short(x)} {short(y)})"
    return f'<path class="f{kind}" transform="{place}" d="{MARKS[kind]}"/>'


def _legend(run: Curves, number: int, y: float, subject: Subject) -> Iterator[str]:
    """How a run is drawn, its name and its figures."""
    kind = number % len(LIGHT)
    yield f'<path class="thick s{kind}" d="M{LEFT} {short(y)}h44"/>'
    if run.val:
        yield _mark(kind, LEFT + 22, y)
    name = run.name if len(run.name) <= LONGEST_NAME else run.name[: LONGEST_NAME - 1] + "…"
    yield (
        f'<text x="{LEFT + 56}" y="{short(y + 4)}"><tspan class="name">{escaped(name)}</tspan>'
        f'<tspan class="muted" dx="10">{_figures(run, subject)}</tspan></text>'
    )


def _figures(run: Curves, subject: Subject) -> str:
    """The last losses of a run, and its lowest validation loss."""
    if not subject.lowest_is_best:
        return f"last {number_text(run.val[-1][1], 3)}"
    parts = []
    best = lowest(run.val)
    if best:
        last, lowest_loss = number_text(run.val[-1][1], 3), number_text(best[1], 3)
        parts.append(f"validation {last}, lowest {lowest_loss} at step {best[0]:,.0f}")
    if run.train:
        step, loss = run.train[-1]
        parts.append(f"training {number_text(loss, 3)} at step {step:,.0f}")
    return "; ".join(parts)


def _sheet() -> str:
    """The style sheet. Without variables, which not every program that draws SVG knows."""
    dashes = "".join(f".s{kind}{{stroke-dasharray:{dash}}}" for kind, dash in enumerate(DASHES))
    return (
        f"text{{font:12px {FONT}}}.title{{font-size:16px}}.title,.name{{font-weight:bold}}"
        ".mid{text-anchor:middle}.end{text-anchor:end}"
        f"{dashes}polyline,.thick{{fill:none;stroke-linejoin:round}}.thick{{stroke-width:2}}"
        ".thin{stroke-width:1.2;stroke-opacity:.6;stroke-dasharray:none}"
        f"{_colors(LIGHT, '#ffffff', '#1f2328', '#59636e', '#e4e8ec')}"
        "@media(prefers-color-scheme:dark){"
        f"{_colors(DARK, '#0d1117', '#e6edf3', '#9198a1', '#262c34')}}}"
    )


def _colors(runs: tuple[str, ...], paper: str, ink: str, muted: str, grid: str) -> str:
    """The rules of one scheme."""
    own = "".join(
        f".s{kind}{{stroke:{color}}}.f{kind}{{fill:{color};stroke:{paper}}}"
        for kind, color in enumerate(runs)
    )
    return (
        f".paper{{fill:{paper}}}text{{fill:{ink}}}.muted{{fill:{muted}}}"
        f".grid{{stroke:{grid}}}.tick{{stroke:{muted}}}{own}"
    )
