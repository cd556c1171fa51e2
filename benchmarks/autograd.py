"""The yardstick: rung 3 as a graph of single numbers, in the manner of micrograd and microgpt.

    parameters --Scalars--> Values --loss--> a graph of a node for every + and x --backward--> grads

The whole model is the same as `tiny_llm.modern_block`, with the same parameters, and so are its
slopes and its update: a test holds them together. Only the way there differs. Here every number is
an object that remembers what it was made of, and nobody has to write a backward; there every layer
has one, and works on whole rows. `benchmarks/performance.py` measures what that is worth.

Karpathy, micrograd (2020) and microgpt (2026): the graph, and a GPT on top of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul
from typing import Any

from tiny_llm.layers import GELU_CUBIC, GELU_SCALE, LAYER_NORM_EPSILON
from tiny_llm.model import Parameters, rows_of
from tiny_llm.modern_block import ModernConfig


class Value:
    """A number, what it was computed from, and its slope by each of these."""

    __slots__ = ("children", "data", "grad", "slopes")

    def __init__(self, data: float, children: tuple = (), slopes: tuple = ()) -> None:
        self.data, self.grad = data, 0.0
        self.children, self.slopes = children, slopes

    def __add__(self, other: Any) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other: Any) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, exponent: float) -> Value:
        slope = exponent * self.data ** (exponent - 1)
        return Value(self.data**exponent, (self,), (slope,))

    def __sub__(self, other: Any) -> Value:
        return self + other * -1.0

    def __truediv__(self, other: Any) -> Value:
        return self * other**-1.0

    __radd__, __rmul__ = __add__, __mul__

    def exp(self) -> Value:
        power = math.exp(self.data)
        return Value(power, (self,), (power,))

    def log(self) -> Value:
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def tanh(self) -> Value:
        t = math.tanh(self.data)
        return Value(t, (self,), (1 - t * t,))

    def backward(self) -> None:
        """Add to the grad of every Value that this one was made of its slope, times 1."""
        order, seen = [], set()

        def visit(value: Value) -> None:
            if value not in seen:
                seen.add(value)
                for child in value.children:
                    visit(child)
                order.append(value)

        visit(self)
        self.grad = 1.0
        for value in reversed(order):  # a node before all that it was made of
            for child, slope in zip(value.children, value.slopes):
                child.grad += slope * value.grad


Row = list[Value]


def dot(x: Sequence[Value], y: Sequence[Value]) -> Value:
    return sum(map(mul, x, y), Value(0.0))


def linear(x: Row, weight: list[Row], bias: Row) -> Row:
    """I, I x O, O -> O."""
    return [sum(map(mul, x, column), b) for column, b in zip(zip(*weight), bias)]


def layer_norm(x: Row, gain: Row, bias: Row) -> Row:
    mean = sum(x) * (1 / len(x))
    centred = [value - mean for value in x]
    inverse = (dot(centred, centred) * (1 / len(x)) + LAYER_NORM_EPSILON) ** -0.5
    return [value * inverse * g + b for value, g, b in zip(centred, gain, bias)]


def gelu(v: Value) -> Value:
    return v * 0.5 * (((v + v * v * v * GELU_CUBIC) * GELU_SCALE).tanh() + 1.0)


def softmax(scores: Row) -> Row:
    highest = max(score.data for score in scores)
    powers = [(score - highest).exp() for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


class Scalars:
    """Rung 3 and AdamW (as `tiny_llm.optimizers` has it) on Values made of `parameters`."""

    def __init__(self, config: ModernConfig, parameters: Parameters) -> None:
        self.config = config
        self.p: dict[str, Any] = {}
        for name, tensor in parameters.items():
            rows = [[Value(number) for number in row] for row in rows_of(tensor)]
            self.p[name] = rows if isinstance(tensor[0], list) else rows[0]
        self.moments = {name: [[0.0, 0.0] for _ in self._values(name)] for name in self.p}
        self.steps = 0

    def _values(self, name: str) -> Row:
        return [value for row in rows_of(self.p[name]) for value in row]

    def _layer(self, name: str) -> tuple[Any, Any]:
        return self.p[name + ".weight"], self.p[name + ".bias"]

    def loss(self, contexts: list[list[int]], targets: list[int]) -> Value:
        """The mean cross-entropy over every position of every context, in nats."""
        rows = [logits for context in contexts for logits in self._forward(context)]
        losses = [softmax(row)[target].log() for row, target in zip(rows, targets)]
        return sum(losses) * (-1 / len(losses))

    def _forward(self, tokens: list[int]) -> list[Row]:
        """T tokens -> T x V logits, position by position; each block keeps its keys and values."""
        caches: list[list[Row]] = [[] for _ in range(self.config.n_layers)]
        logits = []
        for position, token in enumerate(tokens):
            x = [t + q for t, q in zip(self.p["wte.weight"][token], self.p["wpe.weight"][position])]
            for layer, cache in enumerate(caches):
                x = self._block(f"h.{layer}.", x, cache)
            x = layer_norm(x, *self._layer("ln_f"))
            head = self.p["wte.weight" if self.config.tie_embeddings else "lm_head.weight"]
            logits.append([dot(x, row) for row in head])
        return logits

    def _block(self, name: str, x: Row, cache: list[Row]) -> Row:
        """D -> D for the newest position; `cache` gathers the 3D numbers of each position."""
        cache.append(
            linear(layer_norm(x, *self._layer(name + "ln_1")), *self._layer(name + "attn.c_attn"))
        )
        width = len(x) // self.config.n_heads
        mixed: Row = []
        for start in range(0, len(x), width):
            q, k, v = (slice(start + part, start + part + width)
                       for part in (0, len(x), 2 * len(x)))  # fmt: skip
            query = cache[-1][q]
            weights = softmax([dot(query, row[k]) * width**-0.5 for row in cache])
            mixed += [dot(weights, column) for column in zip(*(row[v] for row in cache))]
        out = linear(mixed, *self._layer(name + "attn.c_proj"))
        x = [a + b for a, b in zip(x, out)]
        wide = linear(layer_norm(x, *self._layer(name + "ln_2")), *self._layer(name + "mlp.c_fc"))
        out = linear([gelu(v) for v in wide], *self._layer(name + "mlp.c_proj"))
        return [a + b for a, b in zip(x, out)]

    def update(
        self, learning_rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.99,
        epsilon: float = 1e-8, weight_decay: float = 0.01,
    ) -> None:  # fmt: skip
        """One step of AdamW in place, after which every grad is 0 again."""
        self.steps += 1
        rate = learning_rate / (1 - beta1**self.steps)
        v_scale = 1 / math.sqrt(1 - beta2**self.steps)
        for name, tensor in self.p.items():
            keep = 1 - learning_rate * weight_decay if isinstance(tensor[0], list) else 1.0
            for value, moment in zip(self._values(name), self.moments[name]):
                moment[0] = beta1 * moment[0] + (1 - beta1) * value.grad
                moment[1] = beta2 * moment[1] + (1 - beta2) * value.grad * value.grad
                step = moment[0] / (math.sqrt(moment[1]) * v_scale + epsilon)
                value.data = keep * value.data - rate * step
                value.grad = 0.0

    def read(self, attribute: str) -> Parameters:
        """`data` or `grad` of every Value: names and shapes of the parameters."""
        read = {}
        for name, tensor in self.p.items():
            rows = [[getattr(value, attribute) for value in row] for row in rows_of(tensor)]
            read[name] = rows if isinstance(tensor[0], list) else rows[0]
        return read


def training_step(model: Scalars, contexts: list[list[int]], targets: list[int]) -> float:
    """Forward, backward, AdamW: one whole step in place. Returns the loss before it."""
    loss = model.loss(contexts, targets)
    loss.backward()
    model.update()
    return loss.data
