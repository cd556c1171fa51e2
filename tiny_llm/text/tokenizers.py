"""What every tokenizer can do, and how to build one again from its plain data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable, Protocol

from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.shown import shown
from tiny_llm.tokenizer import CharTokenizer


class Tokenizer(Protocol):
    """What every tokenizer can do: see chapter 1 for one of them."""

    kind: str  # its name in a file
    unit: str  # what one of its tokens is called

    @property
    def vocab_size(self) -> int: ...  # the number of different tokens, V
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def token_bytes(self, token: int) -> bytes: ...
    def state(self) -> dict[str, Any]: ...


def _char(state: dict[str, Any]) -> CharTokenizer:
    characters = state.get("characters")
    if not isinstance(characters, list) or not all(isinstance(c, str) for c in characters):
        raise ValueError("this is not the state of a character tokenizer")
    return CharTokenizer(characters)


TOKENIZERS: dict[str, Callable[[dict[str, Any]], Tokenizer]] = {
    CharTokenizer.kind: _char,
    BPETokenizer.kind: BPETokenizer.from_state,
}


def tokenizer_from(state: Any) -> Tokenizer:
    """The tokenizer whose `state()` this is. Raises ValueError for anything else."""
    kind = state.get("kind") if isinstance(state, dict) else None
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise ValueError(
            f"{shown(repr(kind))} is no kind of tokenizer; there are "
            f"{' and '.join(map(repr, TOKENIZERS))}"
        )
    return TOKENIZERS[kind](state)
