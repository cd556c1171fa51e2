r"""Chat: a conversation is a text with a few special tokens, which a model goes on with.

    <|im_start|>system \n You are helpful.  <|im_end|> \n
    <|im_start|>user   \n Hello!            <|im_end|> \n
    <|im_start|>assistant \n                                <- the model writes from here

Nothing in a chat model's architecture knows of people who talk. It was trained on texts that look
like this one, so it goes on with an answer, and then with the token that ends one. The layout
above is ChatML (OpenAI, 2023); each model knows only the one that it was trained on, and a model
file brings it along as a program in a template language, Jinja. Such a program is never run here:
it is compared with the text of the ones that are known, and what is different in it is data.

The markers are tokens of their own that stand in no text. What a person writes is encoded as text,
even if it reads `<|im_end|>`, so nobody can speak for another.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Callable, NamedTuple, Optional

from tiny_llm.fast.kv_cache import NOTHING, Past, listen, read_on
from tiny_llm.fast.tensors import check_finite
from tiny_llm.matmul import Vector
from tiny_llm.model import LanguageModel
from tiny_llm.sampling import Sampling
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.shown import shown

BEGIN, END = "<|im_start|>", "<|im_end|>"
CHUNK = 16  # tokens that are read at once: more take more memory, and a stop waits for them

# ---------------------------------------------------------------- the layout


class Message(NamedTuple):
    """What one of them said."""

    role: str  # system, user or assistant
    content: str


class Template(NamedTuple):
    """ChatML, in which models differ by what the system says when nobody else does."""

    default_system: str = ""

    def ids(self, messages: Sequence[Message], tokenizer: BPETokenizer) -> list[int]:
        """The conversation as tokens, the default system message before it if it has none."""
        if self.default_system and not (messages and messages[0].role == "system"):
            messages = [Message("system", self.default_system), *messages]
        return [token for message in messages for token in self.message(message, tokenizer)]

    def message(self, message: Message, tokenizer: BPETokenizer) -> list[int]:
        """One message as tokens."""
        begin = tokenizer.special_tokens[BEGIN]
        inside = tokenizer.encode(f"{message.role}\n{message.content}")
        return [begin, *inside, *self.after(tokenizer)]

    def after(self, tokenizer: BPETokenizer) -> list[int]:
        """What ends a message."""
        return [tokenizer.special_tokens[END], *tokenizer.encode("\n")]

    def answer(self, tokenizer: BPETokenizer) -> list[int]:
        """What an answer begins with."""
        return [tokenizer.special_tokens[BEGIN], *tokenizer.encode("assistant\n")]

    @property
    def jinja(self) -> str:
        """As other programs have it."""
        default = _DEFAULT.format(self.default_system) if self.default_system else ""
        return f"{_EACH}{default}{_MESSAGE}{_ANSWER}"


_EACH = "{% for message in messages %}"
_DEFAULT = (
    "{{% if loop.first and messages[0]['role'] != 'system' %}}"
    "{{{{ '<|im_start|>system\n{}<|im_end|>\n' }}}}{{% endif %}}"
)
_MESSAGE = (
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
)
_ANSWER = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def template_of(jinja: str) -> Template:
    """The layout that this program writes. Raises ValueError for one that is not known."""
    parts = _DEFAULT.format("\1").split("\1")
    before, after = (re.escape(_plain(part)) for part in parts)
    pattern = (
        re.escape(_plain(_EACH)) + f"(?:{before}([^'\\\\{{}}]*){after})?"
        + re.escape(_plain(_MESSAGE + _ANSWER))
    )  # fmt: skip
    found = re.fullmatch(pattern, _plain(jinja.strip()))
    if not found:
        raise ValueError(
            f"its chat template is not ChatML, the one that is known here: {shown(repr(jinja))}; "
            f"`generate` continues a text with it all the same"
        )
    return Template(found[1] or "")


def _plain(jinja: str) -> str:
    """Without what makes no difference: spaces at the edges of a tag, how a newline is written."""
    return re.sub(r"\{([{%]) *| *([%}])\}", r"{\1\2}", jinja.replace(r"\n", "\n"))


def is_chat_tokenizer(tokenizer: object) -> bool:
    """Whether it has the tokens that the layout is made of."""
    special = tokenizer.special_tokens if isinstance(tokenizer, BPETokenizer) else {}
    return {BEGIN, END} <= special.keys()


# ---------------------------------------------------------------- the conversation


class Turn(NamedTuple):
    """A question and its answer, as tokens; the answer grows."""

    question: list[int]  # the whole message
    answer: list[int]


class Conversation:
    """What was said, and what attention remembers of it, so that no token is read twice.

    ends: the tokens of which each ends an answer. is_stopped: asked between any two tokens.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: BPETokenizer,
        template: Template,
        ends: Collection[int],
        system: Optional[str] = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model, self.tokenizer, self.template, self.ends = model, tokenizer, template, ends
        self.is_stopped = is_stopped
        self.remembered: dict[str, Past] = {}
        self.start(system)

    def start(self, system: Optional[str] = None) -> None:
        """A new conversation. None: with the system message that the model is used to."""
        messages = [] if system is None else [Message("system", system)]
        self.system = self.template.ids(messages, self.tokenizer)
        self.turns: list[Turn] = []

    def ask(self, text: str) -> None:
        """The next question; one that got no answer is forgotten. Raises ValueError for a question
        that is longer than what the model can see."""
        question = self.template.message(Message("user", text), self.tokenizer)
        needed, length = len(self.system) + len(question), self.model.config.context_length
        if needed >= length - len(self._answer_begins()):
            raise ValueError(f"that is {needed} tokens, and the model reads {length} at most")
        self.turns = [turn for turn in self.turns if turn.answer] + [Turn(question, [])]

    def answer(self, sampling: Sampling, rng: random.Random, most: int) -> Iterator[int]:
        """The tokens of the answer to the last question, at most so many, each as it is drawn.

        Asked for once more, it is another answer in place of the one before. Raises ValueError for
        a model whose numbers are not finite.
        """
        answer = self.turns[-1].answer
        answer.clear()
        self._forget_turns(most)
        self._listen("system", self.system)
        self._listen("question", self.ids()[:-1])
        while len(answer) < most and len(self.ids()) <= self.model.config.context_length:
            if self.is_stopped():
                break
            token = sampling.draw(self._logits(self.ids()), rng)
            if token in self.ends:
                break
            answer.append(token)
            yield token

    def ids(self) -> list[int]:
        """The whole conversation, up to where the answer to the last question goes on."""
        ids = list(self.system)
        for turn in self.turns[:-1]:
            ids += [*turn.question, *self._answer_begins(), *turn.answer]
            ids += self.template.after(self.tokenizer)
        if self.turns:
            ids += [*self.turns[-1].question, *self._answer_begins(), *self.turns[-1].answer]
        return ids

    def _answer_begins(self) -> list[int]:
        return self.template.answer(self.tokenizer)

    def _forget_turns(self, room: int) -> None:
        """What was said first leaves the conversation when the model could not read all of it."""
        length = self.model.config.context_length
        while len(self.turns) > 1 and len(self.ids()) + min(room, length // 2) > length:
            del self.turns[0]

    def _listen(self, name: str, ids: list[int]) -> None:
        """Read these tokens, as far as they were not read before, and remember them by this name.
        Stopped, it remembers what it has read."""
        past = self._longest_past(ids)
        for start in range(len(past.tokens), len(ids), CHUNK):
            if self.is_stopped():
                break
            past = listen(self.model, past, ids[start : start + CHUNK])
        self.remembered[name] = past

    def _logits(self, ids: list[int]) -> Vector:
        """The logits behind these tokens, of which only the last was not read before: V."""
        past = self._longest_past(ids[:-1])
        (logits,), (self.remembered["answer"],) = read_on(
            self.model, [past], [ids[len(past.tokens) :]]
        )
        check_finite([logits])
        return logits

    def _longest_past(self, ids: list[int]) -> Past:
        """What is remembered of these tokens: their beginning, or nothing."""
        known = [
            past for past in self.remembered.values() if past.tokens == ids[: len(past.tokens)]
        ]
        return max(known, key=lambda past: len(past.tokens), default=NOTHING)
