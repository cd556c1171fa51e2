"""Llama: what most open models changed about GPT-2's block, with its backward.

    tokens -> x                                      N x D; no table of positions
    n_layers times:
        x -> RMSNorm -> queries, keys, values        fewer heads of keys and values than of queries
             queries, keys -> rotated by position -> attention -> o_proj  -+
        x <------------------------------ add ----------------------------+
        x -> RMSNorm -> silu(gate) * up -> down  -------------------------+
        x <------------------------------ add ----------------------------+
    x -> RMSNorm -> LM head -> logits                N x V

The same as rung 3: embeddings, causal attention in heads, residual paths, blocks stacked, a tied LM
head. What changed, each for a reason of its own:

- **RMSNorm** (Zhang and Sennrich, 2019): a row is divided by its root mean square, without taking
  its mean off first, and there is no bias. As good, and less to do.
- **Rotary positions** (Su et al., 2021): instead of adding a learned vector to the token, each pair
  of numbers of a query or key is turned by an angle that grows with its position. The product of
  two turned vectors depends on the difference of their angles, so attention sees how far apart two
  positions are, at any place of the text.
- **SwiGLU** (Shazeer, 2020): the feed-forward layer has a second branch that opens or shuts the
  first, number by number.
- **Grouped queries** (Ainslie et al., 2023): several query heads share one head of keys and values,
  so that a KV cache remembers less.
- No biases anywhere.

Touvron et al. (2023). Parameters have the names and shapes of Hugging Face's LlamaForCausalLM,
without the leading `model.`; its linear layers are stored as outputs x inputs, so y = x W^T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from tiny_llm import layers
from tiny_llm.batches import Contexts
from tiny_llm.layers import AttentionCache, add_rows
from tiny_llm.matmul import Matrix, Vector, dot, matmul, matmul_at, matmul_bt, transpose
from tiny_llm.model import Config, LanguageModel, Parameters, Start, check_contexts

# ---------------------------------------------------------------- the new layers

RMSNormCache = list[tuple[Vector, float]]  # N times: the normalized row, and 1 / root mean square


def rms_norm(x: Matrix, gain: Vector, epsilon: float) -> tuple[Matrix, RMSNormCache]:
    """y = x / sqrt(mean(x^2) + epsilon) * gain, row by row: N x D -> N x D, cache."""
    y, cache = [], []
    for row in x:
        inverse = 1 / math.sqrt(dot(row, row) / len(row) + epsilon)
        unit = [value * inverse for value in row]
        y.append([value * g for value, g in zip(unit, gain)])
        cache.append((unit, inverse))
    return y, cache


def rms_norm_backward(dy: Matrix, gain: Vector, cache: RMSNormCache) -> tuple[Matrix, Vector]:
    """N x D -> dx (N x D), dgain (D). LayerNorm's slope without the term of the mean:

    dx = (dn - n * mean(dn * n)) / sqrt(mean(x^2) + epsilon), n the normalized row, dn = dy * gain
    """
    dx = []
    for drow, (unit, inverse) in zip(dy, cache):
        dn = [d * g for d, g in zip(drow, gain)]
        along = dot(dn, unit) / len(dn)
        dx.append([(d - n * along) * inverse for d, n in zip(dn, unit)])
    return dx, list(map(dot, transpose(dy), transpose([unit for unit, _ in cache])))


def turns(positions: Sequence[int], width: int, theta: float) -> list[tuple[Vector, Vector]]:
    """The cosines and sines of W / 2 angles for each position: pair i of a head of width W turns by
    theta^(-2i / W) a position. The first pair goes round every 6 positions; the last of 32, for
    theta 10,000, every 47,000, so that there is a hand for every distance, as on a clock."""
    speeds = [theta ** (-2 * i / width) for i in range(width // 2)]
    angles = [[position * speed for speed in speeds] for position in positions]
    return [(list(map(math.cos, row)), list(map(math.sin, row))) for row in angles]


def rotate(x: Matrix, by: list[tuple[Vector, Vector]]) -> Matrix:
    """Each pair turned by its angle: T x W -> T x W. Number i makes a pair with number i + W / 2:

    (a, b) -> (a cos - b sin, b cos + a sin)
    """
    out = []
    for row, (cosines, sines) in zip(x, by):
        half = len(row) // 2
        quads = list(zip(row[:half], row[half:], cosines, sines))
        out.append(
            [a * c - b * s for a, b, c, s in quads] + [b * c + a * s for a, b, c, s in quads]
        )
    return out


def rotate_backward(dout: Matrix, by: list[tuple[Vector, Vector]]) -> Matrix:
    """A turn back: the transpose of a rotation is the rotation by the opposite angle."""
    return rotate(dout, [(cosines, [-s for s in sines]) for cosines, sines in by])


def swiglu(gate: Matrix, up: Matrix) -> Matrix:
    """silu(gate) * up, number by number, silu(g) = g / (1 + e^-g): N x F, N x F -> N x F."""
    tanh = math.tanh  # of half of g: see sigmoid
    return [[0.5 * g * (1 + tanh(0.5 * g)) * u for g, u in zip(*rows)] for rows in zip(gate, up)]


def swiglu_backward(dout: Matrix, gate: Matrix, up: Matrix) -> tuple[Matrix, Matrix]:
    """dgate = dout u (s + g s (1 - s)), s = sigmoid(g): the product rule; dup = dout g s."""
    dgate, dup = [], []
    for drow, gates, ups in zip(dout, gate, up):
        sigmoids = list(map(sigmoid, gates))
        dgate.append([d * u * s * (1 + g * (1 - s))
                      for d, g, u, s in zip(drow, gates, ups, sigmoids)])  # fmt: skip
        dup.append([d * g * s for d, g, s in zip(drow, gates, sigmoids)])
    return dgate, dup


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x), for any x: as a tanh it cannot overflow."""
    return 0.5 * (1 + math.tanh(0.5 * x))


# ---------------------------------------------------------------- the model


@dataclass(frozen=True)
class LlamaConfig(Config):
    """The sizes of a Llama. Raises ValueError for heads that cannot be shared evenly."""

    vocab_size: int
    context_length: int = 16
    d_model: int = 24
    n_heads: int = 4
    n_kv_heads: int = 2
    n_layers: int = 1
    d_hidden: int = 64
    tie_embeddings: bool = True
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % (2 * self.n_heads):
            raise ValueError(
                f"d_model {self.d_model} cannot be shared by n_heads {self.n_heads} in pairs; "
                f"make d_model a multiple of {2 * self.n_heads}"
            )
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads {self.n_heads} cannot share n_kv_heads {self.n_kv_heads} evenly; "
                f"make n_heads a multiple of n_kv_heads"
            )
        for name in ("rope_theta", "norm_epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)!r}")

    @property
    def head_width(self) -> int:
        """Numbers in a query, a key or a value."""
        return self.d_model // self.n_heads


class LlamaBlockCache(NamedTuple):
    """What one block computed, in the order in which it came about."""

    norm_1: RMSNormCache
    normed_1: Matrix  # N x D
    heads: list[list[AttentionCache]]  # B x H, queries and keys as they were turned
    mixed: Matrix  # N x D, the heads side by side
    norm_2: RMSNormCache
    normed_2: Matrix  # N x D
    gate: Matrix  # N x F
    up: Matrix  # N x F
    active: Matrix  # N x F, the two of them multiplied
    out: Matrix  # N x D


class LlamaCache(NamedTuple):
    """What the whole model computed."""

    tokens: list[int]  # N, the contexts one after the other
    turned: list[list[tuple[Vector, Vector]]]  # B x T, cosines and sines
    blocks: list[LlamaBlockCache]
    norm: RMSNormCache
    final: Matrix  # N x D, what the LM head reads


class LlamaLanguageModel(LanguageModel):
    """Token embeddings, `n_layers` blocks, a last RMSNorm, the LM head."""

    predicts_every_token = True
    attend = property(lambda self: layers.attention)  # in `forward`; a KV cache plugs in its own

    @staticmethod
    def layout(config: LlamaConfig) -> dict[str, Start]:
        """As rung 3 begins: what writes to the residual path smaller, the more blocks there are."""
        v, d, f = config.vocab_size, config.d_model, config.d_hidden
        kv = config.n_kv_heads * config.head_width
        std = 0.5 / math.sqrt(d)
        residual_std = std / math.sqrt(2 * config.n_layers)
        layout = {"embed_tokens.weight": Start((v, d), std)}
        for block in (f"layers.{layer}." for layer in range(config.n_layers)):
            layout[block + "input_layernorm.weight"] = Start((d,), mean=1.0)
            layout[block + "self_attn.q_proj.weight"] = Start((d, d), std)
            layout[block + "self_attn.k_proj.weight"] = Start((kv, d), std)
            layout[block + "self_attn.v_proj.weight"] = Start((kv, d), std)
            layout[block + "self_attn.o_proj.weight"] = Start((d, d), residual_std)
            layout[block + "post_attention_layernorm.weight"] = Start((d,), mean=1.0)
            layout[block + "mlp.gate_proj.weight"] = Start((f, d), std)
            layout[block + "mlp.up_proj.weight"] = Start((f, d), std)
            layout[block + "mlp.down_proj.weight"] = Start((d, f), residual_std)
        layout["norm.weight"] = Start((d,), mean=1.0)
        if not config.tie_embeddings:
            layout["lm_head.weight"] = Start((v, d), std)
        return layout

    @property
    def lm_head(self) -> Matrix:
        """The table that scores every token of the vocabulary: V x D."""
        name = "embed_tokens.weight" if self.config.tie_embeddings else "lm_head.weight"
        table: Matrix = self.parameters[name]
        return table

    def forward(self, contexts: Contexts) -> tuple[Matrix, LlamaCache]:
        """B contexts -> N x V logits, cache."""
        check_contexts(contexts, self.config)
        size = self.config
        tokens = [token for context in contexts for token in context]  # N
        places = iter(self.positions([len(context) for context in contexts]))
        turned = [
            turns([next(places) for _ in context], size.head_width, size.rope_theta)
            for context in contexts
        ]
        x = layers.embedding(tokens, self.parameters["embed_tokens.weight"])  # N x D
        blocks = []
        for layer in range(size.n_layers):
            blocks.append(self.block(f"layers.{layer}.", x, turned))
            x = blocks[-1].out
        final, norm = rms_norm(x, self.parameters["norm.weight"], size.norm_epsilon)
        logits = matmul_bt(final, self.lm_head)  # N x V
        return logits, LlamaCache(tokens, turned, blocks, norm, final)

    def backward(self, dlogits: Matrix, cache: LlamaCache) -> Parameters:
        """The forward's lines in reverse: N x V -> the slope of the loss by every parameter."""
        size, w, g = self.config, self.parameters, dict[str, object]()
        dfinal = matmul(dlogits, self.lm_head)  # N x D
        dhead = matmul_at(dlogits, cache.final)  # V x D
        dx, g["norm.weight"] = rms_norm_backward(dfinal, w["norm.weight"], cache.norm)
        for layer in reversed(range(size.n_layers)):
            dx = self.block_backward(f"layers.{layer}.", dx, cache.blocks[layer], cache.turned, g)
        dtable = layers.embedding_backward(dx, cache.tokens, size.vocab_size)
        g["embed_tokens.weight"] = add_rows(dtable, dhead) if size.tie_embeddings else dtable
        if not size.tie_embeddings:
            g["lm_head.weight"] = dhead
        return g

    def block(
        self, name: str, x: Matrix, turned: list[list[tuple[Vector, Vector]]]
    ) -> LlamaBlockCache:
        """N x D -> a cache whose `out` is N x D."""
        w, epsilon = self.parameters, self.config.norm_epsilon
        normed_1, norm_1 = rms_norm(x, w[name + "input_layernorm.weight"], epsilon)
        q = matmul_bt(normed_1, w[name + "self_attn.q_proj.weight"])  # N x D
        k = matmul_bt(normed_1, w[name + "self_attn.k_proj.weight"])  # N x GW
        v = matmul_bt(normed_1, w[name + "self_attn.v_proj.weight"])  # N x GW
        mixed, heads = self.mix(q, k, v, turned)  # N x D
        middle = add_rows(x, matmul_bt(mixed, w[name + "self_attn.o_proj.weight"]))
        normed_2, norm_2 = rms_norm(middle, w[name + "post_attention_layernorm.weight"], epsilon)
        gate = matmul_bt(normed_2, w[name + "mlp.gate_proj.weight"])  # N x F
        up = matmul_bt(normed_2, w[name + "mlp.up_proj.weight"])  # N x F
        active = swiglu(gate, up)
        out = add_rows(middle, matmul_bt(active, w[name + "mlp.down_proj.weight"]))  # N x D
        return LlamaBlockCache(
            norm_1, normed_1, heads, mixed, norm_2, normed_2, gate, up, active, out
        )

    def block_backward(
        self,
        name: str,
        dout: Matrix,
        cache: LlamaBlockCache,
        turned: list[list[tuple[Vector, Vector]]],
        g: Parameters,
    ) -> Matrix:
        """N x D -> dx, N x D; the block's own gradients go into g."""
        w = self.parameters
        dactive = self.linear_backward(name + "mlp.down_proj.weight", dout, cache.active, g)
        dgate, dup = swiglu_backward(dactive, cache.gate, cache.up)
        dnormed_2 = add_rows(
            self.linear_backward(name + "mlp.gate_proj.weight", dgate, cache.normed_2, g),
            self.linear_backward(name + "mlp.up_proj.weight", dup, cache.normed_2, g),
        )
        norm = name + "post_attention_layernorm.weight"
        dbranch, g[norm] = rms_norm_backward(dnormed_2, w[norm], cache.norm_2)
        dmiddle = add_rows(dout, dbranch)
        dmixed = self.linear_backward(name + "self_attn.o_proj.weight", dmiddle, cache.mixed, g)
        dqkv = self.mix_backward(dmixed, cache.heads, turned)
        dnormed_1 = reduce(add_rows, (
            self.linear_backward(f"{name}self_attn.{part}_proj.weight", slopes, cache.normed_1, g)
            for part, slopes in zip("qkv", dqkv)
        ))  # fmt: skip
        norm = name + "input_layernorm.weight"
        dbranch, g[norm] = rms_norm_backward(dnormed_1, w[norm], cache.norm_1)
        return add_rows(dmiddle, dbranch)

    def linear_backward(self, name: str, dy: Matrix, x: Matrix, g: Parameters) -> Matrix:
        """y = x W^T: N x O -> dx = dy W, N x I; dW = dy^T x, O x I, goes into g."""
        g[name] = matmul_at(dy, x)
        return matmul(dy, self.parameters[name])

    # Methods, so that a model which goes on from what it has read can do these in its own way:

    def positions(self, lengths: Sequence[int]) -> list[int]:
        """Where each token stands: N numbers, counted from 0 in each context."""
        return [place for length in lengths for place in range(length)]

    def served_by(self, head: int) -> int:
        """Which head of keys and values serves this one of queries."""
        return int(head // (self.config.n_heads // self.config.n_kv_heads))

    def mix(
        self, q: Matrix, k: Matrix, v: Matrix, turned: list[list[tuple[Vector, Vector]]]
    ) -> tuple[Matrix, list[list[AttentionCache]]]:
        """Attention: N x D, N x GW, N x GW -> N x D, B x H caches. G heads of keys and values, each
        of width W, serve H / G heads of queries."""
        size, lengths = self.config, list(map(len, turned))
        out: Matrix = []
        caches = []
        for rows, by in zip(zip(*(layers.split_rows(x, lengths) for x in (q, k, v))), turned):
            queries = [rotate(x, by) for x in layers.split_columns(rows[0], size.n_heads)]
            keys = [rotate(x, by) for x in layers.split_columns(rows[1], size.n_kv_heads)]
            values = layers.split_columns(rows[2], size.n_kv_heads)
            served = [self.served_by(h) for h in range(size.n_heads)]
            heads = [self.attend(x, keys[g], values[g]) for x, g in zip(queries, served)]
            out += layers.join_columns([head_out for head_out, _ in heads])  # T x D
            caches.append([cache for _, cache in heads])
        return out, caches

    def mix_backward(
        self,
        dmixed: Matrix,
        caches: list[list[AttentionCache]],
        turned: list[list[tuple[Vector, Vector]]],
    ) -> tuple[Matrix, Matrix, Matrix]:
        """N x D -> dq (N x D), dk, dv (N x GW). What heads share gathers all their slopes."""
        size = self.config
        group = size.n_heads // size.n_kv_heads
        dqkv: tuple[Matrix, Matrix, Matrix] = ([], [], [])
        for drows, heads, by in zip(
            layers.split_rows(dmixed, list(map(len, turned))), caches, turned
        ):
            douts = layers.split_columns(drows, size.n_heads)
            dqueries, dkeys, dvalues = zip(*map(layers.attention_backward, douts, heads))
            shared = [slice(i, i + group) for i in range(0, size.n_heads, group)]
            parts = (
                [rotate_backward(x, by) for x in dqueries],
                [rotate_backward(reduce(add_rows, dkeys[s]), by) for s in shared],
                [reduce(add_rows, dvalues[s]) for s in shared],
            )
            for whole, part in zip(dqkv, parts):
                whole += layers.join_columns(part)
        return dqkv

    def attention(self, cache: LlamaCache) -> list[list[list[Matrix]]]:
        """The weights as contexts x layers x heads x queries x keys; each row sums to 1."""
        by_layer = [[[h.weights for h in heads] for heads in block.heads] for block in cache.blocks]
        return list(map(list, zip(*by_layer)))
