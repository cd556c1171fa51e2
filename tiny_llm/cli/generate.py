"""tiny-lm generate: continue a prompt with a saved model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from tiny_llm.cli import options as flags
from tiny_llm.cli.sample import print_sample
from tiny_llm.fast.packed import quantize
from tiny_llm.fast.shared import shared
from tiny_llm.fast.workers import WorkerDied
from tiny_llm.run.errors import UserError, program
from tiny_llm.run.models import open_model
from tiny_llm.run.saved import LEFT_OUT, Run, is_packed, newest_checkpoint
from tiny_llm.text.shown import shown
from tiny_llm.view.heads import has_attention
from tiny_llm.view.terminal import tell

LARGE = 20_000_000  # bytes of a file that takes seconds to read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `generate`."""
    parser.description = "Continue a prompt with a saved model."
    parser.set_defaults(command=run)
    flags.add_checkpoint(parser)
    flags.add_int8(parser)
    flags.add_sampling(parser)
    flags.add_sharing(parser)
    flags.add_seed(parser)
    flags.add_display(parser)


def run(args: argparse.Namespace) -> int:
    """Print the prompt and its continuations."""
    current = open_checkpoint(args)
    if args.int8:
        quantize(current.model)
    try:
        current.tokenizer.encode(args.stop or "")
    except ValueError as error:
        raise UserError(f"--stop can never come: {error}") from None
    if args.show_attention and not has_attention(current.model):
        raise UserError(
            f"the model is {current.rung}, which has no attention to show; "
            f"train one that has: {program()} train --model attention"
        )
    with sharing(current, args.workers):
        print_sample(current, args, args.seed or 0)
    return 0


@contextmanager
def sharing(current: Run, workers: int) -> Iterator[None]:
    """Within, so many processes multiply. Raises UserError where they cannot."""
    if workers > 1 and not is_packed(current.model):
        raise UserError("--workers share int8 weights, and these are none; add --int8")
    try:
        with shared(current.model, workers):
            yield
    except WorkerDied as error:
        raise UserError(f"{error}; try again, or without --workers") from None


def open_checkpoint(args: argparse.Namespace, to_train: bool = False) -> Run:
    """The run in --checkpoint, or in the newest one of runs/, which is then named."""
    path = flags.checkpoint_of(args) or newest_checkpoint()
    if not args.quiet and path.is_file() and path.stat().st_size > LARGE:
        tell(f"reading {path} ...")
    current = open_model(path, to_train, getattr(args, "int8", False))
    if not args.quiet:
        kind = ", int8 weights" if is_packed(current.model) else ""
        begun = f"from {current.came_from}" if current.came_from else f"step {current.step}"
        tell(f"{path}: {current.rung}, {begun}{kind}")
        if current.unknown:
            tell(LEFT_OUT + ", ".join(map(shown, current.unknown)))
    return current
