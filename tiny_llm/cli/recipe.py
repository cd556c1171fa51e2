"""tiny-lm recipe: all stages of a recipe, one after the other."""

from __future__ import annotations

import argparse

from tiny_llm.cli import entry
from tiny_llm.cli import options as flags
from tiny_llm.cli.recipes import parts_of, recipes
from tiny_llm.run.errors import to_type
from tiny_llm.view.terminal import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `recipe`."""
    parser.description = (
        "Run all stages of a recipe, one after the other: train, sft and dpo, as far as it has "
        "them. Each can be run alone with its --recipe."
    )
    parser.set_defaults(command=run)
    parser.add_argument("name", help=f"{', '.join(recipes())}, or a file of your own")
    flags.add_option(parser, "workers")
    flags.add_seed(parser)
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Run them, as far as they go well. Exit code 0, or that of the one that did not."""
    given = {"--recipe": args.name, "--color": args.color}
    for name in ("workers", "seed"):
        if getattr(args, name) is not None:
            given[f"--{name}"] = str(getattr(args, name))
    switches = [f"--{name}" for name in ("quiet", "debug") if getattr(args, name)]
    words = [*(f"{flag}={value}" for flag, value in given.items()), *switches]
    commands = list(parts_of(args.name))
    for command in commands:
        entry.parsed([command, *words])  # what is wrong is told before anything begins
    for number, command in enumerate(commands, 1):
        if not args.quiet:
            for line in ("", to_type(command, {"--recipe": args.name}), ""):
                tell(line)
        code = entry.main([command, *words])
        if code:
            if commands[number:]:
                left = " and ".join(to_type(c, {"--recipe": args.name}) for c in commands[number:])
                tell(f"left of the recipe, to type when this one is done: {left}")
            return code
    return 0
