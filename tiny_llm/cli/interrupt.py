"""Ctrl-C as a request: finish the step, save, say how to go on. SIGTERM and SIGHUP are like it."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Any

from tiny_llm.fast.signals import on_signals, stop
from tiny_llm.view.progress import Progress


class Interrupt:
    """While entered, the first signal asks for a stop after the step; the second stops at once."""

    def __init__(self, progress: Progress, has_begun: bool = True) -> None:
        self.code = 0  # for the shell, once a stop was requested
        self.has_begun = has_begun  # until then a stop loses nothing, and is one at once
        self.progress = progress
        self.handling = on_signals(self._handle)

    @property
    def requested(self) -> bool:
        """Whether a stop is."""
        return self.code > 0

    def _handle(self, number: int, _: object) -> None:
        if self.requested or not self.has_begun:
            stop(number)
        self.code = 128 + number
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        with suppress(OSError):  # if the terminal is gone, the run is saved all the same
            self.progress.note(f"{name}: finishing this step (once more to stop at once)")

    def __enter__(self) -> Interrupt:
        self.handling.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.handling.__exit__(*error)
