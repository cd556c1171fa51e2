"""From what a user names with --data to tokens: the part to learn from, and the part held out.

    text        --split-->  two texts  --tokenizer-->  tokens
    tokens.bin  (made by `tiny-lm prepare`, which has split it already)  ----------->  tokens

The tokenizer is that of the run; a new run gets one here. Pieces of words are learned from the
training part alone, so that nothing of the held-out part leaks into them; an alphabet is that of
the whole text, since a character without an id could not even be tested on.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple, Optional, Union

from tiny_llm.batches import split
from tiny_llm.files.token_file import TokenFile, is_token_file, open_tokens
from tiny_llm.run.errors import UsageError, UserError
from tiny_llm.run.options import check_names
from tiny_llm.run.rungs import flag
from tiny_llm.run.texts import BUILT_IN, Text, first_words, read_text
from tiny_llm.run.tokenizer_files import VOCAB_SIZE, load_tokenizer
from tiny_llm.text.bpe import END_OF_TEXT, BPETokenizer
from tiny_llm.text.corpus import Corpus, Lines, RunningText, split_lines
from tiny_llm.text.tasks import HELD_OUT, LEARNED, TASKS, Cases, cases_of
from tiny_llm.text.tokenizers import Tokenizer, tokenizer_from
from tiny_llm.tokenizer import CharTokenizer

VAL_FRACTION = 0.1
TASK = "task:"  # begins the --data of a task


class Cut(NamedTuple):
    """How a text is to be cut for a new run. None: as usual."""

    val_fraction: Optional[float] = None
    lines: Optional[bool] = None  # every line is a document of its own
    tokenizer: Optional[str] = None  # char or bpe
    vocab_size: Optional[int] = None  # of a new bpe
    tokenizer_file: Optional[Path] = None


AS_USUAL = Cut()
BEGINNING = 100  # tokens, in which the first words of a text are looked for


class Material(NamedTuple):
    """A text as a run sees it."""

    name: str
    tokenizer: Tokenizer
    train: Corpus
    val: Corpus  # the part held out
    val_fraction: float
    lines: bool  # whether every line is a document of its own
    sha256: str  # of the text, or of the file of tokens
    task: str = ""  # one of text/tasks.py, if it is no text

    @property
    def beginning(self) -> str:
        """The first words of the user's own text; "" for the built-in corpus."""
        if self.name == BUILT_IN:
            return ""
        text = self.tokenizer.decode(self.train.ids[:BEGINNING])
        return first_words(text.split(END_OF_TEXT)[0].rstrip("\ufffd"))  # cut inside a character

    @property
    def sizes(self) -> tuple[int, int]:
        """The tokens of the two parts."""
        return len(self.train.ids), len(self.val.ids)


class TextSource:
    """A text, before it is cut into tokens."""

    def __init__(self, text: Text) -> None:
        self.name, self.sha256, self.text = text.name, text.sha256, text.content

    def new(self, cut: Cut) -> Material:
        """For a new run: with a tokenizer of its own."""
        val_fraction = cut.val_fraction or VAL_FRACTION
        return self.known(self._tokenizer(cut, val_fraction), val_fraction, bool(cut.lines))

    def _tokenizer(self, cut: Cut, val_fraction: float) -> Tokenizer:
        if cut.tokenizer_file and (cut.tokenizer == "char" or cut.vocab_size):
            raise UsageError(
                "--tokenizer-file names a finished bpe; leave out what describes another"
            )
        check_names("tokenizer", [cut.tokenizer or "char"], ["char", "bpe"])
        if cut.vocab_size and cut.tokenizer != "bpe":
            raise UsageError(
                "--vocab-size is the size of a new --tokenizer bpe; without one, leave it out"
            )
        if cut.tokenizer_file:
            return load_tokenizer(Path(cut.tokenizer_file))
        if cut.tokenizer != "bpe":
            return CharTokenizer.from_text(self.text + "\n" * bool(cut.lines))
        if cut.lines:
            train = "\n".join(split_lines(self.text.split("\n"), val_fraction)[0])
        else:
            train = split(self.text, val_fraction)[0]
        return BPETokenizer.train(train, cut.vocab_size or VOCAB_SIZE)

    def known(self, tokenizer: Tokenizer, val_fraction: float, lines: bool) -> Material:
        """Cut and encoded as a run has it. Raises ValueError for a text that is too short."""
        train: Corpus
        val: Corpus
        if lines:
            separator = tokenizer.encode("\n")[0]
            parts = split_lines(self.text.split("\n"), val_fraction)
            train, val = (Lines(map(tokenizer.encode, part), separator) for part in parts)
        else:
            both = split(self.text, val_fraction)
            train, val = (RunningText(tokenizer.encode(part)) for part in both)
            for name, part in ("training", train), ("held-out", val):
                if len(part.ids) < 2:
                    raise ValueError(
                        f"the {name} part is a single token, and 2 are the least (one to see, one "
                        f"to predict); use a longer text, another validation fraction, or a "
                        f"tokenizer with shorter tokens"
                    )
        return Material(self.name, tokenizer, train, val, val_fraction, lines, self.sha256)

    def unsplit(self, tokenizer: Tokenizer, lines: bool) -> Corpus:
        """All of it, to measure a model on. Raises ValueError if it is too short."""
        if lines:
            separator = tokenizer.encode("\n")[0]
            return Lines(map(tokenizer.encode, self.text.split("\n")), separator)
        return RunningText(tokenizer.encode(self.text))

    what_is_measured = ""  # of an unsplit one


class TokenSource:
    """A file of tokens, which was cut when it was prepared."""

    def __init__(self, name: str, file: TokenFile) -> None:
        self.name, self.sha256, self.file = name, file.sha256, file

    def new(self, cut: Cut) -> Material:
        """For a new run: all was settled before. Raises UsageError for what would change it."""
        for name, value in cut._asdict().items():
            if value:
                raise UsageError(
                    f"{flag(name)} was settled when {self.name} was prepared; leave it out"
                )
        return self.known(tokenizer_from(self.file.tokenizer), 0.0, lines=False)

    def known(self, tokenizer: Tokenizer, val_fraction: float, lines: bool) -> Material:
        """As it was prepared."""
        train, val = RunningText(self.file.train), RunningText(self.file.val)
        val_fraction = len(val.ids) / (len(train.ids) + len(val.ids))
        return Material(self.name, tokenizer, train, val, val_fraction, lines, self.sha256)

    def unsplit(self, tokenizer: Tokenizer, lines: bool) -> Corpus:
        """Its validation part: a model may have learned from the other one.

        Raises ValueError if it was cut by another tokenizer.
        """
        if self.file.tokenizer != tokenizer.state():
            raise ValueError(f"{self.name} holds tokens of another tokenizer")
        return RunningText(self.file.val)

    what_is_measured = ", validation part"


class TaskSource:
    """A task, whose cases are made on the spot."""

    def __init__(self, task: str) -> None:
        check_names("task", [task], TASKS)
        self.task, self.name = task, f"the task {task}"
        self.cases = cases_of(task)
        texts = "\n".join(case.text for part in self.cases for case in part)
        self.sha256 = hashlib.sha256(texts.encode()).hexdigest()

    def new(self, cut: Cut) -> Material:
        """For a new run. Raises UsageError for what would change the task."""
        for name, value in cut._asdict().items():
            if value:
                raise UsageError(f"{flag(name)} is for texts, not for a task; leave it out")
        return self.known(CharTokenizer(TASKS[self.task].alphabet), 0.0, lines=False)

    def known(self, tokenizer: Tokenizer, val_fraction: float, lines: bool) -> Material:
        """Always the same."""
        train, val = (Cases(part, tokenizer) for part in self.cases)
        share = HELD_OUT / (LEARNED + HELD_OUT)
        return Material(self.name, tokenizer, train, val, share, False, self.sha256, self.task)

    def unsplit(self, tokenizer: Tokenizer, lines: bool) -> Corpus:
        """The cases held out."""
        return Cases(self.cases[1], tokenizer)

    what_is_measured = ", cases held out"


Source = Union[TextSource, TokenSource, TaskSource]


def read_source(data: Optional[str], encoding: str = "utf-8") -> Source:
    """The text or the file of tokens at `data`; `-` is standard input, None the built-in corpus,
    task:NAME one of the tasks.

    Raises UserError if there is none.
    """
    if data and data.startswith(TASK):
        return TaskSource(data[len(TASK) :])
    if data and data.endswith(".json") and is_token_file(data[: -len(".json")]):
        raise UserError(f"{data} describes a file of tokens; give --data {data[: -len('.json')]}")
    if data is not None and is_token_file(data):
        try:
            file = open_tokens(data)
            file.verify()
        except FileNotFoundError:
            raise UserError(f"there is no file {data}; make it with tiny-lm prepare") from None
        except OSError as error:
            raise UserError(f"cannot read {data}: {error.strerror or error}") from None
        except ValueError as error:
            raise UserError(str(error)) from None
        return TokenSource(data, file)
    return TextSource(read_text(data, encoding))
