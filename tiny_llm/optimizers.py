"""CHAPTER 7. Slopes to better weights.

    parameters, gradients  --update, in place-->  parameters with a slightly smaller loss

The gradient says for each weight how the loss rises when that weight does. An optimizer takes a
small step the other way.
"""

from math import cos, pi, sqrt
from typing import Union

from tiny_llm.matmul import dot
from tiny_llm.model import Parameters, Tensor, rows_of


class SGD:
    """Stochastic gradient descent (Robbins and Monro, 1951): w <- w - learning_rate * g."""

    moments: tuple[str, ...] = ()  # what it remembers of each parameter's slopes: nothing

    def __init__(self, learning_rate: float = 0.1) -> None:
        self.learning_rate = learning_rate
        self.steps = 0  # updates made so far
        self.state: Parameters = {}

    def update(self, parameters: Parameters, gradients: Parameters) -> None:
        """One step, in place. `gradients` has the names and shapes of `parameters`."""
        self.steps += 1
        rate = self.learning_rate
        for name, tensor in parameters.items():
            for weights, slopes in zip(rows_of(tensor), rows_of(gradients[name])):
                weights[:] = [w - rate * g for w, g in zip(weights, slopes)]


# Try it: `tiny-lm train --learning-rate 30`, then 0.003, where 0.1 is usual. Steps that are too
# long overshoot and the loss rises; steps that are too short hardly get anywhere.

# --------------------------------------------- rung 3, and for every rung steps of the right length


class AdamW:
    """Adam with decoupled weight decay (Kingma and Ba, 2015; Loshchilov and Hutter, 2019).

        m <- beta1 m + (1 - beta1) g            where the slope has been pointing lately
        v <- beta2 v + (1 - beta2) g^2          how large it has been lately
        w <- w - learning_rate (m' / (sqrt(v') + epsilon) + weight_decay w)

    Divided by its own usual size, every slope moves its weight by about the learning rate, whether
    it is large or small. m and v begin at 0; m' and v' make up for that in the first steps. The
    decay pulls matrices, not vectors, towards 0. `state` keeps both, as "m.NAME" and "v.NAME".
    """

    moments: tuple[str, ...] = ("m", "v")

    def __init__(
        self,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.99,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        self.learning_rate = learning_rate
        self.beta1, self.beta2 = beta1, beta2
        self.epsilon = epsilon
        self.weight_decay = weight_decay
        self.steps = 0
        self.state: Parameters = {}

    def update(self, parameters: Parameters, gradients: Parameters) -> None:
        """One step, in place. `gradients` has the names and shapes of `parameters`."""
        self.steps += 1
        beta1, beta2 = self.beta1, self.beta2
        gain1, gain2 = 1 - beta1, 1 - beta2
        # m' / (sqrt(v') + epsilon), with both corrections taken out of the loop
        v_scale = 1 / sqrt(1 - beta2**self.steps)
        rate = self.learning_rate / (1 - beta1**self.steps) / v_scale
        epsilon = self.epsilon / v_scale
        for name, tensor in parameters.items():
            is_matrix = isinstance(tensor[0], list)
            keep = 1 - self.learning_rate * self.weight_decay if is_matrix else 1.0
            tensors = (tensor, gradients[name], self._moment("m." + name, tensor),
                       self._moment("v." + name, tensor))  # fmt: skip
            for weights, slopes, m, v in zip(*map(rows_of, tensors)):
                for i, slope in enumerate(slopes):
                    m[i] = average = beta1 * m[i] + gain1 * slope
                    v[i] = square = beta2 * v[i] + gain2 * slope * slope
                    weights[i] = keep * weights[i] - rate * average / (sqrt(square) + epsilon)

    def _moment(self, name: str, tensor: Tensor) -> Tensor:
        """The running average of this name: zeros in the shape of `tensor` at first."""
        if name not in self.state:
            zeros = [[0.0] * len(row) for row in rows_of(tensor)]
            self.state[name] = zeros if isinstance(tensor[0], list) else zeros[0]
        moment: Tensor = self.state[name]
        return moment


Optimizer = Union[SGD, AdamW]


def global_norm(gradients: Parameters) -> float:
    """The length of all gradients together, as one long vector."""
    return sqrt(sum(dot(row, row) for tensor in gradients.values() for row in rows_of(tensor)))


def clip_by_global_norm(gradients: Parameters, norm: float, limit: float) -> None:
    """Shorten gradients of this global norm to the limit, in place, if they are longer. One odd
    batch cannot undo the work of many then. All shrink by the same factor, so the direction stays
    (Pascanu, Mikolov and Bengio, 2013). The 1e-6 is PyTorch's; it keeps the result a hair below the
    limit."""
    factor = limit / (norm + 1e-6)
    if factor < 1:
        for tensor in gradients.values():
            for row in rows_of(tensor):
                row[:] = [factor * slope for slope in row]


def cosine_schedule(
    step: int, steps: int, peak: float, warmup_steps: int = 0, floor: float = 0.1
) -> float:
    """The learning rate of step number `step` (from 0) of a run of `steps`. It rises in a straight
    line to `peak` over the first `warmup_steps`, while the slopes of a random model still mean
    little, and then falls along half a cosine to `floor` times `peak`, so that the last steps
    settle instead of jumping about (Loshchilov and Hutter, 2017)."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * (floor + (1 - floor) * 0.5 * (1 + cos(pi * done)))
