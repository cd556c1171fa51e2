"""CHAPTER 9. A row of logits to the next token, and the next token to a text.

    logits --temperature--> softmax --top-k, top-p--> probabilities --one draw--> token
       ^                                                                           |
       +-------------------- the token joins the context -------------------------+

A language model writes by predicting one token, taking it as given, and predicting again. After
this chapter you have read a complete one, from the text to the sample.
"""

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import accumulate
from typing import Callable, Optional

from tiny_llm.layers import softmax
from tiny_llm.matmul import Vector
from tiny_llm.model import LanguageModel


@dataclass(frozen=True)
class Sampling:
    """How to draw. temperature divides the logits: below 1 the likely tokens become likelier, at 0
    the likeliest takes all (greedy). top_k keeps the k likeliest (0: all; Fan et al., 2018), then
    top_p the fewest of these that together have at least probability p (1: all; Holtzman et al.,
    2020). Raises ValueError for nonsense."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise ValueError(f"{self}: temperature and top_k must be >= 0, and 0 < top_p <= 1")

    def probabilities(self, logits: Vector) -> dict[int, float]:
        """The distribution that the next token is drawn from: V logits -> token: probability."""
        tokens: Sequence[int] = range(len(logits))
        if self.temperature == 0 or self.top_k:
            tokens = nlargest(self.top_k if self.temperature else 1, tokens, logits.__getitem__)
        highest = max(logits)  # taken off first, so that a tiny temperature cannot overflow
        weights = softmax([(logits[t] - highest) / (self.temperature or 1) for t in tokens])
        kept = dict(zip(tokens, weights))
        if self.top_p == 1:
            return kept
        least = (1 - self.top_p) / len(kept)  # all below it have less than 1 - p together
        ranked = sorted([t for t in kept if kept[t] >= least], key=kept.__getitem__, reverse=True)
        reached = list(accumulate([kept[token] for token in ranked]))
        last = min(bisect_left(reached, self.top_p), len(reached) - 1)
        return {token: kept[token] / reached[last] for token in ranked[: last + 1]}

    def draw(self, logits: Vector, rng: random.Random) -> int:
        """The next token."""
        kept = self.probabilities(logits)
        return rng.choices(list(kept), list(kept.values()))[0]


def slide(window: list[int], token: int, model: LanguageModel) -> list[int]:
    """The context after `token`: the longest that the model may see, without its oldest tokens. A
    full window of rungs 1 and 2 slides by one. Rung 3 goes on from the last half of its window: its
    positions are learned from the left, so sliding would move every token to another position."""
    length = model.config.context_length
    if len(window) < length:
        return [*window, token]
    keep = length // 2 if model.predicts_every_token else length - 1
    return [*window[len(window) - keep :], token]


def generate(
    model: LanguageModel,
    prompt: list[int],
    max_new_tokens: int,
    rng: random.Random,
    sampling: Sampling = Sampling(),
    read: Optional[Callable[[list[int]], Vector]] = None,
) -> Iterator[int]:
    """Yield `max_new_tokens` token ids that continue `prompt`, each as soon as it is drawn. `read`
    may give the logits that follow a window. Raises ValueError for an empty prompt."""
    if not prompt:
        raise ValueError("the prompt is empty; give at least one token to continue")
    window = prompt[-model.config.context_length :]
    for _ in range(max_new_tokens):
        logits = read(window) if read else model.forward([window])[0][-1]
        token = sampling.draw(logits, rng)
        yield token
        window = slide(window, token, model)


# Try it: `tiny-lm generate --temperature 0`, then 0.7, 1 and 2. It repeats itself, writes words,
# makes mistakes, writes noise: the same model, drawn from in four ways.
