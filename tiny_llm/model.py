"""CHAPTER 5. What every rung promises, and how its numbers begin.

    logits, cache = model.forward(contexts)        one row of logits for each prediction
    gradients = model.backward(dlogits, cache)     same names and shapes as model.parameters

The training loop, the sampler and the gradient check know a model by this alone.
"""

import random
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Union

from tiny_llm.batches import Contexts
from tiny_llm.layers import linear, linear_backward
from tiny_llm.matmul import Matrix, Vector

Tensor = Union[Vector, Matrix]
Parameters = dict[str, Any]  # name -> Vector or Matrix


class Start(NamedTuple):
    """What a parameter begins with: a matrix normally distributed, a vector with equal numbers."""

    shape: tuple[int, ...]  # (length,) of a vector, (rows, columns) of a matrix
    std: float = 0.0
    mean: float = 0.0


def draw(layout: dict[str, Start], seed: int) -> Parameters:
    """The first numbers of every parameter. Vectors, such as biases, may begin equal.
    Matrices need chance: two units with the same weights would get the same slopes and stay copies
    of each other for ever."""
    rng = random.Random(seed)
    parameters: Parameters = {}
    for name, (shape, std, mean) in layout.items():
        if len(shape) == 1:
            parameters[name] = [mean] * shape[0]
        else:
            rows, columns = map(range, shape)
            parameters[name] = [[rng.gauss(mean, std) for _ in columns] for _ in rows]
    return parameters


def linear_layer(name: str, inputs: int, outputs: int, std: float) -> dict[str, Start]:
    """The parameters of a linear layer, in a layout."""
    return {name + ".weight": Start((inputs, outputs), std), name + ".bias": Start((outputs,))}


class LanguageModel:
    """A rung of the ladder. `parameters` is plain data: change a number and the model changes."""

    predicts_every_token = False  # True: a row of logits behind every token, not only the last

    def __init__(self, config: Any, seed: int = 0) -> None:
        self.config = config
        self.parameters = draw(self.layout(config), seed)

    @staticmethod
    def layout(config: Any) -> dict[str, Start]:
        """The name, the shape and the beginning of every parameter."""
        raise NotImplementedError

    def forward(self, contexts: Contexts) -> tuple[Matrix, Any]:
        """B lists of token ids -> (a row of V logits for each prediction, all `backward` needs).
        Keeps nothing on the model. Raises ValueError for a context that it cannot read."""
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


def rows_of(tensor: Tensor) -> Matrix:
    """The rows of a matrix, or a vector as its only row: the numbers themselves, not a copy."""
    rows: Any = tensor if tensor and isinstance(tensor[0], list) else [tensor]
    return list(rows)


# Try it: draw all weights alike (`std` in place of `rng.gauss(...)`). Rung 1 then ends above the
# cost of counting pairs: its hidden units stay copies of each other.

# ---------------------------------------------------------------- rungs 2 and 3: many linear layers


def norm_layer(name: str, width: int) -> dict[str, Start]:
    """The parameters of a LayerNorm: a gain of 1 and a bias of 0 for each column."""
    return {name + ".weight": Start((width,), mean=1.0), name + ".bias": Start((width,))}


class LayeredModel(LanguageModel):
    """A model whose linear layers are called by the name of their parameters."""

    def linear(self, name: str, x: Matrix) -> Matrix:
        """x through the linear layer of this name."""
        return linear(x, self.parameters[name + ".weight"], self.parameters[name + ".bias"])

    def linear_backward(self, name: str, dy: Matrix, x: Matrix, g: Parameters) -> Matrix:
        """dx of the linear layer of this name; the slopes of its parameters go into g."""
        weight = self.parameters[name + ".weight"]
        dx, g[name + ".weight"], g[name + ".bias"] = linear_backward(dy, x, weight)
        return dx


# ---------------------------------------------------------------- what is refused


@dataclass(frozen=True)
class Config:
    """The sizes of a model. Raises ValueError for one that is no whole number of at least 1."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in ("int", int) and (type(value) is not int or value < 1):
                problem = f"must be a whole number of at least 1, not {value!r}"
                raise ValueError(f"{field.name} {problem}")


def check_contexts(contexts: Contexts, config: Any) -> None:
    """Raises ValueError for an empty batch, an empty or too long context, an unknown token id."""
    if not contexts:
        raise ValueError("a batch needs at least one context")
    for context in contexts:
        if not 1 <= len(context) <= config.context_length:
            length = config.context_length
            raise ValueError(f"a context holds 1 to {length} tokens, not {len(context)}")
        for token in (min(context), max(context)):
            if not 0 <= token < config.vocab_size:
                v = config.vocab_size
                raise ValueError(f"token id {token} is outside the vocabulary of {v} tokens")
