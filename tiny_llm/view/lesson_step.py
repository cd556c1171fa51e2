"""One step of supervised fine-tuning on one conversation as lines of text.

token    <|user|> Who  ?   <|end|> <|assistant|> The  cat  <|end|>
learned                                           x    x    x        the mask, and from it the loss,
ln p                                            -0.21 ...            the slopes, the update
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tiny_llm.beyond.lesson_step import LessonStep
from tiny_llm.text.tokenizers import Tokenizer
from tiny_llm.view.rows import in_columns
from tiny_llm.view.shown_step import in_parts, labels, number, numbers, update_told
from tiny_llm.view.terminal import Style


def as_lines(told: LessonStep, tokenizer: Tokenizer, style: Style) -> Iterator[str]:
    """What happened, in five parts."""
    tokens = labels(told.lesson.ids, tokenizer, style)
    learned = [tokens[place] for place in told.lesson.asked]
    parts = [
        ("a conversation, and its targets", _mask(told, tokens, style)),
        ("the loss", _loss(told, learned, style)),
        ("a slope for each token", _slopes(told, learned, style)),
        ("the update", update_told(told.moved, told.optimizer, told.learning_rate)),
        ("the same conversation again", _again(told, learned, style)),
    ]
    yield from in_parts(parts, style)


def _mask(told: LessonStep, tokens: list[str], style: Style) -> Iterator[str]:
    asked = set(told.lesson.asked)
    marks = ["x" if place in asked else "" for place in range(len(tokens))]
    yield from in_columns({"token": tokens, "learned": marks}, style, "  ")
    yield (
        f"{len(asked)} of {len(tokens)} tokens are targets; each is predicted from all that stands "
        f"before it. The others are read, and no slope begins at them."
    )


def _loss(told: LessonStep, learned: list[str], style: Style) -> Iterator[str]:
    yield from in_columns({"token": learned, "ln p": numbers(told.before)}, style, "  ")
    total, count = number(-sum(told.before)), len(learned)
    yield f"the mean of -ln p = {total} / {count} = {number(told.loss)} nats per token"
    yield f"over all tokens, as in pretraining, it would be {number(told.loss_of_all)}"


def _slopes(told: LessonStep, learned: list[str], style: Style) -> Iterator[str]:
    yield f"by the logit of a token that is learned: (p - 1) / {len(learned)}"
    rows = {
        "token": learned,
        "p - 1": numbers(math.expm1(log) for log in told.before),
        "slope": numbers(told.slopes),
    }
    yield from in_columns(rows, style, "  ")
    yield "The slope is below 0, so the logit rises, the more so the less the token was expected."


def _again(told: LessonStep, learned: list[str], style: Style) -> Iterator[str]:
    rows = {"token": learned, "ln p": numbers(told.before), "then": numbers(told.after)}
    yield from in_columns(rows, style, "  ")
    yield f"loss {number(told.loss)} -> {number(told.loss_after)}"
