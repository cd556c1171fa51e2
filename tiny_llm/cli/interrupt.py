"""Ctrl-C as a request: finish the step, save, say how to go on."""

from __future__ import annotations

import signal
import threading

from tiny_llm.view.progress import Progress


class Interrupt:
    """While entered, the first Ctrl-C asks for a stop after the step; the second stops at once."""

    def __init__(self, progress: Progress) -> None:
        self.requested = False
        self.progress = progress

    def _handle(self, *_: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self.progress.note("Ctrl-C: finishing this step (once more to stop at once)")

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.previous)
