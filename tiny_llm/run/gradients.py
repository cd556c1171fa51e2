"""Where the gradients of a real run come from: the function that chapter 8's loop is given.

    step -> its batches -> each shared among workers -> dropout, forward, loss, backward -> the mean

Chapter 8 has the plain one, `on_batches`. This one makes a large batch of several small ones, one
after the other, lets worker processes share each of them, drops numbers at random, and multiplies
in a chosen way. Without any of that it gives the same numbers.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Optional

from tiny_llm.batches import Batches, Contexts, Targets
from tiny_llm.fast.products import PYPY, use
from tiny_llm.fast.tensors import add_scaled, scaled
from tiny_llm.fast.workers import Compute, Workers
from tiny_llm.model import LanguageModel, Parameters
from tiny_llm.run.dropout import Drop, Dropped
from tiny_llm.training import loss_and_gradients


class Gradients:
    """Call it with a step, from 0, for the mean loss of the step's batches and its gradients.

    Use it in a `with` block, at whose end the workers are gone. `predictions` says how many tokens
    the last call has learned from. Raises WorkerDied.
    """

    def __init__(
        self,
        model: LanguageModel,
        batches: Batches,
        batches_per_step: int = 1,
        dropout: float = 0.0,
        workers: int = 1,
        matmul: str = "float64",
        compute: Optional[Compute] = None,
    ) -> None:
        """compute: what makes gradients of a batch, in place of the loss of each next token."""
        self.batches, self.batches_per_step, self.matmul = batches, batches_per_step, matmul
        self.predictions = 0
        compute = compute or partial(gradients_of_batch, dropout=dropout)
        workers = min(workers, batches.batch_size)  # a context is not shared
        self.workers = Workers(model, workers, matmul, compute) if workers > 1 else None
        self.of_batch = self.workers.gradients if self.workers else partial(compute, model)

    def __enter__(self) -> Gradients:
        return self

    def __exit__(self, *_: object) -> None:
        if self.workers:
            self.workers.close()

    def __call__(self, step: int) -> tuple[float, Parameters]:
        first = step * self.batches_per_step
        parts = [self.batches.batch(first + part) for part in range(self.batches_per_step)]
        self.predictions = sum(len(targets) for _, targets in parts)
        seed = f"{self.batches.seed}/{step}"  # frozen, as are its parts: every run follows from it
        with use(self.matmul):
            if len(parts) == 1:
                return self.of_batch(*parts[0], seed)
            return self._mean(parts, seed)

    def _mean(
        self, parts: Sequence[tuple[Contexts, Targets]], seed: str
    ) -> tuple[float, Parameters]:
        """Of several batches, as if they were one, in the memory of one.

        Each is a mean over predictions, so it counts by how many it makes.
        """
        mean_loss, mean = 0.0, {}
        for number, (contexts, targets) in enumerate(parts):
            loss, gradients = self.of_batch(contexts, targets, f"{seed}/{number}")
            weight = len(targets) / self.predictions
            mean_loss += weight * loss
            if not math.isfinite(mean_loss):
                return mean_loss, {}
            if number == 0:
                mean = scaled(gradients, weight)
            else:
                add_scaled(mean, gradients, weight)
        return mean_loss, mean


def gradients_of_batch(
    model: Any, contexts: Contexts, targets: Targets, seed: str, dropout: float = 0.0
) -> tuple[float, Parameters]:
    """The mean loss of a batch and its slopes, with numbers dropped as the seed says."""
    if dropout:
        model = Dropped(model, Drop(dropout, seed))
    with _garbage_collector_paused():
        return loss_and_gradients(model, contexts, targets)


@contextmanager
def _garbage_collector_paused() -> Iterator[None]:
    """Keep CPython from searching the lists of a step for circles, which they cannot have.

    The search takes 6% of a large step. (PyPy's collector is another, and the only one it has.)
    """
    pause = gc.isenabled() and not PYPY
    if pause:
        gc.disable()
    try:
        yield
    finally:
        if pause:
            gc.enable()
