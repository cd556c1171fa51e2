"""Three tiny tasks, made on the spot, each of which asks for more than the one before.

    place    the letter that always stands at the same place   a fixed window learns it
    find     the only capital letter, wherever it stands       needs attention
    recall   what came behind this letter the last time        needs attention in two layers

Each case is a short text in which some letters can be known from those before them. Only these are
asked for, in training and in the test; all else is chance, and would hide what was learned.
Serves chapters 6, 11 and 12: what a rung can do that the one below it cannot.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from string import ascii_lowercase
from typing import Callable, NamedTuple

from tiny_llm.batches import Contexts, Examples, Targets
from tiny_llm.model import LanguageModel
from tiny_llm.text.tokenizers import Tokenizer

LEARNED, HELD_OUT = 1000, 200  # cases
BACK = 4  # places, of the letter that `place` asks for


class Case(NamedTuple):
    """A text of one character more than the window, and the places in it that can be known."""

    text: str
    asked: list[int]


class Task(NamedTuple):
    """What is asked, in a few words, and how a case is made."""

    about: str
    alphabet: str
    window: int  # characters that stand before the last
    steps: int  # that rung 3 needs, of 16 cases each
    make: Callable[[random.Random, str, int], Case]


def place(rng: random.Random, alphabet: str, window: int) -> Case:
    """Random letters; behind them comes again what stands BACK places before."""
    letters = rng.choices(alphabet, k=window)
    return Case("".join([*letters, letters[-BACK]]), [window])


def find(rng: random.Random, alphabet: str, window: int) -> Case:
    """Random small letters, one of them made a capital, and behind the question mark again."""
    letters = rng.choices(ascii_lowercase, k=window - 1)
    marked = rng.randrange(window - 1)
    answer = letters[marked]
    letters[marked] = answer.upper()
    return Case("".join([*letters, "?", answer]), [window])


def recall(rng: random.Random, alphabet: str, window: int) -> Case:
    """Some different letters, and after up to two others the end of them again, and so on.

    Which letter begins the copy cannot be known; what follows it can, up to the end of the copy.
    """
    letters = rng.sample(alphabet, len(alphabet))
    size = rng.choice((4, 5))
    block, others = letters[:size], letters[size:]
    text, asked = list(block), list[int]()
    while len(text) <= window:
        text += rng.choices(others, k=rng.randint(0, 2))
        begin = rng.randrange(size - 2)
        asked += range(len(text) + 1, len(text) + size - begin)
        text += block[begin:]
    return Case("".join(text[: window + 1]), [at for at in asked if at <= window])


TASKS = {
    "place": Task(f"the letter {BACK} places back", ascii_lowercase[:16], 16, 150, place),
    "find": Task(
        "the only capital letter", ascii_lowercase + ascii_lowercase.upper() + "?", 16, 180, find
    ),
    "recall": Task("what came behind this letter before", ascii_lowercase[:8], 12, 320, recall),
}


def cases_of(name: str) -> tuple[list[Case], list[Case]]:
    """The cases of a task: those to learn from, and as new ones those held out. Always the same."""
    task, rng = TASKS[name], random.Random(name)
    cases = [task.make(rng, task.alphabet, task.window) for _ in range(LEARNED + HELD_OUT)]
    return cases[:LEARNED], cases[LEARNED:]


class AskedContext(list[int]):
    """A context whose reader is asked at some places only: the rows of logits that count."""

    rows: list[int]


class Cases:
    """Cases as a corpus. ids: all of them, one after the other."""

    def __init__(self, cases: Sequence[Case], tokenizer: Tokenizer) -> None:
        self.cases = cases
        self.each = [tokenizer.encode(case.text) for case in cases]
        self.ids = [token for ids in self.each for token in ids]

    def examples(self, context_length: int, predicts_every_token: bool) -> Examples:
        """What is asked, each with what stands before it; or whole cases."""
        return (AskedWindows if predicts_every_token else AskedExamples)(self, context_length)


class AskedExamples(Examples):
    """What rungs 1 and 2 learn from a task: an example for each place that is asked for."""

    def __init__(self, corpus: Cases, context_length: int) -> None:
        super().__init__(corpus.ids, context_length)
        pairs = zip(corpus.each, corpus.cases)
        self.places = [(ids, at) for ids, case in pairs for at in case.asked]

    def __len__(self) -> int:
        return len(self.places)

    def take(self, numbers: Iterable[int]) -> tuple[Contexts, Targets]:
        """The contexts of the examples with these numbers, and the target of each."""
        chosen = [self.places[number] for number in numbers]
        contexts = [ids[max(0, at - self.context_length) : at] for ids, at in chosen]
        return contexts, [ids[at] for ids, at in chosen]


class AskedWindows(Examples):
    """What rung 3 learns from a task: whole cases, with a target at each place asked for."""

    def __init__(self, corpus: Cases, context_length: int) -> None:
        super().__init__(corpus.ids, context_length)
        self.corpus = corpus

    def __len__(self) -> int:
        return len(self.corpus.cases)

    def take(self, numbers: Iterable[int]) -> tuple[Contexts, Targets]:
        """The cases with these numbers, and all their targets in order."""
        contexts: Contexts = []
        targets: Targets = []
        for number in numbers:
            ids, asked = self.corpus.each[number], self.corpus.cases[number].asked
            context = AskedContext(ids[:-1])
            context.rows = [at - 1 for at in asked]
            contexts.append(context)
            targets += [ids[at] for at in asked]
        return contexts, targets


def accuracy(model: LanguageModel, examples: Examples, at_once: int = 100) -> float:
    """The share of the targets to which the model gives the highest probability."""
    right = asked = 0
    for first in range(0, len(examples), at_once):
        contexts, targets = examples.take(range(first, min(first + at_once, len(examples))))
        logits, _ = model.forward(contexts)
        right += sum(row.index(max(row)) == target for row, target in zip(logits, targets))
        asked += len(targets)
    return right / asked
