"""Texts as a run sees them: one running text, or many short documents, one a line.

Serves chapter 2. Both kinds answer the same questions, so nothing else asks which one it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from tiny_llm.batches import Contexts, Examples, Ids, Targets, Windows

Line = TypeVar("Line", bound=Sequence[object])


class Corpus(Protocol):
    """A part of a text, the one to learn from or the one held out."""

    @property
    def ids(self) -> Ids:
        """One after the other, those of lines with their separators."""

    def examples(self, context_length: int, predicts_every_token: bool) -> Examples:
        """What a model of this kind learns from."""


class RunningText:
    """One text from beginning to end. ids: a list, or those in a file."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids

    def examples(self, context_length: int, predicts_every_token: bool) -> Examples:
        """Every token with what stands before it, or windows. See chapter 2."""
        return (Windows if predicts_every_token else Examples)(self.ids, context_length)


class Lines:
    """Documents of one line each, for example names. No context reaches beyond its line.

    ids: all in one list, with the separator before the first, between two, and behind the last:
    each line begins with the separator that ended the one before. places: where separators stand.
    Empty lines are left out. Raises ValueError if no other is there.

    >>> Lines([[1, 2], [3]], separator=0).ids
    [0, 1, 2, 0, 3, 0]
    """

    def __init__(self, lines: Iterable[Ids], separator: int) -> None:
        self.ids, self.places = [separator], [0]
        for line in lines:
            if len(line):
                self.ids += line
                self.places.append(len(self.ids))
                self.ids.append(separator)
        if len(self) == 0:
            raise ValueError("there is no line that is not empty, so there is nothing to learn")

    def __len__(self) -> int:
        return len(self.places) - 1

    def __getitem__(self, number: int) -> list[int]:
        """The ids of one line, without separators."""
        return self.ids[self.places[number] + 1 : self.places[number + 1]]

    def examples(self, context_length: int, predicts_every_token: bool) -> Examples:
        """Every token with what stands before it in its line, or windows within lines."""
        return (LineWindows if predicts_every_token else LineExamples)(self, context_length)


class LineExamples(Examples):
    """As `Examples`, but a context begins with the separator before its line at the earliest."""

    def __init__(self, lines: Lines, context_length: int) -> None:
        super().__init__(lines.ids, context_length)
        self.begins = lines.places

    def take(self, numbers: Iterable[int]) -> tuple[Contexts, Targets]:
        """The contexts of the examples with these numbers, and the target of each."""
        contexts: Contexts = []
        targets: Targets = []
        for number in numbers:
            line = self.begins[bisect_right(self.begins, number) - 1]
            begin = max(line, number + 1 - self.context_length)
            contexts.append(list(self.ids[begin : number + 1]))
            targets.append(self.ids[number + 1])
        return contexts, targets


class LineWindows(Windows):
    """As `Windows`, but each begins within a line; all lines that fit in one are one window.

    Each token of a line, and the separator behind it, is a target once.
    """

    def __init__(self, lines: Lines, context_length: int) -> None:
        super().__init__(lines.ids, context_length)
        bounds = zip(lines.places, lines.places[1:])
        self.begins = [begin for b, e in bounds for begin in range(b, e, context_length)]
        self.begins.append(lines.places[-1])

    def __len__(self) -> int:
        return len(self.begins) - 1

    def span(self, number: int) -> tuple[int, int]:
        """Where the window of this number begins and ends."""
        return self.begins[number], self.begins[number + 1]

    for_pass = Examples.for_pass  # every pass goes through all lines


class Spread(Examples):
    """Some of the examples, always the same ones, evenly spread over all: about as many as have
    so many predictions, one at the least.

    A list may be sorted and a text change its manner, so the beginning says little of the whole.
    """

    def __init__(self, examples: Examples, predictions: int) -> None:
        super().__init__(examples.ids, examples.context_length)
        self.examples = examples
        share = min(1.0, predictions / max(1, len(examples.ids) - 1))
        self.count = max(1, round(share * len(examples)))

    def __len__(self) -> int:
        return self.count

    def take(self, numbers: Iterable[int]) -> tuple[Contexts, Targets]:
        """As of `examples`, of which number i is one in the middle of the i-th part."""
        every = len(self.examples) / self.count
        return self.examples.take(int((number + 0.5) * every) for number in numbers)


def split_lines(lines: Iterable[Line], val_fraction: float) -> tuple[list[Line], list[Line]]:
    """Short documents, one a line, as (training lines, validation lines), each in order.

    Every k-th line is held out, where k is 1 / `val_fraction`, rounded: lines are often sorted, and
    the end of a list of names is not like the rest. Empty lines do not count.
    Raises ValueError when either part is without a line.
    """
    lines = [line for line in lines if len(line)]
    every = round(1 / val_fraction) if val_fraction > 0 else 0
    if every < 2:
        raise ValueError(
            f"of lines, every second can be held out at the most: the validation fraction must be "
            f"above 0 and at most 0.5, not {val_fraction:g}"
        )
    train = [line for number, line in enumerate(lines, 1) if number % every]
    val = lines[every - 1 :: every]
    for name, part in (("training", train), ("validation", val)):
        if not part:
            raise ValueError(
                f"a validation fraction of {val_fraction:g} leaves none of {len(lines)} lines for "
                f"{name}; use more lines or another fraction"
            )
    return train, val
