"""Chapter 8's loop as a run sees it: with evaluations, and with how long each step took.

train -> Update -> + validation loss, now and then -> Step
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Callable, NamedTuple, Optional

from tiny_llm.batches import Examples
from tiny_llm.model import LanguageModel
from tiny_llm.optimizers import Optimizer
from tiny_llm.run.gradients import Gradients
from tiny_llm.training import Diverged, evaluate, train


@dataclass(frozen=True)
class Step:
    """What one training step did."""

    number: int  # steps done so far, this one included
    loss: float  # of this step's batch before its update: mean, in nats per token
    learning_rate: float
    tokens: int  # predictions learned from
    gradient_norm: float  # before clipping
    train_loss: Optional[float]  # with a val_loss: the mean of `loss` since the one before it
    val_loss: Optional[float]  # after the update, at every `eval_every` steps and at the last
    seconds: float = field(compare=False)  # forward, backward, update
    measured: dict[str, float] = field(default_factory=dict)  # beside the val_loss, by name


@dataclass
class RecentLosses:
    """The losses of the steps since the last evaluation, added up; a resumed run goes on there."""

    total: float = 0.0
    count: int = 0

    def add(self, loss: float) -> None:
        """One step's."""
        self.total, self.count = self.total + loss, self.count + 1

    def take(self) -> float:
        """Their mean, and begin anew."""
        mean = self.total / self.count
        self.total, self.count = 0.0, 0
        return mean


def measured_loss(model: LanguageModel, held_out: Examples) -> dict[str, float]:
    """What is measured at an evaluation, unless a run has more to say than its loss."""
    return {"val_loss": evaluate(model, held_out)}


def steps_of(
    model: LanguageModel,
    optimizer: Optimizer,
    gradients: Gradients,
    held_out: Examples,
    steps: int,
    learning_rate: Callable[[int], float],
    eval_every: int,
    start: int,
    grad_clip: float,
    recent: RecentLosses,
    measure: Callable[[LanguageModel, Examples], dict[str, float]] = measured_loss,
) -> Iterator[Step]:
    """Train from step `start` to `steps`, yielding each Step once it is done.

    `recent` is of the steps before `start`, and kept up to date. What is measured at an evaluation
    has a "val_loss". Raises Diverged and WorkerDied.
    """
    began = time.perf_counter()
    for update in train(model, optimizer, gradients, steps, learning_rate, start, grad_clip):
        seconds = time.perf_counter() - began
        recent.add(update.loss)
        train_loss = val_loss = None
        measured: dict[str, float] = {}
        if update.step % eval_every == 0 or update.step == steps:
            train_loss, measured = recent.take(), measure(model, held_out)
            val_loss = measured.pop("val_loss")
            if not math.isfinite(val_loss):
                raise Diverged(f"step {update.step} leaves a validation loss of {val_loss}")
        yield Step(
            update.step,
            update.loss,
            update.learning_rate,
            gradients.predictions,
            update.gradient_norm,
            train_loss,
            val_loss,
            seconds,
            measured,
        )
        began = time.perf_counter()


class Evaluation(NamedTuple):
    """The two losses side by side, in nats per token, after so many steps."""

    step: int
    train_loss: float
    val_loss: float


def memorizes(history: Sequence[Evaluation]) -> bool:
    """Whether the two losses have parted: the model learns its text by heart, and nothing else.

    So it is when the best validation loss lies two evaluations or more behind, the newest is 2%
    above it or more, and the training loss has gone on falling all the same.
    """
    best = min(history, key=lambda evaluation: evaluation.val_loss)
    newest = history[-1]
    return (
        len(history) - 1 - history.index(best) >= 2
        and newest.val_loss >= 1.02 * best.val_loss
        and newest.train_loss < best.train_loss
    )


def is_above(guessing: float, history: Sequence[Evaluation], newest: int = 1) -> bool:
    """Whether the newest so many evaluations found the model worse than guessing, on what it learns
    from and elsewhere. False if there were not so many."""
    losses = [min(one.train_loss, one.val_loss) for one in history[-newest:]]
    return len(losses) == newest and min(losses) > guessing
