"""What a client gets: the tokens of its texts in OpenAI's shape, whole or piece by piece.

A text is sent as it is certain: whole characters, and nothing of what may be the beginning of a
stop text. Stream and whole answer are made by the same `Choice`, so they say the same.
"""

from __future__ import annotations

import time
import uuid
from typing import Any, Optional

from tiny_llm.serve.asked import Asked
from tiny_llm.serve.batch import STOP, Heard, Wish
from tiny_llm.text.stream import TextStream
from tiny_llm.text.tokenizers import Tokenizer

CHUNK, WHOLE = ("text_completion", "chat.completion.chunk"), ("text_completion", "chat.completion")


class Choice:
    """One text on its way to the client."""

    def __init__(self, wish: Wish, stops: list[str], tokenizer: Tokenizer) -> None:
        self.wish, self.tokenizer = wish, tokenizer
        self.stream = TextStream(tokenizer.token_bytes, *stops)
        self.echoed = TextStream(tokenizer.token_bytes)
        self.left = len(wish.ids) if wish.echo else 0  # tokens of the prompt that are still to come
        self.count = 0  # tokens written
        self.heard: list[Heard] = []  # since the last piece
        self.finish: Optional[str] = None

    def take(self, event: Any) -> str:
        """The text that is certain now: after a token, or at the end, which `finish` then names."""
        if not isinstance(event, Heard):
            self.finish = STOP if self.stream.stopped else event
            return self.stream.end()
        self.heard.append(event)
        if self.left:
            self.left -= 1
            text = self.echoed.add(event.token)
            return text if self.left else text + self.echoed.end()
        self.count += 1
        text = "" if event.ends else self.stream.add(event.token)
        if self.stream.stopped:
            self.finish = STOP
        return text


class Reply:
    """The answer to one request."""

    def __init__(self, asked: Asked, tokenizer: Tokenizer, model: str) -> None:
        self.asked, self.tokenizer, self.model = asked, tokenizer, model
        self.choices = [Choice(wish, asked.stops, tokenizer) for wish in asked.wishes]
        prefix = "chatcmpl" if asked.is_chat else "cmpl"
        self.id, self.created = f"{prefix}-{uuid.uuid4().hex}", int(time.time())
        self.offsets = [0] * len(self.choices)
        self.begun: set[int] = set()

    @property
    def is_done(self) -> bool:
        """Whether all texts have ended."""
        return all(choice.finish for choice in self.choices)

    # ------------------------------------------------------------ piece by piece

    def chunk(self, number: int, text: str) -> Optional[dict[str, Any]]:
        """A piece of a text to send, or None while there is nothing to say."""
        choice = self.choices[number]
        if not text and not choice.finish:
            return None
        part: dict[str, Any] = {"index": number, "finish_reason": choice.finish}
        part["logprobs"] = self._logs(number)
        if self.asked.is_chat:
            part["delta"] = {"content": text} if text else {}
        else:
            part["text"] = text
        return self._shaped(CHUNK, [part])

    def first(self, number: int) -> Optional[dict[str, Any]]:
        """What a conversation begins with: the role, once."""
        if not self.asked.is_chat or number in self.begun:
            return None
        self.begun.add(number)
        delta = {"role": "assistant", "content": ""}
        part = {"index": number, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._shaped(CHUNK, [part])

    def last(self) -> dict[str, Any]:
        """The chunk with the usage, and no choices."""
        return {**self._shaped(CHUNK, []), "usage": self.usage}

    # ------------------------------------------------------------ as a whole

    def whole(self, texts: list[str]) -> dict[str, Any]:
        """The answer with these texts."""
        parts: list[dict[str, Any]] = []
        for number, (choice, text) in enumerate(zip(self.choices, texts)):
            part: dict[str, Any] = {"index": number, "finish_reason": choice.finish}
            part["logprobs"] = self._logs(number)
            if self.asked.is_chat:
                part["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                part["text"] = text
            parts.append(part)
        return {**self._shaped(WHOLE, parts), "usage": self.usage}

    @property
    def usage(self) -> dict[str, int]:
        """Tokens read and written."""
        written = sum(choice.count for choice in self.choices)
        read = self.asked.prompt_tokens
        return {
            "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written
        }  # fmt: skip

    def _shaped(self, kinds: tuple[str, str], parts: list[Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kinds[self.asked.is_chat],
            "created": self.created,
            "model": self.model,
            "choices": parts,
        }

    # ------------------------------------------------------------ log-probabilities

    def _logs(self, number: int) -> Optional[dict[str, Any]]:
        """Those of the tokens since the last piece, if they were asked for."""
        choice = self.choices[number]
        heard, choice.heard = choice.heard, []
        if choice.wish.likeliest is None:
            return None
        if self.asked.is_chat:
            heard = [one for one in heard if not one.ends]
        content = [self._entry(one.token, one.log) for one in heard]
        for entry, one in zip(content, heard):
            entry["top_logprobs"] = [self._entry(*other) for other in one.likeliest]
        if self.asked.is_chat:
            return {"content": content, "refusal": None}
        names = [entry["token"] for entry in content]
        offsets = []
        for one in heard:
            offsets.append(self.offsets[number])
            self.offsets[number] += len(
                self.tokenizer.token_bytes(one.token).decode(errors="replace")
            )
        tops = [
            None
            if one.log is None
            else {piece_of(self.tokenizer, t): log for t, log in one.likeliest}
            for one in heard
        ]
        logs = [one.log for one in heard]
        return {
            "tokens": names,
            "token_logprobs": logs,
            "top_logprobs": tops,
            "text_offset": offsets,
            "content": content,  # the same with ids, which two tokens of the same text differ in
        }

    def _entry(self, token: int, log: Optional[float]) -> dict[str, Any]:
        own = self.tokenizer.token_bytes(token)
        name = piece_of(self.tokenizer, token)
        return {"id": token, "token": name, "logprob": log, "bytes": list(own)}


def piece_of(tokenizer: Tokenizer, token: int) -> str:
    """The text of a token; bytes that are no whole character as \\xf0."""
    return tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")
