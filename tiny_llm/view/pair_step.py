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
from tiny_llm.view.terminal import BOLD, Style, number_text, paint, visible, wrap

DIGITS = 3
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
        ("the update", _update(told)),
        ("the same pair again", _again(told)),
    ]
    for number, (title, lines) in enumerate(parts, 1):
        yield paint(f"{number}. {title}", BOLD, style)
        for line in lines:
            yield from wrap(line, style, "  ") if not line.startswith("  ") else [line]
        yield ""


def _number(value: float) -> str:
    return number_text(value, DIGITS)


def _numbers(values: list[float]) -> list[str]:
    return list(map(_number, values))


def _labels(answer: SeenAnswer, tokenizer: Tokenizer, style: Style) -> list[str]:
    texts = (tokenizer.token_bytes(t).decode("utf-8", "backslashreplace") for t in answer.tokens)
    return [visible(text, style) for text in texts]


def _answers(question: str, before: Moment, tokenizer: Tokenizer, style: Style) -> Iterator[str]:
    yield question
    for name in ("chosen", "rejected"):
        answer: SeenAnswer = getattr(before, name)
        yield f"{name}: ln p of the model that learns, ln q of the reference, token by token"
        rows = {
            "token": _labels(answer, tokenizer, style),
            "ln p": _numbers(answer.ours),
            "ln q": _numbers(answer.theirs),
        }
        yield from in_columns(rows, style, "  ")
        ours, theirs = answer.logs
        yield f"the whole answer: ln p = {_number(ours)}, ln q = {_number(theirs)}"


def _rewards(moment: Moment, beta: float) -> Iterator[str]:
    for name in ("chosen", "rejected"):
        ours, theirs = getattr(moment, name).logs
        reward = getattr(moment.rewards, name)
        yield f"{name}: {beta:g} x ({_number(ours)} - {_number(theirs)}) = {_number(reward)}"
    chosen, rejected = map(_number, moment.rewards)
    yield f"margin = {chosen} - {rejected} = {_number(moment.rewards.margin)}"


def _loss(moment: Moment, nll_weight: float) -> Iterator[str]:
    margin = _number(moment.rewards.margin)
    nll = f" + {nll_weight:g} x {_number(moment.nll)}" if nll_weight else ""
    yield (
        f"-ln sigmoid({margin}){nll} = {_number(moment.loss)}; a margin of 0 costs ln 2 = "
        f"{_number(math.log(2))}"
    )


def _slopes(told: PairStep, tokenizer: Tokenizer, style: Style) -> Iterator[str]:
    before = told.before
    wrong, margin = how_wrong(before.rewards.margin), _number(before.rewards.margin)
    yield (
        f"sigmoid(-margin) = sigmoid(-({margin})) = {_number(wrong)} is how wrong the model still "
        f"is. So p - 1 of each token is taken {told.beta:g} x {_number(wrong)} = "
        f"{_number(told.beta * wrong)} times"
        + (
            f", and {told.nll_weight:g} / {len(before.chosen.tokens)} times more,"
            * bool(told.nll_weight)
        )
        + " in the chosen answer, and minus that in the rejected one:"
    )
    for name in ("chosen", "rejected"):
        answer: SeenAnswer = getattr(before, name)
        rows = {
            name: _labels(answer, tokenizer, style),
            "p - 1": _numbers([math.expm1(log) for log in answer.ours]),
            "slope": _numbers(answer.slopes),
        }
        yield from in_columns(rows, style, "  ")
    yield (
        "A slope below 0 raises the token's logit, one above 0 lowers it. What both answers begin "
        "with cancels, since they have read the same there."
    )


def _update(told: PairStep) -> Iterator[str]:
    moved = told.moved
    yield (
        f"{moved.name} has the largest slope of all weights, {moved.slope:.3g}: {told.optimizer} "
        f"with a learning rate of {told.learning_rate:g} moves it from {moved.before:.6f} to "
        f"{moved.after:.6f}"
    )


def _again(told: PairStep) -> Iterator[str]:
    for name in ("chosen", "rejected"):
        was, now = (getattr(moment, name).logs[0] for moment in (told.before, told.after))
        yield f"{name}: ln p = {_number(was)} -> {_number(now)}"
    was, now = (moment.rewards.margin for moment in (told.before, told.after))
    yield f"margin {_number(was)} -> {_number(now)}"
    yield f"loss {_number(told.before.loss)} -> {_number(told.after.loss)}"
