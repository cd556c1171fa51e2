"""Rung 3 for one training step in which numbers are dropped at random.

Nothing can be relied on then, so the network spreads what it knows instead of learning its text by
heart (Srivastava et al., 2014). Each number becomes 0 with probability `rate`, else it is divided
by 1 - rate, which keeps its mean as it is without dropout. GPT-2 drops in four places: the sum of
the embeddings, the attention weights, and what either half of a block adds to the residual path.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import sqrt
from operator import mul
from typing import NamedTuple

from tiny_llm import layers
from tiny_llm.batches import Contexts
from tiny_llm.layers import AttentionCache
from tiny_llm.matmul import Matrix, matmul, matmul_at, matmul_bt
from tiny_llm.model import Parameters
from tiny_llm.modern_block import BlockCache, ModernCache, ModernLanguageModel


class Drop(NamedTuple):
    """How to drop: the probability of each number, and what the choice follows from."""

    rate: float
    seed: str


class Dropped(ModernLanguageModel):
    """The model, dropping what the seed says: the same at every forward.

    It shares the model's parameters, and remembers the masks of its last forward for the backward.
    """

    def __init__(self, model: ModernLanguageModel, drop: Drop) -> None:
        self.config, self.parameters, self.how = model.config, model.parameters, drop

    def forward(self, contexts: Contexts) -> tuple[Matrix, ModernCache]:
        """As the model's."""
        self.rng = random.Random(self.how.seed)
        self.masks: list[Matrix] = []  # the backward takes them from the end
        self.attention_masks: list[list[Matrix]] = []  # the same, B x H for each layer
        return super().forward(contexts)

    def _dropped(self, x: Matrix) -> Matrix:
        self.masks.append(random_mask(x, self.how.rate, self.rng))
        return times(x, self.masks[-1])

    def block(self, name: str, x: Matrix, lengths: Sequence[int]) -> BlockCache:
        """As the model's; the first one is given the embeddings."""
        return super().block(name, self._dropped(x) if name == "h.0." else x, lengths)

    def block_backward(self, name: str, dout: Matrix, cache: BlockCache, g: Parameters) -> Matrix:
        """As the model's."""
        dx = super().block_backward(name, dout, cache, g)
        return times(dx, self.masks.pop()) if name == "h.0." else dx

    def linear(self, name: str, x: Matrix) -> Matrix:
        """As the model's; what the two `c_proj` add to the residual path is dropped."""
        y = super().linear(name, x)
        return self._dropped(y) if name.endswith("c_proj") else y

    def linear_backward(self, name: str, dy: Matrix, x: Matrix, g: Parameters) -> Matrix:
        """As the model's."""
        dy = times(dy, self.masks.pop()) if name.endswith("c_proj") else dy
        return super().linear_backward(name, dy, x, g)

    def mix(self, qkv: Matrix, lengths: Sequence[int]) -> tuple[Matrix, list[list[AttentionCache]]]:
        """As the model's, with attention weights dropped."""
        masks: list[Matrix] = []
        self.attention_masks.append(masks)

        def attend(*inputs: Matrix) -> tuple[Matrix, AttentionCache]:
            _, cache = layers.attention(*inputs)
            masks.append(random_mask(cache.weights, self.how.rate, self.rng))
            return matmul(times(cache.weights, masks[-1]), cache.values), cache

        return layers.multi_head_attention(qkv, self.config.n_heads, lengths, attend)

    def mix_backward(self, dmixed: Matrix, heads: list[list[AttentionCache]]) -> Matrix:
        """As the model's."""
        masks = iter(self.attention_masks.pop())
        return layers.multi_head_attention_backward(
            dmixed, heads, lambda dout, cache: attention_backward(dout, cache, next(masks))
        )


def attention_backward(
    dout: Matrix, cache: AttentionCache, mask: Matrix
) -> tuple[Matrix, Matrix, Matrix]:
    """As in layers.py, for out = (weights * mask) v: Q x D -> dqueries, dkeys, dvalues."""
    scale = 1 / sqrt(len(cache.queries[0]))
    dweights = times(matmul_bt(dout, cache.values), mask)  # Q x K
    dvalues = matmul_at(times(cache.weights, mask), dout)  # K x D
    dscores = list(map(layers.softmax_backward, dweights, cache.weights))  # Q x K
    dscores = [[slope * scale for slope in row] for row in dscores]
    return matmul(dscores, cache.keys), matmul_at(dscores, cache.queries), dvalues


def random_mask(x: Matrix, rate: float, rng: random.Random) -> Matrix:
    """For each number of x, 0 with probability `rate`, else 1 / (1 - rate)."""
    kept = 1 / (1 - rate)
    return [[0.0 if rng.random() < rate else kept for _ in row] for row in x]


def times(x: Matrix, mask: Matrix) -> Matrix:
    """x * mask, number by number; the backward of y = x * mask is dx = dy * mask."""
    return [list(map(mul, *rows)) for rows in zip(x, mask)]
