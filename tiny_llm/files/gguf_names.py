"""What the tensors of a model are called in GGUF and here, and how their numbers lie in the file.

    blk.0.attn_q.weight     layers.0.self_attn.q_proj.weight     rows paired within each head
    blk.0.attn_qkv.weight   h.0.attn.c_attn.weight               rows for columns

Two architectures are known, "gpt2" (rung 3) and "llama". llama.cpp stores every layer as outputs x
inputs, so GPT-2's, which are inputs x outputs here, lie the other way round. And it turns numbers 0
and 1 of a head together, then 2 and 3, where this project, as Hugging Face does, turns number i and
number i + W / 2: so the rows of queries and keys are written in another order, head by head. A
reader who forgets that sees no error: the model talks nonsense.

    here   0 1 2 3 4 5     rows of a head of width W = 6
    GGUF   0 3 1 4 2 5
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

# How the rows of a tensor lie in the file: as here; as columns; or paired, by this many heads.
AS_HERE, AS_COLUMNS, BY_HEADS, BY_KV_HEADS = "", "columns", "n_heads", "n_kv_heads"
HEADS = {BY_HEADS, BY_KV_HEADS}  # which are fields of a config, too
POSITIONS = "wpe.weight"


class Part(NamedTuple):
    """A tensor under its two names. `axes`: its shape here, a letter of `sizes_of` for each."""

    theirs: str
    ours: str
    axes: str
    lie: str = AS_HERE


class Architecture(NamedTuple):
    """What a kind of model has once, and what it has in every block."""

    name: str
    block: str  # how names of a block's tensors begin here
    once: list[Part]
    each: list[Part]


GPT2 = Architecture(
    "gpt2",
    "h",
    [
        Part("token_embd.weight", "wte.weight", "vd"),
        Part("position_embd.weight", POSITIONS, "cd"),
        Part("output_norm.weight", "ln_f.weight", "d"),
        Part("output_norm.bias", "ln_f.bias", "d"),
    ],
    [
        Part("attn_norm.weight", "ln_1.weight", "d"),
        Part("attn_norm.bias", "ln_1.bias", "d"),
        Part("attn_qkv.weight", "attn.c_attn.weight", "dq", AS_COLUMNS),
        Part("attn_qkv.bias", "attn.c_attn.bias", "q"),
        Part("attn_output.weight", "attn.c_proj.weight", "dd", AS_COLUMNS),
        Part("attn_output.bias", "attn.c_proj.bias", "d"),
        Part("ffn_norm.weight", "ln_2.weight", "d"),
        Part("ffn_norm.bias", "ln_2.bias", "d"),
        Part("ffn_up.weight", "mlp.c_fc.weight", "df", AS_COLUMNS),
        Part("ffn_up.bias", "mlp.c_fc.bias", "f"),
        Part("ffn_down.weight", "mlp.c_proj.weight", "fd", AS_COLUMNS),
        Part("ffn_down.bias", "mlp.c_proj.bias", "d"),
    ],
)
LLAMA = Architecture(
    "llama",
    "layers",
    [
        Part("token_embd.weight", "embed_tokens.weight", "vd"),
        Part("output_norm.weight", "norm.weight", "d"),
    ],
    [
        Part("attn_norm.weight", "input_layernorm.weight", "d"),
        Part("attn_q.weight", "self_attn.q_proj.weight", "dd", BY_HEADS),
        Part("attn_k.weight", "self_attn.k_proj.weight", "kd", BY_KV_HEADS),
        Part("attn_v.weight", "self_attn.v_proj.weight", "kd"),
        Part("attn_output.weight", "self_attn.o_proj.weight", "dd"),
        Part("ffn_norm.weight", "post_attention_layernorm.weight", "d"),
        Part("ffn_gate.weight", "mlp.gate_proj.weight", "fd"),
        Part("ffn_up.weight", "mlp.up_proj.weight", "fd"),
        Part("ffn_down.weight", "mlp.down_proj.weight", "df"),
    ],
)
HEAD = Part("output.weight", "lm_head.weight", "vd")  # of a model that is not tied
ARCHITECTURES = {"modern": GPT2, "llama": LLAMA}


def sizes_of(config: dict[str, Any]) -> dict[str, int]:
    """The sizes that the letters of `Part.axes` stand for."""
    d = config["d_model"]
    return {
        "v": config["vocab_size"],
        "c": config["context_length"],
        "d": d,
        "f": config.get("d_hidden", 4 * d),
        "k": d // config["n_heads"] * config.get("n_kv_heads", 1),
        "q": 3 * d,
    }


def parts_of(kind: str, config: dict[str, Any]) -> Iterator[tuple[Part, tuple[int, ...]]]:
    """Every tensor that a model of this kind and config has, and its shape here."""
    sizes, architecture = sizes_of(config), ARCHITECTURES[kind]
    parts = list(architecture.once)
    for layer in range(config["n_layers"]):
        ours, theirs = f"{architecture.block}.{layer}.", f"blk.{layer}."
        parts += [
            part._replace(theirs=theirs + part.theirs, ours=ours + part.ours)
            for part in architecture.each
        ]
    if not config["tie_embeddings"]:
        parts.append(HEAD)
    for part in parts:
        yield part, tuple(sizes[axis] for axis in part.axes)


def places(rows: int, heads: int) -> list[int]:
    """For each row here, the one of the file, where rows are paired by heads."""
    width = rows // heads
    return [
        head * width + 2 * i + half
        for head in range(heads)
        for half in (0, 1)
        for i in range(width // 2)
    ]
