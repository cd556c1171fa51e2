"""A trained model with an attention head switched off: what is lost is what the head did."""

from __future__ import annotations

from tiny_llm.matmul import Matrix
from tiny_llm.model import LanguageModel


def switch_off(model: LanguageModel, layer: int, head: int) -> None:
    """Make 0 of what the head writes to the residual path; layers and heads count from 1.

    What it found passes its own rows of the projection behind the heads, or its own columns of a
    projection that is stored as outputs x inputs (Llama's), and nothing else does.
    Raises ValueError for a head that the model does not have.
    """
    heads, layers = (getattr(model.config, name, 1) for name in ("n_heads", "n_layers"))
    of_llama = f"layers.{layer - 1}.self_attn.o_proj.weight"
    names = [f"h.{layer - 1}.attn.c_proj.weight", of_llama, *["projection.weight"] * (layer == 1)]
    found = [name for name in names if name in model.parameters]
    if not found or not 1 <= head <= heads:
        has_some = any("query" in name or "attn" in name for name in model.parameters)
        there = f"; its last is {layers}.{heads}" if has_some else ", nor any other"
        raise ValueError(f"the model has no attention head {layer}.{head}{there}")
    (name,) = found
    rows = _flipped(model.parameters[name]) if name == of_llama else model.parameters[name]
    own = range(len(rows) * (head - 1) // heads, len(rows) * head // heads)
    rows = [[0.0] * len(row) if i in own else list(row) for i, row in enumerate(rows)]
    model.parameters[name] = _flipped(rows) if name == of_llama else rows  # now floats


def _flipped(rows: Matrix) -> Matrix:
    return list(map(list, zip(*rows)))
