"""config.json of a Hugging Face folder: the sizes of a model, and all that could make it another.

    {"model_type": "gpt2", "n_embd": 768, ...}  <->  "modern", {"d_model": 768, ...}

Of the entries of such a file (https://github.com/huggingface/transformers, 2018) some are sizes,
some change what is computed, and most are about training, or about the program that wrote it. The
tables below name the first two kinds for the two architectures that are known here. Whatever would
make other numbers than this project computes is refused, the rest is passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from tiny_llm.files.portable import ForeignError
from tiny_llm.text.shown import shown

DEFAULT_THETA, DEFAULT_EPSILON = 10000.0, 1e-6  # of a Llama whose config.json does not say
ROPE = {"rope_type", "type", "rope_theta"}  # entries of rope_parameters that are known here


class Family(NamedTuple):
    """An architecture as config.json describes it."""

    kind: str  # what PortableModel calls it
    architecture: str  # the class in transformers
    prefix: str  # begins the names of its tensors there, that of the LM head aside
    tied: bool  # what it is if config.json does not say
    sizes: dict[str, str]  # entry -> field of our config
    settings: dict[str, tuple[Any, ...]]  # entry -> values that are known; the first is written


NO_OTHERS: dict[str, tuple[Any, ...]] = {  # in both, if they are there
    "add_cross_attention": (False, None),
    "quantization_config": (None,),
    "sliding_window": (None,),
    "use_sliding_window": (False, None),
    "rope_interleaved": (False, None),
    "partial_rotary_factor": (None, 1.0),
}
FAMILIES = {
    "gpt2": Family(
        "modern",
        "GPT2LMHeadModel",
        "transformer.",
        True,
        {
            "vocab_size": "vocab_size",
            "n_positions": "context_length",
            "n_embd": "d_model",
            "n_head": "n_heads",
            "n_layer": "n_layers",
        },
        {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "layer_norm_epsilon": (1e-5,),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False, None),
        },
    ),
    "llama": Family(
        "llama",
        "LlamaForCausalLM",
        "model.",
        False,
        {
            "vocab_size": "vocab_size",
            "max_position_embeddings": "context_length",
            "hidden_size": "d_model",
            "num_attention_heads": "n_heads",
            "num_key_value_heads": "n_kv_heads",
            "num_hidden_layers": "n_layers",
            "intermediate_size": "d_hidden",
        },
        {
            "hidden_act": ("silu",),
            "attention_bias": (False, None),
            "mlp_bias": (False, None),
        },
    ),
}


def family_of(config: dict[str, Any]) -> Family:
    """The architecture of a config.json. Raises ForeignError if it is not known here."""
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ForeignError(
            f"its model_type is {shown(json.dumps(name))}, which is not known here; "
            f"{' and '.join(FAMILIES)} are"
        )
    return FAMILIES[name]


def read(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of our config that a config.json says. Raises ForeignError for what it names that
    is not known here."""
    family = family_of(config)
    if family.kind == "llama" and config.get("num_key_value_heads") is None:
        config = {**config, "num_key_value_heads": config.get("num_attention_heads")}
    fields: dict[str, Any] = {field: _size(config, entry) for entry, field in family.sizes.items()}
    for entry, known in {**family.settings, **NO_OTHERS}.items():
        if entry in config and config[entry] not in known:
            raise _unknown(entry, config[entry])
    fields["tie_embeddings"] = config.get("tie_word_embeddings", family.tied)
    if type(fields["tie_embeddings"]) is not bool:
        raise _unknown("tie_word_embeddings", fields["tie_embeddings"])
    if fields["d_model"] % fields["n_heads"]:
        raise ForeignError(
            f"its {fields['n_heads']} heads cannot share {fields['d_model']} numbers evenly"
        )
    if family.kind == "llama":
        _check_heads(config, fields)
        fields["rope_theta"] = _rope_theta(config)
        fields["norm_epsilon"] = _positive("rms_norm_eps", config, DEFAULT_EPSILON)
    elif config.get("n_inner") not in (None, 4 * fields["d_model"]):
        raise _unknown("n_inner", config["n_inner"])
    return fields


def write(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The entries of a config.json for these fields of our config; `read` gives them back."""
    name, family = next(item for item in FAMILIES.items() if item[1].kind == kind)
    config: dict[str, Any] = {"architectures": [family.architecture], "model_type": name}
    config.update((entry, fields[field]) for entry, field in family.sizes.items())
    config.update((entry, known[0]) for entry, known in family.settings.items())
    config["tie_word_embeddings"] = fields["tie_embeddings"]
    if kind == "llama":
        config["head_dim"] = fields["d_model"] // fields["n_heads"]
        config["rms_norm_eps"] = fields["norm_epsilon"]
        config["rope_theta"] = fields["rope_theta"]
    return config


def shapes(kind: str, fields: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name and the shape of each parameter, one after the other: the number of blocks may be
    whatever a stranger wrote."""
    v, d = fields["vocab_size"], fields["d_model"]
    yield from _llama_shapes(fields) if kind == "llama" else _gpt2_shapes(fields)
    if not fields["tie_embeddings"]:
        yield "lm_head.weight", (v, d)


def _gpt2_shapes(fields: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    d = fields["d_model"]
    yield "wte.weight", (fields["vocab_size"], d)
    yield "wpe.weight", (fields["context_length"], d)
    for block in (f"h.{layer}." for layer in range(fields["n_layers"])):
        for name, shape in (
            ("ln_1", (d,)), ("attn.c_attn", (d, 3 * d)), ("attn.c_proj", (d, d)),
            ("ln_2", (d,)), ("mlp.c_fc", (d, 4 * d)), ("mlp.c_proj", (4 * d, d)),
        ):  # fmt: skip
            yield f"{block}{name}.weight", shape
            yield f"{block}{name}.bias", shape[-1:]
    yield "ln_f.weight", (d,)
    yield "ln_f.bias", (d,)


def _llama_shapes(fields: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    d, f = fields["d_model"], fields["d_hidden"]
    kv = d // fields["n_heads"] * fields["n_kv_heads"]
    yield "embed_tokens.weight", (fields["vocab_size"], d)
    for block in (f"layers.{layer}." for layer in range(fields["n_layers"])):
        for name, shape in (
            ("input_layernorm", (d,)),
            ("self_attn.q_proj", (d, d)), ("self_attn.k_proj", (kv, d)),
            ("self_attn.v_proj", (kv, d)), ("self_attn.o_proj", (d, d)),
            ("post_attention_layernorm", (d,)),
            ("mlp.gate_proj", (f, d)), ("mlp.up_proj", (f, d)), ("mlp.down_proj", (d, f)),
        ):  # fmt: skip
            yield f"{block}{name}.weight", shape
    yield "norm.weight", (d,)


def _size(config: dict[str, Any], entry: str) -> int:
    size = config.get(entry)
    if type(size) is not int or size < 1:
        raise ForeignError(
            f"its {entry} is {shown(json.dumps(size))}, and not a whole number of at least 1"
        )
    return size


def _positive(entry: str, config: dict[str, Any], default: float) -> float:
    number: Any = config.get(entry, default)
    if type(number) not in (int, float) or not 0 < number < math.inf:
        raise ForeignError(f"its {entry} is {shown(json.dumps(number))}, and not above 0")
    return float(number)


def _check_heads(config: dict[str, Any], fields: dict[str, Any]) -> None:
    """Raises ForeignError for heads that cannot be shared evenly, or of another width."""
    heads, shared = fields["n_heads"], fields["n_kv_heads"]
    width = fields["d_model"] // heads
    if heads % shared:
        raise ForeignError(f"its {heads} heads cannot share {shared} heads of keys evenly")
    if width % 2:
        raise ForeignError(f"its heads are {width} wide, so they cannot be turned in pairs")
    if config.get("head_dim") not in (None, width):
        raise _unknown("head_dim", config["head_dim"])


def _rope_theta(config: dict[str, Any]) -> float:
    """Older files have rope_theta and rope_scaling, newer ones rope_parameters with all of it."""
    theta = config
    for entry in ("rope_scaling", "rope_parameters"):
        rope = config.get(entry)
        if rope is None:
            continue
        if not isinstance(rope, dict) or not rope.keys() <= ROPE:
            raise _unknown(entry, rope)
        if any(rope.get(key, "default") != "default" for key in ("rope_type", "type")):
            raise _unknown(entry, rope)
        if "rope_theta" in rope:
            theta = rope
    return _positive("rope_theta", theta, DEFAULT_THETA)


def _unknown(entry: str, value: Any) -> ForeignError:
    return ForeignError(f"its {entry} is {shown(json.dumps(value))}, which is not known here")
