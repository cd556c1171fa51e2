"""The terminal: `tiny-lm` and its commands, a file for each."""

from tiny_llm.cli.entry import main

__all__ = ["main"]
