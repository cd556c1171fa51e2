r"""Files of text to token ids: many documents, of any size, in little memory.

    files --scan--> documents --parts--> training | validation
    document --blocks--> "The cat sat" | " on the mat.\nThe" | ... --encoder--> ids, ids, ...

No document is ever in memory as a whole. It is read in blocks, which several processes encode at
the same time. A tokenizer of longer tokens must not notice where a block ends, so a block is cut
only where a token cannot lie.

Whole documents are held out, since a part of one would tell much about the rest of it; if there is
but one, its end is, as `batches.split` does it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

from tiny_llm.fast.pool import Pool
from tiny_llm.files.encodings import LOOKED_AT, codec, misread, undecodable
from tiny_llm.files.token_file import packed
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.pretokenize import pieces
from tiny_llm.text.tokenizers import Tokenizer, tokenizer_from

BLOCK = 2**18  # characters that are read, and about as many that are encoded at a time
LEARNED_FROM, MOST_PIECES = 10_000_000, 100_000  # characters, and different pieces of them

Job = list[Union[str, int]]  # what is encoded at a time: texts, and ids that stand between them


class NotText(ValueError):
    """The file does not hold text in the encoding that was named."""


class Document(NamedTuple):
    """A file of text that was read once."""

    path: Path
    encoding: str
    characters: int
    digest: bytes  # the same for copies


class Span(NamedTuple):
    """Some characters of a document."""

    document: Document
    begin: int
    end: int

    @property
    def characters(self) -> int:
        """How many they are."""
        return self.end - self.begin

    def blocks(self) -> Iterator[str]:
        """Them in blocks. Raises ValueError if the file has changed or cannot be read."""
        document, begin, end = self.document, self.begin, self.end
        place = 0  # of the first character of the block
        for block in _blocks(document.path, document.encoding):
            if begin < place + len(block) and place < end:
                yield block[max(0, begin - place) : end - place]
            place += len(block)
            if place > end:
                break
        if place < end or place > end == document.characters:
            raise ValueError(f"{document.path} has changed since it was first read; start anew")


def files_in(folder: Path, pattern: str = "*") -> list[Path]:
    """The regular files in a folder and the folders in it whose names match, sorted.

    What is hidden, such as .git, is left out.
    """
    return [
        path
        for path in sorted(folder.rglob("*"))
        if fnmatchcase(path.name, pattern)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]


def scan(path: Path, encoding: str, alphabet: Optional[set[str]] = None) -> Document:
    """Read the file once, and add the characters that occur to `alphabet`.

    Raises NotText, and ValueError if the file cannot be read.
    """
    characters, digest, seen = 0, hashlib.sha256(), set[str]()
    for block in _blocks(path, encoding):
        characters += len(block)
        digest.update(block.encode("utf-8", "surrogatepass"))
        if alphabet is not None:
            seen.update(block)
    if alphabet is not None:
        alphabet |= seen
    return Document(path, encoding, characters, digest.digest())


def _blocks(path: Path, encoding: str) -> Iterator[str]:
    """The text of a file, in which line ends become newlines. Raises as `scan` does."""
    try:
        with path.open("rb") as file:
            beginning = file.read(BLOCK)
        problem = misread(beginning, encoding)
        if problem:
            raise NotText(f"{path} {problem}")
        with path.open(encoding=codec(encoding)) as text:
            yield from iter(lambda: text.read(BLOCK), "")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    except NotText:
        raise
    except ValueError as error:  # UnicodeDecodeError, and what some codecs raise instead
        with path.open("rb") as file:
            beginning = file.read(LOOKED_AT)
        raise NotText(f"{path} {undecodable(beginning, error, encoding)}") from None


def parts(documents: Sequence[Document], val_fraction: float) -> tuple[list[Span], list[Span]]:
    """The spans of the training part and of the validation part, in order.

    Of several documents every k-th is held out, near `val_fraction` of them, and one on each side
    at least. Copies go where the first of them goes, so that none is on both sides.
    Raises ValueError unless two of them differ.
    """
    if len(documents) == 1:
        (document,) = documents
        boundary = document.characters - round(document.characters * val_fraction)
        end = Span(document, boundary, document.characters)
        return [Span(document, 0, boundary)], [end]
    different = list(dict.fromkeys(document.digest for document in documents))
    total = len(different)
    if total < 2:
        raise ValueError("all documents are copies of one; give it once, and its end is held out")
    count = min(max(1, round(total * val_fraction)), total - 1)
    chosen = {different[(number + 1) * total // count - 1] for number in range(count)}
    train: list[Span] = []
    val: list[Span] = []
    for document in documents:
        part = val if document.digest in chosen else train
        part.append(Span(document, 0, document.characters))
    return train, val


# ---------------------------------------------------------------- blocks


_UP_TO_LAST_CUT = re.compile(r".*(?:\S(?=[ \n])|[^\W_](?=[^\w\s]))", re.DOTALL)


def whole_pieces(blocks: Iterable[str]) -> Iterator[str]:
    r"""The same text in blocks that end where a piece of `pretokenize.pieces` ends.

    That is so between what is no white space and a space or newline, and between a letter or number
    and a sign. For in GPT-2's pattern white space can only be the first character of a piece with
    something else in it, and a piece with a letter or number in it ends before the next sign. So
    the piece with the character before the cut ends there, whether the text goes on or not. Pieces
    before it stay, too: only a run of white space looks ahead, at the one character behind it, and
    that is in the same block, which never ends with white space. What comes behind the cut is read
    without looking back. (Python's \s holds more than Unicode's white space, \x1c to \x1f: there
    may be a cut at fewer places for that, and at no wrong one.)

    A text without such a place comes as one block. All this holds where numbers are cut off first,
    too: what is a piece of its own there does not depend on what is beside it.
    """
    text = ""
    for block in blocks:
        searched = max(0, len(text) - 1)  # nothing was found before
        text += block
        found = _UP_TO_LAST_CUT.match(text, searched)
        if found:
            yield text[: found.end()]
            text = text[found.end() :]
    if text:
        yield text


def jobs(texts: Iterable[Iterable[str]], separator: Optional[int] = None) -> Iterator[Job]:
    """Texts in blocks, each text with the separator behind it if there is one.

    A job holds at least BLOCK characters, if there are so many, so that small texts share one.
    """
    job: Job = []
    size = 0
    for text in texts:
        for block in text:
            job.append(block)
            size += len(block)
            if size >= BLOCK:
                yield job
                job, size = [], 0
        if separator is not None:
            job.append(separator)
    if job:
        yield job


# ---------------------------------------------------------------- tokens


def learn(spans: Iterable[Span], vocab_size: int, workers: int) -> tuple[BPETokenizer, int]:
    """A tokenizer learned from the beginning of these texts, and from how many characters of it.

    So many suffice, and the memory is bounded: LEARNED_FROM characters or MOST_PIECES different
    pieces. It takes far more memory than all else, so that unless `workers` is 1 a process learns
    that gives it back by ending. Raises ValueError for a `vocab_size` that is too small.
    """
    if workers == 1:
        return _learn((spans, vocab_size))
    with Pool(1, _learn) as pool:
        learned: tuple[BPETokenizer, int] = next(pool.map([(spans, vocab_size)]))
        return learned


def _learn(job: tuple[Iterable[Span], int]) -> tuple[BPETokenizer, int]:
    spans, vocab_size = job
    characters, seen = 0, set[str]()

    def beginning() -> Iterator[str]:
        nonlocal characters
        for block in chain.from_iterable(whole_pieces(span.blocks()) for span in spans):
            characters += len(block)
            yield block
            seen.update(pieces(block))
            if characters >= LEARNED_FROM or len(seen) >= MOST_PIECES:
                return

    return BPETokenizer.train(beginning(), vocab_size), characters


Encode = Callable[[Iterable[Job]], Iterator[bytes]]


@contextmanager
def encoder(tokenizer: Tokenizer, workers: int) -> Iterator[Encode]:
    """A function from jobs to blocks of `packed` ids, in order, computed by so many processes.

    Jobs are read as they are needed, one for each process, so the memory is bounded. It
    raises ValueError for text that the tokenizer cannot encode, and if a process dies.
    """
    if workers == 1:
        yield partial(map, partial(_encode, tokenizer))
        return
    with Pool(workers, _encode_here, _make_tokenizer, tokenizer.state()) as pool:
        yield pool.map


def _encode(tokenizer: Tokenizer, job: Job) -> bytes:
    ids: list[int] = []
    for item in job:
        ids += tokenizer.encode(item) if isinstance(item, str) else [item]
    return packed(ids)


_tokenizers: list[Tokenizer] = []  # in a worker process: the one that it encodes with


def _make_tokenizer(state: Any) -> None:
    """In a worker process, before its first job."""
    _tokenizers.append(tokenizer_from(state))


def _encode_here(job: Job) -> bytes:
    """In a worker process: the ids of one job."""
    return _encode(_tokenizers[-1], job)
