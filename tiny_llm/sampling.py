"""A row of logits to the next token, and the next token to a text.

    logits --temperature--> softmax --top-k, top-p--> probabilities --one draw--> token
       ^                                                                           |
       +-------------------- the token joins the context -------------------------+

A language model writes by predicting one token, taking it as given, and predicting again. Several
samples are written in one batch, each with its own luck. A model that can (rung 3) remembers what
it has read: see `kv_cache`.
"""

from __future__ import annotations

import codecs
import random
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Callable, Optional

from tiny_llm.fast.kv_cache import Past, Remembering, remember, seen
from tiny_llm.layers import softmax
from tiny_llm.matmul import Matrix, Vector
from tiny_llm.model import LanguageModel


def next_token_probabilities(
    logits: Vector, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Vector:
    """The distribution that the next token is drawn from: V logits -> V probabilities.

    temperature divides the logits: below 1 the likely tokens become likelier, at 0 the likeliest
    takes all (greedy). top_k keeps the k likeliest tokens (0: all of them; Fan et al., 2018), then
    top_p the fewest of these that together have at least probability p (1: all; Holtzman et al.,
    2020). Of equally likely tokens the one with the smaller id goes first.
    Raises ValueError for a temperature or top_k below 0, or top_p outside (0, 1].
    """
    if not temperature >= 0:
        raise ValueError(f"the temperature must be at least 0, not {temperature:g}")
    if top_k < 0:
        raise ValueError(f"top-k must be at least 0 (0 keeps all tokens), not {top_k}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top-p must be above 0 and at most 1, not {top_p:g}")
    ranked = sorted(range(len(logits)), key=lambda token: -logits[token])
    if temperature == 0:
        ranked = ranked[:1]
    elif top_k:
        ranked = ranked[:top_k]
    highest = logits[ranked[0]]  # taken off first, so that a tiny temperature cannot overflow
    weights = softmax([(logits[token] - highest) / (temperature or 1) for token in ranked])
    kept, reached = 0, 0.0
    while kept < len(weights) and (top_p == 1 or reached < top_p):
        reached += weights[kept]
        kept += 1
    probabilities = [0.0] * len(logits)
    for token, weight in zip(ranked[:kept], weights):
        probabilities[token] = weight / reached
    return probabilities


def slide(window: list[int], token: int, model: LanguageModel) -> list[int]:
    """The context after `token`: the longest that the model may see, without its oldest tokens.

    A full window of rungs 1 and 2 slides by one. Rung 3 goes on from the last half of its window:
    its positions are learned from the left, so sliding would move every token to another position.
    """
    length = model.config.context_length
    if len(window) < length:
        return [*window, token]
    keep = length - 1 if model.targets_per_context == 1 else length // 2
    return [*window[len(window) - keep :], token]


@dataclass
class Sample:
    """A text in the making: the tokens that the model may see, and what it remembers of them."""

    window: list[int]
    rng: random.Random
    past: Past = field(default_factory=list)  # of the first tokens of the window


def next_logits(model: LanguageModel, samples: Sequence[Sample], use_cache: bool = True) -> Matrix:
    """The logits of the token that follows each sample, from one forward: K samples -> K x V.

    With the cache only the last token of each goes through the model; of a sample without a past,
    what stands before that is read first.
    """
    if use_cache and isinstance(model, Remembering):
        for sample in samples:
            sample.past = sample.past or remember(model, sample.window[:-1])
        contexts = [sample.window[seen(sample.past) :] for sample in samples]
        logits, cache = model.forward(contexts, past=[sample.past for sample in samples])
        for sample, past in zip(samples, model.past(cache)):
            sample.past = past
    else:
        contexts = [sample.window for sample in samples]
        logits, _ = model.forward(contexts)
    if model.targets_per_context == 1:
        return logits
    return [logits[end - 1] for end in accumulate(map(len, contexts))]


def generate(
    model: LanguageModel,
    prompt: list[int],
    max_new_tokens: int,
    rng: random.Random,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    use_cache: bool = True,
) -> Iterator[int]:
    """Yield `max_new_tokens` token ids that continue `prompt`, each as soon as it is drawn.

    Of a prompt longer than the context, the model sees the end. Raises ValueError for an empty one.
    """
    for tokens in generate_batch(
        model, prompt, max_new_tokens, [rng], temperature, top_k, top_p, use_cache
    ):
        yield tokens[0]


def generate_batch(
    model: LanguageModel,
    prompt: list[int],
    max_new_tokens: int,
    rngs: Sequence[random.Random],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    use_cache: bool = True,
    ended: Container[int] = (),
    separator: Optional[int] = None,
) -> Iterator[dict[int, int]]:
    """Continue `prompt` once for each generator: yield, step by step, sample number -> its token.

    Sample i draws from rngs[i] alone, so it is the same text whatever is written beside it. The
    caller may add the number of a sample to `ended` between two steps, and it takes part no more.
    A model of single lines begins anew at each `separator`, as it did in training.
    Raises ValueError for an empty prompt.
    """
    if not prompt:
        raise ValueError("the prompt is empty; give at least one character to continue")
    window = prompt[-model.config.context_length :]
    past: Past = []
    if max_new_tokens and use_cache and isinstance(model, Remembering):
        past = remember(model, window[:-1])  # once for all
    samples = {number: Sample(window, rng, past) for number, rng in enumerate(rngs)}
    for _ in range(max_new_tokens):
        samples = {number: sample for number, sample in samples.items() if number not in ended}
        if not samples:
            return
        logits = next_logits(model, list(samples.values()), use_cache)
        tokens = {}
        for (number, sample), row in zip(samples.items(), logits):
            probabilities = next_token_probabilities(row, temperature, top_k, top_p)
            tokens[number] = sample.rng.choices(range(len(row)), weights=probabilities)[0]
        yield tokens
        for number, sample in samples.items():
            is_new = tokens[number] == separator
            window = slide([] if is_new else sample.window, tokens[number], model)
            if len(window) <= len(sample.window):  # no token is where it was
                sample.past = []
            sample.window = window


class TextStream:
    """Tokens become text as they come: whole characters, and none that the stop text may begin.

    A token of bytes can hold half a character, and `stop` can stretch over several tokens, so some
    text is held back until what follows has decided. token_bytes: a token's part of the text, in
    UTF-8. Bytes that are no text become U+FFFD.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], stop: str = "") -> None:
        self.stopped = False  # whether the stop text has come: the text ends before it
        self._token_bytes = token_bytes
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def add(self, token: int) -> str:
        """The text that is certain now and was not before."""
        return self._certain(self._decoder.decode(self._token_bytes(token)))

    def end(self) -> str:
        """What is still held back, when no token follows. Nothing after the stop text."""
        text = self._certain(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text + rest

    def _certain(self, text: str) -> str:
        """The text up to the stop text, or up to what may be its beginning; keeps the rest."""
        if self.stopped:
            return ""
        text = self._held + text
        before, found, _ = text.partition(self._stop) if self._stop else (text, "", "")
        if found:
            self.stopped, self._held = True, ""
            return before
        held = next(
            (n for n in range(len(self._stop) - 1, 0, -1) if text.endswith(self._stop[:n])), 0
        )
        self._held = text[len(text) - held :]
        return text[: len(text) - held]
