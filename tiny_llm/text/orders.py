"""A random order that takes no memory: for texts whose examples would not fit in a list.

Serves chapter 2, which shuffles a list; a `Shuffled` takes the place of that list.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

ROUNDS = 6  # of a permutation; with 4, some orders of few examples come far too often


class Shuffled(Sequence[int]):
    """The numbers from 0 to `size` - 1 in a random order: `order[i]` is the i-th of them.

    Nothing is stored. A number i < side² is a pair (i // side, i % side), and a Feistel network
    mixes it: add to one half some function of the other, change places, again and again. Each round
    can be undone, whatever the function, so different numbers stay different. Those that come out
    at `size` or above go through once more, until they fall below (Black and Rogaway, 2002).
    """

    def __init__(self, size: int, rng: random.Random) -> None:
        self.size = size
        self.side = math.isqrt(max(0, size - 1)) + 1  # the smallest with side² >= size
        self.keys = [rng.getrandbits(64) for _ in range(ROUNDS)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:  # type: ignore[override]
        while True:
            left, right = divmod(index, self.side)
            for key in self.keys:
                left, right = right, (left + _mixed(right + key)) % self.side
            index = left * self.side + right
            if index < self.size:
                return index


def _mixed(number: int) -> int:
    """64 bits that look random, each of them a function of all 64 bits of `number`.

    The last steps of SplitMix (Steele, Lea and Flood, 2014).
    """
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    number = (number ^ number >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return number ^ number >> 31
