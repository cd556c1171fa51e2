"""The stages of each rung's forward as plain data, read from the cache that the forward left.

    model, cache, logits --anatomy, stages--> name, shape, who did it, range, last row of each stage

Only rung 1's sums before tanh are computed again, by the same function: its cache does not keep
them, because the backward of tanh needs its output alone. Files and lines are those that Python
itself says of each function, so they cannot drift from the code.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from tiny_llm.attention_lm import AttentionLanguageModel, AttentionLMCache
from tiny_llm.layers import (
    AttentionCache,
    add_rows,
    attention,
    embedding,
    gelu,
    layer_norm,
    linear,
    multi_head_attention,
    softmax,
    split_columns,
    tanh,
)
from tiny_llm.matmul import Matrix, matmul_bt
from tiny_llm.mlp_lm import MLPCache, MLPLanguageModel
from tiny_llm.model import LanguageModel
from tiny_llm.modern_block import BlockCache, ModernCache, ModernLanguageModel
from tiny_llm.training import Diverged
from tiny_llm.view.trace.data import Numbers, Place, Stage

ROOT = Path(__file__).resolve().parent.parent.parent.parent  # the folder that the package lies in


class Anatomy(NamedTuple):
    """What a trace must know of a rung beside the contract."""

    rung: int
    sizes: dict[str, tuple[int, str]]  # letter -> size, meaning
    token_table: str  # the parameter whose rows are the tokens' vectors
    position_table: Optional[str]  # the one whose rows are the positions' vectors
    stages: Callable[[Any, Matrix], Iterator[Stage]]  # cache, logits -> stages


def place_of(function: Callable[..., Any]) -> Place:
    """File, line and name of a function of this package; the file as seen from beside it."""
    inner: Any = inspect.unwrap(function)
    path = Path(inspect.getfile(inner)).resolve()
    file = path.relative_to(ROOT).as_posix() if ROOT in path.parents else path.name
    return Place(file, inner.__code__.co_firstlineno, inner.__qualname__)


def anatomy(model: LanguageModel) -> Anatomy:
    """How this model is built. Raises ValueError for one that is no rung of the ladder."""
    if isinstance(model, MLPLanguageModel):
        return _mlp(model)
    if isinstance(model, AttentionLanguageModel):
        return _attention_lm(model)
    if isinstance(model, ModernLanguageModel):
        return _modern(model)
    raise ValueError(f"a trace knows the three rungs, not {type(model).__name__}")


def numbers(rows: Matrix, label: str = "") -> Numbers:
    """The range of a matrix, whose rows may be of several lengths, and its last row.

    Raises Diverged if there is a number in it that is not finite.
    """
    values = [value for row in rows for value in row]
    if not all(map(isfinite, values)):
        raise Diverged(
            "the network computes numbers that are not finite; its weights are too large"
        )
    return Numbers(label, min(values), max(values), list(rows[-1]))


def _stage(
    name: str, what: str, letters: str, rows: Matrix, *functions: Callable[..., Any]
) -> Stage:
    """A stage with one matrix."""
    shape = len(rows), len(rows[0])
    return Stage("", name, what, letters, shape, list(map(place_of, functions)), [numbers(rows)])


# ---------------------------------------------------------------- rung 1


def _mlp(model: MLPLanguageModel) -> Anatomy:
    size = model.config
    sizes = {
        "B": (1, "context"),
        "C": (size.context_length, "slots, one for each token"),
        "E": (size.d_embedding, "numbers for a token"),
        "H": (size.d_hidden, "hidden units"),
        "V": (size.vocab_size, "tokens in the vocabulary"),
    }
    return Anatomy(1, sizes, "embedding.weight", None, lambda *made: _mlp_stages(model, *made))


def _mlp_stages(model: MLPLanguageModel, cache: MLPCache, logits: Matrix) -> Iterator[Stage]:
    p = model.parameters
    side_by_side = model._side_by_side
    what = "the vectors of all slots in one row, the last token's at its end"
    yield _stage("inputs", what, "B x C E", cache.inputs, embedding, side_by_side)
    sums = linear(cache.inputs, p["hidden.weight"], p["hidden.bias"])  # as the forward did
    what = (
        "every hidden unit adds up all inputs, each times a weight of its own (computed again for "
        "this display: the forward keeps only what comes next)"
    )
    yield _stage("hidden sums", what, "B x H", sums, linear)
    yield _stage("hidden", "each sum squashed into -1 .. 1", "B x H", cache.hidden, tanh)
    what = "every token of the vocabulary gets a score"
    yield _stage("logits", what, "B x V", logits, linear)


# ---------------------------------------------------------------- rung 2


def _attention_lm(model: AttentionLanguageModel) -> Anatomy:
    sizes = {
        "T": (model.config.context_length, "positions at most"),
        "D": (model.config.d_model, "numbers for a position"),
        "V": (model.config.vocab_size, "tokens in the vocabulary"),
    }
    tables = "token_embedding.weight", "position_embedding.weight"
    return Anatomy(2, sizes, *tables, _attention_lm_stages)


def _attention_lm_stages(cache: AttentionLMCache, logits: Matrix) -> Iterator[Stage]:
    (head,) = cache.heads  # of the one context
    yield _stage("x", "token + position, a row for each", "T x D", cache.x, embedding, add_rows)
    what = "what the last position looks for"
    yield _stage("query", what, "1 x D", head.queries, linear)
    yield _stage("keys", "what each position is found by", "T x D", head.keys, linear)
    yield _stage("values", "what each position has to say", "T x D", head.values, linear)
    yield _softmax_stage("attention", head, "1 x T")
    what = "the values, mixed by these weights"
    yield _stage("mixed", what, "1 x D", cache.mixed, attention)
    what = "the last row of x + the mixture, projected: a residual connection"
    yield _stage("x + attention", what, "1 x D", cache.out, linear, add_rows)
    what = "every token of the vocabulary gets a score"
    yield _stage("logits", what, "1 x V", logits, linear)


def _softmax_stage(name: str, head: AttentionCache, letters: str) -> Stage:
    """One head's scores and the weights that they become, of the last query, which sees all."""
    what = (
        "q k^T / sqrt(width): how well each key fits the last position's query; softmax makes "
        "weights of the scores, which add up to 1"
    )
    both = [numbers(head.scores[-1:], "scores"), numbers(head.weights[-1:], "weights")]
    shape = len(head.weights), len(head.weights[0])
    places = [place_of(attention), place_of(softmax)]
    return Stage("", name, what, letters, shape, places, both, is_attention=True)


# ---------------------------------------------------------------- rung 3


def _modern(model: ModernLanguageModel) -> Anatomy:
    size = model.config
    sizes = {
        "T": (size.context_length, "positions at most"),
        "D": (size.d_model, "numbers for a position"),
        "H": (size.n_heads, "heads in each layer"),
        "F": (4 * size.d_model, "feed-forward width"),
        "V": (size.vocab_size, "tokens in the vocabulary"),
    }
    return Anatomy(3, sizes, "wte.weight", "wpe.weight", _modern_stages)


def _modern_stages(cache: ModernCache, logits: Matrix) -> Iterator[Stage]:
    what = "token + position, a row for each"
    yield _stage("x", what, "T x D", cache.blocks[0].x, embedding, add_rows)
    for layer, block in enumerate(cache.blocks, 1):
        for stage in _block_stages(block):
            yield replace(stage, part=f"layer {layer} of {len(cache.blocks)}")
    last = "after the last layer"
    what = "each row to mean 0 and variance 1, then a learned gain and bias"
    yield replace(_stage("LayerNorm", what, "T x D", cache.final, layer_norm), part=last)
    what = "at each position, every token of the vocabulary gets a score"
    yield replace(_stage("logits", what, "T x V", logits, matmul_bt), part=last)


def _block_stages(block: BlockCache) -> Iterator[Stage]:
    what = "each row to mean 0 and variance 1, then a learned gain and bias"
    yield _stage("LayerNorm", what, "T x D", block.normed_1, layer_norm)
    what = "what each position looks for, is found by, and has to say"
    qkv = _stage("query, key, value", what, "T x 3D", block.qkv, linear)
    parts = zip(split_columns(block.qkv, 3), "qkv")
    yield replace(qkv, numbers=[numbers(rows, letter) for rows, letter in parts])
    (heads,) = block.heads  # of the one context
    for number, head in enumerate(heads, 1):
        yield _softmax_stage(f"head {number} of {len(heads)}", head, "T x T")
    what = "the values, mixed by each head's weights, the heads side by side"
    yield _stage("mixed", what, "T x D", block.mixed, multi_head_attention)
    what = "x + the mixture, projected: a residual connection"
    yield _stage("x + attention", what, "T x D", block.middle, linear, add_rows)
    what = "once more, for the feed-forward network"
    yield _stage("LayerNorm", what, "T x D", block.normed_2, layer_norm)
    what = "every position on its own: a hidden layer, four times as wide"
    yield _stage("feed-forward", what, "T x F", block.wide, linear)
    what = "near 0 for negative numbers, unchanged for large ones"
    yield _stage("GELU", what, "T x F", block.active, gelu)
    what = "x + that, narrowed again: the second residual connection"
    yield _stage("x + feed-forward", what, "T x D", block.out, linear, add_rows)
