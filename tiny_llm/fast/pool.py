"""Processes that do jobs beside the main one, and whose results come back in order.

The standard library's executors are no help where work is to be given up at once: to kill one of
their processes in the middle of a result leaves their threads waiting for the rest of it, for ever.
Here each process has a pipe of its own and one job at a time, and nothing waits but the caller.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Callable, NamedTuple, Optional

from tiny_llm.fast.signals import ignore_signals, signals_held
from tiny_llm.fast.workers import end_all, leave_with_parent, receive, send


class _Helper(NamedTuple):
    process: Any
    connection: Any


class Pool:
    """At most `count` processes that call `do` with each job; started when they are needed.

    Use it in a `with` block, at whose end they are gone, whatever they were about. `begin` is
    called in each of them with `begin_with`, once. Both are functions at the top of a module.
    """

    def __init__(
        self,
        count: int,
        do: Callable[[Any], Any],
        begin: Optional[Callable[[Any], None]] = None,
        begin_with: Any = None,
    ) -> None:
        self.count, self.do, self.begin, self.begin_with = count, do, begin, begin_with
        self.helpers: list[_Helper] = []
        self.free: list[_Helper] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        with signals_held():
            end_all(self.helpers)

    def map(self, jobs: Iterable[Any]) -> Iterator[Any]:
        """The results of all jobs, in order; a job is taken when a process has time for it.

        One `map` after the other, each to its end. Raises what a job raised, and ValueError if a
        process cannot be started, or dies.
        """
        busy: deque[_Helper] = deque()
        for job in jobs:
            if not self.free and len(self.helpers) == self.count:
                yield self._result(busy.popleft())
            helper = self.free.pop() if self.free else self._start()
            busy.append(helper)
            with suppress(OSError):  # it has died: then its result says so
                send(helper.connection, job)
        while busy:
            yield self._result(busy.popleft())

    def _result(self, helper: _Helper) -> Any:
        try:
            is_done, result = receive(helper.connection)
        except (EOFError, OSError):
            raise ValueError(
                "a worker process died; perhaps there was not enough memory, try fewer --workers"
            ) from None
        if not is_done:
            raise result
        self.free.append(helper)
        return result

    def _start(self) -> _Helper:
        try:
            with signals_held():  # a process is started and noted, or it is not
                ours, theirs = multiprocessing.Pipe()
                process = multiprocessing.Process(
                    target=_work, args=(theirs, self.do, self.begin, self.begin_with), daemon=True
                )
                process.start()
                theirs.close()  # else its end would not be noticed
                self.helpers.append(_Helper(process, ours))
        except OSError as error:
            raise ValueError(
                f"cannot start a worker process: {error.strerror or error}; try fewer --workers"
            ) from None
        return self.helpers[-1]


def _work(
    connection: Any,
    do: Callable[[Any], Any],
    begin: Optional[Callable[[Any], None]],
    begin_with: Any,
) -> None:
    """In a process: one job after the other, until the main process ends this one or is gone."""
    ignore_signals()
    threading.Thread(target=leave_with_parent, daemon=True).start()
    if begin:
        begin(begin_with)
    while True:
        job = receive(connection)
        try:
            answer = True, do(job)
        except Exception as error:
            answer = False, error
        send(connection, answer)
