"""What a request asks for: JSON of OpenAI's shape to wishes, every value checked.

    {"prompt": "The model", "max_tokens": 5, "stop": ["."]}  --completion-->  Asked: Wish, Wish, ...
    {"messages": [{"role": "user", "content": "Hello"}]}     --chat-->        Asked: Wish

Fields that are not known here are ignored, as OpenAI's clients expect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

from tiny_llm.beyond.chat import ROLES, Message, can_speak, template_of
from tiny_llm.run.saved import Run
from tiny_llm.sampling import Sampling
from tiny_llm.serve.batch import Wish
from tiny_llm.text.shown import shown

MOST_TOKENS = 16  # of a completion that says nothing about it, as OpenAI has it
MOST_STOPS, MOST_LIKELIEST, MOST_CHOICES = 4, 20, 128
LARGEST_SEED = 2**63


class BadRequest(Exception):
    """What is wrong with a request, and with which field of it."""

    def __init__(
        self, message: str, param: Optional[str] = None, status: int = 400, code: str = ""
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code


class Asked(NamedTuple):
    """A request: what is to be written, and how the answer looks."""

    wishes: list[Wish]  # n for each prompt, one after the other
    stops: list[str]
    is_chat: bool
    streams: bool
    with_usage: bool  # in a stream
    prompt_tokens: int


def completion(body: dict[str, Any], run: Run) -> Asked:
    """A request to continue texts. Raises BadRequest."""
    prompts = [_checked(ids, run) for ids in _prompts(body.get("prompt"), run)]
    likeliest = _whole(body, "logprobs", None, 0, MOST_LIKELIEST)
    echo = flag(body, "echo")
    most = _most(body, MOST_TOKENS)
    separator = run.tokenizer.encode("\n")[0] if run.options.lines else None
    if echo and any(separator in ids[1:] for ids in prompts):
        raise BadRequest("this model reads single lines, so echo takes one at a time", "echo")
    if not most and not echo:
        raise BadRequest("max_tokens is 0, so there is nothing to write", "max_tokens")

    def wish(ids: list[int], seed: Optional[int]) -> Wish:
        return Wish(ids, most, _sampling(body), seed, _ends(run), likeliest, echo)

    return _asked(body, prompts, wish, False)


def chat(body: dict[str, Any], run: Run) -> Asked:
    """A request to answer a conversation. Raises BadRequest."""
    ids = conversation_ids(body.get("messages"), run)
    room = run.model.config.context_length - len(_checked(ids, run)) + 1
    most = min(_most(body, room), room)
    likeliest = None
    if flag(body, "logprobs"):
        likeliest = _whole(body, "top_logprobs", 0, 0, MOST_LIKELIEST)

    def wish(ids: list[int], seed: Optional[int]) -> Wish:
        return Wish(ids, most, _sampling(body), seed, _ends(run), likeliest, slides=False)

    return _asked(body, [ids], wish, True)


def _asked(
    body: dict[str, Any],
    prompts: list[list[int]],
    wish: Callable[[list[int], Optional[int]], Wish],
    is_chat: bool,
) -> Asked:
    n, seed = _whole(body, "n", 1, 1, MOST_CHOICES), _whole(body, "seed", None, None, LARGEST_SEED)
    if n * len(prompts) > MOST_CHOICES:
        raise BadRequest(f"{n} x {len(prompts)} texts are more than {MOST_CHOICES}", "n")
    seeds = [None if seed is None else seed + i for i in range(n)]
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise BadRequest("stream_options must be an object", "stream_options")
    return Asked(
        [wish(ids, seed) for ids in prompts for seed in seeds],
        _stops(body.get("stop")),
        is_chat,
        flag(body, "stream"),
        flag(options, "include_usage"),
        sum(map(len, prompts)),
    )


# ---------------------------------------------------------------- texts


def text_ids(text: Any, run: Run, param: str) -> list[int]:
    """The tokens of a text. Raises BadRequest for what is none, or has other characters."""
    if not isinstance(text, str):
        raise BadRequest(f"{param} must be a text", param)
    return _encoded(lambda: run.tokenizer.encode(text), param)


def conversation_ids(messages: Any, run: Run) -> list[int]:
    """The tokens of a conversation, up to where its answer begins. Raises BadRequest."""
    tokenizer: Any = run.tokenizer
    template = run.chat.template and template_of(run.chat.template)
    if not template or not can_speak(tokenizer, template):
        raise BadRequest(
            "this model was not taught to talk: it has no chat template; /v1/completions continues "
            "a text",
            code="no_chat_template",
        )
    said = _messages(messages)
    return _encoded(lambda: template.ids(said, tokenizer) + template.answer(tokenizer))


def to_tokenize(body: dict[str, Any], run: Run) -> list[int]:
    """The tokens of the messages or the text that a request names. Raises BadRequest."""
    if "messages" in body:
        return conversation_ids(body["messages"], run)
    return text_ids(body.get("content", body.get("prompt")), run, "content")


def _encoded(encode: Callable[[], list[int]], param: str = "messages") -> list[int]:
    try:
        return encode()
    except ValueError as error:
        raise BadRequest(shown(error, 300), param) from None


def _prompts(prompt: Any, run: Run) -> list[list[int]]:
    """A text, a list of texts, token ids, or a list of these."""
    several = prompt if isinstance(prompt, list) else [prompt]
    if prompt == several and several and all(type(token) is int for token in several):
        return [token_ids(several, run)]
    if not several:
        raise BadRequest("prompt is empty; give at least one token to continue", "prompt")
    return [
        token_ids(one, run) if isinstance(one, list) else text_ids(one, run, "prompt")
        for one in several
    ]


def token_ids(tokens: list[Any], run: Run, param: str = "prompt") -> list[int]:
    """Ids as they are. Raises BadRequest for others than the model has."""
    vocab_size = run.tokenizer.vocab_size
    if not all(type(token) is int and 0 <= token < vocab_size for token in tokens):
        raise BadRequest(f"token ids must be whole numbers from 0 to {vocab_size - 1}", param)
    return tokens


def _checked(ids: list[int], run: Run) -> list[int]:
    """Raises BadRequest for a prompt that the model cannot read."""
    length = run.model.config.context_length
    if not ids:
        raise BadRequest("prompt is empty; give at least one token to continue", "prompt")
    if len(ids) > length:
        raise BadRequest(
            f"the prompt has {len(ids)} tokens, and the model reads {length} at most",
            "messages" if run.chat.template else "prompt",
            code="context_length_exceeded",
        )
    return ids


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise BadRequest("messages must be a list with at least one message", "messages")
    return [_message(message) for message in value]


def _message(value: Any) -> Message:
    """One whose content is a text, or a list of parts that are texts."""
    role, content = (value.get(k) if isinstance(value, dict) else None for k in Message._fields)
    if isinstance(content, list):
        parts: list[Any] = [part.get("text") if isinstance(part, dict) else 0 for part in content]
        content = "".join(parts) if all(isinstance(part, str) for part in parts) else None
    role = "system" if role == "developer" else role
    if role not in ROLES or not isinstance(content, str):
        raise BadRequest(
            f"a message must have a role, one of {', '.join(ROLES)}, and a content, a text or a "
            f"list of text parts",
            "messages",
        )
    return Message(role, content)


def _ends(run: Run) -> frozenset[int]:
    return frozenset(run.chat.ends)


# ---------------------------------------------------------------- numbers and flags


def _most(body: dict[str, Any], default: int) -> int:
    name = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    most: int = _whole(body, name, default, 0, 2**31)
    return most


def _sampling(body: dict[str, Any]) -> Sampling:
    top_p = _number(body, "top_p", 1.0, 1.0)
    if not top_p:
        raise BadRequest("top_p must be above 0", "top_p")
    return Sampling(
        _number(body, "temperature", 1.0, 100.0), _whole(body, "top_k", 0, 0, 2**31), top_p
    )


def _number(body: dict[str, Any], name: str, default: float, highest: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= highest:
        raise BadRequest(f"{name} must be a number from 0 to {highest:g}", name)
    return float(value)


def _whole(
    body: dict[str, Any], name: str, default: Any, lowest: Optional[int], highest: int
) -> Any:
    value = body.get(name)
    if value is None:
        return default
    lowest = -highest if lowest is None else lowest
    if type(value) is not int or not lowest <= value <= highest:
        raise BadRequest(f"{name} must be a whole number from {lowest} to {highest}", name)
    return value


def flag(body: dict[str, Any], name: str) -> bool:
    """A field that is true or false, or missing. Raises BadRequest."""
    value = body.get(name)
    if not isinstance(value, (bool, type(None))):
        raise BadRequest(f"{name} must be true or false", name)
    return bool(value)


def _stops(value: Any) -> list[str]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise BadRequest("stop must be a text or a list of texts, none of them empty", "stop")
    if len(stops) > MOST_STOPS:
        raise BadRequest(f"stop has {len(stops)} texts, and {MOST_STOPS} at most", "stop")
    return stops
