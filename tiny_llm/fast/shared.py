"""Every product of a packed model by several processes, each of which has a part of its outputs.

    main process   round the inputs -> send -> outputs 0 .. 767  ------> put together
    helper                               +---> outputs 768 .. 1535 --+

Training shares a batch (workers.py), but who writes has one row and needs it now. So each matrix is
cut, as in tensor parallelism (Shoeybi et al., 2019, Megatron-LM): a process holds the weights of
its outputs, is sent the inputs, and sends back its sums.

The inputs are rounded to whole numbers before they are sent, and all sums of whole numbers are
exact. So any number of processes gives the same bits. A product sends a few kilobytes there and
back, which costs about as much as one hundred-thousandth of a second of computing.

Helpers are forked when the first product asks for them: they find the weights in the memory that
they share with the main process, cut out their part, and need no file. An interrupted product ends
them, since nobody can tell what they would answer next, and the next product starts new ones.
"""

from __future__ import annotations

import atexit
import multiprocessing
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from tiny_llm.fast.packed import Kernel, Packed
from tiny_llm.fast.packed_words import AT_ONCE
from tiny_llm.fast.signals import ctrl_c_ignored, ignore_signals, signals_held
from tiny_llm.fast.workers import end_all, leave_with_parent, noticing_death
from tiny_llm.model import LanguageModel


class Helper(NamedTuple):
    """One process beside the main one, and the way to it."""

    process: Any
    connection: Any


class Team:
    """The main process and its helpers, `count` in all, and the kernels that they share."""

    def __init__(self, kernels: Sequence[Kernel], count: int) -> None:
        self.kernels, self.count = kernels, count
        self.own = parts_of(kernels, 0, count)
        self.helpers: list[Helper] = []

    def sums(self, number: int, factors: Sequence[int]) -> list[int]:
        """What this kernel as a whole would give. Raises WorkerDied."""
        if not self.helpers:
            self._start()
        question = array("i", [number, *factors]).tobytes()
        try:
            for helper in self.helpers:
                with noticing_death(helper):
                    helper.connection.send_bytes(question)
            result = self.own[number].sums(factors)
            for helper in self.helpers:
                with noticing_death(helper):
                    result += array("i", helper.connection.recv_bytes())
        except BaseException:
            self.close()  # an answer that nobody waited for must not be taken for a later one
            raise
        return result

    def _start(self) -> None:
        context: Any = multiprocessing.get_context("fork")
        atexit.register(self.close)  # before what multiprocessing does then: see workers.py
        try:
            with signals_held(), ctrl_c_ignored():  # a process is started and noted, or it is not
                for place in range(1, self.count):
                    ours, theirs = context.Pipe()
                    process = context.Process(
                        target=_help, args=(self.kernels, place, self.count, theirs), daemon=True
                    )
                    process.start()
                    theirs.close()  # else its end would not be noticed
                    self.helpers.append(Helper(process, ours))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all helpers at once, whatever they do."""
        with signals_held():
            end_all(self.helpers)
            self.helpers = []
            atexit.unregister(self.close)


class Shared:
    """Stands in the place of a kernel."""

    def __init__(self, team: Team, number: int) -> None:
        self.team, self.number = team, number
        whole = team.kernels[number]
        self.unit, self.numbers, self.numbers_of = whole.unit, whole.numbers, whole.numbers_of

    def sums(self, factors: Sequence[int]) -> list[int]:
        """The same as the whole kernel's. Raises WorkerDied."""
        return self.team.sums(self.number, factors)


@contextmanager
def shared(model: LanguageModel, count: int) -> Iterator[None]:
    """Within, `count` processes multiply with the packed matrices of this model.

    Raises ValueError where processes cannot be forked.
    """
    if count == 1:
        yield
        return
    multiprocessing.get_context("fork")
    tensors = [x for x in model.parameters.values() if isinstance(x, Packed)]
    matrices = list(dict.fromkeys(tensors))  # one may have two names
    team = Team([kernel for matrix in matrices for _, kernel in matrix.kernels], count)
    before = [matrix.kernels for matrix in matrices]
    stand_ins = iter([Shared(team, number) for number in range(len(team.kernels))])
    try:
        for matrix in matrices:
            matrix.kernels = [(inputs, next(stand_ins)) for inputs, _ in matrix.kernels]
        yield
    finally:
        for matrix, kernels in zip(matrices, before):
            matrix.kernels = kernels
        team.close()


def parts_of(kernels: Sequence[Kernel], place: int, count: int) -> list[Kernel]:
    """The part of each kernel that the process at this place has."""
    parts: list[Kernel] = []
    for kernel in kernels:
        bounds = [kernel.outputs * i // count // AT_ONCE * AT_ONCE for i in range(count)]
        bounds.append(kernel.outputs)
        parts.append(kernel.part(bounds[place], bounds[place + 1]))
    return parts


def _help(kernels: Sequence[Kernel], place: int, count: int, connection: Any) -> None:
    """Answer one question after the other, until the main process ends this one or is gone."""
    ignore_signals()
    threading.Thread(target=leave_with_parent, daemon=True).start()
    own = parts_of(kernels, place, count)
    with suppress(EOFError, OSError):
        while True:
            number, *factors = array("i", connection.recv_bytes())
            connection.send_bytes(array("i", own[number].sums(factors)).tobytes())
