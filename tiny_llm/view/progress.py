"""What a person sees while a model trains: one live line in a terminal, plain lines elsewhere.

    step  512/2336  loss 1.734  ██▅▄▃▂▂▁  1,764 tokens/s  0:17 left

The live line never wraps: in a narrow terminal it leaves out what matters least.
"""

from __future__ import annotations

import os
import textwrap
import time
from typing import Optional, TextIO

from tiny_llm.run.steps import Step
from tiny_llm.text.shown import LONGEST_MESSAGE, shown
from tiny_llm.view.sparkline import Sketch, sparkline
from tiny_llm.view.terminal import Style, columns_of, loss_text, paint

REFRESH = 0.1  # seconds between two states of the live line
SELDOM = 10.0  # seconds between two lines where there is no live one
LABEL = 11  # columns
GAP, NEWLINE = "  ", "\n"
CLEAR_LINE = "\r\x1b[K"
SHORTEST, LONGEST = 6, 16  # columns of a sparkline
CYAN = "36"


class Progress:
    """Prints the steps of one run to `stream`; does nothing when `quiet`.

    A line stays for every evaluation. In a terminal, the last line shows the newest step until the
    next line takes its place.
    """

    def __init__(
        self,
        stream: TextIO,
        style: Style,
        steps: int,
        start: int,
        quiet: bool,
        unit: str = "tokens",  # what a step learns from
    ) -> None:
        self.stream, self.style, self.quiet, self.unit = stream, style, quiet, unit
        self.live = stream.isatty() and not quiet and os.environ.get("TERM") != "dumb"
        self.steps, self.start = steps, start
        self.began = self.refreshed = time.monotonic()
        self.tokens = 0
        self.losses = Sketch()
        self.measured: dict[str, float] = {}  # beside the loss, at the last evaluation

    def note(self, text: str, command: str = "") -> None:
        """A line of its own that stays; with a `command`, what to type, between empty lines."""
        self._stay(shown(text, LONGEST_MESSAGE))
        if command:
            self._stay(f"\n    {shown(command, 0, keep=NEWLINE)}\n")

    def _stay(self, text: str) -> None:
        if not self.quiet:
            self._write(CLEAR_LINE * self.live + text + "\n")

    def _write(self, text: str) -> None:
        """To the stream. Where it is closed or full, go quiet: training matters more."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            self.quiet, self.live = True, False

    def fact(self, label: str, text: str) -> None:
        """A labelled text that stays, wrapped to the width."""
        lines = textwrap.wrap(shown(text, LONGEST_MESSAGE), self.style.width - LABEL)
        self._stay(f"{label:<{LABEL}}" + ("\n" + " " * LABEL).join(lines))

    def step(self, step: Step) -> None:
        """One step was done."""
        self.tokens += step.tokens
        self.losses.add(step.loss)
        now = time.monotonic()
        if step.val_loss is not None:
            self.measured = {}
            parts = self._parts(step.number, step.train_loss or step.loss, step.val_loss, now)
            self._stay(self._fitting(parts) if self.live else GAP.join(parts))
            self.measured = step.measured
            if step.measured:
                self.fact("rewards:", measured_text(step.measured))
        elif self.live and now - self.refreshed > REFRESH:
            self.refreshed = now
            parts = self._parts(step.number, step.loss, None, now)
            self._write(CLEAR_LINE + self._fitting(parts, self.losses.means))

    def status(self, text: str) -> None:
        """How far something is that has no steps: the live line, or elsewhere a line seldom."""
        now = time.monotonic()
        if now - self.refreshed > (REFRESH if self.live else SELDOM):
            self.refreshed = now
            if self.live:
                self._write(CLEAR_LINE + shown(text)[: self.style.width - 1])
            else:
                self.note(text)

    def clear(self) -> None:
        """Take the live line away."""
        if self.live:
            self._write(CLEAR_LINE)

    def _parts(self, number: int, loss: float, val_loss: Optional[float], now: float) -> list[str]:
        """What is known of a step: which it is, its losses, the speed, the time left."""
        seconds = max(now - self.began, 1e-9)
        left = seconds / (number - self.start) * (self.steps - number)
        validation = "" if val_loss is None else f"{GAP}val loss {loss_text(val_loss)}"
        digits = 0 if self.unit == "tokens" else 1
        if self.measured:
            validation = GAP + GAP.join(_in_few_words(self.measured))
        return [
            f"step {number:>{len(str(self.steps))}}/{self.steps}",
            f"loss {loss_text(loss)}{validation}",
            f"{self.tokens / seconds:,.{digits}f} {self.unit}/s",
            f"{clock(left)} left",
        ]

    def _fitting(self, parts: list[str], losses: Optional[list[float]] = None) -> str:
        """The parts in one line that fits, with a sparkline of the losses where there is room.

        What goes first is the speed; then the sparkline, the time left, the number of all steps.
        """
        step, loss, speed, left = parts
        room = min(self.style.width, columns_of(self.stream)) - 1  # a full line wraps in some
        for kept, curve in (
            ([step, loss, speed, left], losses),
            ([step, loss, left], losses),
            ([step, loss, left], None),
            ([step, loss], None),
            ([step.split("/")[0], loss], None),
        ):
            spare = room - len(GAP.join(kept))
            if spare >= (len(GAP) + SHORTEST if curve else 0):
                break
        if curve:
            columns = min(LONGEST, spare - len(GAP))
            text = sparkline(curve, columns, self.style).ljust(columns)
            kept.insert(2, paint(text, CYAN, self.style))
        line = GAP.join(kept)
        return line if spare >= 0 else line[:room]


def measured_text(measured: dict[str, float]) -> str:
    """What a run of preferences measured, in a line."""
    rewards = ", ".join(
        f"{name.split('_')[0]} {measured[name]:.2f}"
        for name in ("chosen_reward", "rejected_reward", "margin")
    )
    return f"{rewards}; accuracy {measured['accuracy']:.0%}, KL {measured['kl']:.2f} nats an answer"


def _in_few_words(measured: dict[str, float]) -> list[str]:
    """The same for the live line; the margin is the difference of the two rewards."""
    return [
        f"rewards {measured['chosen_reward']:.2f} {measured['rejected_reward']:.2f}",
        f"accuracy {measured['accuracy']:.0%}",
        f"KL {measured['kl']:.2f}",
    ]


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some: 75 -> 1:15."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
