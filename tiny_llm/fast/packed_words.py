"""int8 weights two in a machine word, for a compiler such as PyPy's.

    word       |  w1  |  w0  |   = w0 + 2^24 w1     two outputs, one input
    times 5    | 5 w1 | 5 w0 |                      one multiplication for both
    added up   |  s1  |  s0  |   until all inputs are through; then s0 is cut off, and s1 is left

PyPy turns loops over numbers into machine code, where a multiplication costs the same whatever it
multiplies. So what pays is to have two of them in one, and to read half as much: a word of 32 bits
holds two weights, and the sums of a word of 64 bits hold two sums of 24 bits and more. Nothing but
the last step knows that there are two: s0 may be negative, and has then taken 1 from s1.

Eight words, 16 outputs, are made at once, so that each input is read once for all of them, and
their words lie in the order in which they are read. (SWAR, "SIMD within a register": Lamport,
1975.)
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

BITS = 24  # of the lower sum
AT_ONCE = 16  # outputs


class Words:
    """M x K weights that K inputs are multiplied with: one sum for each of M outputs."""

    unit = 1.0  # what the sums count

    def __init__(self, words: array[int], outputs: int, inputs: int) -> None:
        self.words, self.outputs, self.inputs = words, outputs, inputs

    @classmethod
    def of(cls, numbers: bytes, outputs: int, inputs: int, by_output: bool) -> Words:
        """From int8 numbers: those of one output one after the other, or those of one input."""
        steps = (outputs + AT_ONCE - 1) // AT_ONCE
        words = array("i", bytes(4 * steps * inputs * AT_ONCE // 2))
        int8 = array("b", numbers)
        for output in range(outputs):
            step, lane = divmod(output, AT_ONCE)
            place = step * inputs * AT_ONCE // 2 + lane // 2
            if by_output:
                _put(words, place, int8, output * inputs, 1, inputs, lane % 2 * BITS)
            else:
                _put(words, place, int8, output, outputs, inputs, lane % 2 * BITS)
        return cls(words, outputs, inputs)

    def sums(self, factors: Sequence[int]) -> list[int]:
        """The sum over k of weight (m, k) * factor k for each output m.

        Right as long as none leaves 24 bits.
        """
        words, factors = self.words, list(factors)
        sums: list[int] = []
        place = 0
        for _ in range(0, self.outputs, AT_ONCE):
            a = b = c = d = p = q = r = s = 0
            for factor in factors:
                a += factor * words[place]
                b += factor * words[place + 1]
                c += factor * words[place + 2]
                d += factor * words[place + 3]
                p += factor * words[place + 4]
                q += factor * words[place + 5]
                r += factor * words[place + 6]
                s += factor * words[place + 7]
                place += 8
            for both in (a, b, c, d, p, q, r, s):
                low = _low(both)
                sums.append(low)
                sums.append((both - low) >> BITS)
        return sums[: self.outputs]

    def numbers_of(self, output: int) -> array[int]:
        """The int8 weights of one output: K."""
        step, lane = divmod(output, AT_ONCE)
        size = self.inputs * AT_ONCE // 2
        words = self.words[step * size + lane // 2 : (step + 1) * size : AT_ONCE // 2]
        if lane % 2:
            return array("b", [(word - _low(word)) >> BITS for word in words])
        return array("b", [_low(word) for word in words])

    def numbers(self) -> list[bytes]:
        """The int8 weights of every input: K times M."""
        flat = b"".join([self.numbers_of(output).tobytes() for output in range(self.outputs)])
        return [flat[k :: self.inputs] for k in range(self.inputs)]

    def part(self, start: int, stop: int) -> Words:
        """The outputs from start to stop alone."""
        if start % AT_ONCE:
            flat = b"".join([self.numbers_of(output).tobytes() for output in range(start, stop)])
            return Words.of(flat, stop - start, self.inputs, True)
        size = self.inputs * AT_ONCE // 2
        end = (stop + AT_ONCE - 1) // AT_ONCE
        words = self.words[start // AT_ONCE * size : end * size]
        return Words(words, stop - start, self.inputs)

    def part_of_inputs(self, start: int, stop: int) -> Words:
        """The inputs from start to stop alone."""
        each = AT_ONCE // 2
        steps = range(0, len(self.words), self.inputs * each)
        words = array("i")
        for step in steps:
            words += self.words[step + start * each : step + stop * each]
        return Words(words, self.outputs, stop - start)


def _low(both: int) -> int:
    """The lower number, with its sign."""
    half = 1 << BITS - 1
    return ((both + half) & (2 * half - 1)) - half


def _put(
    words: array[int], place: int, int8: array[int], start: int, step: int, count: int, shift: int
) -> None:
    """Add every `step`th number to the words of its output."""
    for _ in range(count):
        words[place] += int8[start] << shift
        place += AT_ONCE // 2
        start += step
