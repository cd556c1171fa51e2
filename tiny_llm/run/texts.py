"""The text that a command works on, and the prompt that it continues."""

from __future__ import annotations

import hashlib
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Optional

from tiny_llm.files.encodings import codec, misread, undecodable
from tiny_llm.run.errors import UserError, problem_with_name
from tiny_llm.run.options import LONGEST_BEGINNING
from tiny_llm.text.tokenizers import Tokenizer

DEFAULT_PROMPT = "language models "  # of the built-in corpus; another text has its own first words
BUILT_IN = "the built-in corpus"
WORDS = 3  # of a text's beginning that a sample repeats


class Text(NamedTuple):
    """A text, and what to call it."""

    content: str
    name: str

    @property
    def sha256(self) -> str:
        """A fingerprint by which a resumed run knows its text again."""
        return hashlib.sha256(self.content.encode("utf-8", "surrogatepass")).hexdigest()


def read_text(data: Optional[str], encoding: str) -> Text:
    """The text in the file `data`; `-` is standard input, None the built-in corpus.

    Line ends become newlines, as Python reads text. Raises UserError if there is no text to be had.
    """
    if data is None:
        name, content = BUILT_IN, _built_in_corpus().read_bytes()
    elif data == "-":
        name, content = "standard input", sys.stdin.buffer.read()
    else:
        name, content = data, _read_file(data)
    problem = misread(content, encoding)
    if problem:
        raise UserError(f"{name} {problem}")
    try:
        text = str(content, codec(encoding))
    except ValueError as error:  # UnicodeDecodeError, and what some codecs raise instead
        raise UserError(f"{name} {undecodable(content, error, encoding)}") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text:
        raise UserError(f"{name} is empty; give some text to read")
    return Text(text, name)


def _read_file(name: str) -> bytes:
    problem = problem_with_name(name)
    if problem:
        raise UserError(f"the name of the text, {name!r}, {problem}")
    try:
        path = Path(name)
        if path.is_char_device() or path.is_block_device():
            raise UserError(f"{name} is a device, which may never end; give a text file")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {name}; give the path of a text file") from None
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}; give a text file") from None


def _built_in_corpus() -> Path:
    """corpus.txt: inside an installed package, or beside the package in a clone."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "corpus.txt"
    return installed if installed.exists() else package.parent / "corpus.txt"


def first_words(text: str) -> str:
    """What a text begins with, for samples to begin with as well: a few words of its first line."""
    line = next(filter(str.strip, text.split("\n")), "")
    words = " ".join(line.split()[:WORDS])
    return words[:LONGEST_BEGINNING].rstrip()


def choose_prompt(
    prompt: Optional[str], tokenizer: Tokenizer, lines: bool = False, beginning: str = ""
) -> str:
    """The user's prompt, or one that this tokenizer knows: a phrase, a newline, any character.

    The phrase is the `beginning` of the model's own text, if there is one. A model of `lines`
    begins one.
    """
    if prompt is not None:
        return prompt
    for candidate in ["\n"] if lines else [beginning or DEFAULT_PROMPT, "\n"]:
        with suppress(ValueError):
            tokenizer.encode(candidate)
            return candidate
    return tokenizer.decode([0])
