"""Supervised fine-tuning: a model that goes on with texts learns to answer.

    tokens    <|user|> Who  sleeps ?  <|end|> <|assistant|> The  cat  .   <|end|>
    trained                                                 ^    ^    ^   ^

A pretrained model that reads a question goes on with what might follow it in a text: another
question, perhaps. What it lacks is not knowledge but the habit of answering, and a place to stop.
Both are in texts that look like a conversation, with a marker before each turn and one behind it
(chat.py). Fine-tuning on some of them is training as before: the same model, loss and backward,
from where pretraining ended, with a lower learning rate, and an optimizer that remembers nothing.

One thing is different. People's part of a conversation is given, and nobody wants the model to
write it. So the loss counts the answers alone: each token of an answer is a target, and so is the
end marker, which else would never be written. Questions and markers are read, but not predicted.
The mask is a list of rows: rung 3 predicts behind every token, and only the rows before an answer's
tokens are asked for (run/asked.py).

A mask that is lost, or shifted by one, does not show in the loss that training prints. Test it
token by token: `tiny-lm sft --show-mask` prints a conversation as it is trained.

Wei et al. (2021) and Ouyang et al. (2022) call this instruction tuning.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

from tiny_llm.batches import Contexts, Examples, Targets
from tiny_llm.beyond.chat import Message, Template
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.tasks import AskedContext


class Lesson(NamedTuple):
    """A conversation as tokens, and the places of those that are learned."""

    ids: list[int]
    asked: list[int]  # places in ids, none of them the first


def lesson_of(
    messages: Sequence[Message], template: Template, tokenizer: BPETokenizer, learn: str = "answers"
) -> Lesson:
    """The tokens of a conversation, up to the last that is learned. learn: "answers", or "all"."""
    ids: list[int] = []
    asked: list[int] = []
    begins, ends = template.answer(tokenizer), template.after(tokenizer)
    if template.default_system and messages[0].role != "system":
        ids += template.message(Message("system", template.default_system), tokenizer)
    for message in messages:
        if message.role != "assistant":
            ids += template.message(message, tokenizer)
            continue
        ids += begins
        answer = [*tokenizer.encode(message.content), ends[0]]  # as chat.py writes it, and stops
        asked += range(len(ids), len(ids) + len(answer))
        ids += [*answer, *ends[1:]]
    if learn == "all":
        asked = list(range(1, asked[-1] + 1))
    return Lesson(ids[: asked[-1] + 1], asked)


def fitted(lesson: Lesson, context_length: int, cut: bool) -> Optional[Lesson]:
    """The lesson if a model can read it, else its end if it may be cut, or None. The last token is
    only predicted, so there may be one more than the window holds."""
    gone = len(lesson.ids) - (context_length + 1)
    if gone <= 0:
        return lesson
    asked = [place - gone for place in lesson.asked if place > gone]
    return Lesson(lesson.ids[gone:], asked) if cut and asked else None


class Lessons:
    """Lessons as a corpus, in four bytes a token. ids: all tokens, one after the other."""

    def __init__(self) -> None:
        self.ids = array("i")
        self.asked = array("i")
        self.ends: list[tuple[int, int]] = [(0, 0)]  # of each lesson, in ids and in asked

    def append(self, lesson: Lesson) -> None:
        """One more."""
        self.ids.extend(lesson.ids)
        self.asked.extend(lesson.asked)
        self.ends.append((len(self.ids), len(self.asked)))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, number: int) -> Lesson:
        (id_begin, begin), (id_end, end) = self.ends[number : number + 2]
        return Lesson(list(self.ids[id_begin:id_end]), list(self.asked[begin:end]))

    def examples(self, context_length: int, predicts_every_token: bool) -> Examples:
        """A context for each lesson, asked at its places alone."""
        return LessonExamples(self, context_length)


class LessonExamples(Examples):
    """Lessons by number."""

    def __init__(self, lessons: Lessons, context_length: int) -> None:
        super().__init__(lessons.ids, context_length)
        self.lessons = lessons

    def __len__(self) -> int:
        return len(self.lessons)

    def take(self, numbers: Iterable[int]) -> tuple[Contexts, Targets]:
        """The conversations with these numbers, and all that is asked of them in order."""
        contexts: Contexts = []
        targets: Targets = []
        for number in numbers:
            ids, asked = self.lessons[number]
            context = AskedContext(ids[:-1])
            context.rows = [place - 1 for place in asked]  # a row predicts the token behind it
            contexts.append(context)
            targets += [ids[place] for place in asked]
        return contexts, targets


class WithReplay(Examples):
    """Lessons, and with each batch of them some windows of the text that the model learned before,
    so that it does not forget it (Rebuffi et al., 2017; Ouyang et al., 2022, mix it in, too)."""

    def __init__(self, lessons: Examples, windows: Examples, per_batch: int) -> None:
        super().__init__(lessons.ids, lessons.context_length)
        self.lessons, self.windows, self.per_batch = lessons, windows, per_batch

    def __len__(self) -> int:
        return len(self.lessons)

    def take(self, numbers: Iterable[int]) -> tuple[Contexts, Targets]:
        """These lessons, and windows that follow from the number of the first."""
        numbers = list(numbers)
        first, count = numbers[0] * self.per_batch, len(self.windows)
        contexts, targets = self.lessons.take(numbers)
        old, further = self.windows.take((first + i) % count for i in range(self.per_batch))
        return contexts + old, targets + further


def marked(lesson: Lesson, tokenizer: BPETokenizer) -> Iterator[tuple[str, bool]]:
    """The tokens as text, and whether each is learned."""
    asked = set(lesson.asked)
    for place, token in enumerate(lesson.ids):
        yield tokenizer.token_bytes(token).decode("utf-8", "backslashreplace"), place in asked


# Try it: `tiny-lm sft --learn all` asks for every token, the questions', too. The loss it prints
# is another one, so compare the answers: on questions in other words it has fewer of them right.
