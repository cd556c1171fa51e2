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
from dataclasses import asdict, replace
from math import isclose, isfinite, sqrt
from typing import Optional, Union

from tiny_llm.fast.tensors import count, shape
from tiny_llm.gradcheck import ABSOLUTE, RELATIVE, STEP, numerical_slope
from tiny_llm.layers import cross_entropy, embedding, softmax
from tiny_llm.matmul import Matrix
from tiny_llm.model import LanguageModel, Parameters
from tiny_llm.optimizers import SGD, AdamW, clip_by_global_norm, global_norm
from tiny_llm.text.tokenizers import Tokenizer
from tiny_llm.text.yardsticks import guessing_loss
from tiny_llm.training import Diverged
from tiny_llm.view.trace import data
from tiny_llm.view.trace.record import Call, recorded
from tiny_llm.view.trace.stages import code_of, in_words, lookups, place_of, sizes, stages

LIKELIEST = 5  # how many next tokens are told
ROUNDING = 1e-9  # of results that differ in the order of their operations
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
    step = _Step(model, tokenizer, ids[:-1], ids[-1])
    with recorded(model) as calls:
        logits, cache = model.forward([step.context])
    loss, dlogits = cross_entropy(logits, step.targets)
    _check(loss)
    # All is copied as it is told: a cache holds rows of the parameters themselves.
    told = step.forward(logits, calls, optimizer.steps)
    gradients = model.backward(dlogits, cache)
    backward = step.backward(gradients, told.vectors.rows)
    update = _update(model, optimizer, gradients, backward, grad_clip)
    return replace(
        told,
        loss=step.loss(logits, loss),
        backward=backward,
        update=update,
        again=step.again(logits, loss),
    )


def trace_forward(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str, steps_before: int = 0
) -> data.Trace:
    """What the model expects after the prompt: the first four parts, for which none is known.

    Raises ValueError for a prompt without tokens, Diverged for numbers that are not finite.
    """
    ids = tokenizer.encode(prompt)
    if not ids:
        raise ValueError("a forward needs at least one token")
    step = _Step(model, tokenizer, ids)
    with recorded(model) as calls:
        logits, _ = model.forward([step.context])
    return step.forward(logits, calls, steps_before)


def as_json(told: data.Trace) -> str:
    """The trace as one JSON object, in ASCII."""
    return json.dumps(asdict(told), indent=1, allow_nan=False)


def _check(loss: float) -> None:
    if not isfinite(loss):
        raise Diverged(
            f"the loss is {loss}, so no slope means anything; the weights are too large, or "
            f"the learning rate was"
        )


class _Step:
    """A context, with its targets if it is known what follows, and what there is to tell of it."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        ids: list[int],
        next_id: Optional[int] = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.given = len(ids) + (next_id is not None)
        self.context = ids[-model.config.context_length :]
        self.targets: list[int] = []
        if next_id is not None:
            self.targets = [*self.context[1:], next_id][-model.targets_per_context :]

    def loss_now(self) -> tuple[Matrix, float]:
        """Logits and loss with the weights as they are now."""
        logits, _ = self.model.forward([self.context])
        loss, _ = cross_entropy(logits, self.targets)
        _check(loss)
        return logits, loss

    def forward(self, logits: Matrix, calls: list[Call], steps_before: int) -> data.Trace:
        """Parts 1 to 4."""
        model = self.model
        return data.Trace(
            model=type(model).__name__,
            config=asdict(model.config),
            sizes=sizes(model),
            weights=count(model.parameters),
            steps_before=steps_before,
            tokens=self.tokens(),
            vectors=self.vectors(calls),
            stages=list(stages(model, calls)),
            prediction=self.prediction(logits),
        )

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

    def vectors(self, calls: list[Call]) -> data.Vectors:
        """2: the rows that the last position looked up."""
        found = lookups(self.model, calls)
        rows = [self._row(table, call) for table, call in found]
        made = [call.out for _, call in found]
        places = [place_of(embedding)]
        for call in calls:  # the first that was given several of them
            if sum(any(out is given for given in call.arguments) for out in made) > 1:
                return data.Vectors(
                    rows, list(call.out[-1]), code_of(call), [*places, place_of(call.function)]
                )
        return data.Vectors(rows, None, "", places if rows else [])

    def _row(self, table: str, call: Call) -> data.Row:
        tensor, ids = self.model.parameters[table], list(call.arguments[0])
        reader = (call.code.name if call.code else "") or call.function.__name__
        if ids[-1] == self.context[-1] and len(tensor) == self.model.config.vocab_size:
            reader = "token"
        elif ids == list(range(len(self.context))):
            reader = "position"
        return data.Row(reader, table, shape(tensor), ids[-1], list(tensor[ids[-1]]))

    def prediction(self, rows: Matrix) -> data.Prediction:
        """4: what the last position expects."""
        logits, right = rows[-1], self.targets[-1] if self.targets else None
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
        the_right = next((guess for guess in guesses if guess.is_right), None)
        return data.Prediction(
            guesses[:LIKELIEST], the_right, len(logits), in_words(softmax), [place_of(softmax)]
        )

    def loss(self, logits: Matrix, loss: float) -> data.Loss:
        """5: what that costs, at every target and in the mean."""
        each = [cross_entropy([row], [t])[0] for row, t in zip(logits, self.targets)]
        return data.Loss(
            p_right=self._p_right(logits),
            each=each,
            loss=loss,
            guessing=guessing_loss(len(logits[-1])),
            places=[place_of(cross_entropy), place_of(guessing_loss)],
        )

    def _p_right(self, logits: Matrix) -> float:
        return softmax(logits[-1])[self.targets[-1]]

    def backward(self, gradients: Parameters, rows: list[data.Row]) -> data.Backward:
        """6: all gradients in brief, and one weight's in detail."""
        norms = [
            data.GradientNorm(name, shape(tensor), global_norm({name: gradients[name]}))
            for name, tensor in self.model.parameters.items()
        ]
        followed = self._followed(gradients, rows)
        analytic = gradients[followed.name][followed.row][followed.column]
        norm = global_norm(gradients)
        if not isfinite(norm):
            raise Diverged(f"the gradient has a length of {norm}; the weights are too large")
        places = [place_of(self.model.backward), place_of(global_norm)]
        slope = self._slope(followed, analytic)
        return data.Backward(norms, norm, followed, slope, places)

    def _followed(self, gradients: Parameters, rows: list[data.Row]) -> data.Followed:
        """The steepest of the first weights of the row that was looked up first.

        Without such a row it is one in the steepest row of the first matrix.
        """
        if rows:
            name, row = rows[0].table, rows[0].index
        else:
            name = next(n for n, t in self.model.parameters.items() if isinstance(t[0], list))
            matrix = gradients[name]
            row = max(range(len(matrix)), key=lambda i: max(map(abs, matrix[i])))
        slopes = gradients[name][row][:CHOICES]
        column = max(range(len(slopes)), key=lambda i: abs(slopes[i]))
        return data.Followed(name, row, column, self.model.parameters[name][row][column])

    def _slope(self, weight: data.Followed, analytic: float) -> data.Slope:
        """The slope as the backward has it beside the one that is measured."""
        losses: list[float] = []

        def loss() -> float:
            losses.append(self.loss_now()[1])
            return losses[-1]

        row = self.model.parameters[weight.name][weight.row]
        numerical = numerical_slope(loss, row, weight.column)
        above, below = losses
        difference, allowed = abs(analytic - numerical), ABSOLUTE + RELATIVE * abs(numerical)
        return data.Slope(
            analytic, STEP, above, below, numerical, difference, allowed, difference <= allowed,
            [place_of(numerical_slope)],
        )  # fmt: skip

    def again(self, logits_before: Matrix, loss_before: float) -> data.Again:
        """8: the same text before and after the update."""
        logits, loss = self.loss_now()
        places = [place_of(self.model.forward), place_of(cross_entropy)]
        p_before, p_right = self._p_right(logits_before), self._p_right(logits)
        return data.Again(loss_before, loss, p_before, p_right, places)


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
    remembered, agrees = _remembered(optimizer, weight), True
    optimizer.update(model.parameters, gradients)
    moments = None
    computed = weight.value - optimizer.learning_rate * slope
    if isinstance(optimizer, AdamW):
        moments = _moments(optimizer, remembered, _remembered(optimizer, weight))
        agrees = _averages_agree(moments, slope)
        step = moments.m_corrected / (sqrt(moments.v_corrected) + moments.epsilon)
        step += moments.weight_decay * weight.value  # it is a number in a matrix, so it decays
        computed = weight.value - optimizer.learning_rate * step
    after = model.parameters[weight.name][weight.row][weight.column]
    return data.Update(
        optimizer=type(optimizer).__name__,
        learning_rate=optimizer.learning_rate,
        clipping=clipping,
        gradient=slope,
        moments=moments,
        before=weight.value,
        computed=computed,
        after=after,
        agrees=agrees and isclose(computed, after, rel_tol=ROUNDING, abs_tol=ROUNDING),
        places=[place_of(optimizer.update)],
    )


def _averages_agree(moments: data.Moments, slope: float) -> bool:
    """Whether both averages moved as AdamW's formulas have it."""
    m = moments.beta1 * moments.m_before + (1 - moments.beta1) * slope
    v = moments.beta2 * moments.v_before + (1 - moments.beta2) * slope**2
    return isclose(m, moments.m, rel_tol=ROUNDING, abs_tol=ROUNDING * abs(slope)) and isclose(
        v, moments.v, rel_tol=ROUNDING
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
