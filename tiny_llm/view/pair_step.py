"""One step of DPO on one pair as lines of text: what is a calculation can be done again from them.

token     the  cat  .    <|end|>
ln p    -0.21 ...                  each answer token by token, its sums, and from these the
ln q    -0.21 ...                  rewards, the margin, the loss, the slopes, the update
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tiny_llm.beyond.dpo import how_wrong
from tiny_llm.beyond.pair_step import Moment, PairStep, SeenAnswer
from tiny_llm.text.shown import shown
from tiny_llm.text.tokenizers import Tokenizer
from tiny_llm.view.rows import in_columns
from tiny_llm.view.shown_step import in_parts, labels, number, numbers, update_told
from tiny_llm.view.terminal import Style

LONGEST_QUESTION = 200  # characters


def as_lines(told: PairStep, tokenizer: Tokenizer, style: Style) -> Iterator[str]:
    """What happened, in six parts."""
    before, beta = told.before, told.beta
    question = shown(tokenizer.decode(told.pair.question), LONGEST_QUESTION)
    parts = [
        ("two answers to one question", _answers(question, before, tokenizer, style)),
        ("the rewards", _rewards(before, beta)),
        ("the loss", _loss(before, told.nll_weight)),
        ("a slope for each token", _slopes(told, tokenizer, style)),
        ("the update", update_told(told.moved, told.optimizer, told.learning_rate)),
        ("the same pair again", _again(told)),
    ]
    yield from in_parts(parts, style)


def _answers(question: str, before: Moment, tokenizer: Tokenizer, style: Style) -> Iterator[str]:
    yield question
    for name in ("chosen", "rejected"):
        answer: SeenAnswer = getattr(before, name)
        yield f"{name}: ln p of the model that learns, ln q of the reference, token by token"
        rows = {
            "token": labels(answer.tokens, tokenizer, style),
            "ln p": numbers(answer.ours),
            "ln q": numbers(answer.theirs),
        }
        yield from in_columns(rows, style, "  ")
        ours, theirs = answer.logs
        yield f"the whole answer: ln p = {number(ours)}, ln q = {number(theirs)}"


def _rewards(moment: Moment, beta: float) -> Iterator[str]:
    for name in ("chosen", "rejected"):
        ours, theirs = getattr(moment, name).logs
        reward = getattr(moment.rewards, name)
        yield f"{name}: {beta:g} x ({number(ours)} - {number(theirs)}) = {number(reward)}"
    chosen, rejected = map(number, moment.rewards)
    yield f"margin = {chosen} - {rejected} = {number(moment.rewards.margin)}"


def _loss(moment: Moment, nll_weight: float) -> Iterator[str]:
    margin = number(moment.rewards.margin)
    nll = f" + {nll_weight:g} x {number(moment.nll)}" if nll_weight else ""
    yield (
        f"-ln sigmoid({margin}){nll} = {number(moment.loss)}; a margin of 0 costs ln 2 = "
        f"{number(math.log(2))}"
    )


def _slopes(told: PairStep, tokenizer: Tokenizer, style: Style) -> Iterator[str]:
    before = told.before
    wrong, margin = how_wrong(before.rewards.margin), number(before.rewards.margin)
    yield (
        f"sigmoid(-margin) = sigmoid(-({margin})) = {number(wrong)} is how wrong the model still "
        f"is. So p - 1 of each token is taken {told.beta:g} x {number(wrong)} = "
        f"{number(told.beta * wrong)} times"
        + (
            f", and {told.nll_weight:g} / {len(before.chosen.tokens)} times more,"
            * bool(told.nll_weight)
        )
        + " in the chosen answer, and minus that in the rejected one:"
    )
    for name in ("chosen", "rejected"):
        answer: SeenAnswer = getattr(before, name)
        rows = {
            name: labels(answer.tokens, tokenizer, style),
            "p - 1": numbers([math.expm1(log) for log in answer.ours]),
            "slope": numbers(answer.slopes),
        }
        yield from in_columns(rows, style, "  ")
    yield (
        "A slope below 0 raises the token's logit, one above 0 lowers it. What both answers begin "
        "with cancels, since they have read the same there."
    )


def _again(told: PairStep) -> Iterator[str]:
    for name in ("chosen", "rejected"):
        was, now = (getattr(moment, name).logs[0] for moment in (told.before, told.after))
        yield f"{name}: ln p = {number(was)} -> {number(now)}"
    was, now = (moment.rewards.margin for moment in (told.before, told.after))
    yield f"margin {number(was)} -> {number(now)}"
    yield f"loss {number(told.before.loss)} -> {number(told.after.loss)}"
