r"""Chat: a conversation is a text with a few special tokens, which a model goes on with.

    <|im_start|>system \n You are helpful.  <|im_end|> \n      <|system|> You are helpful. <|end|>
    <|im_start|>user   \n Hello!            <|im_end|> \n      <|user|> Hello! <|end|>
    <|im_start|>assistant \n   <- the model goes on ->         <|assistant|>

Nothing in a chat model's architecture knows of people who talk. It was trained on texts that look
like this one, so it goes on with an answer, and then with the token that ends one. Each model knows
only the layout that it was trained on: on the left ChatML (OpenAI, 2023), on the right the one of
this project, with fewer tokens. A model file brings its layout along as a program in a template
language, Jinja. Such a program is never run here: it is compared with the ones that are known.

The markers are tokens of their own that stand in no text. What a person writes is encoded as text,
even if it reads `<|im_end|>`, so nobody can speak for another.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Callable, NamedTuple, Optional

from tiny_llm.fast.kv_cache import AT_ONCE, NOTHING, Past, listen, read_on
from tiny_llm.fast.tensors import check_finite
from tiny_llm.matmul import Vector
from tiny_llm.model import LanguageModel
from tiny_llm.sampling import Sampling
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.shown import shown

ROLES = ("system", "user", "assistant")

# ---------------------------------------------------------------- the layout


class Message(NamedTuple):
    """What one of them said."""

    role: str  # one of ROLES
    content: str


class Template(NamedTuple):
    """A layout. {} is the role; what stands between <| and |> is a marker."""

    begin: str
    end: str
    default_system: str = ""  # what the system says when nobody else does

    @property
    def markers(self) -> set[str]:
        """The special tokens that it needs."""
        text = self.end + "".join(map(self.begin.format, ROLES))
        return set(_MARKER.findall(text))

    def ids(self, messages: Sequence[Message], tokenizer: BPETokenizer) -> list[int]:
        """The conversation as tokens, the default system message before it if it has none."""
        if self.default_system and not (messages and messages[0].role == "system"):
            messages = [Message("system", self.default_system), *messages]
        return [token for message in messages for token in self.message(message, tokenizer)]

    def message(self, message: Message, tokenizer: BPETokenizer) -> list[int]:
        """One message as tokens."""
        *before, last = _MARKER_OR_TEXT.split(self.begin.format(message.role))
        after, *behind = _MARKER_OR_TEXT.split(self.end)
        parts = [*before, last + message.content + after, *behind]  # text beside text is one text
        return _encode(parts, tokenizer)

    def after(self, tokenizer: BPETokenizer) -> list[int]:
        """What ends a message."""
        return _encode(_MARKER_OR_TEXT.split(self.end), tokenizer)

    def answer(self, tokenizer: BPETokenizer) -> list[int]:
        """What an answer begins with."""
        return _encode(_MARKER_OR_TEXT.split(self.begin.format("assistant")), tokenizer)

    @property
    def jinja(self) -> str:
        """As other programs have it."""
        before, after = (f"'{part}' + " if part else "" for part in self.begin.split("{}"))
        system = self.begin.format("system")
        return (
            "{% for message in messages %}"
            + _DEFAULT.format(f"{system}{self.default_system}{self.end}")
            * bool(self.default_system)
            + f"{{{{ {before}message['role'] + {after}message['content'] + '{self.end}' }}}}"
            + "{% endfor %}{% if add_generation_prompt %}"
            + f"{{{{ '{self.begin.format('assistant')}' }}}}"
            + "{% endif %}"
        )


CHATML = Template("<|im_start|>{}\n", "<|im_end|>\n")
OWN = Template("<|{}|>", "<|end|>")
_MARKER = re.compile(r"<\|\w+\|>")
_MARKER_OR_TEXT = re.compile(r"(<\|\w+\|>)")  # split by it, every second part is a marker
_DEFAULT = "{{% if loop.first and messages[0]['role'] != 'system' %}}{{{{ '{}' }}}}{{% endif %}}"


def _encode(parts: Sequence[str], tokenizer: BPETokenizer) -> list[int]:
    """Texts and markers by turns, as tokens."""
    ids = []
    for number, part in enumerate(parts):
        ids += [tokenizer.special_tokens[part]] if number % 2 else tokenizer.encode(part)
    return ids


def template_of(jinja: str) -> Template:
    """The layout that this program writes. Raises ValueError for one that is not known."""
    for known in (CHATML, OWN):
        pattern = re.escape(_plain(known._replace(default_system="\1").jinja))
        default = re.escape(_plain(_DEFAULT.format(f"{known.begin.format('system')}\1{known.end}")))
        own = default.replace("\1", r"([^'\\{}]*)")
        found = re.fullmatch(pattern.replace(default, f"(?:{own})?"), _plain(jinja.strip()))
        if found:
            return known._replace(default_system=found[1] or "")
    raise ValueError(
        f"its chat template is not ChatML, nor that of tiny-lm: {shown(repr(jinja))}; "
        f"`generate` continues a text with it all the same"
    )


def _plain(jinja: str) -> str:
    """Without what makes no difference: spaces at the edges of a tag, how a newline is written,
    texts that are put together."""
    jinja = jinja.replace(r"\n", "\n").replace("' + '", "")
    return re.sub(r"\{([{%]) *| *([%}])\}", r"{\1\2}", jinja)


def can_speak(tokenizer: object, template: Template) -> bool:
    """Whether it has the tokens that the layout is made of."""
    special = tokenizer.special_tokens if isinstance(tokenizer, BPETokenizer) else {}
    return template.markers <= special.keys()


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
        """A new conversation. None: with the system message that the model is used to. Raises
        ValueError for one that leaves no room for a question."""
        messages = [] if system is None else [Message("system", system)]
        told = self.template.ids(messages, self.tokenizer)
        self._check_room(told, "the system message")
        self.system = told
        self.turns: list[Turn] = []
        self.is_full = False  # whether the last answer had no room to go on

    def ask(self, text: str) -> None:
        """The next question; one that got no answer is forgotten. Raises ValueError for a question
        that is longer than what the model can see."""
        question = self.template.message(Message("user", text), self.tokenizer)
        self._check_room(self.system + question, "the question with what goes before it")
        self.turns = [turn for turn in self.turns if turn.answer] + [Turn(question, [])]

    def answer(self, sampling: Sampling, rng: random.Random, most: int) -> Iterator[int]:
        """The tokens of the answer to the last question, at most so many, each as it is drawn.

        Asked for once more, it is another answer in place of the one before, which stays if nothing
        comes. Raises ValueError for
        a model whose numbers are not finite.
        """
        answer = self.turns[-1].answer
        before = list(answer)
        answer.clear()
        try:
            yield from self._answer(answer, sampling, rng, most)
        finally:
            answer += [] if answer else before

    def _answer(
        self, answer: list[int], sampling: Sampling, rng: random.Random, most: int
    ) -> Iterator[int]:
        self._forget_turns(most)
        self._listen("system", self.system)
        self._listen("question", self.ids()[:-1])
        self.is_full = False
        while len(answer) < most and not self.is_stopped():
            self.is_full = len(self.ids()) > self.model.config.context_length
            if self.is_full:
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

    def _check_room(self, ids: list[int], what: str) -> None:
        """Raises ValueError if these tokens leave no room for an answer."""
        length = self.model.config.context_length
        if len(ids) + len(self._answer_begins()) >= length:
            raise ValueError(f"{what} has {len(ids)} tokens, and the model reads {length} at most")

    def _forget_turns(self, room: int) -> None:
        """What was said first leaves the conversation when the model could not read all of it."""
        length = self.model.config.context_length
        while len(self.turns) > 1 and len(self.ids()) + min(room, length // 2) > length:
            del self.turns[0]

    def _listen(self, name: str, ids: list[int]) -> None:
        """Read these tokens, as far as they were not read before, and remember them by this name.
        Stopped, it remembers what it has read."""
        past = self._longest_past(ids)
        for start in range(len(past.tokens), len(ids), AT_ONCE):  # a stop waits for these at most
            if self.is_stopped():
                break
            past = listen(self.model, past, ids[start : start + AT_ONCE])
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
