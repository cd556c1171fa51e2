"""A packed model that goes on by two processes, each with one half of it.

    main process   heads 0-4 --(+)--> half of the feed-forward --(+)--> ...  half of the logits
                                |                                 |               ^
    helper         heads 5-8 --(+)--> the other half of it ------(+)--> ...  the other half

Training shares a batch (workers.py), but who writes has one row and needs it now. So both processes
run the same forward, each on its half of the model (halves.py), and add up what their halves make
of a row: twice in each block. All else needs no word between them, and a past is remembered by
halves, too: each process keeps the keys and values of its own heads, under a number.

A sum of two is the same whichever comes first, so two processes give the bits of one.

The model is cut before the helper is forked. So the helper finds its half in the memory that it
shares with the main process, needs no file, and never touches the other half. An interrupted
forward ends it, since nobody can tell what it would answer next. The next forward starts a new one,
which knows no past; a past that is still wanted is read again.
"""

from __future__ import annotations

import atexit
import multiprocessing
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from operator import add
from typing import Any, NamedTuple, Optional

from tiny_llm.fast.halves import config_of, cut, round_by_halves, sizes_of
from tiny_llm.fast.kv_cache import NOTHING, GoingOn, Listening, Past, go_on, listen
from tiny_llm.fast.packed import Packed
from tiny_llm.fast.signals import ctrl_c_ignored, ignore_signals, signals_held
from tiny_llm.fast.workers import end_all, leave_with_parent, noticing_death
from tiny_llm.matmul import Matrix

BOTH_WAYS = 2**16  # bytes that the system takes from both processes before one of them reads


class Helper(NamedTuple):
    """The process beside the main one, and the way to it."""

    process: Any
    connection: Any


class Line:
    """Between the two processes; each has its own end of it."""

    def __init__(self) -> None:
        self.connection: Any = None
        self.is_main = True

    def add(self, rows: Matrix) -> Matrix:
        """Every number plus the one of the other process: N x M, there and here -> N x M."""
        numbers = array("d", [number for row in rows for number in row])
        data = numbers.tobytes()
        if self.is_main or len(data) < BOTH_WAYS:
            self.connection.send_bytes(data)
            other = self.receive()
        else:
            other = self.receive()
            self.connection.send_bytes(data)
        total, width = list(map(add, numbers, other)), len(rows[0])
        return [total[i : i + width] for i in range(0, len(total), width)]

    def receive(self) -> array[float]:
        """The numbers that the other process sent."""
        return array("d", self.connection.recv_bytes())

    def rows(self, count: int) -> Matrix:
        """The same, in so many rows."""
        numbers = self.receive().tolist()
        width = len(numbers) // count
        return [numbers[i : i + width] for i in range(0, len(numbers), width)]


class Half:
    """Stands before a model's own class: a half of the model, which runs the same forward."""

    config: Any

    def served_by(self, head: int) -> int:
        """As Llama has it; the first heads of keys and values may serve some of the other half."""
        return int((head + self.config.first_head) // self.config.group)


class Remembered(list[Any]):
    """The layers of a past, of which the helper keeps its own under the same number."""

    def __init__(self, layers: list[Any], number: int, forgotten: list[int]) -> None:
        super().__init__(layers)
        self.number, self.forgotten = number, forgotten

    def __del__(self) -> None:
        self.forgotten.append(self.number)


class Together:
    """The main process's half of a model, and the helper that has the other one."""

    def __init__(self, model: Any) -> None:
        sizes = sizes_of(model)
        kind: Any = type("Half", (Half, type(model)), {})
        self.model, self.line = model, Line()
        self.halves: list[Any] = []
        for number, parameters in enumerate(cut(model, sizes, self.line.add)):
            half = kind.__new__(kind)
            half.config, half.parameters = config_of(model, sizes, number), parameters
            self.halves.append(half)
        self.helper: Optional[Helper] = None
        self.numbers = count()
        self.known: set[int] = set()  # the pasts that the helper remembers
        self.forgotten: list[int] = []  # those that nobody can ask for any more

    def go_on(
        self, pasts: Sequence[Past], contexts: list[list[int]], way: type[GoingOn]
    ) -> tuple[Matrix, list[Past]]:
        """As kv_cache.py has it. Raises WorkerDied."""
        if not self.helper:
            self._start()
        pasts = [self._known(past) for past in pasts]
        before = [getattr(past.layers, "number", None) for past in pasts]  # None: of nothing
        new, gone = [next(self.numbers) for _ in contexts], self.forgotten[:]
        del self.forgotten[: len(gone)]
        try:
            with noticing_death(self.helper):
                question = before, contexts, way is Listening, new, gone
                self.line.connection.send(question)
                logits, longer = go_on(self.halves[0], pasts, contexts, way)
                if way is not Listening:
                    others = self.line.rows(len(logits))
                    logits = [own + other for own, other in zip(logits, others)]
        except BaseException:
            self.close()  # an answer that nobody waited for must not be taken for a later one
            raise
        self.known.update(new)
        self.known.difference_update(gone)
        return logits, [
            Past(past.tokens, Remembered(past.layers, number, self.forgotten))
            for past, number in zip(longer, new)
        ]

    def _known(self, past: Past) -> Past:
        """This past, read again if the helper does not remember it."""
        if not past.tokens or getattr(past.layers, "number", None) in self.known:
            return past
        return listen(self.model, NOTHING, past.tokens)

    def _start(self) -> None:
        context: Any = multiprocessing.get_context("fork")
        atexit.register(self.close)  # before what multiprocessing does then: see workers.py
        try:
            with signals_held(), ctrl_c_ignored():  # a process is started and noted, or it is not
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_help, args=(self.halves[1], self.line, theirs), daemon=True
                )
                process.start()
                theirs.close()  # else its end would not be noticed
                self.helper, self.line.connection = Helper(process, ours), ours
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the helper at once, whatever it does."""
        with signals_held():
            end_all([self.helper] if self.helper else [])
            self.helper = None
            self.known.clear()
            atexit.unregister(self.close)


@contextmanager
def shared(model: Any, processes: int) -> Iterator[None]:
    """Within, so many processes, one or two, go on together with this packed model. The numbers are
    the same for both.

    Raises ValueError for more, for a model that cannot be shared, and where nothing can be forked.
    """
    if not any(isinstance(tensor, Packed) for tensor in model.parameters.values()):
        yield
        return
    if processes == 1:
        with suppress(ValueError):
            round_by_halves(model, sizes_of(model))
        yield
        return
    if processes != 2:
        raise ValueError(f"a model is shared by two processes at most, not {processes}")
    multiprocessing.get_context("fork")
    together = Together(model)
    try:
        model.go_on = together.go_on
        yield
    finally:
        together.close()
        del model.go_on


def _help(half: Any, line: Line, connection: Any) -> None:
    """Answer one question after the other, until the main process ends this one or is gone."""
    ignore_signals()
    threading.Thread(target=leave_with_parent, daemon=True).start()
    line.connection, line.is_main = connection, False
    pasts: dict[int, Past] = {}
    with suppress(EOFError, OSError):
        while True:
            before, contexts, listens, new, gone = connection.recv()
            for number in gone:
                pasts.pop(number, None)
            known = [NOTHING if number is None else pasts[number] for number in before]
            logits, longer = go_on(half, known, contexts, Listening if listens else GoingOn)
            pasts.update(zip(new, longer))
            if not listens:
                connection.send_bytes(array("d", [x for row in logits for x in row]).tobytes())
