"""CHAPTER 11. RUNG 2: attention decides which positions matter.

    tokens     l  a  n  g  u  a           plus where each stands: token row + position row
    x         [.][.][.][.][.][.]          N x D
               k  k  k  k  k  k           every position offers a key (what it is) ...
               v  v  v  v  v  v           ... and a value (what it has to say)
                              q           the last position asks a query (what it looks for)
    weights   .1 .0 .2 .1 .1 .5           softmax(q k^T / sqrt(D)): how much it listens to each
                              |           the values, mixed by these weights, projected,
    out                      [.]          added to the last position's own vector
    hidden                   [. . . .]    linear, tanh: as in rung 1
    logits                   [......]     B x V

The same as rung 1: an embedding table, a tanh layer, an output layer, one prediction a context.
Different: the weights over the positions are computed from the text, anew for each context; the
position is added to the token's vector instead of having a slot, so the hidden layer reads one
vector, however long the window is; a short context has fewer keys instead of empty slots.
New: attention (Bahdanau et al., 2015) by query, key and value (Vaswani et al., 2017), and a
residual connection (He et al., 2016). Read the second part of layers.py (chapter 4) with it.
"""

from dataclasses import dataclass
from itertools import accumulate
from math import sqrt
from operator import add
from typing import NamedTuple

from tiny_llm import layers
from tiny_llm.batches import Contexts
from tiny_llm.layers import AttentionCache
from tiny_llm.matmul import Matrix
from tiny_llm.model import Config, LayeredModel, Parameters, Start, check_contexts, linear_layer


@dataclass(frozen=True)
class AttentionConfig(Config):
    """The sizes of rung 2."""

    vocab_size: int
    context_length: int = 16
    d_model: int = 16
    d_hidden: int = 96


class AttentionLMCache(NamedTuple):
    """What the backward needs from the forward, in the order in which it came about."""

    tokens: list[int]  # N, the contexts one after the other
    positions: list[int]  # N, where in the window each token stands
    lengths: list[int]  # B
    x: Matrix  # N x D, token + position
    last: Matrix  # B x D, the row of x at the end of each context
    heads: list[AttentionCache]  # B, one query each
    mixed: Matrix  # B x D, what the attention gathered
    out: Matrix  # B x D, last + projected mixture
    hidden: Matrix  # B x U, after tanh


class AttentionLanguageModel(LayeredModel):
    """Token and position embeddings, one query over the window, residual, tanh and output layer."""

    @staticmethod
    def layout(config: AttentionConfig) -> dict[str, Start]:
        """Token and position add up to variance 1, weights keep it, the output layer is small."""
        v, d, u = config.vocab_size, config.d_model, config.d_hidden
        return {
            "token_embedding.weight": Start((v, d), std=sqrt(0.5)),
            "position_embedding.weight": Start((config.context_length, d), std=sqrt(0.5)),
            **linear_layer("query", d, d, std=1 / sqrt(d)),
            **linear_layer("key", d, d, std=1 / sqrt(d)),
            **linear_layer("value", d, d, std=1 / sqrt(d)),
            **linear_layer("projection", d, d, std=1 / sqrt(d)),
            **linear_layer("hidden", d, u, std=1 / sqrt(d)),
            **linear_layer("output", u, v, std=0.1 / sqrt(u)),
        }

    def forward(self, contexts: Contexts) -> tuple[Matrix, AttentionLMCache]:
        """B contexts -> B x V logits, cache."""
        check_contexts(contexts, self.config)
        w = self.parameters
        lengths = [len(context) for context in contexts]
        tokens = [token for context in contexts for token in context]  # N
        # A short context stands at the right end of the window: its last token has the last place.
        window = range(self.config.context_length)
        positions = [place for length in lengths for place in window[-length:]]  # N
        token_rows = layers.embedding(tokens, w["token_embedding.weight"])  # N x D
        position_rows = layers.embedding(positions, w["position_embedding.weight"])  # N x D
        x = layers.add_rows(token_rows, position_rows)  # N x D
        last = [rows[-1] for rows in layers.split_rows(x, lengths)]  # B x D
        queries = self.linear("query", last)  # B x D
        keys = layers.split_rows(self.linear("key", x), lengths)  # B of T x D
        values = layers.split_rows(self.linear("value", x), lengths)  # B of T x D
        heads, mixed = [], []
        for query, k, v in zip(queries, keys, values):
            mixture, head = layers.attention([query], k, v)  # 1 x D
            mixed += mixture  # B x D in the end
            heads.append(head)
        out = layers.add_rows(last, self.linear("projection", mixed))  # B x D
        sums = self.linear("hidden", out)  # B x U
        hidden = layers.tanh(sums)  # B x U
        logits = self.linear("output", hidden)  # B x V
        cache = AttentionLMCache(tokens, positions, lengths, x, last, heads, mixed, out, hidden)
        return logits, cache

    def backward(self, dlogits: Matrix, cache: AttentionLMCache) -> Parameters:
        """The forward's lines in reverse: B x V -> the slope of the loss by every parameter."""
        g: Parameters = {}
        dhidden = self.linear_backward("output", dlogits, cache.hidden, g)  # B x U
        dsums = layers.tanh_backward(dhidden, cache.hidden)  # B x U
        dout = self.linear_backward("hidden", dsums, cache.out, g)  # B x D
        dmixed = self.linear_backward("projection", dout, cache.mixed, g)  # B x D
        dqueries, dkeys, dvalues = [], [], []  # B x D, N x D, N x D in the end
        for drow, head in zip(dmixed, cache.heads):
            dq, dk, dv = layers.attention_backward([drow], head)
            dqueries += dq
            dkeys += dk
            dvalues += dv
        # Every row of x became a key and a value, the last of each context also a query and the
        # start of the residual path: the slopes add up.
        dx = layers.add_rows(
            self.linear_backward("key", dkeys, cache.x, g),
            self.linear_backward("value", dvalues, cache.x, g),
        )  # N x D
        dlast = layers.add_rows(dout, self.linear_backward("query", dqueries, cache.last, g))
        for end, drow in zip(accumulate(cache.lengths), dlast):
            dx[end - 1] = list(map(add, dx[end - 1], drow))
        v, c = self.config.vocab_size, self.config.context_length
        g["token_embedding.weight"] = layers.embedding_backward(dx, cache.tokens, v)
        g["position_embedding.weight"] = layers.embedding_backward(dx, cache.positions, c)
        return g

    def attention(self, cache: AttentionLMCache) -> list[list[list[Matrix]]]:
        """The weights as contexts x 1 layer x 1 head x 1 query x keys; each row sums to 1."""
        return [[[head.weights]] for head in cache.heads]


# Try it: add a learned number for each distance to the scores, so that the model can prefer what
# stands near whatever it says (ALiBi and T5 do the like). It replaces the position embedding.
