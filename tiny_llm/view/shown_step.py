"""What every step that is shown as lines of text has in common: parts, numbers, the update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tiny_llm.beyond.shown_step import Moved
from tiny_llm.text.tokenizers import Tokenizer
from tiny_llm.view.terminal import BOLD, Style, number_text, paint, visible, wrap

DIGITS = 3


def in_parts(parts: Iterable[tuple[str, Iterable[str]]], style: Style) -> Iterator[str]:
    """Parts with a title each, numbered. Lines that begin with spaces stay as they are."""
    for count, (title, lines) in enumerate(parts, 1):
        yield paint(f"{count}. {title}", BOLD, style)
        for line in lines:
            yield from wrap(line, style, "  ") if not line.startswith("  ") else [line]
        yield ""


def number(value: float) -> str:
    """As all of them are shown."""
    return number_text(value, DIGITS)


def numbers(values: Iterable[float]) -> list[str]:
    """Several."""
    return list(map(number, values))


def labels(tokens: Iterable[int], tokenizer: Tokenizer, style: Style) -> list[str]:
    """The tokens, so that they can be seen."""
    texts = (tokenizer.token_bytes(token).decode("utf-8", "backslashreplace") for token in tokens)
    return [visible(text, style) for text in texts]


def update_told(moved: Moved, optimizer: str, learning_rate: float) -> Iterator[str]:
    """What became of the weight that says the most."""
    yield (
        f"{moved.name} has the largest slope of all weights, {moved.slope:.3g}: {optimizer} with a "
        f"learning rate of {learning_rate:g} moves it from {moved.before:.6f} to {moved.after:.6f}"
    )
