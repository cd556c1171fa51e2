"""How a run says something to whoever drives it: a label, and a sentence."""

from typing import Callable

Say = Callable[[str, str], None]


def silent(label: str, sentence: str) -> None:
    """Says nothing."""
