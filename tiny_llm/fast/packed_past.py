"""What one head of a packed model remembers, in lanes: attention without a loop over floats.

    keys     of number d   ..|k2.|k1.|k0.    one integer for each of D numbers, a lane a position
    scores =  sum over d of query d * keys d        the scores of all positions at once
    values   of position t ..|v2.|v1.|v0.    one integer for each of T positions, a lane a number
    out    =  sum over t of weight t * values t     all numbers of the mixture at once

A long past costs CPython more than all matrices of a small model: each number of each key and each
value is multiplied once for every head and token. In lanes that takes an eighth of the time, and a
tenth of the memory of floats, which are objects there. The product is the one of lanes.py, and it
grows by one position as the text does: a lane on top of D integers, and one integer more.

A key is rounded to a length of 2^11, and so is a query: a score of theirs stays below 2^23. Values
are int8, with a unit for each position, which goes into the weight that it is multiplied with.
Kwon et al. (2023, vLLM) and others keep the KV cache in 8 bits, too.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from operator import mul

from tiny_llm.fast.lanes import SHORT, cut, rounded, whole_numbers
from tiny_llm.layers import AttentionCache, softmax
from tiny_llm.matmul import Matrix, Vector

LENGTH = 2.0**11  # of a key or a query; 2^11.5 would be the most that 24 bits hold
LARGEST = 127  # of a value's numbers
LONGEST = 2**15  # positions that a past may have
TOTAL = 2.0**15  # of all weights; rounded, they are 2^14 more at most, and 127 (2^15 + 2^14) < 2^23
BITS = 8 * SHORT
CUT_UNIT = 1 / 256  # what the numbers of `cut` count


class PackedPast:
    """T positions of one head of width D. Never changed: a longer past is a new one."""

    def __init__(
        self, keys: list[int], key_units: Vector, values: list[int], value_units: Vector
    ) -> None:
        self.keys, self.key_units = keys, key_units
        self.values, self.value_units = values, value_units

    def __len__(self) -> int:
        return len(self.values)

    def grown(self, keys: Matrix, values: Matrix) -> PackedPast:
        """With the keys and values of further positions, both N x D."""
        whole = [_whole(row, LENGTH) for row in keys]
        longer = self.keys or [0] * len(keys[0])
        for position, (row, _) in enumerate(whole, len(self)):
            shift = BITS * position
            longer = [old + (number << shift) for old, number in zip(longer, row)]
        small = [_small(row) for row in values]
        return PackedPast(
            longer,
            self.key_units + [unit for _, unit in whole],
            self.values + [_in_lanes(row) for row, _ in small],
            self.value_units + [unit for _, unit in small],
        )


def attention(queries: Matrix, past: PackedPast) -> tuple[Matrix, AttentionCache]:
    """As chapter 4 has it, of queries that belong to the last positions: Q x D -> Q x D, cache."""
    width, scale = len(queries[0]), 1 / math.sqrt(len(queries[0]))
    outs, scores, weights = [], [], []
    for i, query in enumerate(queries):
        seen = len(past) - len(queries) + 1 + i
        factors, unit = _whole(query, LENGTH)
        (lanes,) = cut([sum(map(mul, factors, past.keys))], len(past), SHORT)
        unit *= CUT_UNIT * scale
        scores.append([x * unit * key for x, key in zip(lanes[:seen], past.key_units)])
        weights.append(softmax(scores[-1]))
        outs.append(_mixture(weights[-1], past, width))
        weights[-1] += [0.0] * (len(past) - seen)
    # The cache holds the past where chapter 4's holds matrices: there is no backward from here.
    return outs, AttentionCache(queries, past, past, scores, weights)  # type: ignore[arg-type]


def _mixture(weights: Vector, past: PackedPast, width: int) -> Vector:
    """The values of the first positions, each multiplied by its weight: D numbers."""
    shares = list(map(mul, weights, past.value_units))
    unit = sum(shares) / TOTAL
    if not 0 < unit < math.inf:
        return [unit] * width  # all values are 0, or some are no numbers
    factors = rounded([shares], [1 / unit])
    (lanes,) = cut([sum(map(mul, factors, past.values))], width, SHORT)
    unit = CUT_UNIT * sum(shares) / sum(factors)  # many equal ones are all rounded in one direction
    return [x * unit for x in lanes]


def _whole(row: Sequence[float], length: float) -> tuple[Sequence[int], float]:
    """As `whole_numbers`; a row that no lane can hold counts units that are no number."""
    try:
        return whole_numbers(row, length)
    except OverflowError:
        return [0] * len(row), math.nan


def _small(row: Vector) -> tuple[Sequence[int], float]:
    """The row as int8 numbers, and the unit that they count."""
    unit = max(map(abs, row)) / LARGEST
    if not 1e-150 < unit < 1e150:
        return [0] * len(row), 0.0 if unit == 0 else math.nan
    inverse = 1 / unit
    return [round(x * inverse) for x in row], unit


def _in_lanes(numbers: Sequence[int]) -> int:
    """Numbers below 2^23, the first of them in the lowest lane."""
    wide = array("i", numbers).tobytes()  # four bytes each, of which three are enough
    lanes = bytearray(SHORT * len(numbers))
    for byte in range(SHORT):
        lanes[byte::SHORT] = wide[byte::4]
    half = int.from_bytes((bytes(SHORT - 1) + b"\x80") * len(numbers), "little")
    return (int.from_bytes(lanes, "little") ^ half) - half
