"""A row of logits to the next token, and the next token to a text.

    logits --temperature--> softmax --top-k, top-p--> probabilities --one draw--> token
       ^                                                                           |
       +-------------------- the token joins the context -------------------------+

A language model writes by predicting one token, taking it as given, and predicting again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tiny_llm.contract import LanguageModel
from tiny_llm.matmul import Vector
from tiny_llm.ops import softmax


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


def generate(
    model: LanguageModel,
    prompt: list[int],
    max_new_tokens: int,
    rng: random.Random,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Iterator[int]:
    """Yield `max_new_tokens` token ids that continue `prompt`, each as soon as it is drawn.

    Of a prompt longer than the context, the model sees the end. Raises ValueError for an empty one.
    """
    if not prompt:
        raise ValueError("the prompt is empty; give at least one character to continue")
    window = prompt[-model.config.context_length :]
    for _ in range(max_new_tokens):
        logits, _ = model.forward([window])
        probabilities = next_token_probabilities(logits[-1], temperature, top_k, top_p)
        token = rng.choices(range(len(probabilities)), weights=probabilities)[0]
        yield token
        window = slide(window, token, model)
