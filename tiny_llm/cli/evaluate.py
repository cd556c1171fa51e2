"""tiny-lm eval: how well a saved model predicts a text."""

from __future__ import annotations

import argparse
import math
import re
from typing import Optional

from tiny_llm.cli import options as flags
from tiny_llm.cli.generate import open_checkpoint
from tiny_llm.cli.task import print_task
from tiny_llm.fast.packed import quantize
from tiny_llm.fast.tensors import check_finite
from tiny_llm.run.begin import VAL_TOKENS
from tiny_llm.run.errors import UserError
from tiny_llm.run.saved import Run, is_packed
from tiny_llm.run.sources import TASK, Material, Source, read_source
from tiny_llm.run.without_head import switch_off
from tiny_llm.text.corpus import Corpus, Spread
from tiny_llm.text.shown import shown
from tiny_llm.text.yardsticks import bigram_loss, guessing_loss
from tiny_llm.training import evaluate
from tiny_llm.view.terminal import tell

LONGEST_WINDOW = 64  # tokens of context for a model of another program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `eval`."""
    parser.description = (
        "Loss, perplexity and bits per character of a saved model on a text. The text "
        "that it was trained on is split as it was then: the validation part is new to the model, "
        "and of the training part as much is predicted, evenly spread over it."
    )
    parser.set_defaults(command=run)
    flags.add_checkpoint(parser)
    flags.add_int8(parser)
    flags.add_data(parser)
    parser.add_argument(
        "--without-head",
        type=layer_and_head,
        action="append",
        default=[],
        metavar="LAYER.HEAD",
        help="switch an attention head off, for example 1.1: what is lost is what it did",
    )
    flags.add_display(parser, attention=False)


def layer_and_head(text: str) -> tuple[int, int]:
    """Two whole numbers with a point between them, from 1."""
    found = re.fullmatch(r"([1-9]\d{0,8})\.([1-9]\d{0,8})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no head; 1.2 is layer 1, head 2")
    return int(found[1]), int(found[2])


def run(args: argparse.Namespace) -> int:
    """Print a table: a row for each part of the text, and for each yardstick."""
    current = open_checkpoint(args)
    tokenizer, options = current.tokenizer, current.options
    try:
        for head in args.without_head:
            switch_off(current.model, *head)
    except ValueError as error:
        raise UserError(str(error)) from None
    is_task = options.task and not args.data
    source = read_source(TASK + options.task if is_task else args.data, args.encoding)
    material, held_out = _material(current, source)
    model, without = current.model, _without(args.without_head)
    exact = model.parameters
    if args.int8 and not is_packed(model):
        model.parameters = dict(exact)
        quantize(model)
    if material and material.task:
        print_task(current, material, without)
        if model.parameters is not exact:
            model.parameters = exact
            print_task(current, material, "not rounded, ")
        return 0
    if len(held_out.ids) < 2:
        raise UserError(f"{source.name} has too few tokens: one to see, and one to predict")
    if not (material or args.data):
        tell(f"{source.name} is not the text that it was trained on; --data names one")
    if current.came_from and model.config.context_length > LONGEST_WINDOW and not args.quiet:
        tell(f"each token is predicted from the {LONGEST_WINDOW} before it at most")
    unit = tokenizer.unit + "s"
    print(f"{without:<32}{unit:>11}{'nats':>8}{'perplexity':>12}{'bits per char':>15}")
    name = f"{source.name}{source.what_is_measured}"
    if material:
        name = "validation part"
        _print_own(material, current)
    else:
        _print_part(name, held_out, current)
    if model.parameters is not exact:
        model.parameters = exact
        _print_part(f"{name}, not rounded", held_out, current)
    guess = guessing_loss(tokenizer.vocab_size)
    _print_row("guessing", "", guess, _ratio(held_out, current))
    return 0


def _material(current: Run, source: Source) -> tuple[Optional[Material], Corpus]:
    """The text as the model was trained on it, if it was, and the part that is new to it.

    Raises UserError if the model cannot read it.
    """
    options = current.options
    is_own = source.sha256 == options.text_sha256 and not options.stage
    try:
        if is_own:
            material = source.known(current.tokenizer, options.val_fraction, options.lines)
            return material, material.val
        return None, source.unsplit(current.tokenizer, options.lines)
    except ValueError as error:
        other = f"{source.name} is not the text that it was trained on (--data names one), and "
        raise UserError(f"{'' if is_own else other}{error}") from None


def _without(heads: list[tuple[int, int]]) -> str:
    """Which heads are off, as the table says it."""
    return "".join(f"without head {layer}.{head} " for layer, head in heads)


def _print_own(material: Material, current: Run) -> None:
    """The parts of the text that the model was trained on, as it was split then."""
    held_out = len(material.val.ids) - 1
    is_longer = len(material.train.ids) - 1 > held_out
    name = f"training part{', as much of it' if is_longer else ''}"
    _print_part(name, material.train, current, held_out)
    _print_part("validation part", material.val, current)
    if held_out > VAL_TOKENS:
        _print_part("  of it, measured in training", material.val, current, VAL_TOKENS)
    pairs = bigram_loss(material.train.ids, material.val.ids, current.tokenizer.vocab_size)
    _print_row("counting pairs, validation part", "", pairs, _ratio(material.val, current))


def _ratio(part: Corpus, current: Run) -> float:
    """Tokens predicted for one character of the part."""
    ids = part.ids[1:]  # the first is not predicted
    return len(ids) / max(1, len(current.tokenizer.decode(ids)))


def _print_part(name: str, part: Corpus, current: Run, predictions: Optional[int] = None) -> None:
    """A row for a part; with `predictions`, for about so many of its tokens, evenly spread."""
    model, tokens = current.model, len(part.ids)
    length = model.config.context_length
    if current.came_from:  # of a model that sees thousands of tokens, they would take hours
        length = min(length, LONGEST_WINDOW)
    examples = part.examples(length, model.predicts_every_token)
    if predictions and predictions < tokens - 1:
        examples, tokens = Spread(examples, predictions), predictions
    loss = evaluate(model, examples)
    check_finite([[loss]])
    _print_row(name, f"{tokens:,}", loss, _ratio(part, current))


def _print_row(name: str, count: str, loss: float, tokens_per_character: float) -> None:
    """One line of the table; a nat is 1 / ln 2 bits, and perplexity e to the loss."""
    perplexity = math.exp(min(loss, 700.0))  # beyond that a float cannot hold it
    bits = loss * tokens_per_character / math.log(2)
    numbers = f"{_figure(loss, 3):>8}{_figure(perplexity, 2):>12}{_figure(bits, 3):>15}"
    print(f"{shown(name)[-31:]:<32}{count:>11}{numbers}", flush=True)


def _figure(value: float, digits: int) -> str:
    """A number with these decimals, as long as it fits in its column."""
    return f"{value:.{digits}f}" if value < 1000 * 10**digits else f"{value:.1e}"
