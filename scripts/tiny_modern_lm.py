#!/usr/bin/env python3
"""Rung 3 in one command, with nothing installed: a prompt's way through the modern block.

    python3 scripts/tiny_modern_lm.py --prompt "The model " --show-attention --train

Takes the flags of `tiny-lm trace`. With --train it takes those of `tiny-lm train`, too: it trains,
lets the model write, and shows the way of the same prompt once more.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_llm.cli import main
from tiny_llm.cli.trace import add_arguments


def forward(title, words):
    """The way of the prompt, by the flags that `trace` knows."""
    parser = argparse.ArgumentParser(prog="tiny_modern_lm.py", allow_abbrev=False)
    add_arguments(parser)
    args, _ = parser.parse_known_args([*words, "--forward-only"])
    print(f"=== {title} ===\n")
    args.command(args)


if __name__ == "__main__":
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--train", action="store_true")
    own.add_argument("-o", "--out", default="runs/modern.safetensors")
    args, words = own.parse_known_args()
    if {"-h", "--help"} & set(words):
        print(__doc__)
    if not args.train:
        sys.exit(main(["trace", "--model", "modern", "--forward-only", *words]))
    forward("before training: all weights are random", ["--model", "modern", *words])
    code = main(["train", "--model", "modern", "--out", args.out, *words])
    if code == 0:
        shown = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        shown.add_argument("-p", "--prompt")
        shown.add_argument("--show-attention", action="store_true")
        shown, _ = shown.parse_known_args(words)
        prompt = ["--prompt", shown.prompt] if shown.prompt else []
        heads = ["--show-attention"] if shown.show_attention else []
        forward("after training", ["--checkpoint", args.out, *prompt, *heads])
    sys.exit(code)
