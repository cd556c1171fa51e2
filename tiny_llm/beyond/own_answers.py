"""What a model itself says to questions: the rejected answers that teach it most.

    {"messages": question, answer} --the model's own answers, drawn--> {"messages": question,
                                                "chosen": the answer, "rejected": what it said}

A pair teaches only where the model could say either: what it would never say cannot become less
likely. So its own mistakes are better than made-up ones. Where it says what the file says, there is
no mistake and no pair.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple, Optional

from tiny_llm.beyond.chat import Message, Template
from tiny_llm.beyond.conversations import conversation_of, objects
from tiny_llm.beyond.preferences import Preference
from tiny_llm.fast.writer import Writer
from tiny_llm.model import LanguageModel
from tiny_llm.sampling import Sampling
from tiny_llm.text.bpe import BPETokenizer


class Asked(NamedTuple):
    """The last question of a conversation, all that was said before it, and its answer."""

    line: int  # of the file, from 1
    question: list[Message]
    answer: str
    is_held_out: Optional[bool] = None  # a pair belongs to the part that its conversation does


def read_asked(lines: Iterable[str], name: str) -> Iterator[Asked]:
    """What is asked in the lines of a file of conversations, without empty lines.

    Raises ValueError, with the file's name and the line's number, for a line that is none.
    """
    return objects(lines, name, _asked_of)


def _asked_of(number: int, values: dict[str, Any]) -> Asked:
    spoken = conversation_of(number, values)
    messages = spoken.messages
    if [message.role for message in messages[-2:]] != ["user", "assistant"]:
        raise ValueError('"messages" must end with a question and its answer')
    return Asked(number, messages[:-1], messages[-1].content, spoken.is_held_out)


class Sampled(NamedTuple):
    """What became of a question."""

    pairs: list[Preference]
    right: int  # answers that are those of the file
    endless: int  # answers that had not ended when the window was full
    fits: bool = True  # whether the question leaves room for an answer


class Written(NamedTuple):
    """An answer without the token that ends it, and whether that came."""

    tokens: list[int]
    has_ended: bool


def sampled(
    model: LanguageModel,
    tokenizer: BPETokenizer,
    template: Template,
    ends: Collection[int],
    asked: Asked,
    sampling: Sampling,
    rngs: list[random.Random],
) -> Sampled:
    """A pair for each different wrong answer, of as many answers as there are generators."""
    question = template.ids(asked.question, tokenizer) + template.answer(tokenizer)
    if len(question) > model.config.context_length:
        return Sampled([], 0, 0, fits=False)
    found = answers(model, question, ends, sampling, rngs)
    texts = [tokenizer.decode(answer).strip() for answer in found if answer is not None]
    wrong = dict.fromkeys(text for text in texts if text != asked.answer.strip())
    pairs = [
        Preference(asked.line, asked.question, asked.answer, text, asked.is_held_out)
        for text in wrong
    ]
    return Sampled(pairs, texts.count(asked.answer.strip()), found.count(None))


def answers(
    model: LanguageModel,
    question: list[int],
    ends: Collection[int],
    sampling: Sampling,
    rngs: list[random.Random],
) -> list[Optional[list[int]]]:
    """An answer with each generator, without the token that ends it; None: the window was full
    before that came. Raises ValueError for a model whose numbers are not finite."""
    found = written(model, question, ends, sampling, rngs)
    return [tokens if has_ended else None for tokens, has_ended in found]


def written(
    model: LanguageModel,
    question: list[int],
    ends: Collection[int],
    sampling: Sampling,
    rngs: list[random.Random],
) -> list[Written]:
    """As `answers`, and what was written where no end came."""
    room = model.config.context_length - len(question) + 1  # the last token is only predicted
    found = [Written([], False) for _ in rngs]
    writer = Writer(model, question, rngs, sampling)
    for _ in range(room):
        for text, token in writer.step().items() if writer.windows else ():
            if token in ends:
                found[text] = Written(found[text].tokens, True)
                writer.end(text)
            else:
                found[text].tokens.append(token)
    return found
