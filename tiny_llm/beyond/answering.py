"""What a model says to a question, greedily: to show, and to count."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any, Callable, NamedTuple

from tiny_llm.beyond.chat import Message, can_speak, template_of
from tiny_llm.beyond.own_answers import written
from tiny_llm.beyond.sft_run import taught_to_speak, template_for
from tiny_llm.run.saved import Run
from tiny_llm.sampling import Sampling


class Said(NamedTuple):
    """An answer, and whether it ended before the window was full."""

    text: str
    has_ended: bool


def can_be_asked(run: Run) -> bool:
    """Whether it was taught to talk, in a layout that is known here."""
    with suppress(ValueError):
        template = run.chat.template
        return bool(template) and can_speak(run.tokenizer, template_of(template))
    return False


def as_question(run: Run, question: str) -> list[int]:
    """A question as its model reads it, up to where the answer begins."""
    template = template_for(run)
    tokenizer: Any = run.tokenizer  # one that has the markers
    return template.ids([Message("user", question)], tokenizer) + template.answer(tokenizer)


def speaker(run: Run) -> Callable[[str], Said]:
    """A function that answers a question.

    A model that was not taught to answer gets the markers, which it has never seen. Raises
    UserError for one that could not learn to.
    """
    run = run if run.chat.template else taught_to_speak(run)
    tokenizer: Any = run.tokenizer

    def said(question: str) -> Said:
        ids = as_question(run, question)
        greedy = Sampling(temperature=0)
        (answer,) = written(run.model, ids, run.chat.ends, greedy, [random.Random(0)])
        return Said(tokenizer.decode(answer.tokens), answer.has_ended)

    return said
