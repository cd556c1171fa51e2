"""Tokens to text as they come, for whoever shows or sends them one by one."""

from __future__ import annotations

import codecs
from typing import Callable


class TextStream:
    """Tokens become text as they come: whole characters, and none that a stop text may begin.

    A token of bytes can hold half a character, and a stop can stretch over several tokens, so some
    text is held back until what follows has decided. token_bytes: a token's part of the text, in
    UTF-8. Bytes that are no text become U+FFFD.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], *stops: str) -> None:
        self.stopped = False  # whether a stop text has come: the text ends before it
        self._token_bytes = token_bytes
        self._stops = [stop for stop in stops if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def add(self, token: int) -> str:
        """The text that is certain now and was not before."""
        return self._certain(self._decoder.decode(self._token_bytes(token)))

    def end(self) -> str:
        """What is still held back, when no token follows. Nothing after the stop text."""
        text = self._certain(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text + rest

    def _certain(self, text: str) -> str:
        """The text up to the stop text, or up to what may be its beginning; keeps the rest."""
        if self.stopped:
            return ""
        text = self._held + text
        places = [place for place in map(text.find, self._stops) if place >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        most = len(text) + 1  # a beginning that is held is no longer than what there is
        beginnings = (stop[:n] for stop in self._stops for n in range(1, min(len(stop), most)))
        held = max((len(part) for part in beginnings if text.endswith(part)), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]
