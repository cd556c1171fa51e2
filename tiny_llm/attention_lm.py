"""RUNG 2: attention decides which positions matter.

    tokens     l  a  n  g  u  a           plus where each stands: token row + position row
    x         [.][.][.][.][.][.]          N x D
               k  k  k  k  k  k           every position offers a key (what it is) ...
               v  v  v  v  v  v           ... and a value (what it has to say)
                              q           the last position asks a query (what it looks for)
    weights   .1 .0 .2 .1 .1 .5           softmax(q k^T / sqrt(D)): how much it listens to each
                              |           the values, mixed by these weights, projected,
    out                      [.]          added to the last position's own vector
    logits                   [......]     B x V

The same as rung 1: a window of the last C tokens, an embedding table, an output layer, one
prediction for each context, and all that surrounds the model.
Different: the weights over the positions are computed from the text, anew for each context; the
position is added to the token's vector instead of having a slot; a short context has fewer keys
instead of empty slots.
New: attention (Bahdanau et al., 2015) by query, key and value (Vaswani et al., 2017), and a
residual connection (He et al., 2016).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate
from math import sqrt
from operator import add
from typing import Any, NamedTuple

from tiny_llm.batches import Contexts
from tiny_llm.layers import (
    AttentionCache,
    add_rows,
    attention,
    attention_backward,
    embedding,
    embedding_backward,
    linear,
    linear_backward,
    split_rows,
)
from tiny_llm.matmul import Matrix
from tiny_llm.model import Parameters, check_contexts, check_sizes, normal


@dataclass(frozen=True)
class AttentionConfig:
    """The sizes of rung 2. Raises ValueError for one below 1."""

    vocab_size: int
    context_length: int = 8
    d_model: int = 24

    def __post_init__(self) -> None:
        check_sizes(self)


class AttentionLMCache(NamedTuple):
    """What the forward computed and the backward needs, in the order in which it came about."""

    tokens: list[int]  # N, the contexts one after the other
    positions: list[int]  # N, where in the window each token stands
    lengths: list[int]  # B
    x: Matrix  # N x D, token + position
    last: Matrix  # B x D, the row of x at the end of each context
    heads: list[AttentionCache]  # B, one query each
    mixed: Matrix  # B x D, what the attention gathered
    out: Matrix  # B x D, last + projected mixture


class AttentionLanguageModel:
    """Token and position embeddings, one query over the window, residual, output layer.

    The numbers it begins with follow from `seed`: token and position add up to variance 1, weights
    keep that variance, and the output layer is small, so that the first guesses are nearly even.
    """

    def __init__(self, config: AttentionConfig, seed: int = 0) -> None:
        self.config = config
        rng = random.Random(seed)
        v, d = config.vocab_size, config.d_model
        self.parameters: Parameters = {
            "token_embedding.weight": normal(rng, v, d, std=sqrt(0.5)),
            "position_embedding.weight": normal(rng, config.context_length, d, std=sqrt(0.5)),
            "query.weight": normal(rng, d, d, std=1 / sqrt(d)),
            "query.bias": [0.0] * d,
            "key.weight": normal(rng, d, d, std=1 / sqrt(d)),
            "key.bias": [0.0] * d,
            "value.weight": normal(rng, d, d, std=1 / sqrt(d)),
            "value.bias": [0.0] * d,
            "projection.weight": normal(rng, d, d, std=1 / sqrt(d)),
            "projection.bias": [0.0] * d,
            "output.weight": normal(rng, d, v, std=0.1 / sqrt(d)),
            "output.bias": [0.0] * v,
        }

    @property
    def targets_per_context(self) -> int:
        """1: the token that follows the context."""
        return 1

    def _layer(self, name: str) -> tuple[Any, Any]:
        """The weight and the bias of the layer of this name."""
        return self.parameters[name + ".weight"], self.parameters[name + ".bias"]

    def forward(self, contexts: Contexts) -> tuple[Matrix, AttentionLMCache]:
        """B contexts -> B x V logits, cache. Raises ValueError for a context it cannot read."""
        check_contexts(contexts, self.config)
        p = self.parameters
        lengths = [len(context) for context in contexts]
        tokens = [token for context in contexts for token in context]  # N
        # A short context stands at the right end of the window: its last token has the last place.
        window = range(self.config.context_length)
        positions = [place for length in lengths for place in window[-length:]]  # N
        x = add_rows(
            embedding(tokens, p["token_embedding.weight"]),
            embedding(positions, p["position_embedding.weight"]),
        )  # N x D
        last = [rows[-1] for rows in split_rows(x, lengths)]  # B x D
        queries = linear(last, *self._layer("query"))  # B x D
        keys = split_rows(linear(x, *self._layer("key")), lengths)  # B of T x D
        values = split_rows(linear(x, *self._layer("value")), lengths)  # B of T x D
        pairs = [attention([q], k, v) for q, k, v in zip(queries, keys, values)]
        mixed = [row for rows, _ in pairs for row in rows]  # B x D
        heads = [cache for _, cache in pairs]
        out = add_rows(last, linear(mixed, *self._layer("projection")))  # B x D
        logits = linear(out, *self._layer("output"))  # B x V
        return logits, AttentionLMCache(tokens, positions, lengths, x, last, heads, mixed, out)

    def backward(self, dlogits: Matrix, cache: AttentionLMCache) -> Parameters:
        """The forward's lines in reverse: B x V -> the slope of the loss by every parameter."""
        g: Parameters = {}
        dout = self._linear_backward("output", dlogits, cache.out, g)  # B x D
        dmixed = self._linear_backward("projection", dout, cache.mixed, g)  # B x D
        triples = [attention_backward([drow], head) for drow, head in zip(dmixed, cache.heads)]
        dqueries = [row for dq, _, _ in triples for row in dq]  # B x D
        dkeys = [row for _, dk, _ in triples for row in dk]  # N x D
        dvalues = [row for _, _, dv in triples for row in dv]  # N x D
        # Every row of x became a key and a value; the last one of each context also a query and the
        # start of the residual path. Where a number is used several times, its slopes add up.
        dx = add_rows(
            self._linear_backward("key", dkeys, cache.x, g),
            self._linear_backward("value", dvalues, cache.x, g),
        )  # N x D
        dlast = add_rows(dout, self._linear_backward("query", dqueries, cache.last, g))  # B x D
        ends = accumulate(cache.lengths)
        for end, drow in zip(ends, dlast):
            dx[end - 1] = list(map(add, dx[end - 1], drow))
        size = self.config
        g["token_embedding.weight"] = embedding_backward(dx, cache.tokens, size.vocab_size)
        g["position_embedding.weight"] = embedding_backward(
            dx, cache.positions, size.context_length
        )
        return g

    def _linear_backward(self, name: str, dy: Matrix, x: Matrix, g: Parameters) -> Matrix:
        """dx of the linear layer of this name; its own gradients go into g."""
        weight = self.parameters[name + ".weight"]
        dx, g[name + ".weight"], g[name + ".bias"] = linear_backward(dy, x, weight)
        return dx

    def attention(self, cache: AttentionLMCache) -> list[list[list[Matrix]]]:
        """The weights as contexts x 1 layer x 1 head x 1 query x keys; each row sums to 1."""
        return [[[head.weights]] for head in cache.heads]
