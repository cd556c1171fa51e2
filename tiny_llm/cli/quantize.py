"""tiny-lm quantize: a saved model in about an eighth of the bytes, to be read."""

from __future__ import annotations

import argparse

from tiny_llm.cli import options as flags
from tiny_llm.cli.generate import open_checkpoint
from tiny_llm.fast.packed import quantize
from tiny_llm.files import atomic
from tiny_llm.run.errors import UserError, alone, check_out, to_type, writing
from tiny_llm.run.saved import is_packed, load_run, newest_checkpoint, save_run
from tiny_llm.view.terminal import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `quantize`."""
    parser.description = (
        "Write a saved model with each matrix as int8 numbers and a scale for each row: about an "
        "eighth of the bytes. All commands that only read a model take it; it cannot be trained."
    )
    parser.set_defaults(command=run)
    flags.add_checkpoint(parser)
    parser.add_argument(
        "-o", "--out", type=flags.file_name, metavar="FILE", help="(CHECKPOINT.int8.safetensors)"
    )
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Read, round, write."""
    args.checkpoint = flags.checkpoint_of(args) or newest_checkpoint()
    out = args.out or args.checkpoint.parent / f"{args.checkpoint.stem}.int8.safetensors"

    def is_int8() -> bool:
        try:
            return is_packed(load_run(out).model)
        except UserError:
            return False

    check_out(out, is_int8, f"{out} exists and is no model with int8 weights; choose another --out")
    current = open_checkpoint(args)
    if is_packed(current.model):
        raise UserError(f"{args.checkpoint} has int8 weights already")
    quantize(current.model)
    with alone(out), writing(out):
        backup = atomic.keep_old(out)
        save_run(out, current)
    if not args.quiet:
        if backup:
            tell(f"kept: the older {out} is now {backup}")
        before, after = (path.stat().st_size for path in (args.checkpoint, out))
        tell(f"saved {out}: {after:,} bytes, of {before:,}. To see what that costs in loss, type")
        tell("    " + to_type("eval", {"--int8": "", "--checkpoint": str(args.checkpoint)}))
    return 0
