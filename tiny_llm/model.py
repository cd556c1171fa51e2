"""What every rung promises, and the checks and first numbers that all of them share.

The training loop, the sampler and the gradient check know a model only by this contract:

    logits, cache = model.forward(contexts)        one row of logits for each prediction
    gradients = model.backward(dlogits, cache)     same names and shapes as model.parameters
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any, Protocol, Union

from tiny_llm.batches import Contexts
from tiny_llm.matmul import Matrix, Vector

Tensor = Union[Vector, Matrix]
Parameters = dict[str, Any]  # name -> Vector or Matrix


class LanguageModel(Protocol):
    """A rung of the ladder, seen from outside."""

    config: Any
    parameters: Parameters

    @property
    def targets_per_context(self) -> int:
        """1: predicts the token behind each context. context_length: one behind every token."""

    def forward(self, contexts: Contexts) -> tuple[Matrix, Any]:
        """B lists of token ids -> (one row of V logits for each prediction, cache)."""

    def backward(self, dlogits: Matrix, cache: Any) -> Parameters:
        """The slopes of the loss by every parameter, from its slopes by the logits."""


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
            raise ValueError(
                f"a context holds 1 to {config.context_length} tokens, not {len(context)}"
            )
        for token in context:
            if not 0 <= token < config.vocab_size:
                raise ValueError(
                    f"token id {token} is outside the vocabulary of {config.vocab_size} tokens"
                )


def normal(rng: random.Random, rows: int, columns: int, std: float) -> Matrix:
    """A rows x columns matrix of random numbers with mean 0 and standard deviation `std`.

    Learning needs unequal beginnings: two units with the same weights would get the same slopes
    and stay copies of each other for ever.
    """
    return [[rng.gauss(0.0, std) for _ in range(columns)] for _ in range(rows)]


def shape(tensor: Tensor) -> tuple[int, ...]:
    """(length,) of a vector, (rows, columns) of a matrix. Raises ValueError for uneven rows."""
    widths = {len(row) for row in rows_of(tensor)}
    if len(widths) != 1:
        raise ValueError(f"a tensor has rows of one length, not of {sorted(widths)}")
    return (len(tensor), *widths) if isinstance(tensor[0], list) else (len(tensor),)


def rows_of(tensor: Tensor) -> Matrix:
    """The rows of a matrix, or a vector as its only row: the numbers themselves, not a copy."""
    rows: Any = tensor if tensor and isinstance(tensor[0], list) else [tensor]
    return list(rows)


def scaled(tensor: Tensor, factor: float) -> Tensor:
    """The tensor times a number, in new lists."""
    rows = [[factor * value for value in row] for row in rows_of(tensor)]
    return rows if isinstance(tensor[0], list) else rows[0]


def add_scaled(total: Parameters, tensors: Parameters, factor: float) -> None:
    """total <- total + factor * tensors, in place, number by number: equal names and shapes."""
    for name, tensor in tensors.items():
        for row, addend in zip(rows_of(total[name]), rows_of(tensor)):
            row[:] = [a + factor * b for a, b in zip(row, addend)]


def replace_parameters(model: LanguageModel, parameters: Parameters) -> None:
    """Give the model these parameters. Raises ValueError if their names or shapes are others."""
    for name in sorted(model.parameters.keys() ^ parameters.keys()):
        problem = "missing" if name in model.parameters else "not one of this model's"
        raise ValueError(f"parameter {name} is {problem}")
    for name, own in model.parameters.items():
        if shape(own) != shape(parameters[name]):
            raise ValueError(
                f"parameter {name} has shape {shape(parameters[name])}, not {shape(own)}"
            )
    model.parameters.update(parameters)
