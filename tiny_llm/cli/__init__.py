"""The terminal: `tiny-lm` and its commands, a file for each, with the flags that they share.

Serves whoever types. Begin with entry.py.
"""

from tiny_llm.cli.entry import main

__all__ = ["main"]
