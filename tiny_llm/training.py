"""The one training loop, for every rung.

    batch --forward--> logits --cross_entropy--> dlogits --backward--> gradients --update--> weights

It knows no file and no screen: it yields what happened in each step, and whoever drives it prints,
samples and saves, between one step and the next.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Callable, NamedTuple, Optional

from tiny_llm.batches import Batches, Contexts, Corpus, Targets, examples_of
from tiny_llm.layers import cross_entropy
from tiny_llm.matmul import PYPY, use
from tiny_llm.model import LanguageModel, Parameters, add_scaled, scaled
from tiny_llm.optimizers import Optimizer, clip_by_global_norm, global_norm


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


@dataclass
class Recent:
    """The losses of the steps since the last evaluation, added up; a resumed run goes on there."""

    total: float = 0.0
    count: int = 0

    def add(self, loss: float) -> None:
        """One more step."""
        self.total, self.count = self.total + loss, self.count + 1

    def take(self) -> float:
        """Their mean, and begin anew."""
        mean = self.total / self.count
        self.total, self.count = 0.0, 0
        return mean


class Diverged(ArithmeticError):
    """The loss is no longer a finite number, so no slope means anything."""


def loss_and_gradients(
    model: LanguageModel, contexts: Contexts, targets: Targets, dropout_seed: Optional[str] = None
) -> tuple[float, Parameters]:
    """The mean loss of a batch in nats per token, and its slopes by every parameter.

    No slopes, {}, if the loss is not finite: they would mean nothing. With a `dropout_seed`, the
    model drops what that seed says; only rung 3 does.
    """
    dropout = {} if dropout_seed is None else {"dropout_rng": random.Random(dropout_seed)}
    with _garbage_collector_paused():
        logits, cache = model.forward(contexts, **dropout)
        loss, dlogits = cross_entropy(logits, targets)
        return loss, model.backward(dlogits, cache) if math.isfinite(loss) else {}


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


GradientsOf = Callable[[Contexts, Targets, Optional[str]], tuple[float, Parameters]]


def accumulated(
    gradients_of: GradientsOf,
    parts: Sequence[tuple[Contexts, Targets]],
    dropout_seed: Optional[str] = None,
) -> tuple[float, Parameters]:
    """The mean loss and its slopes of several batches, as if they were one, in the memory of one.

    Both are means over predictions, so each batch counts by how many it makes.
    """
    if len(parts) == 1:
        return gradients_of(*parts[0], dropout_seed)
    loss, total = 0.0, {}
    predictions = sum(len(targets) for _, targets in parts)
    for number, (contexts, targets) in enumerate(parts):
        seed = None if dropout_seed is None else f"{dropout_seed}, part {number}"
        part_loss, gradients = gradients_of(contexts, targets, seed)
        weight = len(targets) / predictions
        loss += weight * part_loss
        if not math.isfinite(loss):
            return loss, {}
        if number == 0:
            total = {name: scaled(tensor, weight) for name, tensor in gradients.items()}
        else:
            add_scaled(total, gradients, weight)
    return loss, total


def train(
    model: LanguageModel,
    optimizer: Optimizer,
    batches: Batches,
    val_ids: Corpus,
    steps: int,
    learning_rate: Callable[[int], float],  # the schedule: step -> learning rate
    eval_every: int,
    start: int = 0,
    gradient_accumulation_steps: int = 1,  # batches in a step
    grad_clip: float = 0.0,  # the largest global norm of a gradient; 0: any
    dropout_seed: Optional[int] = None,  # lets a model with dropout drop
    matmul: str = "float64",  # the way to multiply: `tiny_llm.matmul.use`
    gradients_of: Optional[GradientsOf] = None,  # instead of `loss_and_gradients` of this model
    recent: Optional[Recent] = None,  # of the steps before `start`; kept up to date
) -> Iterator[Step]:
    """Train in place from step `start` to `steps`, yielding each Step once it is done.

    Raises Diverged when the loss of a step, or its gradient, is not finite; the update of the step
    before was then the harmful one.
    """
    gradients_of = gradients_of or partial(loss_and_gradients, model)
    count = gradient_accumulation_steps
    recent = recent or Recent()
    for step in range(start, steps):
        began = time.perf_counter()
        parts = [batches.batch(step * count + part) for part in range(count)]
        seed = None if dropout_seed is None else f"dropout of step {step} of seed {dropout_seed}"
        with use(matmul):
            loss, gradients = accumulated(gradients_of, parts, seed)
        norm = global_norm(gradients)
        _check_finite(step + 1, loss, norm)
        if grad_clip:
            clip_by_global_norm(gradients, norm, grad_clip)
        optimizer.learning_rate = learning_rate(step)
        optimizer.update(model.parameters, gradients)
        seconds = time.perf_counter() - began

        recent.add(loss)
        train_loss = val_loss = None
        if (step + 1) % eval_every == 0 or step + 1 == steps:
            train_loss, val_loss = recent.take(), evaluate(model, val_ids)
        tokens = sum(len(targets) for _, targets in parts)
        rate = optimizer.learning_rate
        yield Step(step + 1, loss, rate, tokens, norm, train_loss, val_loss, seconds)


def _check_finite(number: int, loss: float, norm: float) -> None:
    """Raises Diverged unless both are finite."""
    if not math.isfinite(loss):
        raise Diverged(f"the loss of step {number} is {loss}")
    if not math.isfinite(norm):
        raise Diverged(f"the gradient of step {number} has a length of {norm}")


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


def evaluate(model: LanguageModel, ids: Corpus, batch_tokens: int = 1024) -> float:
    """The mean loss on `ids` in nats per token: each token but the first is predicted once.

    Rung 3 sees windows that do not overlap, so it has less context near the start of each. Of
    lines, each is seen on its own. About `batch_tokens` predictions are made at a time, to bound
    the memory. Raises ValueError for fewer than two ids.
    """
    examples = examples_of(ids, model.config.context_length, model.targets_per_context)
    if len(examples.ids) < 2:
        raise ValueError(
            f"a loss needs 2 tokens or more (one to see, one to predict), not {len(examples.ids)}"
        )
    at_once = max(1, batch_tokens // model.targets_per_context)
    total = 0.0
    for first in range(0, len(examples), at_once):
        contexts, targets = examples.take(range(first, min(first + at_once, len(examples))))
        logits, _ = model.forward(contexts)
        total += cross_entropy(logits, targets)[0] * len(targets)
    return total / (len(examples.ids) - 1)
