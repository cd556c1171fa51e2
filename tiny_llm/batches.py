"""CHAPTER 2. Token ids to the examples that a model learns from.

    ids --split--> training part | validation part
    training part --Examples, Batches--> contexts, and the token that follows each

A language model learns from pairs (context, next token), and a text is full of them: it is its own
answer key. Its end is held out *before* anything else, so that however often the model passes over
the training part, it never sees what it is tested on.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Any, Callable

Ids = Sequence[int]
Contexts = list[list[int]]  # B lists of 1 to context_length token ids
Targets = list[int]  # one id for each row of logits


def split(text: Any, val_fraction: float) -> tuple[Any, Any]:
    """Ids or a text, cut once into (training part, validation part); the second is its end. Raises
    ValueError when either part has less than a pair of tokens."""
    boundary = max(0, len(text) - round(len(text) * val_fraction))
    if not 2 <= boundary <= len(text) - 2:
        raise ValueError(
            f"a validation fraction of {val_fraction:g} leaves {boundary} of {len(text)} tokens "
            f"for training, and either part needs 2; use a longer text or another fraction"
        )
    return text[:boundary], text[boundary:]


class Examples:
    """The examples in a text, by number: what rungs 1 and 2 learn from. Example i is the context
    that ends with token i, and its target is token i + 1. The first contexts are short."""

    def __init__(self, ids: Ids, context_length: int) -> None:
        self.ids, self.context_length = ids, context_length

    def __len__(self) -> int:
        return max(0, len(self.ids) - 1)

    def take(self, numbers: Iterable[int]) -> tuple[Contexts, Targets]:
        """The contexts of the examples with these numbers, and the target of each."""
        ends = [number + 1 for number in numbers]
        contexts = [list(self.ids[max(0, end - self.context_length) : end]) for end in ends]
        return contexts, [self.ids[end] for end in ends]

    def for_pass(self, rng: random.Random) -> "Examples":
        """What one pass over the text goes through: here the same in each, with rung 3 not."""
        return self


def shuffled(size: int, rng: random.Random) -> Sequence[int]:
    """The numbers from 0 to `size` - 1 in a random order."""
    order = list(range(size))
    rng.shuffle(order)
    return order


class Batches:
    """Seeded batches of examples: pass after pass over the training part, each in a new `order`.
    What a step trains on follows from the seed and the number of the step alone, so an interrupted
    run goes on at any step without a stored random state. The last of a pass may be smaller."""

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int = 0,
        order: Callable[..., Any] = shuffled,
    ) -> None:
        self.examples, self.batch_size, self.seed, self.order = examples, batch_size, seed, order
        self.per_pass = len(examples.for_pass(random.Random(0)))
        self.steps_per_pass = -(-self.per_pass // batch_size)  # rounded up
        self._kept = self._pass(0)

    def batch(self, step: int) -> tuple[Contexts, Targets]:
        """Contexts and targets of this step, from 0: at most `batch_size` contexts."""
        number, index = divmod(step, self.steps_per_pass)
        if number != self._kept[0]:  # an order is made once for all steps of its pass
            self._kept = self._pass(number)
        _, examples, order = self._kept
        first = index * self.batch_size
        last = min(first + self.batch_size, self.per_pass)
        return examples.take(order[i] for i in range(first, last))

    def _pass(self, number: int) -> tuple[int, Examples, Sequence[int]]:
        rng = random.Random(f"{self.seed}/{number}")  # frozen: every run follows from this seed
        return number, self.examples.for_pass(rng), self.order(self.per_pass, rng)


# Try it: hold out the beginning of the text instead of its end. The losses change, as it is another
# text; hold out what was trained on, and you no longer know what was learned.

# ---------------------------------------------------------------- rung 3: a target for each token


class Windows(Examples):
    """The examples of rung 3, which predicts after every token: windows with as many targets.
    Window i begins at token start + i * context_length; the last one may be short. So again every
    token behind the first one is a target once."""

    def __init__(self, ids: Ids, context_length: int, start: int = 0) -> None:
        super().__init__(ids, context_length)
        self.start = start

    def __len__(self) -> int:
        return -(-(super().__len__() - self.start) // self.context_length)

    def span(self, number: int) -> tuple[int, int]:
        """Where the window of this number begins and ends."""
        begin = self.start + number * self.context_length
        return begin, min(begin + self.context_length, len(self.ids) - 1)

    def take(self, numbers: Iterable[int]) -> tuple[Contexts, Targets]:
        """The windows with these numbers, and all their targets in order."""
        spans = list(map(self.span, numbers))
        contexts = [list(self.ids[begin:end]) for begin, end in spans]
        return contexts, [token for b, e in spans for token in self.ids[b + 1 : e + 1]]

    def for_pass(self, rng: random.Random) -> Examples:
        """Each pass begins at another token, so that it cuts the text elsewhere. All its windows
        are full, one fewer than there is room for: the rest is left to other passes."""
        length, predictions = self.context_length, len(self.ids) - 1
        used = length * max(1, predictions // length - 1)
        start = rng.randrange(max(1, predictions - used + 1))
        return Windows(self.ids[: start + used + 1], length, start)
