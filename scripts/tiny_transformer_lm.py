#!/usr/bin/env python3
"""Rung 2 in one command, with nothing installed: train the attention model and let it write.

    python3 scripts/tiny_transformer_lm.py --prompt "The model " --show-attention

Takes all the flags of `tiny-lm train`; --help lists them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_llm.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "--model", "attention", *sys.argv[1:]]))
