"""RUNG 1: a neural next-token model, the smallest complete language model here.

    tokens      t  h  e  _  m             the last C tokens
                |  |  |  |  |             each looked up in one table, kept in a slot of its own
    inputs     [..|..|..|..|..]           B x C E
                      |  linear, tanh
    hidden     [. . . . . . .]            B x H
                      |  linear
    logits     [. . . . . . . . .]        B x V, one score for every token that could come next

This is the model of Bengio et al. (2003), "A neural probabilistic language model". Its network is
fixed over the window: every slot has weights of its own, so it cannot decide from the text *which*
positions matter. That is what rung 2 adds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

from tiny_llm.batches import Contexts
from tiny_llm.layers import (
    embedding,
    embedding_backward,
    linear,
    linear_backward,
    split_columns,
    tanh,
    tanh_backward,
)
from tiny_llm.matmul import Matrix
from tiny_llm.model import Parameters, check_contexts, check_sizes, normal


@dataclass(frozen=True)
class MLPConfig:
    """The sizes of rung 1. Raises ValueError for one below 1."""

    vocab_size: int
    context_length: int = 6
    d_embedding: int = 16
    d_hidden: int = 96

    def __post_init__(self) -> None:
        check_sizes(self)


class MLPCache(NamedTuple):
    """What the forward computed and the backward needs."""

    contexts: Contexts
    inputs: Matrix  # B x C E, the embeddings of each context side by side
    hidden: Matrix  # B x H, after tanh


class MLPLanguageModel:
    """Embeddings of the whole window, one tanh layer, one output layer.

    The numbers it begins with follow from `seed`: embeddings of variance 1, weights that keep that
    variance, and a small output layer, so that the first guesses are nearly even.
    """

    def __init__(self, config: MLPConfig, seed: int = 0) -> None:
        self.config = config
        rng = random.Random(seed)
        v, e, h = config.vocab_size, config.d_embedding, config.d_hidden
        width = config.context_length * e
        self.parameters: Parameters = {
            "embedding.weight": normal(rng, v, e, std=1.0),
            "hidden.weight": normal(rng, width, h, std=1 / sqrt(width)),
            "hidden.bias": [0.0] * h,
            "output.weight": normal(rng, h, v, std=0.1 / sqrt(h)),
            "output.bias": [0.0] * v,
        }

    @property
    def targets_per_context(self) -> int:
        """1: the token that follows the context."""
        return 1

    def forward(self, contexts: Contexts) -> tuple[Matrix, MLPCache]:
        """B contexts -> B x V logits, cache. Raises ValueError for a context it cannot read."""
        check_contexts(contexts, self.config)
        p = self.parameters
        inputs = [self._side_by_side(context) for context in contexts]  # B x C E
        sums = linear(inputs, p["hidden.weight"], p["hidden.bias"])  # B x H
        hidden = tanh(sums)
        logits = linear(hidden, p["output.weight"], p["output.bias"])  # B x V
        return logits, MLPCache(contexts, inputs, hidden)

    def backward(self, dlogits: Matrix, cache: MLPCache) -> Parameters:
        """The forward's lines in reverse: B x V -> the slope of the loss by every parameter."""
        p = self.parameters
        dhidden, dw_output, db_output = linear_backward(dlogits, cache.hidden, p["output.weight"])
        dsums = tanh_backward(dhidden, cache.hidden)  # B x H
        dinputs, dw_hidden, db_hidden = linear_backward(dsums, cache.inputs, p["hidden.weight"])
        return {
            "embedding.weight": self._side_by_side_backward(dinputs, cache.contexts),
            "hidden.weight": dw_hidden,
            "hidden.bias": db_hidden,
            "output.weight": dw_output,
            "output.bias": db_output,
        }

    def _side_by_side(self, context: list[int]) -> list[float]:
        """The embeddings of one context in one row of C E; slots before a short context are 0."""
        missing = self.config.context_length - len(context)
        row = [0.0] * (missing * self.config.d_embedding)
        for vector in embedding(context, self.parameters["embedding.weight"]):
            row += vector
        return row

    def _side_by_side_backward(self, dinputs: Matrix, contexts: Contexts) -> Matrix:
        """B x C E -> V x E: every filled slot hands its slope to the row that it came from."""
        slots = split_columns(dinputs, self.config.context_length)  # C of B x E
        ids, dvectors = [], []
        for row, context in enumerate(contexts):
            filled = slots[-len(context) :]  # a short context fills the last slots
            ids += context
            dvectors += [slot[row] for slot in filled]
        return embedding_backward(dvectors, ids, self.config.vocab_size)
