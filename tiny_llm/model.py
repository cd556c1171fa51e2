"""CHAPTER 5. What every rung promises, and how its numbers begin.

    logits, cache = model.forward(contexts)        one row of logits for each prediction
    gradients = model.backward(dlogits, cache)     same names and shapes as model.parameters

The training loop, the sampler and the gradient check know a model by this alone.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any, NamedTuple, Union

from tiny_llm.batches import Contexts
from tiny_llm.layers import linear, linear_backward
from tiny_llm.matmul import Matrix, Vector

Tensor = Union[Vector, Matrix]
Parameters = dict[str, Any]  # name -> Vector or Matrix


class Start(NamedTuple):
    """The numbers that a parameter begins with: normally distributed, or all the same (std 0)."""

    shape: tuple[int, ...]  # (length,) of a vector, (rows, columns) of a matrix
    std: float = 0.0
    mean: float = 0.0


def draw(layout: dict[str, Start], seed: int) -> Parameters:
    """The first numbers of every parameter.

    Matrices need chance: two units with the same weights would get the same slopes and stay copies
    of each other for ever. Vectors, which are biases and gains, may begin equal.
    """
    rng = random.Random(seed)
    parameters: Parameters = {}
    for name, ((rows, *columns), std, mean) in layout.items():
        if columns:
            parameters[name] = [
                [rng.gauss(mean, std) for _ in range(*columns)] for _ in range(rows)
            ]
        else:
            parameters[name] = [mean] * rows
    return parameters


class LanguageModel:
    """A rung of the ladder. `parameters` is plain data: whoever changes it has changed the model.

    The numbers it begins with follow from `seed`.
    """

    predicts_every_token = False  # True: a row of logits behind every token, not only the last

    def __init__(self, config: Any, seed: int = 0) -> None:
        self.config = config
        self.parameters = draw(self.layout(config), seed)

    @staticmethod
    def layout(config: Any) -> dict[str, Start]:
        """The name, the shape and the beginning of every parameter."""
        raise NotImplementedError

    def forward(self, contexts: Contexts) -> tuple[Matrix, Any]:
        """B lists of token ids -> (one row of V logits for each prediction, cache).

        All that `backward` needs is in the cache; nothing is kept on the model. Raises ValueError
        for a context that the model cannot read.
        """
        raise NotImplementedError

    def backward(self, dlogits: Matrix, cache: Any) -> Parameters:
        """The slopes of the loss by every parameter, from its slopes by the logits."""
        raise NotImplementedError

    def attention(self, cache: Any) -> list[list[list[Matrix]]]:
        """The weights of that forward, contexts x layers x heads x Q x K; [] without attention."""
        return []

    @property
    def targets_per_context(self) -> int:
        """How many targets a full context has: one, or one for each of its tokens."""
        return int(self.config.context_length) if self.predicts_every_token else 1

    def linear(self, name: str, x: Matrix) -> Matrix:
        """x through the linear layer of this name."""
        return linear(x, self.parameters[name + ".weight"], self.parameters[name + ".bias"])

    def linear_backward(self, name: str, dy: Matrix, x: Matrix, g: Parameters) -> Matrix:
        """dx of the linear layer of this name; the slopes of its parameters go into g."""
        weight = self.parameters[name + ".weight"]
        dx, g[name + ".weight"], g[name + ".bias"] = linear_backward(dy, x, weight)
        return dx


def check_sizes(config: Any) -> None:
    """Raises ValueError unless every whole-number field of the dataclass is at least 1."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type in ("int", int) and (type(value) is not int or value < 1):
            raise ValueError(f"{field.name} must be a whole number of at least 1, not {value!r}")


def check_contexts(contexts: Contexts, config: Any) -> None:
    """Raises ValueError for an empty batch, an empty or too long context, an unknown token id."""
    if not contexts:
        raise ValueError("a batch needs at least one context")
    for context in contexts:
        if not 1 <= len(context) <= config.context_length:
            size = config.context_length
            raise ValueError(f"a context holds 1 to {size} tokens, not {len(context)}")
        for token in (min(context), max(context)):
            if not 0 <= token < config.vocab_size:
                size = config.vocab_size
                raise ValueError(f"token id {token} is outside the vocabulary of {size} tokens")


def rows_of(tensor: Tensor) -> Matrix:
    """The rows of a matrix, or a vector as its only row: the numbers themselves, not a copy."""
    rows: Any = tensor if tensor and isinstance(tensor[0], list) else [tensor]
    return list(rows)


# Try it: draw all weights alike (`mean` in place of `rng.gauss(...)`). The loss of rung 1 hardly
# falls: its hidden units stay copies of each other.
