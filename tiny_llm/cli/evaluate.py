"""tiny-lm eval: how well a saved model predicts a text."""

from __future__ import annotations

import argparse
import math

from tiny_llm.cli import options as flags
from tiny_llm.cli.errors import UserError
from tiny_llm.cli.generate import open_checkpoint
from tiny_llm.cli.material import Material, Source, known_material, read_source, whole
from tiny_llm.cli.runs import Run
from tiny_llm.text.corpus import Corpus
from tiny_llm.text.yardsticks import bigram_loss, guessing_loss
from tiny_llm.training import evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `eval`."""
    parser.description = (
        "Loss, perplexity and bits per character of a saved model on a text. The text "
        "that it was trained on is split as it was then: the validation part is new to the model, "
        "and of the training part as much is predicted."
    )
    parser.set_defaults(command=run)
    flags.add_checkpoint(parser)
    flags.add_data(parser)
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Print a table: a row for each part of the text, and for each yardstick."""
    current = open_checkpoint(args)
    source = read_source(args.data, args.encoding)
    material = _material(current, source)
    vocab_size = current.tokenizer.vocab_size
    print(f"{'':<32}{material.unit + 's':>11}{'nats':>8}{'perplexity':>12}{'bits per char':>15}")
    if source.sha256 == current.options.text_sha256:
        train = material.train.beginning(len(material.val.ids) - 1)
        all_of_it = len(train.ids) == len(material.train.ids)
        _print_part(f"training part{'' if all_of_it else ', its beginning'}", train, current)
        _print_part("validation part", material.val, current)
        pairs = bigram_loss(material.train.ids, material.val.ids, vocab_size)
        _print_row("counting pairs, validation part", "", pairs, _ratio(material.val, current))
    else:
        name = f"{material.name}{', validation part' if source.file else ''}"
        _print_part(name, material.val, current)
    _print_row("guessing", "", guessing_loss(vocab_size), _ratio(material.val, current))
    return 0


def _material(current: Run, source: Source) -> Material:
    """The text as the model reads it. Raises UserError for characters that it does not know."""
    options = current.options
    is_own = source.sha256 == options.text_sha256
    try:
        if is_own:
            return known_material(source, current.tokenizer, options.val_fraction, options.lines)
        return whole(source, current.tokenizer, options.lines)
    except ValueError as error:
        other = f"{source.name} is not the text that it was trained on (--data names one), and "
        raise UserError(f"{'' if is_own else other}{error}") from None


def _ratio(part: Corpus, current: Run) -> float:
    """Tokens predicted for one character of the part."""
    ids = part.ids[1:]  # the first is not predicted
    return len(ids) / max(1, len(current.tokenizer.decode(ids)))


def _print_part(name: str, part: Corpus, current: Run) -> None:
    loss = evaluate(
        current.model,
        part.examples(current.model.config.context_length, current.model.predicts_every_token),
    )
    _print_row(name, f"{len(part.ids):,}", loss, _ratio(part, current))


def _print_row(name: str, count: str, loss: float, tokens_per_character: float) -> None:
    """One line of the table; a nat is 1 / ln 2 bits, and perplexity e to the loss."""
    perplexity = math.exp(min(loss, 700.0))  # beyond that a float cannot hold it
    bits = loss * tokens_per_character / math.log(2)
    print(f"{name[-31:]:<32}{count:>11}{loss:>8.3f}{perplexity:>12.2f}{bits:>15.3f}", flush=True)
