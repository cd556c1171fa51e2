"""Every product of a packed model by several processes, each of which has a part of its outputs.

    main process   round the inputs -> send -> outputs 0 .. 767  ------> put together
    helper                               +---> outputs 768 .. 1535 --+

Training shares a batch (workers.py), but who writes has one row and needs it now. So each matrix is
cut, as in tensor parallelism (Shoeybi et al., 2019, Megatron-LM): a process holds the weights of
its outputs, is sent the inputs, and sends back its sums.

The inputs are rounded to whole numbers before they are sent, and all sums of whole numbers are
exact. So any number of processes gives the same bits. A product sends a few kilobytes there and
back, which costs about as much as one hundred-thousandth of a second of computing.

Matrices are cut before helpers are forked, which happens when the first product asks for them. So
they find their part in the memory that they share with the main process, need no file, and never
touch another part, of which they then have no copy. An interrupted product ends them, since nobody
can tell what they would answer next, and the next product starts new ones.
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
    """The main process and its helpers, and the parts of every kernel: one for each process."""

    def __init__(self) -> None:
        self.parts: list[list[Kernel]] = []
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
            result = self.parts[number][0].sums(factors)
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
                for place in range(1, len(self.parts[0])):
                    ours, theirs = context.Pipe()
                    own = [parts[place] for parts in self.parts]
                    process = context.Process(target=_help, args=(own, theirs), daemon=True)
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
    """Stands in the place of a kernel, which it cuts into parts of nearly equal size."""

    def __init__(self, kernel: Kernel, team: Team, count: int) -> None:
        outputs = kernel.outputs
        bounds = [outputs * i // count // AT_ONCE * AT_ONCE for i in range(count)] + [outputs]
        self.parts = [kernel.part(start, stop) for start, stop in zip(bounds, bounds[1:])]
        self.unit, self.team, self.number = kernel.unit, team, len(team.parts)
        team.parts.append(self.parts)

    def sums(self, factors: Sequence[int]) -> list[int]:
        """The same as the kernel's. Raises WorkerDied."""
        return self.team.sums(self.number, factors)

    def numbers_of(self, output: int) -> array[int]:
        """The int8 weights of one output: K."""
        for part in self.parts:
            if output < part.outputs:
                return part.numbers_of(output)
            output -= part.outputs
        raise IndexError("there is no such output")

    def numbers(self) -> list[bytes]:
        """The int8 weights of every input: K times M."""
        parts = [part.numbers() for part in self.parts if part.outputs]
        return [b"".join(pieces) for pieces in zip(*parts)]

    def whole(self) -> Kernel:
        """The kernel as it was."""
        return type(self.parts[0]).joined(self.parts)  # type: ignore[arg-type]


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
    team = Team()
    try:
        for matrix in matrices:  # one after the other, so that none is held twice
            matrix.kernels = [(inputs, Shared(x, team, count)) for inputs, x in matrix.kernels]
        yield
    finally:
        team.close()
        for matrix in matrices:
            matrix.kernels = [
                (inputs, x.whole() if isinstance(x, Shared) else x) for inputs, x in matrix.kernels
            ]


def _help(own: Sequence[Kernel], connection: Any) -> None:
    """Answer one question after the other, until the main process ends this one or is gone."""
    ignore_signals()
    threading.Thread(target=leave_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            number, *factors = array("i", connection.recv_bytes())
            connection.send_bytes(array("i", own[number].sums(factors)).tobytes())
