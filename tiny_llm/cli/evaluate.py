"""tiny-lm eval: how well a saved model predicts a text."""

from __future__ import annotations

import argparse
import math
from typing import Any

from tiny_llm.batches import split
from tiny_llm.cli import options as flags
from tiny_llm.cli.errors import UserError
from tiny_llm.cli.generate import open_checkpoint
from tiny_llm.cli.runs import Run
from tiny_llm.cli.texts import Text, read_text
from tiny_llm.training import evaluate
from tiny_llm.yardsticks import bigram_loss, guessing_loss


def add_parser(commands: Any) -> None:
    """The command line of `eval`."""
    parser = commands.add_parser(
        "eval",
        help="loss, perplexity and bits per character of a saved model on a text",
        description="Loss, perplexity and bits per character of a saved model on a text. The text "
        "that it was trained on is split as it was then: the validation part is new to the model.",
    )
    parser.set_defaults(command=run)
    flags.add_checkpoint(parser)
    flags.add_data(parser)
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Print a table: a row for each part of the text, and for each yardstick."""
    current = open_checkpoint(args)
    text = read_text(args.data, args.encoding)
    ids = _encode(current, text)
    vocab_size = current.tokenizer.vocab_size
    if text.sha256 == current.options.text_sha256:
        train, val = split(ids, current.options.val_fraction)
        parts = [("training part", train), ("validation part", val)]
        yardsticks = [("counting pairs, validation part", bigram_loss(train, val, vocab_size))]
    else:
        parts, yardsticks = [(text.name, ids)], []
    rows = [_row(name, f"{len(part):,}", evaluate(current.model, part)) for name, part in parts]
    print(f"{'':<32}{'characters':>11}{'nats':>8}{'perplexity':>12}{'bits per char':>15}")
    print("\n".join(rows))
    for name, loss in [*yardsticks, ("guessing", guessing_loss(vocab_size))]:
        print(_row(name, "", loss))
    return 0


def _encode(current: Run, text: Text) -> list[int]:
    """The ids of the text. Raises UserError for characters that the model does not know."""
    try:
        return current.tokenizer.encode(text.content)
    except ValueError as error:
        other = f"it was trained on another text than {text.name}, name one with --data; "
        is_other = text.sha256 != current.options.text_sha256
        raise UserError(f"{other if is_other else ''}{error}") from None


def _row(name: str, count: str, loss: float) -> str:
    """One line of the table; a nat is 1 / ln 2 bits, and perplexity e to the loss."""
    perplexity = math.exp(min(loss, 700.0))  # beyond that a float cannot hold it
    return f"{name[-31:]:<32}{count:>11}{loss:>8.3f}{perplexity:>12.2f}{loss / math.log(2):>15.3f}"
