"""Ctrl-C as a request: finish the step, save, say how to go on. SIGTERM and SIGHUP are like it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Callable

from tiny_llm.fast.workers import STOPPING
from tiny_llm.view.progress import Progress


class Stopped(KeyboardInterrupt):
    """The signal that ends this process, and the exit code that says so."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


@contextmanager
def on_signals(handle: Callable[..., Any]) -> Iterator[None]:
    """Within, these signals are handled so; not those that are ignored, as `nohup` has it."""
    numbers: list[int] = []
    if threading.current_thread() is threading.main_thread():
        numbers = [n for n in STOPPING if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(number: int, _: object = None) -> None:
    """Raises Stopped."""
    raise Stopped(number)


class Interrupt:
    """While entered, the first signal asks for a stop after the step; the second stops at once."""

    def __init__(self, progress: Progress) -> None:
        self.code = 0  # for the shell, once a stop was requested
        self.progress = progress
        self.handling = on_signals(self._handle)

    @property
    def requested(self) -> bool:
        """Whether a stop is."""
        return self.code > 0

    def _handle(self, number: int, _: object) -> None:
        if self.requested:
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
