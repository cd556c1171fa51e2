"""How a text became tokens: its pieces, their tokens and ids, and the merges that made them.

text --pieces--> --bytes--> --merges--> tokens: a table, then a line for every merge
"""

from __future__ import annotations

from collections.abc import Iterator

from tiny_llm.text.bpe import BPETokenizer, Step
from tiny_llm.view.terminal import BOLD, Style, clip, display_width, pad, paint, visible, wrap

INDENT = "  "
GAP = "  "  # between two columns
WIDEST_CELL = 28  # columns of a piece or a token in a table


def explain(tokenizer: BPETokenizer, text: str, style: Style) -> Iterator[str]:
    """Yield the lines that show how `text` is encoded, special tokens taken as plain text.

    Raises ValueError for text that cannot be encoded.
    """
    parts = tokenizer.pieces(text)
    ids = [tokenizer.encode(piece) for piece in parts]
    counts = (
        (len(text), "character"),
        (len(text.encode("utf-8")), "byte"),
        (len(parts), "piece"),
        (sum(map(len, ids)), "token"),
    )
    yield " -> ".join(f"{count:,} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
    yield ""
    yield from _table(tokenizer, parts, ids, style)
    merged = [(piece, list(tokenizer.steps(piece))) for piece in dict.fromkeys(parts)]  # each once
    if any(len(steps) > 1 for _, steps in merged):
        yield ""
        yield from wrap(
            "The merges that made them, numbered in the order in which they were learned:", style
        )
    for piece, steps in merged:
        if len(steps) > 1:
            yield ""
            yield from _merges(tokenizer, piece, steps, style)


def _table(
    tokenizer: BPETokenizer, parts: list[str], ids: list[list[int]], style: Style
) -> Iterator[str]:
    """A row for each token; the piece stands beside its first."""
    rows = [("piece", "token", "id")]
    for piece, tokens in zip(parts, ids):
        name = clip(visible(piece, style), WIDEST_CELL, style)
        for token in tokens:
            shown = clip(_token_text(tokenizer, token, style), WIDEST_CELL, style)
            rows.append((name, shown, str(token)))
            name = ""
    widths = [max(map(display_width, column)) for column in zip(*rows)]
    for number, row in enumerate(rows):
        cells = [pad(cell, width, right=i == 2) for i, (cell, width) in enumerate(zip(row, widths))]
        line = GAP.join(cells)
        yield line if number else paint(line, BOLD, style)


def _merges(tokenizer: BPETokenizer, piece: str, steps: list[Step], style: Style) -> Iterator[str]:
    """What was merged, one line after the other, and the tokens after each merge."""
    yield paint(clip(visible(piece, style), style.width, style), BOLD, style)
    labels = [_label(tokenizer, step, style) for step in steps]
    width = max(map(display_width, labels))
    for label, step in zip(labels, steps):
        tokens = " ".join(_token_text(tokenizer, token, style) for token in step.ids)
        yield clip(INDENT + pad(label, width) + GAP + tokens, style.width, style)


def _label(tokenizer: BPETokenizer, step: Step, style: Style) -> str:
    """Which merge it was, counted from 1 as they were learned, and of what."""
    if step.merge is None:
        return f"{len(step.ids)} bytes"
    pair = (
        _token_text(tokenizer, tokenizer.vocabulary[name], style)
        for name in tokenizer.merges[step.merge]
    )
    return f"merge {step.merge + 1:,}: " + " + ".join(
        clip(token, WIDEST_CELL // 2, style) for token in pair
    )


def _token_text(tokenizer: BPETokenizer, token: int, style: Style) -> str:
    """A token in sight; bytes that are no whole character as \\xf0."""
    return visible(tokenizer.token_bytes(token).decode("utf-8", "backslashreplace"), style)
