"""python3 -m tiny_llm is tiny-lm, with nothing installed."""

import sys

from tiny_llm.cli import main

if __name__ == "__main__":
    sys.exit(main())
