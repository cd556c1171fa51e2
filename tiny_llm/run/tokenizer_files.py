"""A tokenizer from a file that the user names."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tiny_llm.files import bpe_files, char_files, gguf, gguf_models
from tiny_llm.files.foreign import beginning_of, content_of, parsed_object, text_of
from tiny_llm.run.errors import UserError
from tiny_llm.text.bpe import BPETokenizer

CHARACTERS = "the tokens of {} are single characters; --tokenizer char has them, without a file"
VOCAB_SIZE = 512  # of a new BPE tokenizer that --vocab-size says nothing about


def load_tokenizer(path: Path) -> BPETokenizer:
    """The tokenizer in a tokenizer.json, in a folder with vocab.json and merges.txt, or in a GGUF
    file. Raises UserError if there is none to be had.
    """
    try:
        if path.is_file() and gguf.is_gguf(beginning_of(path)):
            return _of_gguf(path)
        return bpe_files.load(path)
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}; give a tokenizer.json, or a folder with {bpe_files.VOCAB} and "
            f"{bpe_files.MERGES}"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(_of_characters(path) or str(error)) from None


def _of_gguf(path: Path) -> BPETokenizer:
    tokenizer = gguf_models.read(path).tokenizer
    if not isinstance(tokenizer, BPETokenizer):
        raise ValueError(CHARACTERS.format(path))
    return tokenizer


def _of_characters(path: Path) -> str:
    """The problem, if it is that the tokens of a tokenizer.json are characters."""
    file = path / bpe_files.WHOLE if path.is_dir() else path
    with suppress(OSError, ValueError):
        if char_files.is_char(parsed_object(text_of(content_of(file)))):
            return CHARACTERS.format(file)
    return ""
