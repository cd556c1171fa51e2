"""Pairs of answers as a run learns from them: the same loop, workers and batches as for any text.

    a batch: P pairs --laid out--> 2P contexts --model--> rows of logits at the answers' places
             P references -------------------------------> dpo -> loss, slopes -> backward

To the loop, a pair is one context and what the reference says of it is its target. So a pair stays
whole where workers share a batch, and counts as one where their parts are put together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Callable, NamedTuple

from tiny_llm.batches import Contexts, Examples, Targets
from tiny_llm.beyond.dpo import (
    PairLogs,
    Rewards,
    answers_of,
    divergence,
    dpo,
    pair_logs,
    preferred,
)
from tiny_llm.fast.pool import Pool
from tiny_llm.fast.products import use
from tiny_llm.layers import split_rows
from tiny_llm.matmul import Matrix
from tiny_llm.model import LanguageModel, Parameters
from tiny_llm.run.asked import OnlyAsked
from tiny_llm.text.tasks import AskedContext

AT_ONCE = 16  # pairs in one forward, where nothing is learned from them


class Pair(NamedTuple):
    """A question and its two answers, as tokens."""

    question: list[int]  # all that stands before an answer, its beginning marker included
    chosen: list[int]  # up to the token that ends it, and with that
    rejected: list[int]

    @property
    def window(self) -> int:
        """Tokens that a model has to see at once: the last one is only predicted."""
        return len(self.question) + max(len(self.chosen), len(self.rejected)) - 1


class LaidOut(NamedTuple):
    """What a model is asked about some pairs: chosen and rejected answers by turns."""

    contexts: Contexts
    targets: Targets  # the tokens of all answers
    lengths: list[int]  # tokens of each answer


def laid_out(pairs: Iterable[Pair]) -> LaidOut:
    """A context for each answer, asked at its places alone."""
    both = [(pair.question, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    return LaidOut(
        [_asked(question, answer) for question, answer in both],
        [token for _, answer in both for token in answer],
        [len(answer) for _, answer in both],
    )


def _asked(question: list[int], answer: list[int]) -> AskedContext:
    """The row behind the question predicts the answer's first token, the last row its last."""
    context = AskedContext([*question, *answer[:-1]])
    context.rows = list(range(len(question) - 1, len(context)))
    return context


class PairExamples(Examples):
    """Pairs by number, each with what the reference says of it: PairLogs. ids: as a corpus has."""

    def __init__(self, pairs: Sequence[Pair], references: Sequence[PairLogs]) -> None:
        super().__init__(laid_out(pairs).targets, 0)
        self.pairs, self.references = pairs, references

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, numbers: Iterable[int]) -> tuple[Any, Any]:
        """The pairs with these numbers, and the reference of each."""
        numbers = list(numbers)
        return [self.pairs[i] for i in numbers], [self.references[i] for i in numbers]


class OfPairs(LanguageModel):
    """A model to which a pair is one context. It shares the model's parameters."""

    predicts_every_token = False  # a pair has one target

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.config, self.parameters = OnlyAsked(model), model.config, model.parameters

    def forward(self, contexts: Any) -> tuple[Matrix, Any]:
        """Pairs -> a row of logits for each token of their answers; cache."""
        return self.model.forward(laid_out(contexts).contexts)

    def backward(self, dlogits: Matrix, cache: Any) -> Parameters:
        """The model's."""
        return self.model.backward(dlogits, cache)


def gradients_of_pairs(
    model: LanguageModel,
    pairs: Any,
    references: Any,
    seed: str,
    beta: float,
    nll_weight: float,
) -> tuple[float, Parameters]:
    """The mean loss of some pairs, and its slopes. Nothing is random, so the seed is not used."""
    _, targets, lengths = laid_out(pairs)
    logits, cache = model.forward(pairs)
    loss, dlogits, _ = dpo(logits, targets, lengths, references, beta, nll_weight)
    return loss, model.backward(dlogits, cache)


# ---------------------------------------------------------------- the reference


def groups_of(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    """The pairs in order, AT_ONCE at a time."""
    return (pairs[first : first + AT_ONCE] for first in range(0, len(pairs), AT_ONCE))


def references_of(
    model: LanguageModel,
    pairs: Sequence[Pair],
    matmul: str = "float64",
    workers: int = 1,
    say: Callable[[int], None] = lambda done: None,
) -> list[PairLogs]:
    """What the reference says of every pair; `say` hears how many are done.

    Groups are the same whoever computes them, so the bits are, too.
    """
    found: list[PairLogs] = []
    logs_of = partial(_logs_of, OfPairs(model), matmul)
    if workers == 1:
        results: Iterable[list[PairLogs]] = map(logs_of, groups_of(pairs))
        return _gathered(results, found, say)
    with Pool(workers, logs_of) as pool:
        return _gathered(pool.map(groups_of(pairs)), found, say)


def _logs_of(model: LanguageModel, matmul: str, pairs: Any) -> list[PairLogs]:
    _, targets, lengths = laid_out(pairs)
    with use(matmul):
        return pair_logs(model.forward(pairs)[0], targets, lengths)


def _gathered(
    results: Iterable[list[PairLogs]], found: list[PairLogs], say: Callable[[int], None]
) -> list[PairLogs]:
    for group in results:
        found += group
        say(len(found))
    return found


# ---------------------------------------------------------------- how it goes


class Measures:
    """Call it with a model of pairs and examples for what an evaluation tells, by name.

    matmul: the way to multiply, in which the reference was asked, too.

    All are means over the pairs: val_loss, chosen_reward, rejected_reward, margin, accuracy; kl, of
    the chosen answers, nats an answer; chosen_loss, nats per token of the chosen answers.
    """

    def __init__(
        self, reference: LanguageModel, beta: float, nll_weight: float, matmul: str = "float64"
    ) -> None:
        self.reference, self.matmul = OnlyAsked(reference), matmul
        self.beta, self.nll_weight = beta, nll_weight

    def __call__(self, model: LanguageModel, held_out: Any) -> dict[str, float]:
        with use(self.matmul):
            return self._measured(model, held_out)

    def _measured(self, model: LanguageModel, held_out: Any) -> dict[str, float]:
        loss = kl = chosen_loss = 0.0
        rewards: list[Rewards] = []
        for first in range(0, len(held_out), AT_ONCE):
            pairs, references = held_out.take(range(first, min(first + AT_ONCE, len(held_out))))
            contexts, targets, lengths = laid_out(pairs)
            logits, _ = model.forward(pairs)
            group_loss, _, group = dpo(
                logits, targets, lengths, references, self.beta, self.nll_weight
            )
            loss += group_loss * len(pairs)
            rewards += group
            chosen_loss += sum(a.nll for a in list(answers_of(logits, targets, lengths))[::2])
            theirs, _ = self.reference.forward(contexts[::2])
            ours = split_rows(logits, lengths)[::2]
            kl += sum(map(divergence, ours, split_rows(theirs, lengths[::2])))
        found, count = preferred(rewards), len(held_out)
        return {
            "val_loss": loss / count,
            "chosen_reward": found.chosen_reward,
            "rejected_reward": found.rejected_reward,
            "margin": found.margin,
            "accuracy": found.accuracy,
            "kl": kl / count,
            "chosen_loss": chosen_loss / count,
        }
