"""Token ids to the examples that a model trains on.

    ids --split--> training part | validation part
    training part --Batches--> contexts, and the token that follows each

A language model learns from pairs (context, next token), and a text is full of them. The end of the
text is held out *before* anything else happens, so that passing over the training part many times
never shows the model what it is tested on.

What a step trains on follows from the seed and the number of the step alone, so a run that was
interrupted goes on at any step without a stored random state. Nor is there a stored order of the
examples: a permutation that is computed one number at a time (Black and Rogaway, 2002) takes no
memory, however long the text is. So ids may be a list, or lie in a file (text/token_file.py).
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeVar, Union

Ids = Sequence[int]  # a list, or a memoryview of a token file
Contexts = list[list[int]]  # B lists of 1 to context_length token ids
Targets = list[int]  # one id for each row of logits
Whole = TypeVar("Whole", list[int], str)
Line = TypeVar("Line", bound=Sequence[object])

ROUNDS = 6  # of a permutation; with 4, some orders of few examples come far too often


def split(ids: Whole, val_fraction: float) -> tuple[Whole, Whole]:
    """Ids or a text, cut once into (training part, validation part); the second is its end.

    Raises ValueError when either part has no pair of tokens (one to see, one to predict).
    """
    _check_fraction(val_fraction)
    boundary = len(ids) - round(len(ids) * val_fraction)
    train, val = ids[:boundary], ids[boundary:]
    for name, part in (("training", train), ("validation", val)):
        if len(part) < 2:
            raise ValueError(
                f"a validation fraction of {val_fraction:g} leaves {len(part)} of {len(ids)} "
                f"tokens for {name}, and 2 are the least; use a longer text or another fraction"
            )
    return train, val


def split_lines(lines: Iterable[Line], val_fraction: float) -> tuple[list[Line], list[Line]]:
    """Short documents, one a line, as (training lines, validation lines), each in order.

    Every k-th line is held out, where k is 1 / `val_fraction`, rounded: lines are often sorted, and
    the end of a list of names is not like the rest. Empty lines do not count.
    Raises ValueError when either part is without a line.
    """
    _check_fraction(val_fraction)
    lines = [line for line in lines if len(line)]
    every = round(1 / val_fraction)
    if every < 2:
        raise ValueError(
            f"of lines, every second can be held out at the most: the validation fraction must be "
            f"at most 0.5, not {val_fraction:g}"
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


def _check_fraction(val_fraction: float) -> None:
    if not 0 < val_fraction < 1:
        raise ValueError(f"the validation fraction must lie between 0 and 1, not {val_fraction:g}")


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


Corpus = Union[Ids, Lines]  # one running text, or lines


def beginning(corpus: Corpus, predictions: int) -> Corpus:
    """The first so many tokens to predict, of lines the first whole ones: one at the least."""
    if not isinstance(corpus, Lines):
        return corpus[: predictions + 1]
    count = max(1, bisect_right(corpus.places, predictions) - 1)
    return Lines(map(corpus.__getitem__, range(count)), corpus.ids[0])


def running(corpus: Corpus) -> Ids:
    """The ids one after the other, those of lines with their separators."""
    return corpus.ids if isinstance(corpus, Lines) else corpus


class Examples:
    """The examples in a running text, by number: what rungs 1 and 2 learn from, or rung 3.

    With `targets_per_context` 1, example i is the context that ends with token i, and its one
    target is token i + 1; the first contexts are short. Otherwise it is the i-th of the windows
    that follow one another from token `start`, with a target after every token; the last is short.
    Either way, each token behind the first is the target of exactly one example.
    """

    def __init__(
        self, ids: Ids, context_length: int, targets_per_context: int, start: int = 0
    ) -> None:
        self.ids = ids
        self.context_length = context_length
        self.one_target = targets_per_context == 1
        self.start = start

    def __len__(self) -> int:
        predictions = len(self.ids) - 1 - self.start
        return predictions if self.one_target else -(-predictions // self.context_length)

    def place(self, number: int) -> tuple[int, int]:
        """Where the context of an example begins and ends."""
        if self.one_target:
            end = self.start + number + 1
            return max(0, end - self.context_length), end
        begin = self.start + number * self.context_length
        return begin, min(begin + self.context_length, len(self.ids) - 1)

    def take(self, numbers: Iterable[int]) -> tuple[Contexts, Targets]:
        """The contexts of the examples with these numbers, and all their targets in order."""
        contexts: Contexts = []
        targets: Targets = []
        for number in numbers:
            begin, end = self.place(number)
            contexts.append(list(self.ids[begin:end]))
            targets += self.ids[end if self.one_target else begin + 1 : end + 1]
        return contexts, targets


class LineExamples(Examples):
    """The examples in lines: as in a running text, but each context begins within its line.

    It begins with the separator before the line at the earliest. A line that is longer than the
    context is cut into windows that follow one another; in all others, one window is one line.
    Each token of a line, and the separator behind it, is the target of exactly one example.
    """

    def __init__(self, lines: Lines, context_length: int, targets_per_context: int) -> None:
        super().__init__(lines.ids, context_length, targets_per_context)
        self.begins = lines.places  # of lines, or of their windows
        if not self.one_target:
            bounds = zip(lines.places, lines.places[1:])
            windows = [begin for b, e in bounds for begin in range(b, e, context_length)]
            self.begins = [*windows, lines.places[-1]]

    def __len__(self) -> int:
        return len(self.ids) - 1 if self.one_target else len(self.begins) - 1

    def place(self, number: int) -> tuple[int, int]:
        """Where the context of an example begins and ends."""
        if self.one_target:
            line = self.begins[bisect_right(self.begins, number) - 1]
            return max(line, number + 1 - self.context_length), number + 1
        return self.begins[number], self.begins[number + 1]


def examples_of(corpus: Corpus, context_length: int, targets_per_context: int) -> Examples:
    """The examples in either kind of corpus."""
    if isinstance(corpus, Lines):
        return LineExamples(corpus, context_length, targets_per_context)
    return Examples(corpus, context_length, targets_per_context)


class Shuffled:
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

    def __getitem__(self, index: int) -> int:
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


class Batches:
    """Seeded batches of examples: pass after pass over the training part, each in a new order.

    `batch(step)` is what step number `step` (from 0) trains on, the same at every call; a pass has
    `steps_per_pass` of them, and its last batch may be smaller. Windows of a running text (rung 3)
    begin at another token in each pass, so that each pass cuts the text elsewhere; they are all
    full, so some tokens at either end are left to other passes.
    Raises ValueError when a running text does not fill one context and the token that follows it.
    """

    def __init__(
        self,
        corpus: Corpus,
        context_length: int,
        targets_per_context: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.examples = examples_of(corpus, context_length, targets_per_context)
        self.context_length = context_length
        self.targets_per_context = targets_per_context
        self.batch_size = batch_size
        self.seed = seed
        self.contexts, self.starts = len(self.examples), 1
        if not isinstance(corpus, Lines):
            self._check_length(len(corpus))
            if targets_per_context != 1:
                # One window fewer than there is room for, so that they can begin in many places.
                predictions = len(corpus) - 1
                self.contexts = max(1, predictions // context_length - 1)
                self.starts = predictions - self.contexts * context_length + 1
        self.steps_per_pass = -(-self.contexts // batch_size)
        self._cached_pass = lru_cache(maxsize=1)(self._pass)

    def _check_length(self, tokens: int) -> None:
        if tokens <= self.context_length:
            raise ValueError(
                f"the training part has {tokens} tokens, too few for a context of "
                f"{self.context_length} and the token that follows it; use a longer text or a "
                f"context length of at most {max(1, tokens - 1)}"
            )

    def _pass(self, number: int) -> tuple[Examples, Shuffled]:
        """The examples of one pass and their order."""
        rng = random.Random(f"pass {number} of seed {self.seed}")
        start, examples = rng.randrange(self.starts), self.examples
        if start:
            examples = Examples(examples.ids, self.context_length, self.targets_per_context, start)
        return examples, Shuffled(self.contexts, rng)

    def batch(self, step: int) -> tuple[Contexts, Targets]:
        """Contexts and targets of one step: at most `batch_size` contexts."""
        number, index = divmod(step, self.steps_per_pass)
        examples, order = self._cached_pass(number)
        first = index * self.batch_size
        return examples.take(
            order[place] for place in range(first, min(first + self.batch_size, self.contexts))
        )
