"""int8 weights in lanes of 12 bits: most of a product is done by adding, before anything is scaled.

    inputs       3     -3      7      3           whole numbers, few enough that many are alike
    columns   |.5.1| |.2.8| |.4.4| |.6.0|         one integer for each input, a lane for each output
    added     3 * |.5+6-2  .1+0-8|  +  7 * |.4.4|

A product of one row multiplies each input with a column of weights and adds all that up. CPython
takes twice as long to multiply a long integer as to add one, and a lane for products must be twice
as wide as one for weights. So the columns of inputs that are equal, up to the sign, are added first
and each of these sums is multiplied once. That is exact: a b + a c = a (b + c).

A lane holds from -2048 to 2047, and so the sum of 16 weights, whatever they are; more columns make
another sum. What a sum is multiplied to does not fit, and needs no more than every other lane: the
odd ones are masked out and multiplied alone, in what are lanes of 24 bits to them, and the even
ones are what is left when these are taken from the product of all. 24 bits hold it, because whoever
calls bounds the length of the inputs (`longest` in lanes.py says how).

Adding first what is multiplied by the same: the method of the four Russians (Arlazarov et al.,
1970) and Pippenger (1976) are of this family.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, compress
from operator import add, mul, sub
from typing import Callable, NamedTuple

BITS = 12  # of a lane
TOGETHER = 16  # columns that may be added: 16 * 127 < 2^11
BLOCK = 2048  # outputs whose lanes make one integer: some kilobytes, which stay in the cache

_PLUS_128 = bytes(byte ^ 128 for byte in range(256))  # of an int8 number
_LOW = bytes(byte % 16 * 16 for byte in range(256))  # a byte's lower half, to the upper one
_HIGH = bytes(byte // 16 for byte in range(256))


class Plan(NamedTuple):
    """To which sum each column goes, and what a sum is multiplied by. P of K inputs are not 0."""

    factors: Sequence[int]  # K
    places: list[int]  # P: which sum
    signs: list[Callable[[int, int], int]]  # P: `add` to it, or `sub`
    magnitudes: list[int]  # of each sum


class Block:
    """Up to `BLOCK` outputs: the integers of all inputs, and the masks that suit their number."""

    def __init__(self, columns: list[int], count: int) -> None:
        self.columns, self.count = columns, count
        self.pairs = (count + 1) // 2
        self.half = _repeated(1 << BITS - 1, BITS, count)
        self.odd = _repeated((1 << BITS) - 1 << BITS, 2 * BITS, self.pairs)
        self.odd_half = self.half & self.odd
        self.wide_half = _repeated(1 << 2 * BITS - 1, 2 * BITS, self.pairs)

    def sums(self, plan: Plan) -> memoryview:
        """The sums of products for every output, times 256."""
        magnitudes = plan.magnitudes
        gathered = [self.half] * len(magnitudes)  # so that no lane becomes negative
        columns = compress(self.columns, plan.factors)  # in the order of the memory
        for place, sign, column in zip(plan.places, plan.signs, columns):
            gathered[place] = sign(gathered[place], column)
        halves = sum(magnitudes)
        odd = sum(map(mul, map(self.odd.__and__, gathered), magnitudes)) - halves * self.odd_half
        even = sum(map(mul, gathered, magnitudes)) - halves * self.half - odd
        wide = bytearray(8 * self.pairs)
        for start, total in (1, even), (5, odd >> BITS):
            # As `cut` in lanes.py: a sign for each lane, and the upper three of four bytes.
            lanes = ((total + self.wide_half) ^ self.wide_half).to_bytes(3 * self.pairs, "little")
            for byte in range(3):
                wide[start + byte :: 8] = lanes[byte::3]
        return memoryview(wide).cast("i")[: self.count]

    def numbers_of(self, output: int) -> array[int]:
        """The weights of one output, one for each input."""
        # The lanes below are one less than nothing if their sum is negative; half a unit mends it.
        shift = BITS * output
        lanes = [(x << 1 >> shift) + 1 >> 1 for x in self.columns]
        return array("b", [((lane + 128) & 255) - 128 for lane in lanes])

    def part(self, start: int, stop: int) -> Block:
        """The outputs from start to stop alone."""
        shift, mask = BITS * start, (1 << BITS * (stop - start)) - 1
        half = _repeated(1 << BITS - 1, BITS, stop - start)
        return Block([((x + self.half >> shift) & mask) - half for x in self.columns], stop - start)


def _repeated(lane: int, bits: int, count: int) -> int:
    """The same number in so many lanes."""
    return lane * (((1 << bits * count) - 1) // ((1 << bits) - 1))


class Lanes:
    """M x K weights that K inputs are multiplied with: one sum for each of M outputs."""

    unit = 1 / 256  # what the sums count

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.outputs = sum([block.count for block in blocks])

    @classmethod
    def of(cls, numbers: bytes, outputs: int, inputs: int, by_output: bool) -> Lanes:
        """From int8 numbers: those of one output one after the other, or those of one input."""
        blocks, numbers = [], numbers.translate(_PLUS_128)
        for start in range(0, outputs, BLOCK):
            count = min(BLOCK, outputs - start)
            if by_output:
                part = numbers[start * inputs : (start + count) * inputs]
                columns = [part[k::inputs] for k in range(inputs)]
            else:
                places = range(start, outputs * inputs, outputs)
                columns = [numbers[place : place + count] for place in places]
            blocks.append(Block(_laid_out(columns, count), count))
        return cls(blocks)

    def sums(self, factors: Sequence[int]) -> list[int]:
        """The sum over k of weight (m, k) * factor k for each output m.

        Right as long as none leaves 24 bits.
        """
        plan = _planned(tuple(factors))
        return list(chain.from_iterable([block.sums(plan) for block in self.blocks]))

    def numbers_of(self, output: int) -> array[int]:
        """The int8 weights of one output: K."""
        for block in self.blocks:
            if output < block.count:
                return block.numbers_of(output)
            output -= block.count
        raise IndexError("there is no such output")

    def numbers(self) -> list[bytes]:
        """The int8 weights of every input: K times M."""
        parts = [_taken_out(block.columns, block.count) for block in self.blocks]
        return [b"".join(columns) for columns in zip(*parts)]

    def part(self, start: int, stop: int) -> Lanes:
        """The outputs from start to stop alone. Whole blocks are shared, not copied."""
        blocks, first = [], 0
        for block in self.blocks:
            begin, end = max(start - first, 0), min(stop - first, block.count)
            if begin < end:
                whole = end - begin == block.count
                blocks.append(block if whole else block.part(begin, end))
            first += block.count
        return Lanes(blocks)

    def part_of_inputs(self, start: int, stop: int) -> Lanes:
        """The inputs from start to stop alone."""
        return Lanes([Block(block.columns[start:stop], block.count) for block in self.blocks])


def _laid_out(columns: list[bytes], count: int) -> list[int]:
    """Numbers + 128, of `count` outputs for each input -> an integer for each input."""
    pad = b"\x80" * (count % 2)
    flat = b"".join([column + pad for column in columns])
    lanes = bytearray(len(flat) // 2 * 3)
    odd = flat[1::2]
    lanes[::3], lanes[1::3], lanes[2::3] = flat[::2], odd.translate(_LOW), odd.translate(_HIGH)
    width, middles = (count + 1) // 2 * 3, _repeated(128, BITS, count + count % 2)
    return [
        int.from_bytes(lanes[start : start + width], "little") - middles
        for start in range(0, len(lanes), width)
    ]


def _taken_out(columns: list[int], count: int) -> list[bytes]:
    """The inverse: an integer for each input -> its numbers."""
    pairs = (count + 1) // 2
    middles = _repeated(128, BITS, 2 * pairs)
    lanes = b"".join([(x + middles).to_bytes(3 * pairs, "little") for x in columns])
    low = int.from_bytes(lanes[1::3].translate(_HIGH), "little")
    high = int.from_bytes(lanes[2::3].translate(_LOW), "little")
    flat = bytearray(len(lanes) // 3 * 2)
    flat[::2], flat[1::2] = lanes[::3], (low | high).to_bytes(len(lanes) // 3, "little")
    flat = flat.translate(_PLUS_128)
    return [bytes(flat[i : i + count]) for i in range(0, len(flat), 2 * pairs)]


@lru_cache(maxsize=1)  # queries, keys and values are made of the same inputs
def _planned(factors: tuple[int, ...]) -> Plan:
    """Columns of one magnitude to the same sum, `TOGETHER` at most."""
    places: list[int] = []
    magnitudes: list[int] = []
    last: dict[int, int] = {}  # sum of each magnitude
    seen: dict[int, int] = {}  # columns of each magnitude
    for magnitude in map(abs, filter(None, factors)):
        columns = seen.get(magnitude, 0)
        if columns % TOGETHER == 0:
            last[magnitude] = len(magnitudes)
            magnitudes.append(magnitude)
        seen[magnitude] = columns + 1
        places.append(last[magnitude])
    signs = [sub if factor < 0 else add for factor in factors if factor]
    return Plan(factors, places, signs, magnitudes)
