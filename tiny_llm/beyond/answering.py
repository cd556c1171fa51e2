"""What a model says to a question, greedily: to show, and to count."""

from __future__ import annotations

import random
from typing import Any, Callable, NamedTuple

from tiny_llm.beyond.chat import Message
from tiny_llm.beyond.own_answers import written
from tiny_llm.beyond.sft_run import taught_to_speak, template_for
from tiny_llm.run.saved import Run
from tiny_llm.sampling import Sampling


class Said(NamedTuple):
    """An answer, and whether it ended before the window was full."""

    text: str
    has_ended: bool


def speaker(run: Run) -> Callable[[str], Said]:
    """A function that answers a question.

    A model that was not taught to answer gets the markers, which it has never seen. Raises
    UserError for one that could not learn to.
    """
    run = run if run.chat.template else taught_to_speak(run)
    template = template_for(run)
    tokenizer: Any = run.tokenizer

    def said(question: str) -> Said:
        ids = template.ids([Message("user", question)], tokenizer) + template.answer(tokenizer)
        greedy = Sampling(temperature=0)
        (answer,) = written(run.model, ids, run.chat.ends, greedy, [random.Random(0)])
        return Said(tokenizer.decode(answer.tokens), answer.has_ended)

    return said
