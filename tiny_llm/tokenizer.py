"""Text to token ids and back.

    "cab"  --encode-->  [2, 0, 1]  --decode-->  "cab"

A network computes with numbers, so every text is first cut into tokens and every token becomes an
id. Here a token is one character, and its id is its place in the sorted alphabet of the training
text: the scheme of Karpathy's char-rnn (2015), with its traditional names `stoi` ("string to
integer") and `itos`. Large models cut text into longer pieces, but the models above see ids alone.
"""

from __future__ import annotations

from collections.abc import Iterable


class CharTokenizer:
    """One token for each different character.

    stoi: dict, character -> id. itos: list, id -> character.
    Raises ValueError for an empty alphabet or a character that stands in it twice.
    """

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
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
        return "".join(self.itos[token] for token in ids)

    def token_bytes(self, token: int) -> bytes:
        """What this token stands for, in UTF-8. Raises ValueError for an unknown id."""
        return self.decode([token]).encode("utf-8", "surrogatepass")


def _listed(characters: list[str], most: int = 100) -> str:
    """Characters for an error message: quoted, escaped where they cannot be seen."""
    more = f" and {len(characters) - most:,} more" if len(characters) > most else ""
    return " ".join(repr(character) for character in characters[:most]) + more
