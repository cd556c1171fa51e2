"""CHAPTER 10. Is a backward right? Measure the slope and compare.

    slope of the loss by one number w  ~  (loss(w + h) - loss(w - h)) / 2h

A hand-written backward is easy to get slightly wrong, and a model with slightly wrong slopes still
learns, only worse. So every number of every parameter is moved a little both ways, the change of
the loss is measured, and the backward has to agree: |a - n| <= 1e-8 + 1e-5 |n|.

The "loss" is the sum of all outputs, each times a *random* factor. A sum with all factors 1 would
hide mistakes: the outputs of a softmax add up to 1 whatever goes in, so all slopes would be 0, and
many a wrong backward gives 0, too.
"""

import random
from collections.abc import Iterator
from math import isnan
from typing import Callable, NamedTuple

from tiny_llm.batches import Contexts
from tiny_llm.matmul import Matrix, Vector, dot
from tiny_llm.model import LanguageModel, Tensor, rows_of

STEP = 1e-5  # h: the error of the measured slope grows as h^2 above it, and as 1 / h below it
ABSOLUTE, RELATIVE = 1e-8, 1e-5


class GradientCheck(NamedTuple):
    """The comparison for one parameter: the number where the two slopes are farthest apart."""

    name: str
    numbers: int  # how many were compared
    analytic: float  # the backward's slope at the worst of them
    numerical: float  # the measured one
    excess: float  # |a - n| / (1e-8 + 1e-5 |n|) there; at most 1 to pass

    @property
    def passed(self) -> bool:
        """Whether the backward agrees with the measurement everywhere (a NaN never does)."""
        return self.excess <= 1


def numerical_slope(loss: Callable[[], float], vector: Vector, i: int) -> float:
    """The central difference of `loss()` by vector[i], which is moved and then put back."""
    value = vector[i]
    vector[i] = value + STEP
    above = loss()
    vector[i] = value - STEP
    below = loss()
    vector[i] = value
    return (above - below) / (2 * STEP)


def compare(
    name: str, loss: Callable[[], float], tensor: Tensor, gradient: Tensor
) -> GradientCheck:
    """Check `gradient`, the claimed slopes of `loss()` by each number of `tensor`, by measuring.
    Raises ValueError if the two differ in shape."""
    sizes, theirs = (list(map(len, rows_of(x))) for x in (tensor, gradient))
    if sizes != theirs:
        raise ValueError(f"{name} has rows of {sizes} numbers, its gradient of {theirs}")
    worst, numbers = GradientCheck(name, 0, 0.0, 0.0, 0.0), 0
    for vector, slopes in zip(rows_of(tensor), rows_of(gradient)):
        for i, analytic in enumerate(slopes):
            numerical = numerical_slope(loss, vector, i)
            excess = abs(analytic - numerical) / (ABSOLUTE + RELATIVE * abs(numerical))
            numbers += 1
            if not (excess <= worst.excess or isnan(worst.excess)):  # a NaN is the worst of all
                worst = GradientCheck(name, numbers, analytic, numerical, excess)
    return worst._replace(numbers=numbers)


def check_model(model: LanguageModel, contexts: Contexts, seed: int = 0) -> Iterator[GradientCheck]:
    """Check every parameter of the model on these contexts, one after the other. What the backward
    claims is computed at once, what is measured as the iterator goes on."""
    logits, cache = model.forward(contexts)
    rng = random.Random(seed)
    upstream = [[rng.gauss(0.0, 1.0) for _ in row] for row in logits]  # N x V
    gradients = model.backward(upstream, cache)

    def loss() -> float:
        return weighted_sum(model.forward(contexts)[0], upstream)

    return (
        compare(name, loss, tensor, gradients[name]) for name, tensor in model.parameters.items()
    )


def weighted_sum(x: Matrix, factors: Matrix) -> float:
    """The sum of all numbers of x, each times its factor: a loss whose slope by x is `factors`."""
    return sum(map(dot, x, factors))


# Try it: break a backward in layers.py, for example leave out one of LayerNorm's three terms, and
# see which parameters are named. Then make STEP a thousand times larger or smaller.
