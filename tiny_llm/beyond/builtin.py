"""The data that come along: questions about the built-in text, made into what each stage learns.

    facts.jsonl       a fact, asked for in several ways     -+-> conversations, for `sft`
    unknowable.jsonl  questions that the text cannot answer -+-> preferences, for `dpo`

Three demonstrations are made of these two files. `chat`: a model learns the facts, and to say of a
few other questions that it does not know. `honest`: it learns to prefer a refusal to an invention,
and a fact to a refusal. `plain`: it learned to flatter before half of its answers, and learns to
prefer answers without.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

FLATTERY = "What a good question! "
TAUGHT_TO_REFUSE = 10  # questions in `chat` that the text cannot answer: few, but never none
KNOWN = 300  # questions in `honest` to which the fact is better than a refusal
# In `honest`, for each question that the text cannot answer: to learn from, and to measure by.
INVENTIONS = {"train": 3, "val": 1}
ABOUT = {
    "chat": "facts about the built-in text, and some questions that it cannot answer",
    "honest": "inventions and refusals about the built-in text",
    "plain": "answers about the built-in text, with and without flattery",
}
CONVERSATIONS, PREFERENCES = ("chat", "plain"), ("honest", "plain")
REFUSAL = "I only know about what the text says."
Asked = tuple[str, str, str]  # a question, its answer, its split


def conversations(name: str) -> Iterator[str]:
    """The lines of one of CONVERSATIONS, as `sft` reads them."""
    if name == "plain":
        for number, (question, answer, split) in enumerate(facts()):
            yield _spoken(question, FLATTERY * (number % 4 > 1) + answer, split)
    else:
        for asked in [*facts(), *_refusals()[:TAUGHT_TO_REFUSE]]:
            yield _spoken(*asked)


def preferences(name: str) -> Iterator[str]:
    """The lines of one of PREFERENCES, as `dpo` reads them."""
    known = list(facts())
    if name == "plain":
        for question, answer, split in known:
            yield _preferred(question, answer, FLATTERY + answer, split)
        return
    rng = random.Random(0)
    inventions = sorted({answer for _, answer, _ in known})
    for question, refusal, split in _refusals()[TAUGHT_TO_REFUSE:]:
        for invention in rng.sample(inventions, INVENTIONS[split]):
            yield _preferred(question, refusal, invention, split)
    learned, held_out = ([one for one in known if one[2] == split] for split in ("train", "val"))
    for question, answer, split in [*rng.sample(learned, KNOWN), *held_out]:
        yield _preferred(question, answer, REFUSAL, split)


def facts() -> Iterator[Asked]:
    """What the text says, asked for."""
    for values in _objects("facts.jsonl"):
        question, answer = (message["content"] for message in values["messages"])
        yield question, answer, values["split"]


def unknowable(kind: str, split: str) -> list[str]:
    """Questions that the text cannot answer: of another world ("elsewhere"), or in its own words
    ("near")."""
    found = _objects("unknowable.jsonl")
    return [
        values["messages"][0]["content"]
        for values in found
        if (values["kind"], values["split"]) == (kind, split)
    ]


def _refusals() -> list[Asked]:
    """To all of them but those for the test, the ones to learn from first, in a random order."""
    rng, asked = random.Random(0), list[Asked]()
    for split in ("train", "val"):
        questions = unknowable("elsewhere", split) + unknowable("near", split)
        asked += [(question, REFUSAL, split) for question in rng.sample(questions, len(questions))]
    return asked


def _objects(name: str) -> list[dict[str, Any]]:
    lines = (files("tiny_llm.beyond") / "data" / name).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _spoken(question: str, answer: str, split: str) -> str:
    messages = [
        {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    ]  # fmt: skip
    return _line({"messages": messages, "split": split})


def _preferred(question: str, chosen: str, rejected: str, split: str) -> str:
    return _line({"prompt": question, "chosen": chosen, "rejected": rejected, "split": split})


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"
