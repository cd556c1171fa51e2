"""CHAPTER 6. RUNG 1: a neural next-token model, the smallest complete language model here.

    tokens      t  h  e  _  m             the last C tokens
                |  |  |  |  |             each looked up in one table, kept in a slot of its own
    inputs     [..|..|..|..|..]           B x C E
                      |  linear, tanh
    hidden     [. . . . . . .]            B x U
                      |  linear
    logits     [. . . . . . . . .]        B x V, one score for every token that could come next

This is the model of Bengio et al. (2003), "A neural probabilistic language model". Its network is
fixed over the window: every slot has weights of its own, so it cannot decide from the text *which*
positions matter. That is what rung 2 adds.
"""

from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

from tiny_llm import layers
from tiny_llm.batches import Contexts
from tiny_llm.matmul import Matrix
from tiny_llm.model import Config, LanguageModel, Parameters, Start, check_contexts, linear_layer


@dataclass(frozen=True)
class MLPConfig(Config):
    """The sizes of rung 1."""

    vocab_size: int
    context_length: int = 16
    d_embedding: int = 16
    d_hidden: int = 96


class MLPCache(NamedTuple):
    """What the backward needs from the forward."""

    contexts: Contexts
    inputs: Matrix  # B x C E, the embeddings of each context side by side
    hidden: Matrix  # B x U, after tanh


class MLPLanguageModel(LanguageModel):
    """Embeddings of the whole window, one tanh layer, one output layer."""

    @staticmethod
    def layout(config: MLPConfig) -> dict[str, Start]:
        """Embeddings of variance 1, weights that keep it, and an output layer so small that the
        logits begin near 0: every token gets about 1 / V, and the first loss is near ln V."""
        v, e, u = config.vocab_size, config.d_embedding, config.d_hidden
        width = config.context_length * e
        return {
            "embedding.weight": Start((v, e), std=1.0),
            **linear_layer("hidden", width, u, std=1 / sqrt(width)),
            **linear_layer("output", u, v, std=0.1 / sqrt(u)),
        }

    def forward(self, contexts: Contexts) -> tuple[Matrix, MLPCache]:
        """B contexts -> B x V logits, cache."""
        check_contexts(contexts, self.config)
        w = self.parameters
        slots = self.config.context_length
        inputs = side_by_side(contexts, w["embedding.weight"], slots)  # B x CE
        sums = layers.linear(inputs, w["hidden.weight"], w["hidden.bias"])  # B x U
        hidden = layers.tanh(sums)  # B x U
        logits = layers.linear(hidden, w["output.weight"], w["output.bias"])  # B x V
        return logits, MLPCache(contexts, inputs, hidden)

    def backward(self, dlogits: Matrix, cache: MLPCache) -> Parameters:
        """The forward's lines in reverse: B x V -> the slope of the loss by every parameter."""
        w = self.parameters
        table, w_hidden, w_output = w["embedding.weight"], w["hidden.weight"], w["output.weight"]
        dhidden, dw_output, db_output = layers.linear_backward(dlogits, cache.hidden, w_output)
        dsums = layers.tanh_backward(dhidden, cache.hidden)  # B x U
        dinputs, dw_hidden, db_hidden = layers.linear_backward(dsums, cache.inputs, w_hidden)
        return {
            "embedding.weight": side_by_side_backward(dinputs, cache.contexts, table),
            "hidden.weight": dw_hidden,
            "hidden.bias": db_hidden,
            "output.weight": dw_output,
            "output.bias": db_output,
        }


def side_by_side(contexts: Contexts, table: Matrix, slots: int) -> Matrix:
    """The embeddings of each context in one row: B contexts, V x E -> B x C E. A short context
    fills the last of the C slots; those before it are 0."""
    inputs = []
    for context in contexts:
        row = [0.0] * ((slots - len(context)) * len(table[0]))
        row += [value for vector in layers.embedding(context, table) for value in vector]
        inputs.append(row)
    return inputs


def side_by_side_backward(dinputs: Matrix, contexts: Contexts, table: Matrix) -> Matrix:
    """B x C E -> dtable, V x E: every filled slot hands its slope to the row that it came from."""
    ids, dvectors, width = [], [], len(table[0])
    for drow, context in zip(dinputs, contexts):
        ids += context
        filled = range(len(drow) - len(context) * width, len(drow), width)
        dvectors += [drow[begin : begin + width] for begin in filled]
    return layers.embedding_backward(dvectors, ids, len(table))


# Try it: replace tanh by ReLU, max(0, x), with its backward. `tiny-lm gradcheck --model mlp` says
# whether you did it right, and `tiny-lm train` ends with a lower validation loss.
