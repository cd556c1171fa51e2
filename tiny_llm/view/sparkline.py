"""A curve in a few characters: ██▅▄▃▂▂▁, or @@*+-_ where there is nothing but ASCII.

    numbers, one by one --Sketch--> a few means of all so far --sparkline--> one character each

The shape and nothing more: the lowest of the numbers has the lowest mark, the highest the highest.
"""

from __future__ import annotations

from tiny_llm.matmul import Vector
from tiny_llm.view.terminal import HEIGHTS, Style

MOST_MEANS = 64  # that a sketch keeps; always even
ASCII_HEIGHTS = "_.-~+*#@"


class Sketch:
    """Any number of numbers, kept as at most MOST_MEANS means of equally many each, in order."""

    def __init__(self) -> None:
        self.means: Vector = []  # the last may be of fewer
        self.each = 1  # how many numbers a mean is of
        self.count = 0  # of those in the last

    def add(self, number: float) -> None:
        """One more. When there is no room for another mean, pairs of neighbours become one."""
        if self.means and self.count < self.each:
            self.count += 1
            self.means[-1] += (number - self.means[-1]) / self.count
            return
        if len(self.means) == MOST_MEANS:
            self.means = [(a + b) / 2 for a, b in zip(self.means[::2], self.means[1::2])]
            self.each *= 2
        self.means.append(number)
        self.count = 1


def sparkline(numbers: Vector, columns: int, style: Style) -> str:
    """The numbers in at most `columns` characters, the means of neighbours where there are more.

    Equal numbers have marks of half height.
    """
    few = _fewer(numbers, columns)
    marks = HEIGHTS[1:] if style.unicode else ASCII_HEIGHTS
    low, high = min(few), max(few)
    if low == high:
        return marks[len(marks) // 2 - 1] * len(few)
    return "".join(marks[round((n - low) / (high - low) * (len(marks) - 1))] for n in few)


def _fewer(numbers: Vector, columns: int) -> Vector:
    """At most `columns` means of neighbours."""
    count = len(numbers)
    if count <= columns:
        return numbers
    ends = [place * count // columns for place in range(columns + 1)]
    return [sum(numbers[a:b]) / (b - a) for a, b in zip(ends, ends[1:])]
