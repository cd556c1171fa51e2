"""A KV cache: what attention remembers of a text, so that no token is computed twice.

    read before     t  h  e  _  c  a           keys and values are remembered ...
    new                               t        ... and one row goes through the model
    keys, values   [.][.][.][.][.][.][.]
    query                            [.]       looks at all seven: the logits after "the cat"

A model that writes sends its whole window through every layer for each new token, though all but
one of the tokens were there before. What it needs of those are, in every block, their keys and
values: only these are looked at by another position. A query is asked once, by its own position.

The remembered numbers are the very ones that would be computed again, because attention is causal:
a position sees itself and what came before it, everything else in a block works on each position
alone, so nothing that a position computes depends on what comes after. Hence the same logits.

They hold as long as every token keeps its position. Rung 3 learned a vector for each position, so
when its window is full and goes on from its last half, all is forgotten and the half read anew.

Nothing here is changed in place: a longer past is new lists around the same rows. So several texts
can begin with the same past. Ott et al. (2019, fairseq) call this incremental decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from tiny_llm.batches import Contexts
from tiny_llm.layers import KeysValues
from tiny_llm.matmul import Matrix

Past = list[list[KeysValues]]  # layers x heads: what one sequence leaves behind; empty at its start


@runtime_checkable
class Remembering(Protocol):
    """A model that can go on from what it has read (rung 3)."""

    def forward(
        self, contexts: Contexts, dropout_rng: Any = None, past: Any = None
    ) -> tuple[Matrix, Any]:
        """B contexts, B pasts -> a row of logits for each token of the contexts, cache."""

    def past(self, cache: Any) -> list[Past]:
        """For each context of that forward, the past that its next token goes on from."""


def seen(past: Past) -> int:
    """The number of tokens that this past remembers."""
    return len(past[0][0].keys) if past else 0


def check_pasts(pasts: Sequence[Past], contexts: Contexts, config: Any) -> None:
    """Raises ValueError unless there is one past for each context, and both fit in the window."""
    if len(pasts) != len(contexts):
        raise ValueError(f"{len(contexts)} contexts need as many pasts, not {len(pasts)}")
    for past, context in zip(pasts, contexts):
        if seen(past) + len(context) > config.context_length:
            raise ValueError(
                f"{seen(past)} tokens of the past and {len(context)} new ones exceed the context "
                f"of {config.context_length}; read the last of them without a past"
            )


def remember(model: Remembering, tokens: list[int]) -> Past:
    """Read these tokens, at most a window of them, for the sake of what follows."""
    if not tokens:
        return []
    _, cache = model.forward([tokens])
    return model.past(cache)[0]
