"""One training step, with everything that a person may want to see of it kept.

    prompt -> tokens -> vectors -> network -> logits -> probabilities -> loss
                                                                          |
    loss of the same text <- forward again <- update of the weights <- backward

The step is a real one: it changes the model and the optimizer, as training does. The batch is one
text, so that every number has one origin. One single weight is followed all the way: a number in
the vector of the last token, so that it acts through the whole network, and its slope comes back
through the whole network. Dropout is off, so that everything can be measured again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from typing import Any, Union

from tiny_llm.fast.tensors import shape
from tiny_llm.gradcheck import ABSOLUTE, RELATIVE, STEP, numerical_slope
from tiny_llm.layers import add_rows, cross_entropy, embedding, softmax
from tiny_llm.matmul import Matrix
from tiny_llm.model import LanguageModel, Parameters, rows_of
from tiny_llm.optimizers import SGD, AdamW, clip_by_global_norm, global_norm
from tiny_llm.text.tokenizers import Tokenizer
from tiny_llm.text.yardsticks import guessing_loss
from tiny_llm.training import Diverged
from tiny_llm.view.trace import data
from tiny_llm.view.trace.record import Call, recorded
from tiny_llm.view.trace.stages import place_of, sizes, stages, tables

LIKELIEST = 5  # how many next tokens are told
CHOICES = 4  # the followed weight is one of the first numbers of its row, which every display shows


def trace(
    model: LanguageModel,
    tokenizer: Tokenizer,
    optimizer: Union[SGD, AdamW],
    prompt: str,
    grad_clip: float = 0.0,
) -> data.Trace:
    """Train the model on the prompt for one step, in place, and tell everything.

    The last token is the target of the last position. Raises ValueError for a prompt of fewer than
    two tokens or with unknown characters, Diverged for numbers that are not finite.
    """
    ids = tokenizer.encode(prompt)
    if len(ids) < 2:
        raise ValueError(
            f"a training step needs 2 tokens or more (one to see, and the one that follows it, to "
            f"predict), but the prompt {prompt!r} has {len(ids)}; give a longer one"
        )
    step = _Step(model, tokenizer, ids)
    before = step.forward()
    optimizer_steps = optimizer.steps
    # All is copied as it is told: a cache holds rows of the parameters themselves.
    vectors, stages_told = step.vectors(before), list(stages(model, before.calls))
    gradients = model.backward(before.dlogits, before.cache)
    backward = step.backward(gradients, vectors.token)
    update = _update(model, optimizer, gradients, backward, grad_clip)
    return data.Trace(
        model=type(model).__name__,
        config=asdict(model.config),
        sizes=sizes(model),
        weights=sum(len(row) for tensor in model.parameters.values() for row in rows_of(tensor)),
        steps_before=optimizer_steps,
        tokens=step.tokens(),
        vectors=vectors,
        stages=stages_told,
        prediction=step.prediction(before),
        loss=step.loss(before),
        backward=backward,
        update=update,
        again=step.again(before, step.forward()),
    )


def as_json(told: data.Trace) -> str:
    """The trace as one JSON object, in ASCII."""
    return json.dumps(asdict(told), indent=1, allow_nan=False)


@dataclass(frozen=True)
class _Forward:
    """What the model makes of the context."""

    logits: Matrix
    cache: Any
    loss: float
    dlogits: Matrix
    calls: list[Call]


class _Step:
    """A context with its targets, and what there is to tell of them."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, ids: list[int]) -> None:
        self.model, self.tokenizer, self.given = model, tokenizer, len(ids)
        self.context = ids[-1 - model.config.context_length : -1]
        self.targets = [*self.context[1:], ids[-1]][-model.targets_per_context :]

    def forward(self) -> _Forward:
        """Logits, loss, and its slopes by the logits. Raises Diverged for a loss of no number."""
        with recorded(self.model) as calls:
            logits, cache = self.model.forward([self.context])
        loss, dlogits = cross_entropy(logits, self.targets)
        if not isfinite(loss):
            raise Diverged(
                f"the loss is {loss}, so no slope means anything; the weights are too large, or "
                f"the learning rate was"
            )
        return _Forward(logits, cache, loss, dlogits, calls)

    def token(self, position: int, token: int) -> data.Token:
        """A token with its text; bytes that are no whole character as \\xf0."""
        text = self.tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")
        return data.Token(position, text, token)

    def tokens(self) -> data.Tokens:
        """1: what the model sees, and what follows."""
        seen = [self.token(*pair) for pair in enumerate(self.context)]
        first = len(seen) - len(self.targets) + 1
        targets = [self.token(*pair) for pair in enumerate(self.targets, first)]
        return data.Tokens(self.given, seen, targets, [place_of(self.tokenizer.encode)])

    def vectors(self, made: _Forward) -> data.Vectors:
        """2: the rows that the last token and its position look up."""
        (table, _), *others = tables(self.model, made.calls)
        token = self._row(table, self.context[-1])
        if not others:
            return data.Vectors(token, None, None, [place_of(embedding)])
        ((table, positions),) = others
        position = self._row(table, positions[-1])
        (total,) = add_rows([token.values], [position.values])
        return data.Vectors(token, position, total, [place_of(embedding), place_of(add_rows)])

    def _row(self, table: str, index: int) -> data.Row:
        tensor = self.model.parameters[table]
        return data.Row(table, shape(tensor), index, list(tensor[index]))

    def prediction(self, made: _Forward) -> data.Prediction:
        """4: what the last position expects."""
        logits, right = made.logits[-1], self.targets[-1]
        probabilities = softmax(logits)
        ranked = sorted(range(len(logits)), key=lambda token: -logits[token])
        guesses = [
            data.Guess(
                rank, self.token(len(self.context), token), logits[token], probabilities[token],
                token == right,
            )
            for rank, token in enumerate(ranked, 1)
            if rank <= LIKELIEST or token == right
        ]  # fmt: skip
        (the_right,) = (guess for guess in guesses if guess.is_right)
        return data.Prediction(guesses[:LIKELIEST], the_right, len(logits), [place_of(softmax)])

    def loss(self, made: _Forward) -> data.Loss:
        """5: what that costs, at every target and in the mean."""
        each = [cross_entropy([row], [t])[0] for row, t in zip(made.logits, self.targets)]
        return data.Loss(
            p_right=self._p_right(made),
            each=each,
            loss=made.loss,
            guessing=guessing_loss(len(made.logits[-1])),
            places=[place_of(cross_entropy), place_of(guessing_loss)],
        )

    def _p_right(self, made: _Forward) -> float:
        return softmax(made.logits[-1])[self.targets[-1]]

    def backward(self, gradients: Parameters, row: data.Row) -> data.Backward:
        """6: all gradients in brief, and the steepest of the first slopes in `row` in detail."""
        norms = [
            data.GradientNorm(name, shape(tensor), global_norm({name: gradients[name]}))
            for name, tensor in self.model.parameters.items()
        ]
        slopes = gradients[row.table][row.index][:CHOICES]
        column = max(range(len(slopes)), key=lambda i: abs(slopes[i]))
        followed = data.Followed(row.table, row.index, column, row.values[column])
        norm = global_norm(gradients)
        if not isfinite(norm):
            raise Diverged(f"the gradient has a length of {norm}; the weights are too large")
        places = [place_of(self.model.backward), place_of(global_norm)]
        slope = self._slope(followed, slopes[column])
        return data.Backward(norms, norm, followed, slope, places)

    def _slope(self, weight: data.Followed, analytic: float) -> data.Slope:
        """The slope as the backward has it beside the one that is measured."""
        losses: list[float] = []

        def loss() -> float:
            losses.append(self.forward().loss)
            return losses[-1]

        row = self.model.parameters[weight.name][weight.row]
        numerical = numerical_slope(loss, row, weight.column)
        above, below = losses
        difference, allowed = abs(analytic - numerical), ABSOLUTE + RELATIVE * abs(numerical)
        return data.Slope(
            analytic, STEP, above, below, numerical, difference, allowed, difference <= allowed,
            [place_of(numerical_slope)],
        )  # fmt: skip

    def again(self, before: _Forward, after: _Forward) -> data.Again:
        """8: the same text before and after the update."""
        places = [place_of(self.model.forward), place_of(cross_entropy)]
        p_before, p_right = self._p_right(before), self._p_right(after)
        return data.Again(before.loss, after.loss, p_before, p_right, places)


def _update(
    model: LanguageModel,
    optimizer: Union[SGD, AdamW],
    gradients: Parameters,
    backward: data.Backward,
    grad_clip: float,
) -> data.Update:
    """7: clip as training does, update all weights, and tell what became of the followed one."""
    weight = backward.followed
    clipping = None
    if grad_clip and backward.norm + 1e-6 > grad_clip:
        places = [place_of(clip_by_global_norm)]
        clipping = data.Clipping(grad_clip, backward.norm, backward.slope.analytic, places)
        clip_by_global_norm(gradients, backward.norm, grad_clip)
    slope = gradients[weight.name][weight.row][weight.column]
    remembered = _remembered(optimizer, weight)
    optimizer.update(model.parameters, gradients)
    moments = None
    computed = weight.value - optimizer.learning_rate * slope
    if isinstance(optimizer, AdamW):
        moments = _moments(optimizer, remembered, _remembered(optimizer, weight))
        step = moments.m_corrected / (sqrt(moments.v_corrected) + moments.epsilon)
        step += moments.weight_decay * weight.value  # it is a number in a matrix, so it decays
        computed = weight.value - optimizer.learning_rate * step
    return data.Update(
        optimizer=type(optimizer).__name__,
        learning_rate=optimizer.learning_rate,
        clipping=clipping,
        gradient=slope,
        moments=moments,
        before=weight.value,
        computed=computed,
        after=model.parameters[weight.name][weight.row][weight.column],
        places=[place_of(optimizer.update)],
    )


def _remembered(optimizer: Union[SGD, AdamW], weight: data.Followed) -> list[float]:
    """The moments of one weight: 0 before the first step."""
    tensors = (optimizer.state.get(f"{moment}.{weight.name}") for moment in optimizer.moments)
    return [tensor[weight.row][weight.column] if tensor else 0.0 for tensor in tensors]


def _moments(optimizer: AdamW, before: list[float], after: list[float]) -> data.Moments:
    """What AdamW remembers of one weight, before and after an update."""
    return data.Moments(
        optimizer.steps, optimizer.beta1, optimizer.beta2, optimizer.epsilon,
        optimizer.weight_decay,
        before[0], after[0], after[0] / (1 - optimizer.beta1**optimizer.steps),
        before[1], after[1], after[1] / (1 - optimizer.beta2**optimizer.steps),
    )  # fmt: skip
