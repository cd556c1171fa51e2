"""Preferences as data: a question with two answers a line, of which one is the better.

    {"prompt": "Who sleeps?", "chosen": "The cat.", "rejected": "I am glad you ask! The cat."}
    {"messages": [{"role": "user", "content": "Who sleeps?"}], "chosen": ..., "rejected": ...}

    line --> Preference, what was said --template, tokenizer--> Pair, tokens

An answer is a text, or a list of messages that ends with the assistant's; such a list may begin
with the question, which then need not be given. "split" is as in conversations.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Optional

from tiny_llm.beyond.chat import Message, Template
from tiny_llm.beyond.conversations import Parts, messages_of, objects, split_of, whole
from tiny_llm.beyond.pairs import Pair
from tiny_llm.beyond.stage import check_parts
from tiny_llm.text.bpe import BPETokenizer

ANSWERS = ("chosen", "rejected")


class Preference(NamedTuple):
    """One line: what was said before, and two answers to it."""

    line: int  # its number, from 1
    question: list[Message]
    chosen: str
    rejected: str
    is_held_out: Optional[bool] = None  # None: the line does not say


def read_preferences(lines: Iterable[str], name: str) -> Iterator[Preference]:
    """The preferences in the lines of a file, without empty lines.

    Raises ValueError, with the file's name and the line's number, for a line that is none.
    """
    return objects(lines, name, preference_of)


def as_line(preference: Preference) -> str:
    """The line that says it."""
    messages = [message._asdict() for message in preference.question]
    values = {"messages": messages, **{name: getattr(preference, name) for name in ANSWERS}}
    if preference.is_held_out is not None:
        values["split"] = "val" if preference.is_held_out else "train"
    return json.dumps(values, ensure_ascii=False) + "\n"


def preference_of(number: int, values: dict[str, Any]) -> Preference:
    """What the object in a line says. Raises ValueError, with what is wrong and what to do."""
    (chosen_before, chosen), (rejected_before, rejected) = (_answer(values, n) for n in ANSWERS)
    questions = [q for q in (_question(values), chosen_before, rejected_before) if q]
    if not questions:
        raise ValueError('it has no question; give one as "prompt" or as "messages"')
    if any(question != questions[0] for question in questions):
        raise ValueError("its answers are not to the same question")
    if questions[0][-1].role != "user":
        raise ValueError("its question must end with a message of the user")
    if chosen == rejected:
        raise ValueError("its two answers are the same, so there is nothing to prefer")
    return Preference(number, questions[0], chosen, rejected, split_of(values))


def _question(values: dict[str, Any]) -> list[Message]:
    """From "prompt" or "messages"; none if it has neither."""
    if "prompt" in values and "messages" in values:
        raise ValueError('it has both "prompt" and "messages"; leave one out')
    if "messages" in values:
        return messages_of(values["messages"], '"messages"')
    prompt = values.get("prompt", [])
    if isinstance(prompt, str):
        return [Message("user", whole(prompt, '"prompt"'))]
    return messages_of(prompt, '"prompt"') if "prompt" in values else []


def _answer(values: dict[str, Any], name: str) -> tuple[list[Message], str]:
    """What stands before an answer in its own list, and the answer."""
    if name not in values:
        raise ValueError(f'it has no "{name}" answer')
    value = values[name]
    if isinstance(value, str):
        if not value.strip():
            raise ValueError(f'its "{name}" answer is empty')
        return [], whole(value, f'"{name}"')
    *before, last = messages_of(value, f'"{name}"')
    if last.role != "assistant":
        raise ValueError(f'the last message of "{name}" must be the assistant\'s')
    return before, last.content


def pair_of(preference: Preference, template: Template, tokenizer: BPETokenizer) -> Pair:
    """The tokens of a preference. The end token of an answer is one of its tokens."""
    question = template.ids(preference.question, tokenizer) + template.answer(tokenizer)
    end = template.after(tokenizer)[0]
    chosen, rejected = (
        [*tokenizer.encode(answer), end] for answer in (preference.chosen, preference.rejected)
    )
    return Pair(question, chosen, rejected)


class Fitting(NamedTuple):
    """Pairs that a model can read, and the numbers of the lines of those that it cannot."""

    learned: list[Pair]
    held_out: list[Pair]
    too_long: list[int]


def fitting(
    preferences: Iterable[Preference],
    template: Template,
    tokenizer: BPETokenizer,
    context_length: int,
    val_fraction: float,
    name: str = "the data",
) -> Fitting:
    """The pairs in two parts. Every k-th of those that do not say where they belong is held out,
    where k is 1 / `val_fraction`, rounded. Raises ValueError if a part is left without any."""
    found, parts = Fitting([], [], []), Parts(val_fraction)
    for preference in preferences:
        pair = pair_of(preference, template, tokenizer)
        if pair.window > context_length:
            found.too_long.append(preference.line)
            continue
        is_held_out = parts.is_held_out(preference.is_held_out)
        (found.held_out if is_held_out else found.learned).append(pair)
    sizes = len(found.learned), len(found.held_out), len(found.too_long)
    check_parts(name, "pair", *sizes, context_length)
    return found
