"""CHAPTER 1. Text to token ids and back.

    "cab"  --encode-->  [2, 0, 1]  --decode-->  "cab"

Read this first: a network computes with numbers, so a text is cut into tokens and every token gets
an id. Here a token is one character, and its id is its place in the sorted alphabet of the training
text: the scheme of Karpathy's char-rnn (2015), with its traditional names `stoi` ("string to
integer") and `itos`. Real models cut text into longer pieces, but a model sees ids alone.
"""

from collections.abc import Iterable
from typing import Any


class CharTokenizer:
    """One token for each different character. stoi: dict, character -> id. itos: list, id ->
    character. Raises ValueError for an empty alphabet or a character that stands in it twice."""

    kind, unit = "char", "character"

    def __init__(self, characters: Iterable[str]) -> None:
        self.itos = list(characters)
        self.stoi = {character: token for token, character in enumerate(self.itos)}
        self.vocab_size = len(self.itos)
        if not self.itos:
            raise ValueError("the text is empty, so there is nothing to learn from; give some text")
        if len(self.stoi) != len(self.itos) or any(len(c) != 1 for c in self.itos):
            raise ValueError("an alphabet holds single characters, each of them once")

    @classmethod
    def from_text(cls, text: str) -> "CharTokenizer":
        """The tokenizer whose alphabet is the sorted set of the characters of `text`."""
        return cls(sorted(set(text)))

    def encode(self, text: str) -> list[int]:
        """The ids of the characters of `text`. Raises ValueError that names the unknown ones."""
        unknown = sorted(set(text) - self.stoi.keys())
        if unknown:
            known = " ".join(map(repr, self.itos[:100])) + " ..." * (self.vocab_size > 100)
            raise ValueError(
                f"the model does not know {' '.join(map(repr, unknown[:100]))}; "
                f"the characters of its training text are {known}"
            )
        return [self.stoi[character] for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; the inverse of `encode`. Raises ValueError for an unknown id."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "surrogatepass")

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of one character. Raises ValueError for an unknown id."""
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
        return self.itos[token].encode("utf-8", "surrogatepass")

    def state(self) -> dict[str, Any]:
        """All that is needed to build it again, as plain data."""
        return {"kind": self.kind, "characters": list(self.itos)}


# Try it: sort the alphabet backwards in `from_text`. All ids change, and the first loss stays near
# ln V all the same: an id is a name, not an amount.
