"""The terminal: `tiny-lm` and its commands, a file for each.

Begin with entry.py, which finds the command, and train.py, which drives a run and shows it.
"""

from tiny_llm.cli.entry import main

__all__ = ["main"]
