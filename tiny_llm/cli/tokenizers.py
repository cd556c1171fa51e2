"""The one table of tokenizer kind -> class; a tokenizer from plain data and from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_llm.cli.errors import UserError
from tiny_llm.text import bpe_files
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.tokenizer import CharTokenizer, Tokenizer

VOCAB_SIZE = 512  # of a new BPE tokenizer that --vocab-size says nothing about
TOKENIZERS: dict[str, Any] = {"char": CharTokenizer, "bpe": BPETokenizer}


def tokenizer_from(state: Any) -> Tokenizer:
    """The tokenizer whose `state()` this is. Raises ValueError for anything else."""
    kind = state.get("kind") if isinstance(state, dict) else None
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise ValueError(
            f"{kind!r} is no kind of tokenizer; there are {' and '.join(map(repr, TOKENIZERS))}"
        )
    tokenizer: Tokenizer = TOKENIZERS[kind].from_state(state)
    return tokenizer


def load_tokenizer(path: Path) -> BPETokenizer:
    """The tokenizer in a tokenizer.json, or in a folder with vocab.json and merges.txt.

    Raises UserError if there is none to be had.
    """
    try:
        return bpe_files.load(path)
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}; give a tokenizer.json, or a folder with {bpe_files.VOCAB} and "
            f"{bpe_files.MERGES}"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(str(error)) from None
