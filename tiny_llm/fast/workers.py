"""The same gradient by several processes. A reader may skip this file: no idea of it is a model's.

    main process   write weights -> share 0 of the contexts -> add up -> gradients of the batch
    worker 1       read weights  -> share 1 of the contexts -> write slopes -+
    worker 2       read weights  -> share 2 of the contexts -> write slopes -+

Python runs one thread at a time, so more cores need more processes. The loss of a batch is a mean
over its predictions, so its gradient is the mean of the shares' gradients, each counted as often as
its share has predictions. The parts are added in the order of the shares, so that the same number
of workers gives the same bits; another number rounds differently.

Weights and slopes travel as raw doubles through memory that all processes see, contexts and losses
through pipes. The memory has no name in the file system, so nothing of it outlives the processes.
The update stays in the main process: each process could make it for itself, which would save the
way of the weights, but that way costs less than 1% of a step, and a worker that is told the weights
cannot come to have others.
"""

from __future__ import annotations

import atexit
import ctypes
import math
import multiprocessing
import os
import pickle
import threading
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Callable, NamedTuple, Optional, Union

from tiny_llm.batches import Contexts, Targets
from tiny_llm.fast.products import use
from tiny_llm.fast.signals import ctrl_c_ignored, ignore_signals, signals_held
from tiny_llm.fast.tensors import scaled
from tiny_llm.matmul import Vector
from tiny_llm.model import LanguageModel, Parameters, rows_of
from tiny_llm.text.tasks import AskedContext
from tiny_llm.training import loss_and_gradients

PAYS = 2e6  # multiply-adds in a step: `benchmarks/workers.py` measured x 1.4 and more from here on


class WorkerDied(RuntimeError):
    """A worker process has ended, or could not do its share, so there is no gradient."""


# The model, a part of a batch and the seed of what is random -> its mean loss and gradients
Compute = Callable[[LanguageModel, Contexts, Targets, str], tuple[float, Parameters]]


def plainly(
    model: LanguageModel, contexts: Contexts, targets: Targets, seed: str
) -> tuple[float, Parameters]:
    """Nothing is random."""
    return loss_and_gradients(model, contexts, targets)


class Share(NamedTuple):
    """What one process computes of a batch."""

    contexts: Contexts
    targets: Targets
    weight: float  # its part of all predictions
    seed: str = ""  # of what is random in it


class Worker(NamedTuple):
    """One process beside the main one, and the two ways to it."""

    process: Any
    connection: Any
    slopes: Any  # shared memory: the weighted gradients of its share, in the model's order


class Workers:
    """`count` processes, the calling one among them, that compute gradients of this model together.

    Use it in a `with` block, at whose end the others are gone. Each of them holds a copy of the
    model and multiplies in the way `matmul`. They are started by `start_method`, or in the way that
    is usual on this system.
    """

    def __init__(
        self,
        model: LanguageModel,
        count: int,
        matmul: str = "float64",
        compute: Compute = plainly,
        start_method: Optional[str] = None,
    ) -> None:
        self.model, self.count, self.compute, self.matmul = model, count, compute, matmul
        self.workers: list[Worker] = []
        context = multiprocessing.get_context(start_method)
        self.numbers = sum(map(len, _vectors(model.parameters)))
        self.weights: Any = context.RawArray("d", self.numbers)
        # Before what multiprocessing has registered by now, which asks its daemons to end, though
        # these ignore that, and waits for them.
        atexit.register(self.close)
        try:
            with signals_held(), ctrl_c_ignored():  # a process is started and noted, or it is not
                for _ in range(count - 1):
                    self.workers.append(self._start(context))
        except BaseException:
            self.close()
            raise

    def _start(self, context: Any) -> Worker:
        """A new worker, waiting for its first share."""
        ours, theirs = context.Pipe()
        slopes = context.RawArray("d", self.numbers)
        process = context.Process(
            target=_work,
            args=(self.model, self.compute, self.matmul, theirs, self.weights, slopes),
            daemon=True,
        )
        process.start()
        theirs.close()  # else its end would not be noticed
        return Worker(process, ours, slopes)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers at once, whatever they do: nothing of theirs is worth saving."""
        with signals_held():
            end_all(self.workers)
            self.workers = []
            atexit.unregister(self.close)

    def gradients(
        self, contexts: Contexts, targets: Targets, seed: str = ""
    ) -> tuple[float, Parameters]:
        """The mean loss of the batch and its gradients, as `compute` gives them for all of it.

        Raises WorkerDied, and what the model raises; the workers are closed then.
        """
        parts = shares(contexts, targets, self.model.predicts_every_token, self.count)
        if len(parts) == 1:
            with use(self.matmul):
                return self.compute(self.model, contexts, targets, seed)
        own, *others = [part._replace(seed=f"{seed}/{number}") for number, part in enumerate(parts)]
        try:
            return self._together(own, others)
        except BaseException:
            self.close()  # an answer that nobody waited for must not be taken for a later one
            raise

    def _together(self, own: Share, others: list[Share]) -> tuple[float, Parameters]:
        """The loss and the gradients of all shares, the first of them computed here."""
        if not self.workers:
            raise WorkerDied("the worker processes were closed")
        _write(self.weights, _vectors(self.model.parameters))
        for worker, share in zip(self.workers, others):
            with noticing_death(worker):
                send(worker.connection, share)
        with use(self.matmul):
            loss, gradients = self.compute(self.model, own.contexts, own.targets, own.seed)
        loss *= own.weight
        in_order = {name: gradients[name] for name in self.model.parameters if gradients}
        total = scaled(in_order, own.weight)
        for worker, share in zip(self.workers, others):
            loss += share.weight * _answer(worker)
        if not math.isfinite(loss):
            return loss, {}
        for worker, _ in zip(self.workers, others):
            _add(worker.slopes, _vectors(total))
        return loss, total


def shares(
    contexts: Contexts, targets: Targets, predicts_every_token: bool, count: int
) -> list[Share]:
    """The batch in at most `count` parts that follow one another, as equal as can be, none empty.

    Raises ValueError unless there are as many targets as the contexts ask for.
    """
    parts = max(1, min(count, len(contexts)))
    bounds = [len(contexts) * i // parts for i in range(parts + 1)]
    pieces = [contexts[begin:end] for begin, end in zip(bounds, bounds[1:])]
    result, done = [], 0
    for piece in pieces:
        size = sum(map(_asked, piece)) if predicts_every_token else len(piece)
        weight = size / max(1, len(targets))
        result.append(Share(piece, targets[done : done + size], weight))
        done += size
    if done != len(targets):
        raise ValueError(f"these contexts ask for {done} targets, not {len(targets)}")
    return result


def _asked(context: list[int]) -> int:
    """How many predictions the context asks for."""
    return len(context.rows) if isinstance(context, AskedContext) else len(context)


def default_count(model: LanguageModel, batch_size: int) -> int:
    """How many processes suit batches of so many contexts: 1, or one for each core."""
    return 1 if step_cost(model, batch_size) < PAYS else min(cores(), batch_size)


def step_cost(model: LanguageModel, batch_size: int) -> int:
    """About how many multiply-adds a step takes.

    A prediction costs three for each parameter: one in the forward, two in the backward.
    """
    numbers = sum(map(len, _vectors(model.parameters)))
    return 3 * numbers * batch_size * model.targets_per_context


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def send(connection: Any, message: Any) -> None:
    """Send a message (`Connection.send` leaves a buffer that CPython 3.13.0 complains of)."""
    connection.send_bytes(pickle.dumps(message))


def receive(connection: Any) -> Any:
    """The message that `send` sent from the other end."""
    return pickle.loads(connection.recv_bytes())


# ---------------------------------------------------------------- in a worker


def _work(
    model: LanguageModel,
    compute: Compute,
    matmul: str,
    connection: Any,
    weights: Any,
    slopes: Any,
) -> None:
    """Compute one share after the other, until the main process ends this one or is gone."""
    ignore_signals()
    threading.Thread(target=leave_with_parent, daemon=True).start()
    with use(matmul), suppress(EOFError, OSError):
        while True:
            share = receive(connection)
            try:
                answer: Union[float, str] = _answer_to(model, compute, share, weights, slopes)
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            send(connection, answer)


def _answer_to(
    model: LanguageModel, compute: Compute, share: Share, weights: Any, slopes: Any
) -> float:
    """The mean loss of the share; its gradients go to `slopes`."""
    _read(weights, _vectors(model.parameters))
    loss, gradients = compute(model, share.contexts, share.targets, share.seed)
    if gradients:
        in_order = {name: gradients[name] for name in model.parameters}
        _write(slopes, ([share.weight * g for g in vector] for vector in _vectors(in_order)))
    return loss


def end_all(workers: Iterable[Any]) -> None:
    """Kill every process, and wait until it is gone; each has a `process` and a `connection`."""
    workers = list(workers)
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join()
        worker.connection.close()


def leave_with_parent() -> None:
    """Wait until the main process is gone, in whatever way, and leave in the midst of a share."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)


# ---------------------------------------------------------------- in the main process


@contextmanager
def noticing_death(worker: Any) -> Iterator[None]:
    """Raises WorkerDied, with the reason, when the `connection` to the `process` is broken."""
    try:
        yield
    except (EOFError, OSError):
        worker.process.join(5)
        code = worker.process.exitcode or 0
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        raise WorkerDied(f"a worker process died ({how})") from None


def _answer(worker: Worker) -> float:
    """The loss of the worker's share, once it is done. Raises WorkerDied."""
    with noticing_death(worker):
        answer: Union[float, str] = receive(worker.connection)
    if isinstance(answer, str):
        raise WorkerDied(f"a worker process failed ({answer})")
    return answer


# ---------------------------------------------------------------- tensors as raw doubles


def _vectors(tensors: Parameters) -> Iterator[Vector]:
    """Every vector and every row of every matrix, in order: the numbers themselves, not a copy."""
    for tensor in tensors.values():
        yield from rows_of(tensor)


def _write(memory: Any, vectors: Iterator[Vector]) -> None:
    """Copy the vectors to the memory, one behind the other. ValueError if they do not fill it."""
    doubles = array("d")
    for vector in vectors:
        doubles.fromlist(vector)
    if len(doubles) != len(memory):
        raise ValueError(f"there is room for {len(memory)} numbers, not for {len(doubles)}")
    ctypes.memmove(memory, doubles.buffer_info()[0], ctypes.sizeof(memory))


def _read(memory: Any, vectors: Iterator[Vector]) -> None:
    """The inverse: give the vectors the numbers in the memory, in place."""
    for vector, values in _beside(vectors, memory):
        vector[:] = values


def _add(memory: Any, vectors: Iterator[Vector]) -> None:
    """Add the numbers in the memory to the vectors, in place."""
    for vector, values in _beside(vectors, memory):
        vector[:] = [a + b for a, b in zip(vector, values)]


def _beside(vectors: Iterator[Vector], memory: Any) -> Iterator[tuple[Vector, array[float]]]:
    """Each vector with the numbers that stand at its place in the memory."""
    doubles = array("d", [0.0]) * len(memory)
    ctypes.memmove(doubles.buffer_info()[0], memory, ctypes.sizeof(memory))
    start = 0
    for vector in vectors:
        yield vector, doubles[start : start + len(vector)]
        start += len(vector)
