"""CHAPTER 8. The one training loop, for every rung.

    batch --forward--> logits --cross_entropy--> dlogits --backward--> gradients --update--> weights

It knows no file and no screen: it yields what happened in each step, and whoever drives it prints,
samples and saves in between. Nor does it know where gradients come from: a function gives them.
"""

import math
from collections.abc import Iterator
from typing import Callable, NamedTuple

from tiny_llm.batches import Batches, Contexts, Examples, Targets
from tiny_llm.layers import cross_entropy
from tiny_llm.model import LanguageModel, Parameters
from tiny_llm.optimizers import Optimizer, clip_by_global_norm, global_norm

Gradients = Callable[[int], tuple[float, Parameters]]  # step, from 0 -> loss, gradients


class Update(NamedTuple):
    """What one training step did."""

    step: int  # steps done so far, this one included
    loss: float  # of this step's batch before its update: mean, in nats per token
    learning_rate: float
    gradient_norm: float  # before clipping


class Diverged(ArithmeticError):
    """The loss is no longer a finite number, so no slope means anything."""


def loss_and_gradients(
    model: LanguageModel, contexts: Contexts, targets: Targets
) -> tuple[float, Parameters]:
    """The mean loss of a batch in nats per token, and its slopes by every parameter."""
    logits, cache = model.forward(contexts)
    loss, dlogits = cross_entropy(logits, targets)
    return loss, model.backward(dlogits, cache)


def on_batches(model: LanguageModel, batches: Batches) -> Gradients:
    """The plainest way to gradients: step i learns from batch i."""
    return lambda step: loss_and_gradients(model, *batches.batch(step))


def train(
    model: LanguageModel,
    optimizer: Optimizer,
    gradients_at: Gradients,
    steps: int,
    learning_rate: Callable[[int], float],
    start: int = 0,
    grad_clip: float = 0.0,
) -> Iterator[Update]:
    """Train in place from step `start` to `steps`, yielding each Update once it is done.
    learning_rate: the schedule, step -> rate. grad_clip: the longest gradient allowed; 0: any.
    Raises Diverged when a loss or a gradient is not finite; the update before it did the harm."""
    for step in range(start, steps):
        loss, gradients = gradients_at(step)
        norm = global_norm(gradients)
        if not math.isfinite(loss):
            raise Diverged(f"step {step + 1} has a loss of {loss}")
        if not math.isfinite(norm):
            raise Diverged(f"step {step + 1} has a gradient of length {norm}")
        if grad_clip:
            clip_by_global_norm(gradients, norm, grad_clip)
        optimizer.learning_rate = learning_rate(step)
        optimizer.update(model.parameters, gradients)
        yield Update(step + 1, loss, optimizer.learning_rate, norm)


def evaluate(model: LanguageModel, examples: Examples, predictions: int = 1024) -> float:
    """The mean loss on the examples in nats per token, about so many predictions at a time."""
    if len(examples) == 0:
        raise ValueError("a loss needs 2 tokens or more: one to see, one to predict")
    at_once = max(1, predictions // model.targets_per_context)
    total, count = 0.0, 0
    for first in range(0, len(examples), at_once):
        contexts, targets = examples.take(range(first, min(first + at_once, len(examples))))
        logits, _ = model.forward(contexts)
        total += cross_entropy(logits, targets)[0] * len(targets)
        count += len(targets)
    return total / count


# Try it: call `optimizer.update` twice in a row, which is a learning rate twice as high: rung 1
# bears it. Ten times in a row, its loss rises far above guessing before it falls.
