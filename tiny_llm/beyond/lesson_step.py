"""One step of supervised fine-tuning on one conversation, with all that there is to see."""

from __future__ import annotations

from typing import NamedTuple

from tiny_llm.batches import Contexts, Targets
from tiny_llm.beyond.dpo import log_softmax
from tiny_llm.beyond.sft import Lesson, Lessons
from tiny_llm.beyond.shown_step import Moved, update
from tiny_llm.layers import cross_entropy
from tiny_llm.matmul import Matrix, Vector
from tiny_llm.model import LanguageModel
from tiny_llm.run.asked import OnlyAsked
from tiny_llm.run.saved import Run


class LessonStep(NamedTuple):
    """What happened. T tokens of the lesson are learned."""

    lesson: Lesson
    learning_rate: float
    optimizer: str
    before: Vector  # ln p of each of the T
    slopes: Vector  # of the loss by the logit of each, at its own place
    loss: float  # nats per learned token
    loss_of_all: float  # nats per token, if all of the conversation were learned
    moved: Moved
    after: Vector  # ln p of each of the T, then
    loss_after: float


def lesson_step(run: Run, lesson: Lesson) -> LessonStep:
    """Make a step with the highest learning rate of the run on this lesson alone: it changes."""
    options, model = run.options, OnlyAsked(run.model)
    contexts, targets = _batch(lesson)
    logits, cache = model.forward(contexts)
    loss, dlogits = cross_entropy(logits, targets)
    everything = lesson._replace(asked=list(range(1, len(lesson.ids))))
    gradients = model.backward(dlogits, cache)
    loss_of_all = _loss(model, everything)
    moved = update(run, gradients)
    after, _ = model.forward(contexts)
    slopes = [row[target] for row, target in zip(dlogits, targets)]
    return LessonStep(
        lesson, options.learning_rate, options.optimizer, _logs(logits, targets), slopes, loss,
        loss_of_all, moved, _logs(after, targets), cross_entropy(after, targets)[0],
    )  # fmt: skip


def _batch(lesson: Lesson) -> tuple[Contexts, Targets]:
    """The lesson as training takes it."""
    lessons = Lessons()
    lessons.append(lesson)
    return lessons.examples(len(lesson.ids), True).take([0])


def _loss(model: LanguageModel, lesson: Lesson) -> float:
    contexts, targets = _batch(lesson)
    return cross_entropy(model.forward(contexts)[0], targets)[0]


def _logs(rows: Matrix, tokens: list[int]) -> Vector:
    return [log_softmax(row)[token] for row, token in zip(rows, tokens)]
