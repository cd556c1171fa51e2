"""What a person sees while a model trains: one live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import textwrap
import time
from typing import Optional, TextIO

from tiny_llm.training import Step
from tiny_llm.view.terminal import Style

REFRESH = 0.1  # seconds between two states of the live line
SELDOM = 10.0  # seconds between two lines where there is no live one
LABEL = 11  # columns
CLEAR_LINE = "\r\x1b[K"


class Progress:
    """Prints the steps of one run to `stream`; does nothing when `quiet`.

    A line stays for every evaluation. In a terminal, the last line shows the newest step until the
    next line takes its place.
    """

    def __init__(self, stream: TextIO, style: Style, steps: int, start: int, quiet: bool) -> None:
        self.stream, self.style, self.quiet = stream, style, quiet
        self.live = stream.isatty() and not quiet and os.environ.get("TERM") != "dumb"
        self.steps, self.start = steps, start
        self.began = self.refreshed = time.monotonic()
        self.tokens = 0

    def note(self, text: str) -> None:
        """A line of its own that stays."""
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
        lines = textwrap.wrap(text, self.style.width - LABEL)
        self.note(f"{label:<{LABEL}}" + ("\n" + " " * LABEL).join(lines))

    def step(self, step: Step) -> None:
        """One step was done."""
        self.tokens += step.tokens
        now = time.monotonic()
        if step.val_loss is not None:
            self.note(self._line(step.number, step.train_loss or step.loss, step.val_loss, now))
        elif self.live and now - self.refreshed > REFRESH:
            self.refreshed = now
            text = self._line(step.number, step.loss, None, now)[: self.style.width - 1]
            self._write(CLEAR_LINE + text)

    def status(self, text: str) -> None:
        """How far something is that has no steps: the live line, or elsewhere a line seldom."""
        now = time.monotonic()
        if now - self.refreshed > (REFRESH if self.live else SELDOM):
            self.refreshed = now
            if self.live:
                self._write(CLEAR_LINE + text[: self.style.width - 1])
            else:
                self.note(text)

    def clear(self) -> None:
        """Take the live line away."""
        if self.live:
            self._write(CLEAR_LINE)

    def _line(self, number: int, loss: float, val_loss: Optional[float], now: float) -> str:
        seconds = max(now - self.began, 1e-9)
        left = seconds / (number - self.start) * (self.steps - number)
        validation = "" if val_loss is None else f"  val loss {val_loss:.3f}"
        return (
            f"step {number:>{len(str(self.steps))}}/{self.steps}  loss {loss:.3f}{validation}  "
            f"{self.tokens / seconds:,.0f} tokens/s  {clock(left)} left"
        )


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some: 75 -> 1:15."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
