"""Several processes that write, each with the whole model and a batch of its own.

    submit --a text to the one with the fewest--> process 1: Batch --tokens--+
                                              +-> process 2: Batch --tokens--+-> events

Texts know nothing of each other, so nothing has to be exchanged while they are written, and n
processes write up to n times as much. One text alone is written as fast as before; to share its
heads among processes (`generate --workers`) makes that faster, and costs an exchange for each token
and layer.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from queue import SimpleQueue
from typing import Any, Callable, NamedTuple, Optional

from tiny_llm.fast.signals import ctrl_c_ignored, ignore_signals, signals_held
from tiny_llm.fast.workers import WorkerDied, end_all, leave_with_parent, receive, send
from tiny_llm.model import LanguageModel
from tiny_llm.serve.batch import Batch, Busy, Closed, Event, Heard, Text, Wish


class Replica(NamedTuple):
    """One of the processes."""

    process: Any
    connection: Any
    open: dict[int, RemoteText]  # the texts that it still writes, by key


class RemoteText:
    """A wish on its way in another process."""

    def __init__(
        self, owner: Replicas, replica: Replica, events: SimpleQueue[Any], number: int
    ) -> None:
        self.owner, self.replica, self.events, self.number = owner, replica, events, number
        self.key = next(owner.keys)

    def tell(self, event: Event) -> None:
        """Whoever asked hears of it."""
        self.events.put((self.number, event))

    def cancel(self) -> None:
        """Whoever asked has gone."""
        self.owner.cancel(self)


class Replicas:
    """To those who submit, a Batch. Use it in a `with` block, at whose end the processes are gone.

    Raises WorkerDied if one cannot be started.
    """

    def __init__(
        self, count: int, model: LanguageModel, running: int, waiting: int, separator: Optional[int]
    ) -> None:
        self.most = running + waiting
        self.keys = itertools.count()
        self.is_closed = False
        self.replicas: list[Replica] = []  # those that live
        self._lock, self._model = threading.Lock(), threading.Lock()
        shares = [running * (i + 1) // count - running * i // count for i in range(count)]
        try:
            for share in shares:
                with signals_held(), ctrl_c_ignored():  # it is started and noted, or it is not
                    self.replicas.append(_started((model, share, separator)))
        except OSError as error:
            self.__exit__()
            raise WorkerDied(f"cannot start a worker process: {error.strerror or error}") from None

    def __enter__(self) -> Replicas:
        return self

    def __exit__(self, *_: object) -> None:
        with signals_held():
            end_all(self.replicas)

    def submit(
        self, wishes: Sequence[Wish], events: SimpleQueue[tuple[int, Event]]
    ) -> list[RemoteText]:
        """As Batch has it. Raises WorkerDied if none of the processes lives."""
        with self._lock:
            if self.is_closed:
                raise Closed
            if not self.replicas:
                raise WorkerDied("all processes that write have died")
            if len(wishes) > self.most - sum(len(replica.open) for replica in self.replicas):
                raise Busy
            return [self._given(wish, events, number) for number, wish in enumerate(wishes)]

    def _given(self, wish: Wish, events: SimpleQueue[Any], number: int) -> RemoteText:
        replica = min(self.replicas, key=lambda one: len(one.open))
        text = RemoteText(self, replica, events, number)
        replica.open[text.key] = text
        with suppress(OSError):  # it has died, which `run` will tell
            send(replica.connection, (text.key, wish))
        return text

    def cancel(self, text: RemoteText) -> None:
        """Its place is free, and its process is told."""
        with self._lock:
            if text.replica.open.pop(text.key, None):
                with suppress(OSError):
                    send(text.replica.connection, (text.key, None))

    def between_steps(self, job: Callable[[], Any]) -> Any:
        """What the job gives, with the model of this process, which writes nothing."""
        with self._model:
            return job()

    def close(self) -> None:
        """As Batch has it."""
        with self._lock:
            self.is_closed = True
            for replica in self.replicas:
                with suppress(OSError):
                    send(replica.connection, None)

    @property
    def is_alive(self) -> bool:
        """Whether any of them writes."""
        return bool(self.replicas) and not self.is_closed

    def run(self) -> None:
        """Pass on what the processes tell, until all of them have ended."""
        while self.replicas:
            by_connection = {replica.connection: replica for replica in self.replicas}
            for connection in wait(list(by_connection)):
                replica = by_connection[connection]
                try:
                    events = receive(connection)
                except (EOFError, OSError):
                    self._lose(replica)
                else:
                    for key, event in events:
                        self._tell(replica, key, event)

    def _tell(self, replica: Replica, key: int, event: Event) -> None:
        with self._lock:
            text = replica.open.get(key)
            if text and not isinstance(event, Heard):
                del replica.open[key]
        if text:
            is_closed = self.is_closed and isinstance(event, Exception)
            text.tell(Closed() if is_closed else event)

    def _lose(self, replica: Replica) -> None:
        """It has ended: so have its texts."""
        with self._lock:
            self.replicas = [one for one in self.replicas if one is not replica]
            texts = list(replica.open.values())
            replica.open.clear()
        for text in texts:
            text.tell(Closed() if self.is_closed else WorkerDied("a process that writes has died"))
        end_all([replica])


def _started(begin_with: tuple[Any, ...]) -> Replica:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_work, args=(theirs, *begin_with), daemon=True)
    process.start()
    theirs.close()  # else its end would not be noticed
    return Replica(process, ours, {})


# ---------------------------------------------------------------- in a process of its own


class _Outbox:
    """What happened in a step, for the main process: one message, however many texts there are."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.lock = connection, threading.Lock()
        self.events: list[tuple[int, Event]] = []

    def add(self, key: int, event: Event) -> None:
        """To be sent with the next step."""
        with self.lock:
            self.events.append((key, event))

    def send(self) -> None:
        """Send what there is."""
        with self.lock:
            events, self.events = self.events, []
        if events:
            with suppress(OSError):  # the main process has gone
                send(self.connection, events)


class _Told(NamedTuple):
    """Takes the events of one text."""

    key: int
    outbox: _Outbox

    def put(self, numbered: tuple[int, Event]) -> None:
        """As a queue has it."""
        event = numbered[1]
        if isinstance(event, Exception):  # of whatever kind, it passes through the pipe
            event = RuntimeError(f"{type(event).__name__}: {event}")
        self.outbox.add(self.key, event)


def _work(connection: Any, model: LanguageModel, running: int, separator: Optional[int]) -> None:
    """Write what is asked for, until the main process says that it is enough, or is gone."""
    ignore_signals()
    threading.Thread(target=leave_with_parent, daemon=True).start()
    # The main process counts who waits; who has gone may still be counted here for a step.
    batch = Batch(model, running, sys.maxsize, separator)
    outbox = _Outbox(connection)
    writer = threading.Thread(target=batch.run, args=(outbox.send,), daemon=True)
    writer.start()
    texts: dict[int, Text] = {}
    while (message := receive(connection)) is not None:
        key, wish = message
        texts = {key: text for key, text in texts.items() if not text.has_ended}
        if wish is not None:
            told: Any = _Told(key, outbox)
            (texts[key],) = batch.submit([wish], told)
        elif key in texts:
            texts[key].cancel()
    batch.close()
    writer.join()
