#!/usr/bin/env python3
"""Rung 3 in one command, with nothing installed: walk a prompt through the modern block.

    python3 scripts/tiny_modern_lm.py --prompt "The model " --show-attention --train

Takes all the flags of `tiny-lm walk`; --help lists them. With --train it trains, then walks again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_llm.cli import main

if __name__ == "__main__":
    sys.exit(main(["walk", *sys.argv[1:]]))
