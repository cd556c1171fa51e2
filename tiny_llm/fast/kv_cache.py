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
Ott et al. (2019, fairseq) call this incremental decoding. Serves chapters 9 and 12.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from tiny_llm import layers
from tiny_llm.fast import packed_past
from tiny_llm.fast.packed import Packed
from tiny_llm.fast.packed_past import LONGEST, PackedPast
from tiny_llm.matmul import Matrix, Vector
from tiny_llm.model import LanguageModel

# Tokens that a packed model, which may be large, reads in one forward: it keeps ten megabytes for
# each token of a model of 10^8 weights, for a backward that does not come.
AT_ONCE = 4
LANES_PAY = sys.implementation.name != "pypy"  # where loops over floats are compiled


class KeysValues(NamedTuple):
    """What one head remembers of the positions that a sequence has passed."""

    keys: Any  # T x D/H, or a packed model's keys and values in one
    values: Any


class Past(NamedTuple):
    """What one sequence leaves behind. Never changed: a longer past is a new one."""

    tokens: list[int]  # T, what was read
    layers: list[list[KeysValues]]  # layers x heads


NOTHING = Past([], [])


class GoingOn:
    """Stands before a model's own class, and goes on from what it has read: each context follows
    the past of its own. The model asks it where its tokens stand, and to attend, head by head."""

    def __init__(self, model: Any, pasts: Sequence[Past]) -> None:
        self.config, self.parameters, self.pasts = model.config, model.parameters, pasts
        nothing = [[KeysValues([], [])] * model.config.n_heads] * model.config.n_layers
        remembered = [past.layers or nothing for past in pasts]
        self.remembered = iter(
            [head for block in zip(*remembered) for heads in block for head in heads]
        )
        self.in_lanes = _packed(model) and LANES_PAY and model.config.context_length <= LONGEST
        self.grown: tuple[Any, ...] = (None, None, None)  # the past of the head before, and by what

    def positions(self, lengths: Sequence[int]) -> list[int]:
        """Counted on from what was read."""
        starts = [len(past.tokens) for past in self.pasts]
        return [start + i for start, length in zip(starts, lengths) for i in range(length)]

    def attend(self, queries: Matrix, keys: Matrix, values: Matrix) -> Any:
        """Attention of the next head: its queries see what is remembered, and then what is new."""
        before = next(self.remembered)
        if not self.in_lanes:
            return layers.attention(queries, before.keys + keys, before.values + values)
        past, new, grown = self.grown
        if past is not before.keys or new is not keys:  # heads of queries may share one of keys
            grown = (before.keys or PackedPast([], [], [], [])).grown(keys, values)
            self.grown = before.keys, keys, grown
        return packed_past.attention(queries, grown)

    def mix_backward(self, *_: Any) -> Any:
        """Raises ValueError: the slopes of what is remembered would have nowhere to go."""
        raise ValueError("a forward that went on from a past has no backward; give whole contexts")


class Listening(GoingOn):
    """Goes on, and scores no token: for what is only read, where nobody asks what comes next."""

    lm_head: Sequence[Vector] = ()


def going_on(model: LanguageModel, pasts: Sequence[Past], way: type[GoingOn] = GoingOn) -> Any:
    """A model like this one, which goes on from these pasts."""
    return type(way.__name__, (way, type(model)), {})(model, pasts)


def go_on(
    model: Any, pasts: Sequence[Past], contexts: list[list[int]], way: type[GoingOn] = GoingOn
) -> tuple[Matrix, list[Past]]:
    """One forward: B pasts, B contexts -> N x V logits, B pasts. A model that several processes
    have a part of does it in its own way."""
    if hasattr(model, "go_on"):
        together: tuple[Matrix, list[Past]] = model.go_on(pasts, contexts, way)
        return together
    logits, cache = going_on(model, pasts, way).forward(contexts)
    return logits, _longer(pasts, contexts, cache)


def read_on(
    model: LanguageModel, pasts: Sequence[Past], contexts: list[list[int]]
) -> tuple[Matrix, list[Past]]:
    """What follows each past: B pasts, B contexts -> B x V logits of the token behind, B pasts.

    Raises ValueError unless there is a past for each context, and both fit in the window.
    """
    _check_room(model, pasts, contexts)
    if _packed(model):  # all but the last token of each is only read
        pasts = [listen(model, past, context[:-1]) for past, context in zip(pasts, contexts)]
        contexts = [context[-1:] for context in contexts]
    logits, longer = go_on(model, pasts, contexts)
    return [logits[end - 1] for end in accumulate(map(len, contexts))], longer


def listen(model: LanguageModel, past: Past, tokens: list[int]) -> Past:
    """The past after these tokens. Raises ValueError for more than the model can see."""
    _check_room(model, [past], [tokens])
    pieces = range(0, len(tokens), AT_ONCE if _packed(model) else max(1, len(tokens)))
    for start in pieces:
        past = _listened(model, past, tokens[start : start + pieces.step])
    return past


def _listened(model: LanguageModel, past: Past, piece: list[int]) -> Past:
    """The past after one forward, whose cache is gone before the next one begins."""
    _, (longer,) = go_on(model, [past], [piece], Listening)
    return longer


def _packed(model: LanguageModel) -> bool:
    return any(isinstance(tensor, Packed) for tensor in model.parameters.values())


def _check_room(model: LanguageModel, pasts: Sequence[Past], contexts: Sequence[list[int]]) -> None:
    if len(pasts) != len(contexts):
        raise ValueError(f"{len(contexts)} contexts need as many pasts, not {len(pasts)}")
    for past, context in zip(pasts, contexts):
        if len(past.tokens) + len(context) > model.config.context_length:
            raise ValueError(
                f"{len(past.tokens)} tokens of the past and {len(context)} new ones exceed the "
                f"context of {model.config.context_length}; read the last of them without a past"
            )


def _longer(pasts: Sequence[Past], contexts: list[list[int]], cache: Any) -> list[Past]:
    longer = []
    for i, (past, context) in enumerate(zip(pasts, contexts)):
        heads = [[KeysValues(h.keys, h.values) for h in block.heads[i]] for block in cache.blocks]
        longer.append(Past(past.tokens + context, heads))
    return longer


class Reader:
    """The logits that follow a window, from one row where the window only grew: B texts at once.

    Takes the place of the forward in chapter 9. Models that do not predict after every token
    (rungs 1 and 2) have nothing to remember, and read their whole window.
    """

    def __init__(self, model: LanguageModel, remember: bool = True) -> None:
        self.model = model
        self.remember = remember and model.predicts_every_token
        self.pasts: dict[int, Past] = {}  # of each text

    def begin(self, window: list[int], texts: Sequence[int]) -> None:
        """Read what these texts share once for all: the window without its last token."""
        if self.remember and len(window) > 1:
            self.pasts = dict.fromkeys(texts, listen(self.model, NOTHING, window[:-1]))

    def __call__(self, window: list[int]) -> Vector:
        """The logits behind one window: V."""
        return self.all({0: window})[0]

    def all(self, windows: dict[int, list[int]]) -> dict[int, Vector]:
        """The logits behind the window of each text: text -> window, text -> V logits.

        Raises ValueError for a window that the model cannot read.
        """
        if not self.remember:
            logits, _ = self.model.forward(list(windows.values()))
            if self.model.predicts_every_token:
                logits = [logits[end - 1] for end in accumulate(map(len, windows.values()))]
            return dict(zip(windows, logits))
        before = [self._past(text, window) for text, window in windows.items()]
        contexts = [w[len(past.tokens) :] for w, past in zip(windows.values(), before)]
        logits, pasts = read_on(self.model, before, contexts)
        self.pasts = dict(zip(windows, pasts))
        return dict(zip(windows, logits))

    def _past(self, text: int, window: list[int]) -> Past:
        """What is remembered of this window, if it is the last one of this text and grew."""
        past = self.pasts.get(text, NOTHING)
        read = len(past.tokens)
        return past if read < len(window) and window[:read] == past.tokens else NOTHING
