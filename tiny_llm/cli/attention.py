"""tiny-lm attention: what every head of a saved model reads from, on a prompt."""

from __future__ import annotations

import argparse
import sys

from tiny_llm.cli import options as flags
from tiny_llm.cli.generate import open_checkpoint
from tiny_llm.cli.options import whole_number
from tiny_llm.cli.pictures import add_svg, check_svg, write_svg
from tiny_llm.cli.sample import attention_of, prompt_ids
from tiny_llm.matmul import Matrix
from tiny_llm.run.errors import UserError, program
from tiny_llm.run.saved import Run
from tiny_llm.view.attention_map import attention_report, one_query
from tiny_llm.view.attention_picture import attention_svg
from tiny_llm.view.heads import choose_heads, has_attention
from tiny_llm.view.terminal import style_for, tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `attention`."""
    parser.description = (
        "Show what each attention head of a saved model reads from, on a prompt: its weights, and "
        "for models with many queries a line that sums it up."
    )
    parser.set_defaults(command=run)
    flags.add_checkpoint(parser)
    parser.add_argument("-p", "--prompt", type=flags.prompt_text, help="the text to look at")
    flags.add_special(parser)
    group = parser.add_argument_group(
        "what to show (a line on each head, and the table of the first)"
    )
    for flag, least, meaning in (
        ("--layer", 1, "one layer; the first is 1"),
        ("--head", 1, "one head of each layer; the first is 1"),
        ("--query", 0, "one position that reads; the first is 0"),
    ):
        group.add_argument(flag, type=whole_number(least), metavar="N", help=meaning)
    group.add_argument("--full", action="store_true", help="the tables of all heads")
    add_svg(parser)
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Print the weights, and draw them with --svg."""
    if args.svg:
        check_svg(args.svg)
    current = open_checkpoint(args)
    if not has_attention(current.model):
        raise UserError(
            f"the model is {current.rung}, which has no attention to show; "
            f"train one that has: {program()} train --model attention"
        )
    ids = prompt_ids(current, args)
    weights, tokens = attention_of(current, ids)
    if len(tokens) < len(ids) and not args.quiet:
        seen = f"the prompt has {len(ids)} tokens; the model sees the last {len(tokens)}"
        tell(f"{seen}, its whole context")
    style = style_for(sys.stdout, args.color)
    is_short = not args.full and (args.layer, args.head, args.query) == (None, None, None)
    most = 1 if is_short else None
    report = attention_report(weights, tokens, style, args.layer, args.head, args.query, most)
    if args.svg:
        write_svg(args.svg, _picture(current, weights, tokens, args))
    print(report, flush=True)
    return 0


def _picture(
    current: Run, weights: list[list[Matrix]], tokens: list[str], args: argparse.Namespace
) -> str:
    """The same heads as the report, as an SVG picture."""
    heads = choose_heads(weights, args.layer, args.head)
    if args.query is not None:
        rows = [one_query(head.weights, tokens, args.query) for head in heads]
        heads = [head._replace(weights=row) for head, (row, _) in zip(heads, rows)]
        tokens = rows[0][1]
    return attention_svg(heads, tokens, f"Attention weights: {current.rung}, step {current.step}")
