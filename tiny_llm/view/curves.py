"""The losses of runs as curves: which points there are, and where each lies in a picture.

    records of steps --curves_of--> points (step, loss) --Scale--> 0 to 1 across, 0 to 1 up

`plot` draws them in a terminal and `plot_picture` as SVG, both with the same points, scales and
ticks.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Optional

SMOOTHING = 50  # a point of training is the mean over a fiftieth of the run, up to its step
LARGEST = 1e100  # a loss beyond it is as good as infinite
LONG = 1e7  # from here on, numbers are written as 1e+07
NEAR_ZERO = 0.1  # of the last step
TOLERANCE = 1e-9  # of a tick's distance: what is as good as on it

Point = tuple[float, float]  # step, loss in nats per token


class Curves(NamedTuple):
    """The two curves of one run. Either may be empty."""

    name: str
    train: list[Point]  # smoothed
    window: int  # steps that a point of `train` is the mean of, or as many as there are so far
    val: list[Point]

    @property
    def points(self) -> list[Point]:
        """All of them."""
        return self.train + self.val


class Subject(NamedTuple):
    """What curves are of."""

    title: str
    axis: str
    last: str = "last loss"  # over the figures
    measured: str = "validation loss"  # what `val` is
    lowest_is_best: bool = True


LOSS = Subject("Loss while training", "loss, nats per token")
PAIR_LOSS = Subject("Loss while learning preferences", "loss, nats per pair")
REWARDS = Subject(
    "Rewards while learning preferences", "reward", "last reward", "on pairs held out", False
)


class Scale(NamedTuple):
    """One axis: a line from `low` to `high`, and the ticks on it."""

    low: float
    high: float
    ticks: list[float]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies: 0 at `low`, 1 at `high`; in the middle if these are the same."""
        if self.low == self.high:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def curves_of(name: str, records: list[dict[str, Any]]) -> Curves:
    """The curves in the records of one run, a dict for each step with `step`, `loss`, `val_loss`.

    Numbers that are not finite are left out. Raises ValueError for records of another kind.
    """
    train, val = [], []
    for record in records:
        step, loss = number_of(record.get("step")), number_of(record.get("loss"))
        if step is None or step < 1 or loss is None:
            raise ValueError("it holds something other than the losses of a run")
        val_loss = number_of(record.get("val_loss"))
        train += [(step, loss)] if abs(loss) <= LARGEST else []
        val += [(step, val_loss)] if val_loss is not None and abs(val_loss) <= LARGEST else []
    window = max(1, len(train) // SMOOTHING)
    return Curves(name, smoothed(train, window), window, val)


def reward_curves(name: str, records: list[dict[str, Any]]) -> list[Curves]:
    """Chosen reward, rejected reward and margin of a run that learned preferences; none of another.

    Numbers that are not finite are left out.
    """
    found = []
    for field in ("chosen_reward", "rejected_reward", "margin"):
        values = [(float(record["step"]), number_of(record.get(field))) for record in records]
        points = [(step, v) for step, v in values if v is not None and abs(v) <= LARGEST]
        found.append(Curves(f"{name}:{field}", [], 1, points))
    return [curves for curves in found if curves.val]


def number_of(value: Any) -> Optional[float]:
    """What JSON calls a number, as a float; None for anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        return float(value) if is_number else None
    except OverflowError:  # a whole number beyond all floats
        return None


def smoothed(points: list[Point], window: int) -> list[Point]:
    """Each point's loss as the mean of the `window` losses up to it, or of all, if fewer."""
    losses = [loss for _, loss in points]
    windows = (losses[max(0, end - window) : end] for end in range(1, len(losses) + 1))
    return [(step, sum(part) / len(part)) for (step, _), part in zip(points, windows)]


def loss_scale(runs: list[Curves], most: int) -> Scale:
    """The axis of the losses: round numbers at its ends and between them, at most `most` ticks."""
    losses = [loss for run in runs for _, loss in run.points]
    low, high = min(losses), max(losses)
    if high - low < 1e-6 * max(1.0, abs(high)):  # one loss, or the same again and again
        half = max(0.5, abs(high) / 10)
        low, high = low - half, high + half
    for parts in range(most - 1, 0, -1):  # the ends move outwards, and may need one tick more
        step = round_distance((high - low) / parts)
        first, last = math.floor(low / step + TOLERANCE), math.ceil(high / step - TOLERANCE)
        if last - first < most:
            break
    ticks = [multiple(i, step) for i in range(first, last + 1)]
    return Scale(ticks[0], ticks[-1], ticks)


def step_scale(runs: list[Curves], most: int, log: bool = False) -> Scale:
    """The axis of the steps, up to the last one, with at most `most` ticks on it.

    It begins at the first, or at 0 if that is near and the axis has a 0.
    """
    steps = [step for run in runs for step, _ in run.points]
    low, high = min(steps), max(steps)
    if low == high:
        return Scale(low, high, [low], log)
    low = low if log or low > NEAR_ZERO * high else 0.0
    ticks = _log_ticks(low, high, most) if log else []
    if len(ticks) < 2:
        distance = max(1.0, round_distance((high - low) / max(1, most - 1)))
        within = range(math.ceil(low / distance), math.floor(high / distance) + 1)
        ticks = [multiple(i, distance) for i in within]
    return Scale(low, high, ticks or [low, high], log)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """1, 2, 5, 10, 20, ... between the ends, or only 1, 10, 100, ..., or fewer, to be `most`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas, stride in (((1, 2, 5), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        values = [m * 10.0**power for power in powers[::stride] for m in mantissas]
        ticks = [value for value in values if low <= value <= high]
        if len(ticks) <= most:
            return ticks
    return []


def round_distance(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least so large."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - TOLERANCE))


def multiple(count: int, distance: float) -> float:
    """count x distance, a round number as a person writes it: 3 x 0.1 is 0.3."""
    return round(count * distance, max(0, 1 - math.floor(math.log10(distance))))


def tick_labels(ticks: list[float]) -> list[str]:
    """The numbers at the ticks, all with as many decimals as they need: 0.5, 1.0, 1.5."""
    if max(map(abs, ticks)) >= LONG:
        return [f"{tick:.4g}" for tick in ticks]
    decimals = next(
        d for d in range(12) if d == 11 or all(abs(t - round(t, d)) < 1e-9 for t in ticks)
    )
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def lowest(points: list[Point]) -> Optional[Point]:
    """The first point with the lowest loss; None if there are none."""
    return min(points, key=lambda point: point[1], default=None)
