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
        last = f"; its last is {getattr(model.config, 'n_layers', 1)}.{heads}"
        has_some = any("query" in name or "attn" in name for name in model.parameters)
        problem = f"the model has no attention head {layer}.{head}"
        raise ValueError(problem + (last if has_some else ", nor any other"))
    rows = model.parameters[name] = list(model.parameters[name])  # int8 weights as floats
    width = len(rows) // heads
    for row in rows[(head - 1) * width : head * width]:
        row[:] = [0.0] * len(row)
