"""RUNG 3: GPT-2's architecture to the letter, with its backward.

    tokens, positions -> x                          N x D, one row for every position
    n_layers times:
        x -> LayerNorm -> multi-head attention  -+
        x <-------------- add ------------------+   positions exchange what they know
        x -> LayerNorm -> linear, GELU, linear  -+
        x <-------------- add ------------------+   every position on its own
    x -> LayerNorm -> LM head -> logits             N x V, a prediction after every position

The same as rung 2: token + position embeddings, queries, keys and values, residual paths.
Different: every position asks a query (and sees only itself and what came before), so that one
forward predicts after every token; positions count from the left; several heads at once.
New: LayerNorm before each part, the feed-forward network with GELU, blocks stacked, and the LM head
tied to the token embedding, so that one table reads tokens and writes them.

Radford et al. (2019), "Language models are unsupervised multitask learners", after Vaswani et al.
(2017). Parameters have the names and shapes of Hugging Face's GPT2LMHeadModel, without the leading
`transformer.`. Dropout stands where GPT-2 has it, and drops only in training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple, Optional

from tiny_llm.batches import Contexts
from tiny_llm.fast.kv_cache import Past, check_pasts, seen
from tiny_llm.layers import (
    AttentionCache,
    Drop,
    KeysValues,
    LayerNormCache,
    add_rows,
    apply_mask,
    dropout,
    embedding,
    embedding_backward,
    gelu,
    gelu_backward,
    layer_norm,
    layer_norm_backward,
    linear,
    linear_backward,
    multi_head_attention,
    multi_head_attention_backward,
)
from tiny_llm.matmul import Matrix, matmul, matmul_at, matmul_bt
from tiny_llm.model import Parameters, check_contexts, check_sizes, normal


@dataclass(frozen=True)
class ModernConfig:
    """The sizes of rung 3. Raises ValueError for one below 1 or heads that cannot share d_model."""

    vocab_size: int
    context_length: int = 16
    d_model: int = 24
    n_heads: int = 4
    n_layers: int = 1
    tie_embeddings: bool = True
    dropout: float = 0.0  # the probability of a number to be dropped in training

    def __post_init__(self) -> None:
        check_sizes(self)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout:g}")
        if self.d_model % self.n_heads:
            raise ValueError(
                f"d_model {self.d_model} cannot be shared evenly by n_heads {self.n_heads}; "
                f"make d_model a multiple of n_heads"
            )


class BlockCache(NamedTuple):
    """What one block computed, in the order in which it came about."""

    x: Matrix  # N x D, what came in
    ln_1: LayerNormCache
    normed_1: Matrix  # N x D
    qkv: Matrix  # N x 3D
    heads: list[list[AttentionCache]]  # B x H
    mixed: Matrix  # N x D, the heads side by side
    mask_1: Optional[Matrix]  # N x D, of dropout
    middle: Matrix  # N x D, x + projected mixture
    ln_2: LayerNormCache
    normed_2: Matrix  # N x D
    wide: Matrix  # N x F, before GELU
    active: Matrix  # N x F, after it
    mask_2: Optional[Matrix]  # N x D, of dropout
    out: Matrix  # N x D, middle + what the feed-forward network says


class ModernCache(NamedTuple):
    """What the whole model computed."""

    tokens: list[int]  # N, the contexts one after the other
    positions: list[int]  # N, counted from 0 in each context, or on from its past
    token_rows: Matrix  # N x D
    position_rows: Matrix  # N x D
    mask: Optional[Matrix]  # N x D, of dropout
    blocks: list[BlockCache]
    ln_f: LayerNormCache
    final: Matrix  # N x D, what the LM head reads


class ModernLanguageModel:
    """GPT-2: embeddings, `n_layers` blocks, a last LayerNorm, the LM head.

    The numbers it begins with follow from `seed`: GPT-2's scheme, where the two layers that write
    to the residual path begin smaller the more blocks there are, so that their sum does not grow.
    """

    def __init__(self, config: ModernConfig, seed: int = 0) -> None:
        self.config = config
        rng = random.Random(seed)
        v, d, f = config.vocab_size, config.d_model, 4 * config.d_model
        # GPT-2 has 0.02 at d_model 768. A narrow model needs larger numbers for the same effect.
        std = 0.5 / sqrt(d)
        residual_std = std / sqrt(2 * config.n_layers)
        p: Parameters = {
            "wte.weight": normal(rng, v, d, std),
            "wpe.weight": normal(rng, config.context_length, d, std),
        }
        for layer in range(config.n_layers):
            block = f"h.{layer}."
            p[block + "ln_1.weight"], p[block + "ln_1.bias"] = [1.0] * d, [0.0] * d
            p[block + "attn.c_attn.weight"] = normal(rng, d, 3 * d, std)
            p[block + "attn.c_attn.bias"] = [0.0] * (3 * d)
            p[block + "attn.c_proj.weight"] = normal(rng, d, d, residual_std)
            p[block + "attn.c_proj.bias"] = [0.0] * d
            p[block + "ln_2.weight"], p[block + "ln_2.bias"] = [1.0] * d, [0.0] * d
            p[block + "mlp.c_fc.weight"] = normal(rng, d, f, std)
            p[block + "mlp.c_fc.bias"] = [0.0] * f
            p[block + "mlp.c_proj.weight"] = normal(rng, f, d, residual_std)
            p[block + "mlp.c_proj.bias"] = [0.0] * d
        p["ln_f.weight"], p["ln_f.bias"] = [1.0] * d, [0.0] * d
        if not config.tie_embeddings:
            p["lm_head.weight"] = normal(rng, v, d, std)
        self.parameters = p

    @property
    def targets_per_context(self) -> int:
        """context_length: one for every token, the one that follows it."""
        return self.config.context_length

    def _layer(self, name: str) -> tuple[Any, Any]:
        """The weight and the bias of the layer of this name."""
        return self.parameters[name + ".weight"], self.parameters[name + ".bias"]

    @property
    def _head(self) -> Matrix:
        """The table that scores every token of the vocabulary: V x D."""
        name = "wte.weight" if self.config.tie_embeddings else "lm_head.weight"
        table: Matrix = self.parameters[name]
        return table

    def forward(
        self,
        contexts: Contexts,
        dropout_rng: Optional[random.Random] = None,
        past: Optional[Sequence[Past]] = None,
    ) -> tuple[Matrix, ModernCache]:
        """B contexts -> N x V logits, cache. Raises ValueError for a context it cannot read.

        Drops only when it is given a generator to draw from. With the past of each context, the
        context is what follows it, and only that is computed: see `kv_cache`.
        """
        rate = self.config.dropout
        drop = Drop(rate, dropout_rng) if rate and dropout_rng else None
        check_contexts(contexts, self.config)
        pasts = list(past) if past is not None else [[] for _ in contexts]  # B
        check_pasts(pasts, contexts, self.config)
        tokens = [token for context in contexts for token in context]  # N
        positions = [
            seen(before) + place
            for before, context in zip(pasts, contexts)
            for place in range(len(context))
        ]  # N
        token_rows = embedding(tokens, self.parameters["wte.weight"])  # N x D
        position_rows = embedding(positions, self.parameters["wpe.weight"])  # N x D
        x, mask = dropout(add_rows(token_rows, position_rows), drop)
        lengths = [len(context) for context in contexts]
        blocks = []
        for layer in range(self.config.n_layers):
            heads_before = [before[layer] if before else [] for before in pasts]  # B x H
            blocks.append(self._block(f"h.{layer}.", x, lengths, drop, heads_before))
            x = blocks[-1].out
        final, ln_f = layer_norm(x, *self._layer("ln_f"))
        logits = matmul_bt(final, self._head)  # N x V
        return logits, ModernCache(
            tokens, positions, token_rows, position_rows, mask, blocks, ln_f, final
        )

    def backward(self, dlogits: Matrix, cache: ModernCache) -> Parameters:
        """The forward's lines in reverse: N x V -> the slope of the loss by every parameter."""
        size = self.config
        g: Parameters = {}
        dfinal = matmul(dlogits, self._head)  # N x D
        dhead = matmul_at(dlogits, cache.final)  # V x D, wanted at the end
        dx = self._layer_norm_backward("ln_f", dfinal, cache.ln_f, g)
        for layer in reversed(range(size.n_layers)):
            dx = self._block_backward(f"h.{layer}.", dx, cache.blocks[layer], g)
        dx = apply_mask(dx, cache.mask)
        g["wte.weight"] = embedding_backward(dx, cache.tokens, size.vocab_size)
        g["wpe.weight"] = embedding_backward(dx, cache.positions, size.context_length)
        if size.tie_embeddings:  # one table, used at both ends: its slopes add up
            g["wte.weight"] = add_rows(g["wte.weight"], dhead)
        else:
            g["lm_head.weight"] = dhead
        return g

    def _block(
        self,
        name: str,
        x: Matrix,
        lengths: list[int],
        drop: Optional[Drop],
        past: list[list[KeysValues]],
    ) -> BlockCache:
        """N x D -> a cache whose `out` is N x D: attention, then feed-forward, each added to x."""
        normed_1, ln_1 = layer_norm(x, *self._layer(name + "ln_1"))
        qkv = linear(normed_1, *self._layer(name + "attn.c_attn"))  # N x 3D
        mixed, heads = multi_head_attention(qkv, self.config.n_heads, lengths, drop, past)  # N x D
        projected, mask_1 = dropout(linear(mixed, *self._layer(name + "attn.c_proj")), drop)
        middle = add_rows(x, projected)
        normed_2, ln_2 = layer_norm(middle, *self._layer(name + "ln_2"))
        wide = linear(normed_2, *self._layer(name + "mlp.c_fc"))  # N x F
        active = gelu(wide)
        narrow, mask_2 = dropout(linear(active, *self._layer(name + "mlp.c_proj")), drop)
        out = add_rows(middle, narrow)  # N x D
        return BlockCache(
            x, ln_1, normed_1, qkv, heads, mixed, mask_1, middle,
            ln_2, normed_2, wide, active, mask_2, out,
        )  # fmt: skip

    def _block_backward(self, name: str, dout: Matrix, cache: BlockCache, g: Parameters) -> Matrix:
        """N x D -> dx, N x D; the block's own gradients go into g.

        At each residual connection the slope goes two ways, straight back and through the layers,
        and where the two meet again they add up.
        """
        dnarrow = apply_mask(dout, cache.mask_2)  # N x D
        dactive = self._linear_backward(name + "mlp.c_proj", dnarrow, cache.active, g)  # N x F
        dwide = gelu_backward(dactive, cache.wide)
        dnormed_2 = self._linear_backward(name + "mlp.c_fc", dwide, cache.normed_2, g)  # N x D
        dmiddle = add_rows(dout, self._layer_norm_backward(name + "ln_2", dnormed_2, cache.ln_2, g))
        dprojected = apply_mask(dmiddle, cache.mask_1)  # N x D
        dmixed = self._linear_backward(name + "attn.c_proj", dprojected, cache.mixed, g)  # N x D
        dqkv = multi_head_attention_backward(dmixed, self.config.n_heads, cache.heads)  # N x 3D
        dnormed_1 = self._linear_backward(name + "attn.c_attn", dqkv, cache.normed_1, g)  # N x D
        return add_rows(dmiddle, self._layer_norm_backward(name + "ln_1", dnormed_1, cache.ln_1, g))

    def _linear_backward(self, name: str, dy: Matrix, x: Matrix, g: Parameters) -> Matrix:
        """dx of the linear layer of this name; its own gradients go into g."""
        weight = self.parameters[name + ".weight"]
        dx, g[name + ".weight"], g[name + ".bias"] = linear_backward(dy, x, weight)
        return dx

    def _layer_norm_backward(
        self, name: str, dy: Matrix, cache: LayerNormCache, g: Parameters
    ) -> Matrix:
        """dx of the LayerNorm of this name; its own gradients go into g."""
        gain = self.parameters[name + ".weight"]
        dx, g[name + ".weight"], g[name + ".bias"] = layer_norm_backward(dy, gain, cache)
        return dx

    def attention(self, cache: ModernCache) -> list[list[list[Matrix]]]:
        """The weights as contexts x layers x heads x queries x keys; each row sums to 1."""
        by_layer = [
            [[head.weights for head in heads] for heads in block.heads] for block in cache.blocks
        ]
        return [list(layers) for layers in zip(*by_layer)]

    def past(self, cache: ModernCache) -> list[Past]:
        """What the next forward can go on from, for each context: layers x heads."""
        by_layer = [
            [[KeysValues(head.keys, head.values) for head in heads] for heads in block.heads]
            for block in cache.blocks
        ]
        return [list(layers) for layers in zip(*by_layer)]
