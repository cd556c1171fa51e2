"""Two losses that any model has to beat: guessing, and counting pairs.

A loss alone says little. Beside these two it means something: below guessing, the model has learned
at least which tokens are frequent; well below counting, it uses more of the context than the last
token. (Counting could be smoothed better than by adding one; a little below it proves nothing.)
"""

from __future__ import annotations

import math
from collections import Counter


def guessing_loss(vocab_size: int) -> float:
    """ln V: the loss, in nats, of giving every token the same probability 1 / V."""
    return math.log(vocab_size)


def bigram_loss(train: list[int], val: list[int], vocab_size: int) -> float:
    """The mean loss on `val`, in nats per token, of a table of the pairs counted in `train`.

    p(next | token) = (count of the pair + 1) / (count of the token + V). The added one keeps a pair
    that was never seen possible (Laplace's rule of succession).
    """
    pairs = Counter(zip(train, train[1:]))
    firsts = Counter(train[:-1])
    losses = [math.log((firsts[a] + vocab_size) / (pairs[a, b] + 1)) for a, b in zip(val, val[1:])]
    return sum(losses) / len(losses)
