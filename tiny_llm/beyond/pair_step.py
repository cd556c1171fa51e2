"""One step of DPO on one pair, with everything kept that a person may want to see of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from tiny_llm.beyond.dpo import PairLogs, Rewards, answers_of, log_softmax, of_pair
from tiny_llm.beyond.pairs import OfPairs, Pair, laid_out
from tiny_llm.beyond.preference_run import reference_of
from tiny_llm.beyond.shown_step import Moved, update
from tiny_llm.layers import split_rows
from tiny_llm.matmul import Matrix, Vector
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
    moved = update(run, gradients)
    after, _ = _moment(pair, model.forward([pair])[0], theirs, options)
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
