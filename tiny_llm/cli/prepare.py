"""tiny-lm prepare: texts of any size to one file of token ids, which `train --data` reads."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn, Optional

from tiny_llm.cli import options as flags
from tiny_llm.cli.tokenizer import LEAST
from tiny_llm.fast.workers import cores
from tiny_llm.files.documents import (
    Document,
    NotText,
    Span,
    encoder,
    files_in,
    jobs,
    learn,
    parts,
    scan,
    whole_pieces,
)
from tiny_llm.files.token_file import (
    MOST_IDS,
    Description,
    TokenFileError,
    description_path,
    read_description,
    write_tokens,
)
from tiny_llm.run.errors import UsageError, UserError, alone, check_out, to_type, writing
from tiny_llm.run.tokenizer_files import VOCAB_SIZE, load_tokenizer
from tiny_llm.text.bpe import END_OF_TEXT, BPETokenizer
from tiny_llm.text.shown import shown
from tiny_llm.text.tokenizers import Tokenizer
from tiny_llm.tokenizer import CharTokenizer
from tiny_llm.view.progress import Progress, clock
from tiny_llm.view.terminal import style_for

SMALL = 1_000_000  # characters that one process encodes before others would have started
DRAWINGS = (".svg",)  # text by form, but markup and numbers by content
NEWLINE = "\n"  # separates documents where a token is a character


class Texts(NamedTuple):
    """What is to be prepared."""

    documents: list[Document]
    train: list[Span]
    val: list[Span]
    alphabet: set[str]  # of all documents; empty if no tokenizer asks for it

    @property
    def characters(self) -> int:
        """In both parts."""
        return sum(document.characters for document in self.documents)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `prepare`."""
    parser.description = (
        "Turn one or several texts into a file of token ids, and a JSON beside it. Training on it "
        "takes little memory, however large it is. Whole documents are held out for validation, "
        "or the end of a single one."
    )
    parser.set_defaults(command=run)
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        type=flags.file_name,
        metavar="FILE",
        help="texts, and folders full of them",
    )
    add(
        "-o",
        "--out",
        type=flags.file_name,
        default=Path("tokens.bin"),
        metavar="FILE",
        help="the file of ids; its description goes beside it, to FILE.json (%(default)s)",
    )
    add(
        "--glob",
        metavar="PATTERN",
        help="names of files to take from folders (all that are text, except SVG)",
    )
    add("--encoding", type=flags.text_encoding, default="utf-8", help="of the texts (%(default)s)")
    add(
        "--val-fraction",
        type=flags.number("between 0 and 1", lambda value: 0 < value < 1),
        default=0.1,
        metavar="X",
        help="share of the documents, or of the only one, that is held out (%(default)s)",
    )
    _add_tokenizer(parser)
    flags.add_display(parser, attention=False)


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--tokenizer", choices=("char", "bpe"), help="what a token is (char)")
    size = flags.whole_number(LEAST)
    add("--vocab-size", type=size, metavar="N", help=f"tokens of bpe ({VOCAB_SIZE})")
    add(
        "--tokenizer-file",
        type=flags.file_name,
        metavar="FILE",
        help="instead: a tokenizer.json (bpe)",
    )
    add(
        "--workers",
        type=flags.whole_number(1),
        metavar="N",
        help="processes that encode (one for each core; one for a small text)",
    )


def run(args: argparse.Namespace) -> int:
    """Read, split, learn the tokens, encode, write; then print what was written."""
    _check_flags(args)
    _check_out(args.out)
    with alone(args.out):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    progress = Progress(sys.stderr, style_for(sys.stderr, args.color), 0, 0, args.quiet)
    texts = _texts(args, progress)
    tokenizer = _tokenizer(args, texts, progress)
    if tokenizer.vocab_size > MOST_IDS:
        raise UserError(
            f"a vocabulary of {tokenizer.vocab_size:,} tokens does not fit in two bytes each; "
            f"{MOST_IDS:,} are the most"
        )
    description = _write(args, texts, tokenizer, progress)
    print(_table(texts, description))
    progress.note("")
    progress.note(
        f"saved {args.out} and {description_path(args.out).name}. To train on it, type",
        to_type("train", {"--data": str(args.out)}),
    )
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    """Raises UsageError for flags that do not go together."""
    if args.tokenizer_file and (args.tokenizer == "char" or args.vocab_size):
        raise UsageError(
            "--tokenizer-file is a finished bpe; leave out what would describe another"
        )
    if args.vocab_size and args.tokenizer != "bpe":
        raise UsageError("--vocab-size is for --tokenizer bpe; characters are as many as there are")
    if args.vocab_size and args.vocab_size > MOST_IDS:
        raise UsageError(
            f"--vocab-size {args.vocab_size:,} does not fit in two bytes for each token; "
            f"{MOST_IDS:,} is the most"
        )


def _check_out(out: Path) -> None:
    """Raises UserError if the files cannot be written, or would replace what `prepare` has not."""
    if str(out) == "-":
        raise UsageError("--out - would be a file of that name; ids go to a file, name one")

    def is_prepared() -> bool:
        try:
            return bool(read_description(out))
        except TokenFileError:
            return False

    beside = description_path(out)
    check_out(
        out,
        is_prepared,
        f"{out}, or {beside.name}, exists and is not from tiny-lm prepare; choose another --out",
        [out, beside],
    )


# ---------------------------------------------------------------- what there is


def _texts(args: argparse.Namespace, progress: Progress) -> Texts:
    """Everything read once. Raises UserError for what cannot be read, or if there is nothing."""
    alphabet: set[str] = set()
    wanted = None if args.tokenizer == "bpe" or args.tokenizer_file else alphabet
    documents, left_out, pictures, empty = [], [], [], 0
    for path, is_named in _paths(args):
        if path.suffix.lower() in DRAWINGS and not is_named:
            pictures.append(path)
            continue
        progress.status(f"reading {path}")
        try:
            document = scan(path, args.encoding, wanted)
        except NotText as error:
            if is_named:
                raise UserError(str(error)) from None
            left_out.append(path)
            continue
        empty += not document.characters
        documents += [document] * bool(document.characters)
    progress.clear()
    if left_out:
        progress.fact("left out:", f"not {args.encoding} text: {_named(left_out)}")
    if pictures:
        progress.fact("left out:", f"pictures, unless --glob names them: {_named(pictures)}")
    if empty:
        progress.fact("left out:", f"{empty:,} empty {'file' if empty == 1 else 'files'}")
    if not documents:
        raise UserError(f"there is no text in {_named(args.files)}; give some to learn from")
    texts = Texts(documents, *parts(documents, args.val_fraction), alphabet)
    progress.fact("text:", f"{texts.characters:,} characters, {_split_text(texts)}")
    return texts


def _paths(args: argparse.Namespace) -> Iterator[tuple[Path, bool]]:
    """Each file once, in order, and whether the user asked for it. Raises UserError."""
    own = {os.path.realpath(file) for file in (args.out, description_path(args.out))}
    seen = set(own)
    for named in args.files:
        if named.is_dir():
            found = files_in(named, args.glob or "*")
            if not found:
                raise UserError(f"the folder {named} holds no files {args.glob or ''}".rstrip())
        elif named.is_file():
            found = [named]
        else:
            _refuse(named)
        if found == [named] and os.path.realpath(named) in own:
            raise UserError(f"{named} is what --out is about to replace; choose another --out")
        for path in found:
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                yield path, bool(args.glob) or path is named


def _refuse(path: Path) -> NoReturn:
    """Raises UserError for what is no file."""
    try:
        path.stat()
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; give texts, or folders full of them") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give texts") from None
    raise UserError(f"{path} is no regular file, and prepare reads a text twice; save it")


def _named(paths: list[Path]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(paths) - 3:,} more" if len(paths) > 3 else ""
    return ", ".join(map(shown, paths[:3])) + more


def _split_text(texts: Texts) -> str:
    if len(texts.documents) == 1:
        return f"of which the last {texts.val[0].characters:,} are held out for validation"
    return (
        f"in {len(texts.documents):,} documents, of which {len(texts.val):,} are held out for "
        f"validation"
    )


# ---------------------------------------------------------------- what becomes of it


def _tokenizer(args: argparse.Namespace, texts: Texts, progress: Progress) -> Tokenizer:
    """The one that the flags ask for; what there is to learn comes from the training part."""
    if args.tokenizer_file:
        tokenizer: Tokenizer = load_tokenizer(args.tokenizer_file)
        text = f"{tokenizer.vocab_size:,} tokens, from {args.tokenizer_file}"
    elif args.tokenizer == "bpe":
        progress.status("learning tokens")
        size = args.vocab_size or VOCAB_SIZE
        tokenizer, characters = learn(texts.train, size, _workers(args, texts))
        progress.clear()
        text = (
            f"{tokenizer.vocab_size:,} tokens, learned from the first {characters:,} characters "
            f"of the training part"
        )
    else:
        several = len(texts.documents) > 1
        tokenizer = CharTokenizer(sorted(texts.alphabet | set(NEWLINE * several)))
        text = f"{tokenizer.vocab_size:,} different characters"
    progress.fact("tokenizer:", f"{tokenizer.kind}, {text}")
    return tokenizer


def _workers(args: argparse.Namespace, texts: Texts) -> int:
    """How many processes encode."""
    return args.workers or (1 if texts.characters < SMALL else cores())


def _separator(args: argparse.Namespace, texts: Texts, tokenizer: Tokenizer) -> Optional[int]:
    """The token behind each document; None for a single one. Raises UserError if there is none."""
    if len(texts.documents) == 1:
        return None
    if isinstance(tokenizer, BPETokenizer):
        if END_OF_TEXT not in tokenizer.special_tokens:
            raise UserError(
                f"{args.tokenizer_file} has no {END_OF_TEXT}, which separates documents; give one "
                f"document, or another tokenizer"
            )
        return tokenizer.special_tokens[END_OF_TEXT]
    return tokenizer.encode(NEWLINE)[0]


def _write(
    args: argparse.Namespace, texts: Texts, tokenizer: Tokenizer, progress: Progress
) -> Description:
    """Encode both parts and write the pair of files. Raises UserError if that fails."""
    separator = _separator(args, texts, tokenizer)
    count = len(texts.documents)
    watch = _Watch(progress, texts.characters)
    try:
        with writing(args.out), encoder(tokenizer, _workers(args, texts)) as encode:
            train, val = (
                encode(jobs((watch.blocks(span, tokenizer) for span in spans), separator))
                for spans in (texts.train, texts.val)
            )
            return write_tokens(
                args.out, train, val, tokenizer.state(), count, len(texts.val) * (count > 1)
            )
    finally:
        progress.clear()


class _Watch:
    """Counts the characters that go to the encoder, and says how far it is."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total = progress, total
        self.done, self.began = 0, time.monotonic()

    def blocks(self, span: Span, tokenizer: Tokenizer) -> Iterator[str]:
        """The span in blocks whose ids do not depend on where they end."""
        blocks = span.blocks()
        for block in blocks if tokenizer.kind == "char" else whole_pieces(blocks):
            yield block
            self.done += len(block)
            seconds = max(time.monotonic() - self.began, 1e-9)
            left = seconds * (self.total - self.done) / self.done
            self.progress.status(
                f"encoding  {self.done / self.total:4.0%}  "
                f"{self.done / seconds:,.0f} characters/s  {clock(left)} left"
            )


def _table(texts: Texts, description: Description) -> str:
    """What was written, part by part."""
    several = len(texts.documents) > 1
    tokens = description.train_tokens, description.tokens - description.train_tokens
    lines = [f"{'':<17}{'documents':>11}{'characters':>15}{'tokens':>15}{'characters/token':>18}"]
    for name, spans, count in zip(("training part", "validation part"), texts[1:3], tokens):
        characters = sum(span.characters for span in spans)
        number = f"{len(spans):,}" if several or name == "training part" else "its end"
        ratio = f"{characters / count:.2f}"
        lines.append(f"{name:<17}{number:>11}{characters:>15,}{count:>15,}{ratio:>18}")
    return "\n".join([*lines, f"SHA-256 {description.sha256}"])
