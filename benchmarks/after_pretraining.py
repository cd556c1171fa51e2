"""Ask a model that `sft` has taught every question about the built-in text, and count.

    python3 benchmarks/after_pretraining.py runs/sft.safetensors

An answer is right if it is the very text of the data, greedily. `seen` are the questions that it
learned from, `val` the same facts in words that it has not seen. A third part of the data, `test`,
is for the last measurement alone (--test). Beside it stands a yardstick that knows no language: the
answer to the learned question that shares the most words.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_llm.beyond.chat import Message, template_of
from tiny_llm.beyond.models import plug_in
from tiny_llm.beyond.own_answers import answers
from tiny_llm.run.models import open_model
from tiny_llm.sampling import Sampling

PARTS = {"seen": "train", "val": "val", "test": "test"}
Question = tuple[str, str]  # and its answer


def questions(part: str) -> Iterator[Question]:
    """Those of a part."""
    data = (files("tiny_llm.beyond") / "data" / "facts.jsonl").read_text("utf-8")
    for line in map(json.loads, data.splitlines()):
        if line["split"] == part:
            asked, answered = line["messages"]
            yield asked["content"], answered["content"]


def said(run: Any, question: str) -> str:
    """What the model answers, greedily; "" if that does not end."""
    template = template_of(run.chat.template)
    ids = template.ids([Message("user", question)], run.tokenizer) + template.answer(run.tokenizer)
    greedy = Sampling(temperature=0)
    (answer,) = answers(run.model, ids, run.chat.ends, greedy, [random.Random(0)])
    return "" if answer is None else str(run.tokenizer.decode(answer))


def words(text: str) -> set[str]:
    """Those of a question."""
    return set(re.findall(r"\w+", text.lower()))


def nearest(question: str, learned: list[Question]) -> str:
    """The answer to the learned question that shares the most words, the first of several."""
    return max(learned, key=lambda other: len(words(question) & words(other[0])))[1]


def main() -> int:
    """Print a row for each part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--test", action="store_true", help="measure the last part, too")
    args = parser.parse_args()
    plug_in()
    run, learned = open_model(args.checkpoint), list(questions("train"))
    print(f"{'':<6}{'questions':>10}{'right':>8}{'nearest':>9}")
    for name in PARTS if args.test else ("seen", "val"):
        asked = list(questions(PARTS[name]))
        right = sum(said(run, question) == answer for question, answer in asked)
        near = sum(nearest(question, learned) == answer for question, answer in asked)
        print(f"{name:<6}{len(asked):>10}{right / len(asked):>8.0%}{near / len(asked):>9.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
