"""tiny-lm walk: a prompt goes once through the modern block, and every stage is shown."""

from __future__ import annotations

import argparse
import sys

from tiny_llm.cli import options as flags
from tiny_llm.cli.material import Material, read_source
from tiny_llm.cli.runs import Run
from tiny_llm.cli.sample import print_sample, prompt_of
from tiny_llm.cli.setup import begin, steps_of
from tiny_llm.view.progress import Progress
from tiny_llm.view.terminal import style_for
from tiny_llm.view.walk import walk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `walk`."""
    parser.description = (
        "Take a prompt once through the modern block (rung 3) and show every stage "
        "with its shape: with random weights, and with --train after training, too."
    )
    parser.set_defaults(command=run, model="modern")
    parser.add_argument("--train", action="store_true", help="train, then walk once more")
    flags.add_cutting(flags.add_data_group(parser))
    flags.add_sizes(parser)
    flags.add_training(parser)
    flags.add_sampling(parser)
    flags.add_display(parser)


def run(args: argparse.Namespace) -> int:
    """Walk; with --train, train and walk again. Nothing is saved."""
    current, material = begin(args, read_source(args.data, args.encoding))
    show_attention, args.show_attention = args.show_attention, False  # print_sample shows it, too
    _walk(current, args, show_attention, "before training: all weights are random")
    if args.train:
        _train(current, material, args)
        title = f"after {current.step} steps of training"
        _walk(current, args, show_attention, title)
    return 0


def _walk(current: Run, args: argparse.Namespace, show_attention: bool, title: str) -> None:
    """Every stage of the prompt's way through the model, then a sample."""
    prompt = prompt_of(current, args)
    style = style_for(sys.stdout, args.color)
    print(f"=== {title} ===\n")
    for line in walk(current.model, current.tokenizer, prompt, style, show_attention):
        print(line)
    print(f"\n--- a sample {title} ---\n", flush=True)
    print_sample(current, args, current.options.seed)
    print(flush=True)


def _train(current: Run, material: Material, args: argparse.Namespace) -> None:
    """Train with progress and nothing else."""
    style = style_for(sys.stderr, args.color)
    progress = Progress(sys.stderr, style, current.options.steps, 0, args.quiet)
    for step in steps_of(current, material):
        progress.step(step)
    progress.clear()
