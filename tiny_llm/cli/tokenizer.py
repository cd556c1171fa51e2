"""tiny-lm tokenizer: learn a vocabulary from a text, and show how a text becomes tokens."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tiny_llm.cli import options as flags
from tiny_llm.files import atomic, bpe_files
from tiny_llm.files.token_file import is_token_file
from tiny_llm.run.errors import UserError, alone, check_out, writing
from tiny_llm.run.saved import RUNS
from tiny_llm.run.texts import Text, read_text
from tiny_llm.run.tokenizer_files import VOCAB_SIZE, load_tokenizer
from tiny_llm.text.bpe import END_OF_TEXT, BPETokenizer
from tiny_llm.view.progress import Progress
from tiny_llm.view.terminal import Style, style_for, tell, visible
from tiny_llm.view.tokens import explain

LEAST = 256 + 1  # the bytes and END_OF_TEXT
FIRST, LONGEST = 12, 8  # merged tokens that `train` shows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command lines of `tokenizer train` and `tokenizer show`."""
    parser.description = "Byte-level byte-pair encoding, as in GPT-2."
    parts = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_train(parts)
    _add_show(parts)


def _add_train(parts: Any) -> None:
    parser = parts.add_parser(
        "train",
        help="learn a vocabulary from a text and save it",
        description="Learn a vocabulary from a text: the 256 bytes, what the most frequent pairs "
        f"make when they are merged again and again, and {END_OF_TEXT}.",
    )
    parser.set_defaults(command=run_train)
    flags.add_data(parser)
    parser.add_argument(
        "--vocab-size",
        type=flags.whole_number(LEAST),
        default=VOCAB_SIZE,
        metavar="N",
        help="tokens in all (%(default)s)",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=flags.file_name,
        default=RUNS / bpe_files.WHOLE,
        metavar="FILE.json|FOLDER",
        help=f"one file as Hugging Face has it, or a folder for GPT-2's {bpe_files.VOCAB} and "
        f"{bpe_files.MERGES} (%(default)s)",
    )
    flags.add_display(parser, attention=False)


def _add_show(parts: Any) -> None:
    parser = parts.add_parser(
        "show",
        help="the pieces of a text, their ids, and the merges that made them",
        description="Show how a text becomes tokens: its pieces, their ids, and the merges that "
        "made them, step by step.",
    )
    parser.set_defaults(command=run_show)
    parser.add_argument("text", help="the text to show")
    parser.add_argument(
        "--tokenizer",
        type=flags.file_name,
        metavar="FILE",
        help=f"a tokenizer.json, a folder with {bpe_files.VOCAB} and {bpe_files.MERGES}, or a GGUF "
        f"file "
        f"(one of {VOCAB_SIZE} tokens that is learned from the built-in corpus on the spot)",
    )
    flags.add_display(parser, attention=False)


def run_train(args: argparse.Namespace) -> int:
    """Learn, say what was learned, save."""
    style = style_for(sys.stderr, args.color)
    progress = Progress(sys.stderr, style, 0, 0, args.quiet)
    if args.data and is_token_file(args.data):
        raise UserError(f"{args.data} holds tokens already; give the text that they came from")
    text = read_text(args.data, args.encoding)
    _check_out(args.out)
    with alone(args.out):
        return _learn(text, args, style, progress)


def _learn(text: Text, args: argparse.Namespace, style: Style, progress: Progress) -> int:
    tokenizer = BPETokenizer.train(text.content, args.vocab_size)
    size, tokens = len(text.content.encode("utf-8")), len(tokenizer.encode(text.content))
    progress.fact(
        "text:",
        f"{text.name}, {size:,} bytes, which are now {tokens:,} tokens: "
        f"{size / tokens:.2f} bytes per token",
    )
    progress.fact("tokens:", _size_text(tokenizer, args.vocab_size))
    _describe(tokenizer, style, progress)
    for file in _save(tokenizer, args.out, progress):
        progress.note(f"saved {file}")
    return 0


def _size_text(tokenizer: BPETokenizer, asked: int) -> str:
    merged = tokenizer.vocab_size - LEAST
    text = f"{tokenizer.vocab_size:,}: 256 bytes, {merged:,} merged ones, {END_OF_TEXT}"
    if tokenizer.vocab_size < asked:
        text += f"; not {asked:,}, for no pair occurs twice any more"
    return text


def _describe(tokenizer: BPETokenizer, style: Style, progress: Progress) -> None:
    """The tokens that were made first, and the longest ones."""
    merged = [
        visible(tokenizer.token_bytes(token).decode("utf-8", "backslashreplace"), style)
        for token in range(256, tokenizer.vocab_size - 1)
    ]
    if merged:
        progress.fact("first:", " ".join(merged[:FIRST]))
        progress.fact("longest:", " ".join(sorted(merged, key=len, reverse=True)[:LONGEST]))


def _check_out(out: Path) -> None:
    """Raises UserError for a place that cannot be written, or that holds something else."""
    if out.suffix != ".json" and out.is_file():
        raise UserError(f"{out} is a file; name one that ends in .json, or a folder")

    def is_tokenizer() -> bool:
        try:
            return bool(bpe_files.load(out))
        except (ValueError, OSError):
            return False

    problem = f"{out} exists and is no tokenizer, or a damaged one; choose another --out"
    check_out(out, is_tokenizer, problem, bpe_files.files_of(out))


def _save(tokenizer: BPETokenizer, out: Path, progress: Progress) -> list[Path]:
    """Write the files; older ones are kept as .bak. Raises UserError if that fails."""
    with writing(out):
        for file in bpe_files.files_of(out):
            backup = atomic.keep_old(file)
            if backup:
                progress.note(f"the older {file} is kept as {backup}")
        return bpe_files.save(tokenizer, out)


def run_show(args: argparse.Namespace) -> int:
    """Print how the text becomes tokens."""
    if args.tokenizer:
        tokenizer, name = load_tokenizer(args.tokenizer), str(args.tokenizer)
    else:
        corpus = read_text(None, "utf-8")
        tokenizer = BPETokenizer.train(corpus.content, VOCAB_SIZE)
        name = f"learned from {corpus.name} just now; --tokenizer FILE takes another"
    if not args.quiet:
        tell(f"tokenizer: {tokenizer.vocab_size:,} tokens, {name}")
        tell("")
    for line in explain(tokenizer, args.text, style_for(sys.stdout, args.color)):
        print(line.rstrip())
    return 0
