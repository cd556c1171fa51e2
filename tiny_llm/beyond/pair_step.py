"""One step of DPO on one pair, with everything kept that a person may want to see of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from tiny_llm.beyond.dpo import PairLogs, Rewards, answers_of, log_softmax, of_pair
from tiny_llm.beyond.pairs import OfPairs, Pair, laid_out
from tiny_llm.beyond.preference_run import reference_of
from tiny_llm.layers import split_rows
from tiny_llm.matmul import Matrix, Vector
from tiny_llm.model import Parameters, rows_of
from tiny_llm.optimizers import clip_by_global_norm, global_norm
from tiny_llm.run.saved import Run


class SeenAnswer(NamedTuple):
    """An answer of T tokens at one moment, token by token."""

    tokens: list[int]
    ours: Vector  # ln p of each
    theirs: Vector  # ln q of each: the reference's
    slopes: Vector  # of the loss by the logit of each, at its own place

    @property
    def logs(self) -> tuple[float, float]:
        """ln p and ln q of the whole answer."""
        return sum(self.ours), sum(self.theirs)


class Moment(NamedTuple):
    """A pair at one moment."""

    chosen: SeenAnswer
    rejected: SeenAnswer
    rewards: Rewards
    loss: float  # with that of the chosen answer, as far as it counts
    nll: float  # of the chosen answer, per token


class Moved(NamedTuple):
    """The weight with the largest slope, before and after the update."""

    name: str  # with its place
    before: float
    slope: float
    after: float


class PairStep(NamedTuple):
    """What happened."""

    pair: Pair
    beta: float
    nll_weight: float
    learning_rate: float
    optimizer: str
    before: Moment
    moved: Moved
    after: Moment


def pair_step(run: Run, pair: Pair) -> PairStep:
    """Make a step with the highest learning rate of the run on this pair alone: it changes."""
    options, model = run.options, OfPairs(run.model)
    theirs, _ = OfPairs(reference_of(run)).forward([pair])
    logits, cache = model.forward([pair])
    before, dlogits = _moment(pair, logits, theirs, options)
    gradients = model.backward(dlogits, cache)
    name, row, place = _largest(gradients)
    weights, slopes = (rows_of(tensors[name])[row] for tensors in (run.model.parameters, gradients))
    was, slope = weights[place], slopes[place]
    if options.grad_clip:
        clip_by_global_norm(gradients, global_norm(gradients), options.grad_clip)
    run.optimizer.learning_rate = options.learning_rate
    run.optimizer.update(run.model.parameters, gradients)
    after, _ = _moment(pair, model.forward([pair])[0], theirs, options)
    is_matrix = isinstance(gradients[name][0], list)
    where = f"{name}[{row}][{place}]" if is_matrix else f"{name}[{place}]"
    moved = Moved(where, was, slope, weights[place])
    return PairStep(
        pair, options.beta, options.nll_weight, options.learning_rate, options.optimizer, before,
        moved, after,
    )  # fmt: skip


def _moment(pair: Pair, logits: Matrix, theirs: Matrix, options: Any) -> tuple[Moment, Matrix]:
    """The pair under these logits and those of the reference; the slopes by the logits."""
    _, targets, lengths = laid_out([pair])
    chosen, rejected = answers_of(logits, targets, lengths)
    reference = PairLogs(*(a.log_probability for a in answers_of(theirs, targets, lengths)))
    loss, dlogits, rewards = of_pair(chosen, rejected, reference, options.beta, options.nll_weight)
    parts = (split_rows(rows, lengths) for rows in (logits, theirs, dlogits))
    first, second = (
        SeenAnswer(tokens, _logs(ours, tokens), _logs(those, tokens), _own(slopes, tokens))
        for tokens, ours, those, slopes in zip((pair.chosen, pair.rejected), *parts)
    )
    return Moment(first, second, rewards, loss, chosen.nll), dlogits


def _logs(rows: Matrix, tokens: list[int]) -> Vector:
    return [log_softmax(row)[token] for row, token in zip(rows, tokens)]


def _own(rows: Matrix, tokens: list[int]) -> Vector:
    return [row[token] for row, token in zip(rows, tokens)]


def _largest(gradients: Parameters) -> tuple[str, int, int]:
    """Where the largest slope is: its name, the number of its row, its place in that."""
    places = (
        (abs(slope), name, row, place)
        for name, tensor in gradients.items()
        for row, slopes in enumerate(rows_of(tensor))
        for place, slope in enumerate(slopes)
    )
    _, name, row, place = max(places)
    return name, row, place
