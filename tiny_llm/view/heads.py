"""What each attention head reads from, in a line: itself, the token before, the first, or others.

    weights, Q x K --summarize--> mean shares, mean entropy --> one row of a table for each head

Computed from the weights of one text, and true of that text. Heads that read the token before or
the first one are found in large models, too: Voita et al. (2019), "Analyzing multi-head
self-attention"; Clark et al. (2019), "What does BERT look at?".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from tiny_llm.matmul import Matrix, Vector
from tiny_llm.model import LanguageModel
from tiny_llm.view.terminal import BOLD, Style, fraction_text, paint, wrap

FIRST_FREE = 2  # the first position for which itself, the one before and the first are three
RECALLS = 0.5  # of the weight: a head that has more behind earlier copies reads there
SPREAD = 0.75  # of the entropy that a head could have: what has more is spread out
NARROW = 76  # columns; below it, the table has no shares
BITS = len("1.82/3.00")  # columns of an entropy and the most that it could be
PHRASES = {
    "itself": "itself",
    "previous": "the previous token",
    "first": "the first token",
    "others": "other tokens",
    None: "spread out",
}


class Head(NamedTuple):
    """One head's weights on a text, Q x K, and which it is: layers and heads count from 1."""

    layer: int
    number: int
    weights: Matrix


class HeadSummary(NamedTuple):
    """Means over the queries of a head that have a choice. The four shares add up to 1."""

    itself: float  # share of the weight on the position that asks
    previous: float  # on the one before it
    first: float  # on the first of all
    others: float  # on those between
    entropy: float  # bits
    most: float  # bits, if every query spread its weight evenly

    @property
    def reads(self) -> Optional[str]:
        """The field that says what the head reads from; None: it is spread out. See `summarize`."""
        if self.entropy > SPREAD * self.most:
            return None
        shares = self[:4]
        return self._fields[shares.index(max(shares))]


def summarize(weights: Matrix) -> Optional[HeadSummary]:
    """Q x K weights, the queries being the last Q of the K positions -> the summary of the head.

    It is a mean over the queries that have a choice: those from position 2 on, for which itself,
    the previous position and the first are three different ones. None if there is no such query.
    A head whose mean entropy is more than three quarters of the mean that it could be is spread
    out. Any other reads most from what has the largest mean share of the weight: itself, the
    previous token, the first, or the other tokens, which are those between.
    """
    queries = [
        (place, row)
        for place, row in enumerate(weights, len(weights[0]) - len(weights))
        if place >= FIRST_FREE
    ]
    if not queries:
        return None
    return HeadSummary(
        itself=_mean([row[place] for place, row in queries]),
        previous=_mean([row[place - 1] for place, row in queries]),
        first=_mean([row[0] for _, row in queries]),
        others=_mean([sum(row[1 : place - 1]) for place, row in queries]),
        entropy=_mean([entropy(row[: place + 1]) for place, row in queries]),
        most=_mean([math.log2(place + 1) for place, _ in queries]),
    )


def recall(heads: Sequence[Head], tokens: Sequence[str]) -> Optional[str]:
    """The two heads that find what came behind a token the last time, in a sentence; else None.

    One reads the place behind an earlier copy of the token that asks: an induction head. It can
    tell that place because a head in a layer below read, there, the token before it (Olsson et al.,
    2022). Shares of the weight are means over all tokens that stood there before.
    """
    asking = []  # where a token stands again, and where its last copy stood
    for place, token in enumerate(tokens):
        copies = [at for at in range(place) if tokens[at] == token]
        asking += [(place, copies[-1])] if copies else []
    full = [head for head in heads if len(head.weights) == len(tokens)]
    if not asking or not full:
        return None

    def behind(head: Head) -> float:
        return _mean([head.weights[place][copy + 1] for place, copy in asking])

    def before(head: Head) -> float:
        return _mean([head.weights[copy + 1][copy] for _, copy in asking])

    reader = max(full, key=behind)
    below = [head for head in full if head.layer < reader.layer]
    if behind(reader) < RECALLS or not below:
        return None
    teller = max(below, key=before)
    return (
        f"Layer {reader.layer} head {reader.number} reads what came behind the same token before "
        f"({fraction_text(behind(reader))} of its weight). It finds that place by what layer "
        f"{teller.layer} head {teller.number} read there, the previous token "
        f"({fraction_text(before(teller))})."
    )


def entropy(weights: Vector) -> float:
    """How spread out weights that add up to 1 are, in bits: 0 for all on one, log2 n for even."""
    return sum(-weight * math.log2(weight) for weight in weights if weight > 0)


def _mean(numbers: Vector) -> float:
    return sum(numbers) / len(numbers)


def choose_heads(
    all_weights: list[list[Matrix]], layer: Optional[int] = None, head: Optional[int] = None
) -> list[Head]:
    """Layers x heads x Q x K -> the heads of this layer and number, counted from 1; None: all.

    Raises ValueError for one that the model does not have.
    """
    for name, number, count in (
        ("layer", layer, len(all_weights)),
        ("head", head, len(all_weights[0])),
    ):
        if number is not None and not 1 <= number <= count:
            has = f"{name}s 1 to {count}" if count > 1 else f"one {name}, number 1"
            raise ValueError(f"there is no {name} {number}; the model has {has}")
    return [
        Head(i, j, weights)
        for i, heads in enumerate(all_weights, 1)
        for j, weights in enumerate(heads, 1)
        if layer in (None, i) and head in (None, j)
    ]


def summary_table(heads: list[Head], style: Style) -> Iterator[str]:
    """Yield a line for each head, and how to read it; nothing if no head can be summed up.

    A head with a single query is shown in full by its own row, and has no line here.
    """
    found = [(h, summarize(h.weights)) for h in heads if len(h.weights) > 1]
    rows = [(head, summary) for head, summary in found if summary]
    if not rows:
        return
    last = len(rows[0][0].weights[0]) - 1
    yield from wrap(
        f"On average over positions {FIRST_FREE} to {last}. A head is spread out if its entropy is "
        "more than three quarters of its greatest; any other reads most from where the largest "
        "share of its weight lies.",
        style,
    )
    wide = style.width >= NARROW
    titles = [*HeadSummary._fields[:4], "entropy"] if wide else ["entropy"]
    cells = "  ".join(f"{title:<{BITS if title == 'entropy' else 0}}" for title in titles)
    yield paint(f"layer head  {cells}  reads most from", BOLD, style)
    for head, summary in rows:
        yield f"{head.layer:5} {head.number:4}  " + _row(summary, wide)


def _row(summary: HeadSummary, wide: bool) -> str:
    """The numbers of a head, and what they amount to; in a narrow table only the telling ones."""
    bits = f"{summary.entropy:.2f}/{summary.most:.2f}".ljust(BITS)
    place = summary.reads
    if wide:
        shares = zip(summary._fields[:4], summary)
        numbers = [fraction_text(share).rjust(len(name)) for name, share in shares]
        return "  ".join([*numbers, bits, PHRASES[place]])
    share = f"{place} {fraction_text(getattr(summary, place))}" if place else PHRASES[place]
    return f"{bits}  {share}"


def has_attention(model: LanguageModel) -> bool:
    """Whether there are weights to show: rung 1 has none."""
    return type(model).attention is not LanguageModel.attention
