"""From what a user names with --data to tokens: the part to learn from, and the part held out.

    text        --split-->  two texts  --tokenizer-->  tokens
    tokens.bin  (made by `tiny-lm prepare`, which has split it already)  ----------->  tokens

The tokenizer is that of the run; a new run gets one here. Pieces of words are learned from the
training part alone, so that nothing of the held-out part leaks into them; an alphabet is that of
the whole text, since a character without an id could not even be tested on.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple, Optional

from tiny_llm.batches import split
from tiny_llm.cli.errors import UsageError, UserError
from tiny_llm.cli.rungs import flag
from tiny_llm.cli.texts import Text, read_text
from tiny_llm.cli.tokenizers import VOCAB_SIZE, load_tokenizer
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.corpus import Corpus, Lines, RunningText, split_lines
from tiny_llm.text.token_file import TokenFile, is_token_file, open_tokens
from tiny_llm.text.tokenizers import Tokenizer, tokenizer_from
from tiny_llm.tokenizer import CharTokenizer

VAL_FRACTION = 0.1


class Material(NamedTuple):
    """A text as a run sees it."""

    name: str
    tokenizer: Tokenizer
    train: Corpus
    val: Corpus  # the part held out
    val_fraction: float
    lines: bool  # whether every line is a document of its own
    sha256: str  # of the text, or of the file of tokens

    @property
    def unit(self) -> str:
        """What a token is called."""
        return self.tokenizer.unit

    @property
    def sizes(self) -> tuple[int, int]:
        """The tokens of the two parts."""
        return len(self.train.ids), len(self.val.ids)


class Source(NamedTuple):
    """What --data names, before it is cut into tokens."""

    name: str
    sha256: str
    text: Optional[Text]
    file: Optional[TokenFile]


def read_source(data: Optional[str], encoding: str) -> Source:
    """The text or the file of tokens at `data`. Raises UserError if there is none."""
    if data and data.endswith(".json") and is_token_file(data[: -len(".json")]):
        raise UserError(f"{data} describes a file of tokens; give --data {data[: -len('.json')]}")
    if data is not None and is_token_file(data):
        try:
            file = open_tokens(data)
            file.verify()
        except (ValueError, OSError) as error:
            raise UserError(str(error)) from None
        return Source(data, file.sha256, None, file)
    text = read_text(data, encoding)
    return Source(text.name, text.sha256, text, None)


def new_material(source: Source, args: argparse.Namespace) -> Material:
    """For a new run: cut as the flags say, with a tokenizer as the flags say."""
    if source.file:
        for name in ("val_fraction", "lines", "tokenizer", "tokenizer_file", "vocab_size"):
            if getattr(args, name):
                raise UsageError(
                    f"{flag(name)} was settled when {source.name} was prepared; leave it out"
                )
        return known_material(source, tokenizer_from(source.file.tokenizer), 0.0, lines=False)
    assert source.text
    val_fraction = args.val_fraction or VAL_FRACTION
    tokenizer = _new_tokenizer(source.text.content, args, val_fraction)
    return known_material(source, tokenizer, val_fraction, bool(args.lines))


def _new_tokenizer(text: str, args: argparse.Namespace, val_fraction: float) -> Tokenizer:
    if args.tokenizer_file and (args.tokenizer == "char" or args.vocab_size):
        raise UsageError("--tokenizer-file names a finished bpe; leave out what describes another")
    if args.vocab_size and args.tokenizer != "bpe":
        raise UsageError(
            "--vocab-size is the size of a new --tokenizer bpe; without one, leave it out"
        )
    if args.tokenizer_file:
        return load_tokenizer(args.tokenizer_file)
    if args.tokenizer != "bpe":
        return CharTokenizer.from_text(text + "\n" * bool(args.lines))
    if args.lines:
        train = "\n".join(split_lines(text.split("\n"), val_fraction)[0])
    else:
        train = split(text, val_fraction)[0]
    return BPETokenizer.train(train, args.vocab_size or VOCAB_SIZE)


def known_material(
    source: Source, tokenizer: Tokenizer, val_fraction: float, lines: bool
) -> Material:
    """Cut and encoded as a run has it. Raises ValueError for a text that is too short for that."""
    train: Corpus
    val: Corpus
    if source.file:
        train, val = RunningText(source.file.train), RunningText(source.file.val)
        val_fraction = len(val.ids) / (len(train.ids) + len(val.ids))
    elif source.text and lines:
        separator = tokenizer.encode("\n")[0]
        parts = split_lines(source.text.content.split("\n"), val_fraction)
        train, val = (Lines(map(tokenizer.encode, part), separator) for part in parts)
    else:
        assert source.text
        train, val = (
            RunningText(tokenizer.encode(part)) for part in split(source.text.content, val_fraction)
        )
    return Material(source.name, tokenizer, train, val, val_fraction, lines, source.sha256)


def whole(source: Source, tokenizer: Tokenizer, lines: bool) -> Material:
    """A text that the run has not split, as `val`; of a file of tokens, its validation part.

    Raises ValueError if it is too short.
    """
    val: Corpus
    if source.file:
        if source.file.tokenizer != tokenizer.state():
            raise ValueError(f"{source.name} holds tokens of another tokenizer")
        val = RunningText(
            source.file.val
        )  # its training part may be what the model has learned from
    else:
        assert source.text
        text = source.text.content
        if lines:
            val = Lines(map(tokenizer.encode, text.split("\n")), tokenizer.encode("\n")[0])
        else:
            val = RunningText(tokenizer.encode(text))
    return Material(source.name, tokenizer, RunningText([]), val, 0.0, lines, source.sha256)
