"""A run of supervised fine-tuning: from a model that goes on with texts to one that answers.

    begin_run(base, Lines("facts.jsonl"))          -> Run, Taught
    resume_run(Path("runs/sft.safetensors"), ...)  -> Run, Taught
    for step in steps_of(run, taught): ...

A base that was never taught to talk gets this project's markers: tokens of their own, behind those
that it has. Their rows begin at the mean of the table, so that they change the probabilities of the
others least (Hewitt, 2021), with a little chance added, so that they can become different.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple, Optional

from tiny_llm.batches import Examples
from tiny_llm.beyond.chat import OWN, Template, can_speak, template_of
from tiny_llm.beyond.conversations import Lines, Parts, conversation_of, objects
from tiny_llm.beyond.sft import Lessons, WithReplay, fitted, lesson_of
from tiny_llm.beyond.stage import (
    OPTIONS,
    RUNG_3,
    Stage,
    check_learns,
    check_parts,
    check_resumed,
    given_options,
    options_of,
    resumed,
)
from tiny_llm.files.portable import Chat
from tiny_llm.matmul import Matrix
from tiny_llm.run import begin
from tiny_llm.run.asked import OnlyAsked
from tiny_llm.run.errors import UserError, to_type
from tiny_llm.run.options import check_names
from tiny_llm.run.rungs import build_optimizer
from tiny_llm.run.saved import Run, model_from
from tiny_llm.run.saying import Say, silent
from tiny_llm.run.sources import VAL_FRACTION, Material
from tiny_llm.run.steps import Step
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.corpus import RunningText

STAGE = Stage("sft", repeat=5, evaluations=5, options={
    "optimizer": "adamw", "learning_rate": 2e-3, "batch_size": 8, "grad_clip": 1.0,
    "weight_decay": 0.1,
})  # fmt: skip
TABLES = ("wte.weight", "embed_tokens.weight", "lm_head.weight")  # a row for each token
SPREAD = 0.02  # of the numbers in a new row


class TaughtCorpus:
    """What is learned: lessons, and with each batch some windows of the text before."""

    def __init__(self, lessons: Lessons, before: Optional[RunningText], replay: int) -> None:
        self.lessons, self.before, self.replay, self.ids = lessons, before, replay, lessons.ids

    def examples(self, context_length: int, predicts_every_token: bool) -> Examples:
        """As a run asks for them."""
        lessons = self.lessons.examples(context_length, predicts_every_token)
        if not self.before or not self.replay:
            return lessons
        windows = self.before.examples(context_length, predicts_every_token)
        return WithReplay(lessons, windows, self.replay)


class Taught(NamedTuple):
    """The lessons of a run, in two parts."""

    train: Lessons
    val: Lessons  # the part held out
    too_long: list[int]  # the numbers of the lines that are left out
    material: Material  # the same as a run sees it


def begin_run(
    base: Run,
    data: Lines,
    options: Optional[dict[str, Any]] = None,
    repeat: Optional[int] = None,
    before: str = "",
    cut: bool = False,
    to_show: bool = False,
) -> tuple[Run, Taught]:
    """A new run. Of the options, what is missing or None is as it suits conversations.

    before: the text to replay, if `options` say so; cut: whether of a conversation that is too long
    the end is learned. Raises UserError for a model that cannot learn to answer, UsageError for
    options that make no sense, ValueError for a line that is no conversation.
    """
    given = given_options(options, repeat)
    speaking = taught_to_speak(base, given.get("seed", 0))
    taught = lessons_of(speaking, data, given, before, cut, to_show)
    count = len(taught.train)
    chosen = options_of(STAGE, given, repeat, count, taught.material.sha256, speaking.model)
    speaking.options, speaking.optimizer = chosen, build_optimizer(chosen)
    return speaking, taught


def resume_run(
    path: Path,
    data: Lines,
    given: Optional[dict[str, Any]] = None,
    repeat: Optional[int] = None,
    before: str = "",
    cut: bool = False,
    say: Say = silent,
) -> tuple[Run, Taught]:
    """The run in the checkpoint, as it was. `given` may make it longer, and change its patience and
    its workers. Raises UserError if there is none, UsageError for another change."""
    run = resumed(STAGE, path)
    given = {name: value for name, value in (given or {}).items() if value is not None}
    check_names("option", given, OPTIONS)
    taught = lessons_of(run, data, dataclasses.asdict(run.options), before, cut)
    check_resumed(run, path, taught.material.sha256, data.name, given)
    begin.change(run, taught.material, given, repeat, say)
    return run, taught


def steps_of(run: Run, taught: Taught) -> Generator[Step, None, None]:
    """The steps that the run still has to do, as `begin.steps_of` has them."""
    yield from begin.steps_of(run, taught.material, begin.Way(OnlyAsked(run.model)))


def template_for(run: Run) -> Template:
    """How its conversations look."""
    return template_of(run.chat.template) if run.chat.template else OWN


def taught_to_speak(base: Run, seed: int = 0) -> Run:
    """A run that has not begun, with these weights and every marker that a conversation needs.

    Raises UserError, with the reason, for a model that cannot learn to answer.
    """
    check_learns(base, "hold a conversation")
    tokenizer, template = base.tokenizer, template_for(base)
    if not isinstance(tokenizer, BPETokenizer):
        raise UserError(
            "the model reads single characters, among which a conversation has no markers; train "
            f"one that does not: {to_type('train', RUNG_3)}"
        )
    model = base.model
    if not can_speak(tokenizer, template):
        special = list(tokenizer.special_tokens)
        new = sorted(template.markers - set(special))
        own = tokenizer.vocabulary
        vocabulary = {**own, **{name: i for i, name in enumerate(new, len(own))}}
        tokenizer = BPETokenizer(vocabulary, tokenizer.merges, [*special, *new], tokenizer.cut)
        rng = random.Random(f"{seed}/markers")
        parameters = {
            name: _longer(tensor, len(new), rng) if name in TABLES else tensor
            for name, tensor in model.parameters.items()
        }
        config = dataclasses.replace(model.config, vocab_size=tokenizer.vocab_size)
        model = model_from(type(model), config, parameters)
    chat = base.chat
    if not chat.template:
        chat = Chat(template.jinja, (template.after(tokenizer)[0],))
    return Run(
        base.rung, model, tokenizer, build_optimizer(base.options), base.options, chat=chat,
        came_from=base.came_from,
    )  # fmt: skip


def _longer(table: Matrix, count: int, rng: random.Random) -> Matrix:
    """The table with so many more rows, which begin near the mean of the others."""
    mean = [sum(column) / len(table) for column in zip(*table)]
    return table + [[value + rng.gauss(0, SPREAD) for value in mean] for _ in range(count)]


def lessons_of(
    run: Run, data: Lines, options: dict[str, Any], before: str, cut: bool, to_show: bool = False
) -> Taught:
    """The conversations as tokens, in two parts. Raises ValueError if a part is left without any,
    but for a held-out one if they are only shown, and for a line that is no conversation."""
    tokenizer: Any = run.tokenizer  # one that can speak
    template, length = template_for(run), run.model.config.context_length
    val_fraction = options.get("val_fraction", VAL_FRACTION)
    train, val, parts = Lessons(), Lessons(), Parts(val_fraction)
    too_long: list[int] = []
    for spoken in objects(data, data.name, conversation_of):
        lesson = lesson_of(spoken.messages, template, tokenizer, options.get("learn", "answers"))
        fitting = fitted(lesson, length, cut)
        if not fitting:
            too_long.append(spoken.line)
            continue
        (val if parts.is_held_out(spoken.is_held_out) else train).append(fitting)
    sizes = len(train), len(val) or int(to_show), len(too_long)
    check_parts(data.name, "conversation", *sizes, length)
    replay = options.get("replay", 0)
    text = RunningText(tokenizer.encode(before)) if before and replay else None
    read = data.sha256 + before * bool(text) + "cut" * cut
    sha256 = data.sha256 if read == data.sha256 else hashlib.sha256(read.encode()).hexdigest()
    corpus, held_out = TaughtCorpus(train, text, replay), TaughtCorpus(val, None, 0)
    material = Material(data.name, tokenizer, corpus, held_out, val_fraction, False, sha256)
    return Taught(train, val, too_long, material)
