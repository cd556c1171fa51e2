"""tiny-lm trace: one training step, told with its real numbers, from text to updated weight."""

from __future__ import annotations

import argparse
import random
import sys
from typing import Any, NamedTuple

from tiny_llm.cli import options as flags
from tiny_llm.cli.generate import open_checkpoint
from tiny_llm.fast.writer import Writer
from tiny_llm.model import LanguageModel
from tiny_llm.run.begin import schedule_of
from tiny_llm.run.errors import UsageError
from tiny_llm.run.options import Options
from tiny_llm.run.rungs import RUNGS, build_config, build_optimizer, flag
from tiny_llm.run.sources import read_source
from tiny_llm.run.texts import choose_prompt
from tiny_llm.sampling import Sampling
from tiny_llm.text.tokenizers import Tokenizer
from tiny_llm.view.terminal import style_for
from tiny_llm.view.trace.step import as_json, trace, trace_forward
from tiny_llm.view.trace.text import as_lines, short_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `trace`."""
    parser.description = (
        "Show one training step with its real numbers, from the text to the updated weight: of a "
        "new model with random weights, or of a saved one. Nothing is saved."
    )
    parser.set_defaults(command=run)
    parser.add_argument("--model", choices=RUNGS, help="a rung of the ladder (mlp)")
    parser.add_argument(
        "-c",
        "--checkpoint",
        type=flags.file_name,
        metavar="FILE",
        help="a saved model, with its own optimizer and learning rate, as --lr says (a new model)",
    )
    parser.add_argument(
        "-p",
        "--prompt",
        type=flags.prompt_text,
        help="the text to learn from; its last token is the last one to predict",
    )
    parser.add_argument(
        "--full", action="store_true", help="all numbers and the code that made them (two screens)"
    )
    parser.add_argument("--json", action="store_true", help="the same facts for machines")
    parser.add_argument(
        "--forward-only", action="store_true", help="from the text to the probabilities, no more"
    )
    parser.add_argument(
        "--show-attention", action="store_true", help="scores and weights of all heads, key by key"
    )
    flags.add_cutting(flags.add_data(parser))
    flags.add_sizes(parser)
    group = parser.add_argument_group("training")
    flags.add_option(group, "optimizer")
    flags.add_option(group, "learning_rate")
    flags.add_seed(parser)
    flags.add_display(parser, attention=False)


class _Start(NamedTuple):
    """What a trace begins with."""

    model: LanguageModel
    tokenizer: Tokenizer
    optimizer: Any
    prompt: str
    grad_clip: float
    steps: int


def run(args: argparse.Namespace) -> int:
    """Print the trace."""
    start = _saved(args) if args.checkpoint else _new(args)
    if args.forward_only:
        told = trace_forward(start.model, start.tokenizer, start.prompt, start.steps)
    else:
        told = trace(*start[:-1])
    if args.json:
        print(as_json(told))
        return 0
    style = style_for(sys.stdout, args.color)
    is_full = args.full or args.show_attention
    for line in as_lines(told, style, args.show_attention) if is_full else short_lines(told, style):
        print(line)
    return 0


def _new(args: argparse.Namespace) -> _Start:
    """A new model that knows the alphabet of the text."""
    name = args.model or "mlp"
    rung = RUNGS[name]
    material = read_source(args.data, args.encoding).new(flags.cut_of(args))
    tokenizer = material.tokenizer
    config = build_config(name, tokenizer.vocab_size, flags.sizes_of(args))
    prompt = choose_prompt(args.prompt, tokenizer, material.lines, material.beginning)
    if args.prompt is None and len(tokenizer.encode(prompt)) < 2:  # nothing to predict in it
        prompt = tokenizer.decode(material.train.ids[: config.context_length + 1])
    given = {"optimizer": args.optimizer, "learning_rate": args.learning_rate}
    given = {name: value for name, value in given.items() if value is not None}
    options = Options(**{**rung.options, **given})
    optimizer = build_optimizer(options)
    optimizer.learning_rate = args.learning_rate or _share(options, options.learning_rate)
    return _Start(rung.model(config, args.seed or 0), tokenizer, optimizer, prompt, 0.0, 0)


def _saved(args: argparse.Namespace) -> _Start:
    """The model in --checkpoint, ready for its next step."""
    cutting = ("data", "lines", "tokenizer", "tokenizer_file", "vocab_size")
    for name in sorted({"optimizer", "seed", *cutting, *flags.SIZES}):
        if getattr(args, name) is not None:
            raise UsageError(f"{flag(name)} is for a new model; leave it out with --checkpoint")
    saved = open_checkpoint(args, to_train=not args.forward_only)
    if args.model not in (None, saved.rung):
        raise UsageError(f"{args.checkpoint} is no {args.model}: it is {saved.rung}")
    model, tokenizer, options = saved.model, saved.tokenizer, saved.options
    rate = schedule_of(options)(saved.step)
    saved.optimizer.learning_rate = args.learning_rate or _share(options, rate)
    prompt = choose_prompt(args.prompt, tokenizer, options.lines, options.text_beginning)
    if args.prompt is None and len(tokenizer.encode(prompt)) < 2:  # nothing to predict in it
        prompt = _continued(model, tokenizer, prompt)
    return _Start(model, tokenizer, saved.optimizer, prompt, options.grad_clip, saved.step)


def _share(options: Options, rate: float) -> float:
    """The rate of a step for one text: its share of a step that training makes for a whole batch.

    With all of the rate, a text that is alone would be learned by heart at once.
    """
    return rate / options.batch_size


def _continued(model: LanguageModel, tokenizer: Tokenizer, prompt: str) -> str:
    """What the model itself would write most likely, until the context is full or a line ends."""
    ids = tokenizer.encode(prompt)
    rng = random.Random(0)  # not drawn from at temperature 0
    writer = Writer(model, ids, [rng], Sampling(temperature=0))
    for _ in range(model.config.context_length):
        ids.append(writer.step()[0])
        if ids[-1] == ids[0]:
            break
    return tokenizer.decode(ids)
