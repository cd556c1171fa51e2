"""Signals that ask a process to stop, and what the main process and its workers make of them."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, NoReturn

# Ctrl-C, a batch system or `kill`, a terminal that was closed
STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Stopped(KeyboardInterrupt):
    """The signal that ends this process, and the exit code that says so."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.code = number, 128 + number


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


def wait_for_signal() -> NoReturn:
    """Wait, in the main thread, until a signal stops this process. Raises Stopped.

    Its number comes through a socket, too: where other threads run, PyPy may keep a signal from a
    main thread that only waits.
    """
    heard, told = socket.socketpair()
    with heard, told:
        told.setblocking(False)
        before = signal.set_wakeup_fd(told.fileno())
        try:
            while True:
                number = heard.recv(1)[0]
                if number in STOPPING:
                    stop(number)
        finally:
            signal.set_wakeup_fd(before)


@contextmanager
def signals_held() -> Iterator[None]:
    """What would stop this process within does so at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    heard = [n for n in STOPPING if signal.getsignal(n) is not signal.SIG_IGN]
    before = {n: signal.signal(n, lambda number, _: came.append(number)) for n in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


@contextmanager
def ctrl_c_ignored() -> Iterator[None]:
    """A process that is started within ignores Ctrl-C from its first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ignore_signals() -> None:
    """What Ctrl-C and its like mean, the main process decides."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
