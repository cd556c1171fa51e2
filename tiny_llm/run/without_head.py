"""A trained model with an attention head switched off: what is lost is what the head did."""

from __future__ import annotations

from tiny_llm.model import LanguageModel


def switch_off(model: LanguageModel, layer: int, head: int) -> None:
    """Make 0 of what the head writes to the residual path; layers and heads count from 1.

    What it found passes its own rows of the projection behind the heads, and nothing else does.
    Raises ValueError for a head that the model does not have.
    """
    heads = getattr(model.config, "n_heads", 1)
    one_layer = "projection.weight"  # of rung 2
    name = one_layer if layer == 1 else ""
    if one_layer not in model.parameters:
        name = f"h.{layer - 1}.attn.c_proj.weight"
    if name not in model.parameters or not 1 <= head <= heads:
        raise ValueError(f"the model has no attention head {layer}.{head}")
    rows = model.parameters[name]
    width = len(rows) // heads
    for row in rows[(head - 1) * width : head * width]:
        row[:] = [0.0] * len(row)
