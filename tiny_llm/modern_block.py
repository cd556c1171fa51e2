"""CHAPTER 12. RUNG 3: GPT-2's architecture to the letter, with its backward.

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
tied to the token embedding. Read the third part of layers.py (chapter 4) with it.

Radford et al. (2019), after Vaswani et al. (2017). Parameters have the names and shapes of Hugging
Face's GPT2LMHeadModel, without the leading `transformer.`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

from tiny_llm import layers
from tiny_llm.batches import Contexts
from tiny_llm.layers import AttentionCache, LayerNormCache
from tiny_llm.matmul import Matrix, matmul, matmul_at, matmul_bt
from tiny_llm.model import (
    Config,
    LayeredModel,
    Parameters,
    Start,
    check_contexts,
    linear_layer,
    norm_layer,
)


@dataclass(frozen=True)
class ModernConfig(Config):
    """The sizes of rung 3. Raises ValueError for heads that cannot share d_model."""

    vocab_size: int
    context_length: int = 16
    d_model: int = 24
    n_heads: int = 4
    n_layers: int = 1
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
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
    heads: list[list[AttentionCache]]  # B x H
    mixed: Matrix  # N x D, the heads side by side
    ln_2: LayerNormCache
    normed_2: Matrix  # N x D
    wide: Matrix  # N x F, before GELU
    active: Matrix  # N x F, after it
    out: Matrix  # N x D


class ModernCache(NamedTuple):
    """What the whole model computed."""

    tokens: list[int]  # N, the contexts one after the other
    positions: list[int]  # N
    blocks: list[BlockCache]
    ln_f: LayerNormCache
    final: Matrix  # N x D, what the LM head reads


class ModernLanguageModel(LayeredModel):
    """GPT-2: embeddings, `n_layers` blocks, a last LayerNorm, the LM head."""

    predicts_every_token = True
    attend = property(lambda self: layers.attention)  # of one head; others may plug in their own

    @staticmethod
    def layout(config: ModernConfig) -> dict[str, Start]:
        """GPT-2's beginnings: the two layers that write to the residual path begin smaller the more
        blocks there are, so that their sum does not grow. The first loss lies a little above ln V:
        a tied table cannot begin as small as rung 1's output layer, so the first logits differ by
        chance, and that is worse than even guesses."""
        v, d, f = config.vocab_size, config.d_model, 4 * config.d_model
        # GPT-2 has 0.02 at d_model 768. A narrow model needs larger numbers for the same effect.
        std = 0.5 / sqrt(d)
        residual_std = std / sqrt(2 * config.n_layers)
        layout = {
            "wte.weight": Start((v, d), std),
            "wpe.weight": Start((config.context_length, d), std),
        }
        for block in (f"h.{layer}." for layer in range(config.n_layers)):
            layout.update(norm_layer(block + "ln_1", d))
            layout.update(linear_layer(block + "attn.c_attn", d, 3 * d, std))
            layout.update(linear_layer(block + "attn.c_proj", d, d, residual_std))
            layout.update(norm_layer(block + "ln_2", d))
            layout.update(linear_layer(block + "mlp.c_fc", d, f, std))
            layout.update(linear_layer(block + "mlp.c_proj", f, d, residual_std))
        layout.update(norm_layer("ln_f", d))
        if not config.tie_embeddings:
            layout["lm_head.weight"] = Start((v, d), std)
        return layout

    @property
    def lm_head(self) -> Matrix:
        """The table that scores every token: V x D. Tied, it is the table that reads them, so that
        each slope teaches both ends, and GPT-2 saves 39 of its 163 million weights."""
        name = "wte.weight" if self.config.tie_embeddings else "lm_head.weight"
        table: Matrix = self.parameters[name]
        return table

    def forward(self, contexts: Contexts) -> tuple[Matrix, ModernCache]:
        """B contexts -> N x V logits, cache."""
        check_contexts(contexts, self.config)
        lengths = [len(context) for context in contexts]
        tokens = [token for context in contexts for token in context]  # N
        positions = self.positions(lengths)  # N
        token_rows = layers.embedding(tokens, self.parameters["wte.weight"])  # N x D
        position_rows = layers.embedding(positions, self.parameters["wpe.weight"])  # N x D
        x = layers.add_rows(token_rows, position_rows)  # N x D
        blocks = []
        for layer in range(self.config.n_layers):
            blocks.append(self.block(f"h.{layer}.", x, lengths))
            x = blocks[-1].out
        final, ln_f = self.layer_norm("ln_f", x)  # N x D
        logits = matmul_bt(final, self.lm_head)  # N x V
        return logits, ModernCache(tokens, positions, blocks, ln_f, final)

    def backward(self, dlogits: Matrix, cache: ModernCache) -> Parameters:
        """The forward's lines in reverse: N x V -> the slope of the loss by every parameter."""
        size = self.config
        g: Parameters = {}
        dfinal = matmul(dlogits, self.lm_head)  # N x D
        dhead = matmul_at(dlogits, cache.final)  # V x D, wanted at the end
        dx = self.layer_norm_backward("ln_f", dfinal, cache.ln_f, g)
        for layer in reversed(range(size.n_layers)):
            dx = self.block_backward(f"h.{layer}.", dx, cache.blocks[layer], g)
        g["wte.weight"] = layers.embedding_backward(dx, cache.tokens, size.vocab_size)
        g["wpe.weight"] = layers.embedding_backward(dx, cache.positions, size.context_length)
        if size.tie_embeddings:  # one table, used at both ends: its slopes add up
            g["wte.weight"] = layers.add_rows(g["wte.weight"], dhead)
        else:
            g["lm_head.weight"] = dhead
        return g

    def block(self, name: str, x: Matrix, lengths: Sequence[int]) -> BlockCache:
        """N x D -> a cache whose `out` is N x D: attention, then feed-forward, each added to x."""
        normed_1, ln_1 = self.layer_norm(name + "ln_1", x)
        qkv = self.linear(name + "attn.c_attn", normed_1)  # N x 3D
        mixed, heads = self.mix(qkv, lengths)  # N x D
        middle = layers.add_rows(x, self.linear(name + "attn.c_proj", mixed))
        normed_2, ln_2 = self.layer_norm(name + "ln_2", middle)
        wide = self.linear(name + "mlp.c_fc", normed_2)  # N x F
        active = layers.gelu(wide)
        out = layers.add_rows(middle, self.linear(name + "mlp.c_proj", active))  # N x D
        return BlockCache(x, ln_1, normed_1, heads, mixed, ln_2, normed_2, wide, active, out)

    def block_backward(self, name: str, dout: Matrix, cache: BlockCache, g: Parameters) -> Matrix:
        """N x D -> dx, N x D; the block's own gradients go into g. At each residual connection the
        slope goes two ways, straight back and through the layers, and where the two meet again they
        add up."""
        dactive = self.linear_backward(name + "mlp.c_proj", dout, cache.active, g)  # N x F
        dwide = layers.gelu_backward(dactive, cache.wide)
        dnormed_2 = self.linear_backward(name + "mlp.c_fc", dwide, cache.normed_2, g)  # N x D
        dbranch = self.layer_norm_backward(name + "ln_2", dnormed_2, cache.ln_2, g)
        dmiddle = layers.add_rows(dout, dbranch)
        dmixed = self.linear_backward(name + "attn.c_proj", dmiddle, cache.mixed, g)  # N x D
        dqkv = self.mix_backward(dmixed, cache.heads)  # N x 3D
        dnormed_1 = self.linear_backward(name + "attn.c_attn", dqkv, cache.normed_1, g)  # N x D
        dbranch = self.layer_norm_backward(name + "ln_1", dnormed_1, cache.ln_1, g)
        return layers.add_rows(dmiddle, dbranch)

    def layer_norm(self, name: str, x: Matrix) -> tuple[Matrix, LayerNormCache]:
        """x through the LayerNorm of this name."""
        w = self.parameters
        return layers.layer_norm(x, w[name + ".weight"], w[name + ".bias"])

    def layer_norm_backward(
        self, name: str, dy: Matrix, cache: LayerNormCache, g: Parameters
    ) -> Matrix:
        """dx of the LayerNorm of this name; its own gradients go into g."""
        gain = self.parameters[name + ".weight"]
        dx, g[name + ".weight"], g[name + ".bias"] = layers.layer_norm_backward(dy, gain, cache)
        return dx

    # Methods, so that a model which goes on from what it has read can do these in its own way:

    def positions(self, lengths: Sequence[int]) -> list[int]:
        """Where each token stands: N numbers, counted from 0 in each context."""
        return [place for length in lengths for place in range(length)]

    def mix(self, qkv: Matrix, lengths: Sequence[int]) -> tuple[Matrix, list[list[AttentionCache]]]:
        """Attention: N x 3D -> N x D, B x H caches."""
        return layers.multi_head_attention(qkv, self.config.n_heads, lengths, self.attend)

    def mix_backward(self, dmixed: Matrix, heads: list[list[AttentionCache]]) -> Matrix:
        """N x D -> dqkv, N x 3D."""
        return layers.multi_head_attention_backward(dmixed, heads)

    def attention(self, cache: ModernCache) -> list[list[list[Matrix]]]:
        """The weights as contexts x layers x heads x queries x keys; each row sums to 1."""
        by_layer = [[[h.weights for h in heads] for heads in block.heads] for block in cache.blocks]
        return list(map(list, zip(*by_layer)))


# Try it: RMSNorm, which newer models have: divide each row by the root of its mean square, without
# taking the mean off first, and leave the bias out. Change layer_norm and its backward alone.
