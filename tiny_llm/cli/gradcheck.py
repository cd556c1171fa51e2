"""tiny-lm gradcheck: every slope that a backward computes, against the slope that is measured."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tiny_llm.cli import options as flags
from tiny_llm.fast.products import use
from tiny_llm.gradcheck import ABSOLUTE, RELATIVE, check_model
from tiny_llm.run.errors import UsageError
from tiny_llm.run.rungs import RUNGS, build_config
from tiny_llm.run.texts import DEFAULT_PROMPT
from tiny_llm.tokenizer import CharTokenizer
from tiny_llm.view.terminal import style_for, tell, wrap

INTRODUCTION = (
    "{name}, made small for this ({sizes}), so that every slope of it can be measured. Each line "
    "shows the number of a parameter whose two slopes agree worst."
)
NAME = 24  # columns; a longer one has a line of its own
SMALL = {  # small enough that every number of every parameter is checked within seconds
    "mlp": {"context_length": 6, "d_embedding": 4, "d_hidden": 8},
    "attention": {"context_length": 6, "d_model": 8, "d_hidden": 8},
    "modern": {"context_length": 6, "d_model": 8, "n_heads": 2, "n_layers": 2},
    "llama": {"context_length": 6, "d_model": 8, "n_heads": 2, "n_kv_heads": 1, "d_hidden": 6},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `gradcheck`."""
    parser.description = (
        "Compare every slope that the hand-written backward of a small model computes "
        f"with the measured one. They agree when |a - n| <= {ABSOLUTE:g} + {RELATIVE:g} |n|."
    )
    parser.set_defaults(command=run)
    parser.add_argument("--model", choices=RUNGS, help="a rung of the ladder (all of them)")
    parser.add_argument("-p", "--prompt", type=flags.prompt_text, help="the text to check on")
    flags.add_sizes(parser, SMALL)
    flags.add_matmul(parser, "float64")
    flags.add_seed(parser)
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Check the rungs; exit code 1 if a slope is wrong."""
    prompt = args.prompt or DEFAULT_PROMPT
    vocab_size = CharTokenizer.from_text(prompt).vocab_size
    names = [args.model] if args.model else list(RUNGS)
    given = {name: value for name, value in flags.sizes_of(args).items() if value is not None}
    configs = {name: build_config(name, vocab_size, {**SMALL[name], **given}) for name in names}
    if not args.quiet:
        tell(f"prompt {prompt!r}")
    verdicts = [_check(name, config, prompt, args) for name, config in configs.items()]
    return 0 if all(verdicts) else 1


def _check(name: str, config: Any, prompt: str, args: argparse.Namespace) -> bool:
    """Check one rung on the prompt and print the worst number of each parameter."""
    seed = args.seed or 0
    tokenizer = CharTokenizer.from_text(prompt)
    model = RUNGS[name].model(config, seed=seed)
    ids = tokenizer.encode(prompt)
    way = flags.chosen_matmul(args.matmul, "float64")
    if way.endswith("lanes"):
        raise UsageError(f"--matmul {way} rounds what it multiplies, too much to check slopes by")
    length = config.context_length
    contexts = [ids[:length], ids[-length // 2 :]]  # a whole window, and a shorter one
    sizes = ", ".join(f"{size} {getattr(config, size)}" for size in RUNGS[name].sizes)
    print("\n".join(wrap(INTRODUCTION.format(name=name, sizes=sizes), style_for(sys.stdout))))
    print(f"{name:<26}{'numbers':>8}{'backward':>14}{'measured':>14}{'|a - n|':>11}")
    passed, count = True, 0
    with use(way):  # for what the backward claims; the measuring stays in float64
        checks = check_model(model, contexts, seed)
    for check in checks:
        verdict = "" if check.passed else "  WRONG"
        label = check.name
        if len(label) > NAME:
            print(f"  {label}")
            label = ""
        print(
            f"  {label:<{NAME}}{check.numbers:>8}{check.analytic:>14.6g}{check.numerical:>14.6g}"
            f"{abs(check.analytic - check.numerical):>11.1e}{verdict}",
            flush=True,
        )
        passed, count = passed and check.passed, count + check.numbers
    print(
        f"{name}: {'all' if passed else 'NOT all'} {count:,} slopes agree: "
        f"|a - n| <= {ABSOLUTE:g} + {RELATIVE:g} |n|\n"
    )
    return passed
