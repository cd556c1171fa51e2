"""A model between programs: what a file of another format says, in the terms of this project.

    Hugging Face folder --+                      +--> tiny-lm
    GGUF file ------------+--> PortableModel ----+--> Hugging Face folder
    tiny-lm --------------+                      +--> GGUF file

The formats differ in names, in the order of rows and in how numbers are written. Each is told in a
file of its own; here is what all of them read into, and are written from. No number is decoded
before it is asked for, since a model may be larger than what a machine can hold of it as floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

from tiny_llm.fast.packed import Packed, pack
from tiny_llm.matmul import Vector
from tiny_llm.text.tokenizers import Tokenizer


class ForeignError(ValueError):
    """The file is damaged, or has something that is not known here: what it is, in one line."""


class PortableTensor:
    """A vector or a matrix in the orientation that this project has it in.

    shape: (length,) or (rows, columns); `read` yields its rows as floats, a vector as its only one,
    anew each time. Raises ForeignError where the numbers are none.
    """

    def __init__(self, shape: tuple[int, ...], read: Callable[[], Iterator[Vector]]) -> None:
        self.shape, self.read = shape, read

    def packed(self, is_table: bool) -> Packed:
        """The matrix as int8 numbers; a format that is close to these may have a shorter way."""
        return pack(self.read(), is_table)


class Chat(NamedTuple):
    """How a model was taught to talk: a template in Jinja's language, as text alone, and the tokens
    of which each ends an answer."""

    template: str = ""
    ends: tuple[int, ...] = ()


class PortableModel(NamedTuple):
    """All that a model is."""

    kind: str  # "modern" for GPT-2's architecture, or "llama"
    config: dict[str, Any]  # the fields of ModernConfig or LlamaConfig
    tensors: dict[str, PortableTensor]  # by the names of this project's parameters
    tokenizer: Tokenizer
    chat: Chat = Chat()
