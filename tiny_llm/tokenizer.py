"""Text to token ids and back.

    "cab"  --encode-->  [2, 0, 1]  --decode-->  "cab"

A network computes with numbers, so every text is first cut into tokens and every token becomes an
id. Here a token is one character, and its id is its place in the sorted alphabet of the training
text: the scheme of Karpathy's char-rnn (2015), with its traditional names `stoi` ("string to
integer") and `itos`. Large models cut text into longer pieces, but a model sees ids alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What every tokenizer can do, whatever its tokens are: CharTokenizer here, BPETokenizer."""

    kind: str  # by which a checkpoint names it

    @property
    def vocab_size(self) -> int:
        """The number of different tokens, V."""

    def encode(self, text: str) -> list[int]:
        """The ids of the tokens of `text`. Raises ValueError for text that it cannot encode."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Raises ValueError for an unknown id."""

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of one token. Raises ValueError for an unknown id."""

    def state(self) -> dict[str, Any]:
        """All that is needed to build it again, as plain data for JSON."""

    @classmethod
    def from_state(cls, state: Any) -> Tokenizer:
        """The inverse of `state`. Raises ValueError for anything else."""


class CharTokenizer:
    """One token for each different character.

    stoi: dict, character -> id. itos: list, id -> character.
    Raises ValueError for an empty alphabet or a character that stands in it twice.
    """

    kind = "char"

    def __init__(self, characters: Iterable[str]) -> None:
        self.itos = list(characters)
        self.stoi = {character: token for token, character in enumerate(self.itos)}
        if not self.itos:
            raise ValueError("the text is empty, so there is nothing to learn from; give some text")
        if len(self.stoi) != len(self.itos) or any(len(c) != 1 for c in self.itos):
            raise ValueError("an alphabet holds single characters, each of them once")

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """The tokenizer whose alphabet is the sorted set of the characters of `text`."""
        return cls(sorted(set(text)))

    @property
    def vocab_size(self) -> int:
        """The number of different tokens, V."""
        return len(self.itos)

    def encode(self, text: str) -> list[int]:
        """The ids of the characters of `text`. Raises ValueError that names the unknown ones."""
        unknown = sorted(set(text) - self.stoi.keys())
        if unknown:
            raise ValueError(
                f"the model does not know {_listed(unknown)}; "
                f"the characters of its training text are {_listed(self.itos)}"
            )
        return [self.stoi[character] for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; the inverse of `encode`. Raises ValueError for an unknown id."""
        ids = list(ids)
        for token in ids:
            self._check(token)
        return "".join(self.itos[token] for token in ids)

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of one character. Raises ValueError for an unknown id."""
        self._check(token)
        return self.itos[token].encode("utf-8", "surrogatepass")

    def _check(self, token: int) -> None:
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"token id {token} is outside the vocabulary of {self.vocab_size}")

    def state(self) -> dict[str, Any]:
        """All that is needed to build it again, as plain data for JSON."""
        return {"kind": self.kind, "characters": list(self.itos)}

    @classmethod
    def from_state(cls, state: Any) -> CharTokenizer:
        """The inverse of `state`. Raises ValueError for anything else."""
        characters = state.get("characters") if isinstance(state, dict) else None
        if not isinstance(characters, list) or state.get("kind") != cls.kind:
            raise ValueError("this is not the state of a character tokenizer")
        if not all(isinstance(character, str) for character in characters):
            raise ValueError("an alphabet holds single characters, each of them once")
        return cls(characters)


def _listed(characters: list[str], most: int = 100) -> str:
    """Characters for an error message: quoted, escaped where they cannot be seen."""
    more = f" and {len(characters) - most:,} more" if len(characters) > most else ""
    return " ".join(repr(character) for character in characters[:most]) + more
