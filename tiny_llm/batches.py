"""Token ids to the examples that a model trains on.

    ids --split--> training part | validation part
    training part --Batches--> contexts, and the token that follows each

A language model learns from pairs (context, next token), and a text is full of them. The end of the
text is held out *before* anything else happens, so that passing over the training part many times
never shows the model what it is tested on.

What a step trains on follows from the seed and the number of the step alone, so a run that was
interrupted goes on at any step without a stored random state.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import lru_cache

Contexts = list[list[int]]  # B lists of 1 to context_length token ids
Targets = list[int]  # one id for each row of logits


def split(ids: list[int], val_fraction: float) -> tuple[list[int], list[int]]:
    """The ids cut once into (training part, validation part); the second is the end of the text.

    Raises ValueError when either part has no pair of tokens (one to see, one to predict).
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"the validation fraction must lie between 0 and 1, not {val_fraction:g}")
    boundary = len(ids) - round(len(ids) * val_fraction)
    train, val = ids[:boundary], ids[boundary:]
    for name, part in (("training", train), ("validation", val)):
        if len(part) < 2:
            raise ValueError(
                f"a validation fraction of {val_fraction:g} leaves {len(part)} of {len(ids)} "
                f"tokens for {name}, and 2 are the least; use a longer text or another fraction"
            )
    return train, val


class Examples:
    """The examples in a list of ids, by number: what rungs 1 and 2 learn from, or rung 3.

    With `targets_per_context` 1, example i is the context that ends with token i, and its one
    target is token i + 1; the first contexts are short. Otherwise it is the i-th of the windows
    that follow one another from token `start`, with a target after every token; the last is short.
    Either way, each token behind the first is the target of exactly one example.
    """

    def __init__(
        self, ids: list[int], context_length: int, targets_per_context: int, start: int = 0
    ) -> None:
        self.ids = ids
        self.context_length = context_length
        self.one_target = targets_per_context == 1
        self.start = start

    def __len__(self) -> int:
        predictions = len(self.ids) - 1 - self.start
        return predictions if self.one_target else -(-predictions // self.context_length)

    def take(self, numbers: Iterable[int]) -> tuple[Contexts, Targets]:
        """The contexts of the examples with these numbers, and all their targets in order."""
        contexts, targets = [], []
        for number in numbers:
            if self.one_target:
                end = self.start + number + 1
                begin = max(0, end - self.context_length)
            else:
                begin = self.start + number * self.context_length
                end = min(begin + self.context_length, len(self.ids) - 1)
            contexts.append(self.ids[begin:end])
            targets += self.ids[end if self.one_target else begin + 1 : end + 1]
        return contexts, targets


class Batches:
    """Seeded batches of examples: pass after pass over the training ids, each in a new order.

    `batch(step)` is what step number `step` (from 0) trains on, the same at every call; a pass has
    `steps_per_pass` of them, and its last batch may be smaller. Windows (rung 3) begin at another
    token in each pass, so that each pass cuts the text elsewhere; they are all full, so some tokens
    at either end are left to other passes.
    Raises ValueError when the ids do not fill one context and the token that follows it.
    """

    def __init__(
        self,
        ids: list[int],
        context_length: int,
        targets_per_context: int,
        batch_size: int,
        seed: int,
    ) -> None:
        if len(ids) <= context_length:
            raise ValueError(
                f"the training part has {len(ids)} tokens, too few for a context of "
                f"{context_length} and the token that follows it; use a longer text or a context "
                f"length of at most {max(1, len(ids) - 1)}"
            )
        self.ids = ids
        self.context_length = context_length
        self.targets_per_context = targets_per_context
        self.batch_size = batch_size
        self.seed = seed
        predictions = len(ids) - 1
        if targets_per_context == 1:
            self.contexts, self.starts = predictions, 1
        else:  # one window fewer than there is room for, so that they can begin in many places
            self.contexts = max(1, predictions // context_length - 1)
            self.starts = predictions - self.contexts * context_length + 1
        self.steps_per_pass = -(-self.contexts // batch_size)
        self._cached_pass = lru_cache(maxsize=1)(self._pass)

    def _pass(self, number: int) -> tuple[Examples, list[int]]:
        """The examples of one pass and their order."""
        rng = random.Random(f"pass {number} of seed {self.seed}")
        start = rng.randrange(self.starts)
        examples = Examples(self.ids, self.context_length, self.targets_per_context, start)
        order = list(range(self.contexts))
        rng.shuffle(order)
        return examples, order

    def batch(self, step: int) -> tuple[Contexts, Targets]:
        """Contexts and targets of one step: at most `batch_size` contexts."""
        number, index = divmod(step, self.steps_per_pass)
        examples, order = self._cached_pass(number)
        return examples.take(order[index * self.batch_size : (index + 1) * self.batch_size])
