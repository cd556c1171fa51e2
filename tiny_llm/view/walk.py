"""One prompt's walk through the modern block (rung 3), with every stage in order.

    tokens -> embeddings -> layers: [LayerNorm, attention, +, LayerNorm, feed-forward, +]
           -> LayerNorm -> logits -> probabilities

All numbers are those that the forward left in its cache; nothing is computed again but summaries.
Shapes have the letters of the dimension key in layers.py; beside each stands the function at work.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from tiny_llm.layers import AttentionCache, softmax, split_columns
from tiny_llm.matmul import Matrix, Vector
from tiny_llm.model import LanguageModel
from tiny_llm.modern_block import BlockCache, ModernCache, ModernConfig
from tiny_llm.text.tokenizers import Tokenizer
from tiny_llm.view.attention_map import attention_matrix, score_matrix
from tiny_llm.view.heads import choose_heads, summary_table
from tiny_llm.view.rows import INDENT, first_numbers, in_columns
from tiny_llm.view.terminal import (
    BOLD,
    Style,
    bar,
    display_width,
    fraction_text,
    number_text,
    pad,
    paint,
    visible,
    wrap,
)

NARROW = 72  # columns; below it, what stands behind a stage's name moves to lines of its own
LIKELIEST = 8  # how many next tokens are shown
MOST_READ = 3  # how many keys a head's summary names
LONGEST_BAR = 40  # columns


def walk(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    style: Style,
    show_attention: bool = False,
) -> Iterator[str]:
    """Yield the stages of one forward of `prompt` through a model of rung 3, as text, in order.

    `show_attention` adds the scores and weights of every head in full, and a line that sums each
    up. Raises ValueError for an empty prompt or one with unknown characters.
    """
    ids = tokenizer.encode(prompt)
    if not ids:
        raise ValueError("the prompt is empty; give at least one character to walk with")
    seen = ids[-model.config.context_length :]
    logits, cache = model.forward([seen])
    tokens = [tokenizer.decode([token]) for token in seen]
    yield from _opening(model.config, len(ids), len(seen), style)
    yield _heading("tokens, ids", f"{len(seen)}  (T)", "tokenizer.encode", style)
    yield from _token_table(tokens, seen, style)
    yield from _embeddings(cache, style)
    for layer, block in enumerate(cache.blocks):
        yield "\n" + paint(f"layer {layer + 1} of {len(cache.blocks)}", BOLD, style)
        yield from _attention(f"h.{layer}.", block, tokens, style, show_attention)
        yield from _feed_forward(f"h.{layer}.", block, style)
    heads = choose_heads([[head.weights for head in block.heads[0]] for block in cache.blocks])
    summary = list(summary_table(heads, style))
    if show_attention and summary:
        yield from ["\n" + paint("all heads", BOLD, style), *summary]
    yield "\n" + paint("prediction", BOLD, style)
    yield from _stage("LayerNorm", "T x D", "ops.layer_norm(ln_f)", cache.final, style)
    head = "wte" if model.config.tie_embeddings else "lm_head"
    yield from _stage("logits", "T x V", f"matmul.matmul_bt({head})", logits, style)
    yield from _prediction(logits[-1], tokens, tokenizer, style)


def _opening(size: ModernConfig, given: int, seen: int, style: Style) -> list[str]:
    """What the letters of the shapes stand for here, and how to read the rest."""
    d, heads = size.d_model, size.n_heads
    key = (
        f"T={seen} positions, D={d} width, H={heads} heads of D/H={d // heads}, "
        f"F={4 * d} feed-forward width, V={size.vocab_size} tokens in the vocabulary"
    )
    lines = wrap(key, style)
    if given > seen:
        cut = f"The prompt has {given} tokens; the model sees the last {seen}, its whole context."
        lines += wrap(cut, style)
    how = "Under each stage: the mean and deviation of all its numbers, and the first numbers of "
    return [*lines, *wrap(how + "the last position's row.", style), ""]


def _token_table(tokens: list[str], ids: list[int], style: Style) -> Iterator[str]:
    """Position, token and id under one another."""
    rows = {
        "position": list(map(str, range(len(ids)))),
        "token": [visible(token, style) for token in tokens],
        "id": list(map(str, ids)),
    }
    return in_columns(rows, style)


def _embeddings(cache: ModernCache, style: Style) -> Iterator[str]:
    """From ids to the first rows of the residual path."""
    yield from _stage("token embedding", "T x D", "ops.embedding(wte)", cache.token_rows, style)
    where = "ops.embedding(wpe)"
    yield from _stage("position embedding", "T x D", where, cache.position_rows, style)
    yield from _stage("their sum", "T x D", "ops.add_rows", cache.blocks[0].x, style)


def _attention(
    name: str, block: BlockCache, tokens: list[str], style: Style, in_full: bool
) -> Iterator[str]:
    """The first half of a block: positions exchange what they know."""
    where = f"ops.layer_norm({name}ln_1)"
    yield from _stage("LayerNorm", "T x D", where, block.normed_1, style)
    where = f"ops.linear({name}attn.c_attn)"
    yield _heading("query, key, value", _shape(block.qkv, "T x 3D"), where, style)
    for letter, rows in zip("qkv", split_columns(block.qkv, 3)):
        yield from _numbers(rows, style, letter + " ")
    (heads,) = block.heads  # of the one context
    shape = f"{len(heads)} x " + _shape(heads[0].weights, "H x T x T")
    yield _heading("scores, weights", shape, "ops.attention", style)
    for number, head in enumerate(heads, 1):
        show = _head_in_full if in_full else _head_summary
        yield from show(f"head {number}", head, tokens, style)
    where = "ops.multi_head_attention"
    yield from _stage("heads side by side", "T x D", where, block.mixed, style)
    where = f"ops.linear({name}attn.c_proj), ops.add_rows"
    yield from _stage("projected, added", "T x D", where, block.middle, style)


def _feed_forward(name: str, block: BlockCache, style: Style) -> Iterator[str]:
    """The second half of a block: every position thinks for itself."""
    where = f"ops.layer_norm({name}ln_2)"
    yield from _stage("LayerNorm", "T x D", where, block.normed_2, style)
    where = f"ops.linear({name}mlp.c_fc)"
    yield from _stage("feed-forward, wide", "T x F", where, block.wide, style)
    yield from _stage("GELU", "T x F", "ops.gelu", block.active, style)
    where = f"ops.linear({name}mlp.c_proj), ops.add_rows"
    yield from _stage("narrowed, added", "T x D", where, block.out, style)


def _stage(name: str, letters: str, where: str, rows: Matrix, style: Style) -> Iterator[str]:
    """One stage: what it is and who did it, then its numbers."""
    yield _heading(name, _shape(rows, letters), where, style)
    yield from _numbers(rows, style)


def _shape(rows: Matrix, letters: str) -> str:
    return f"{len(rows)} x {len(rows[0])}  ({letters})"


def _heading(name: str, shape: str, where: str, style: Style) -> str:
    """The name of a stage, its shape and the function at work, on as many lines as it takes."""
    lines = [f"{name:20}{shape:18} {where}"]
    if style.width < max(NARROW, len(lines[0])):
        start = f"{name:20}{shape}"
        lines = [start] if len(start) <= style.width else [name, INDENT + shape]
        lines += wrap(where, style, INDENT)
    lines[0] = paint(name, BOLD, style) + lines[0][len(name) :]
    return "\n".join(lines)


def _numbers(rows: Matrix, style: Style, label: str = "") -> Iterator[str]:
    """The mean and deviation of N x M numbers, and the first of the last row, in a line or two."""
    values = [value for row in rows for value in row]
    mean = sum(values) / len(values)
    deviation = sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    start = f"{INDENT}{label}mean {number_text(mean):>5}  deviation {number_text(deviation):>5}"
    if style.width < NARROW:
        yield start
        start = INDENT + " " * len(label)
    yield start + first_numbers(rows[-1], style.width - len(start), style)


def _head_summary(
    name: str, head: AttentionCache, tokens: list[str], style: Style
) -> Iterator[str]:
    """The range of a head's scores, and what the last position reads most."""
    scores = [score for i, row in enumerate(head.scores) for score in row[: i + 1]]
    lowest, highest = number_text(min(scores), 1), number_text(max(scores), 1)
    start = f"{INDENT}{name}  scores {lowest:>5} to {highest:>4}"
    row = head.weights[-1]
    ranked = sorted(range(len(row)), key=lambda place: -row[place])[:MOST_READ]
    reads = [f"{fraction_text(row[i])} {visible(tokens[i], style)} at {i}" for i in ranked]
    if style.width < NARROW:
        yield start
        start = INDENT
    while display_width(start + "  reads " + ", ".join(reads)) > style.width:
        reads.pop()
    yield start + "  reads " + ", ".join(reads)


def _head_in_full(
    name: str, head: AttentionCache, tokens: list[str], style: Style
) -> Iterator[str]:
    """A head's scores and weights, every query's."""
    yield f"\n{name}: scores, q k^T / sqrt({len(head.queries[0])})"
    yield score_matrix(head.scores, tokens, style)
    yield f"\n{name}: weights, each row's softmax"
    yield attention_matrix(head.weights, tokens, style)


def _prediction(
    logits: Vector, tokens: list[str], tokenizer: Tokenizer, style: Style
) -> Iterator[str]:
    """The likeliest tokens after the last position, with their probabilities."""
    probabilities = softmax(logits)
    yield _heading("next token", f"{len(logits)}  (V)", "ops.softmax", style)
    ranked = sorted(range(len(logits)), key=lambda token: -logits[token])
    shown = ranked[:LIKELIEST]
    labels = {token: visible(tokenizer.decode([token]), style) for token in shown}
    column = max(map(display_width, labels.values()))
    for token in shown:
        p = probabilities[token]
        line = f"{INDENT}{fraction_text(p, 3)}  {pad(labels[token], column)}  id {token:<5}"
        yield (line + bar(p, min(LONGEST_BAR, style.width - display_width(line)), style)).rstrip()
