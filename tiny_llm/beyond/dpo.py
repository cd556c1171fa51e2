"""DPO: of two answers to a question, the model learns to prefer the one that people prefer.

    question, chosen answer    -> ln p - ln q -> x beta: its reward -+
                                                                     +-> margin -> -ln sigmoid
    question, rejected answer  -> ln p - ln q -> x beta: its reward -+

    ln p   of the model that learns: the log-probabilities of all tokens of the answer, added up
    ln q   of the reference: the same model as it was before, computed once

Of a good answer one can say that it is better than another, long before one can say what makes it
so. The way to learn from that used to be long: a second model is taught to give each answer a
reward, and then the first one writes answers and is pushed towards a high reward, but not too far
from where it began, where the rewards mean nothing (Ouyang et al., 2022):

    maximize:  mean reward of what p writes - beta KL(p || q)

Direct Preference Optimization (Rafailov et al., 2023) goes the whole way on paper. Whatever the
reward is, the best p is known: q exp(reward / beta), divided by what makes it add up to 1. Read the
other way round, every p is the best one for some reward, namely

    reward = beta (ln p - ln q) + what depends on the question alone

and the last part is gone from the margin between two answers to one question. People prefer the
chosen one with a probability of sigmoid(margin), if they are as Bradley and Terry (1952) describe
them. So the preferences have a likelihood that is a function of the model itself, and -ln of it is
a loss like any other. No model of rewards is left, and nothing is drawn.

Log-probabilities are added up, not averaged: longer answers move more. Only differences are
learned, so both answers may become rarer than they were, the rejected one more so. A reward that
falls for the chosen answers is therefore nothing unusual; `nll_weight` holds against it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tiny_llm.batches import Ids
from tiny_llm.layers import cross_entropy, split_rows
from tiny_llm.matmul import Matrix, Vector


class PairLogs(NamedTuple):
    """ln of the probability of either answer as a whole, its end token among its tokens."""

    chosen: float
    rejected: float


class Rewards(NamedTuple):
    """How much more of either answer the model has come to think than the reference does."""

    chosen: float  # beta (ln p - ln q)
    rejected: float

    @property
    def margin(self) -> float:
        """Above 0 where the model prefers the chosen answer more than the reference does."""
        return self.chosen - self.rejected


class Answer(NamedTuple):
    """One answer of T tokens under a model."""

    log_probability: float  # of all its tokens, added up
    nll: float  # mean of -ln p of its tokens
    dlogits: Matrix  # T x V, the slopes of `nll`
    tokens: int  # T


def answers_of(logits: Matrix, targets: Ids, lengths: Sequence[int]) -> Iterator[Answer]:
    """Rows that belong to several answers -> each answer: N x V logits, N ids, their lengths.

    The row at which a token is a target is that of the token before it. Raises ValueError for an
    answer without tokens, and for lengths that do not add up to the rows.
    """
    if sum(lengths) != len(logits):
        raise ValueError(f"answers of {sum(lengths)} tokens need as many rows, not {len(logits)}")
    start = 0
    for rows in split_rows(logits, lengths):
        nll, dlogits = cross_entropy(rows, targets[start : start + len(rows)])
        yield Answer(-nll * len(rows), nll, dlogits, len(rows))
        start += len(rows)


def pair_logs(logits: Matrix, targets: Ids, lengths: Sequence[int]) -> list[PairLogs]:
    """What the reference says: N x V logits of 2P answers, chosen and rejected by turns -> P."""
    logs = [answer.log_probability for answer in answers_of(logits, targets, lengths)]
    return list(map(PairLogs, logs[::2], logs[1::2]))


def of_pair(
    chosen: Answer, rejected: Answer, reference: PairLogs, beta: float, nll_weight: float = 0.0
) -> tuple[float, Matrix, Rewards]:
    """The loss of one pair, its slopes by all rows of both answers, and the two rewards.

    With c and r for the log-probabilities of the chosen and the rejected answer,

        margin m = beta ((c - c of the reference) - (r - r of the reference))
        loss     = -ln sigmoid(m) = ln(1 + exp(-m))
        slope of the loss by m = -exp(-m) / (1 + exp(-m)) = -sigmoid(-m)
        slope by c = -beta sigmoid(-m)        slope by r = +beta sigmoid(-m)

    sigmoid(-m) is how wrong the model still is about this pair: near 1 where it prefers the
    rejected answer, 0.5 where it cannot tell, near 0 where there is nothing left to learn.

    c is minus T times what cross-entropy calls the loss of T tokens, whose slopes are known:
    (p - (1 if i == target else 0)) / T. So the slopes of DPO are those of cross-entropy on the
    chosen answer times T beta sigmoid(-m), and on the rejected one times minus that: it is trained
    like any text, only backwards. The reference does not learn, so nothing flows into it.

    nll_weight w adds w times the mean negative log-likelihood per token of the chosen answer, so
    that it does not become rarer (Pang et al., 2024, whose alpha it is): w more in its factor.
    """
    rewards = Rewards(
        beta * (chosen.log_probability - reference.chosen),
        beta * (rejected.log_probability - reference.rejected),
    )
    push = beta * how_wrong(rewards.margin)
    towards, away = chosen.tokens * push + nll_weight, -rejected.tokens * push
    dlogits = [[towards * slope for slope in row] for row in chosen.dlogits]
    dlogits += [[away * slope for slope in row] for row in rejected.dlogits]
    return softplus(-rewards.margin) + nll_weight * chosen.nll, dlogits, rewards


def dpo(
    logits: Matrix,
    targets: Ids,
    lengths: Sequence[int],
    references: Sequence[PairLogs],
    beta: float,
    nll_weight: float = 0.0,
) -> tuple[float, Matrix, list[Rewards]]:
    """The mean loss of P pairs and its slopes in one: N x V logits -> loss, dlogits N x V, rewards.

    The answers stand chosen and rejected by turns: 2P lengths that add up to N, N targets. A pair
    counts as any other, however long its answers are. Raises ValueError for no pairs, and unless
    there are two answers for each.
    """
    if not references or len(lengths) != 2 * len(references):
        raise ValueError(f"{len(references)} pairs have two answers each, not {len(lengths)}")
    answers = answers_of(logits, targets, lengths)
    loss, rewards = 0.0, []
    dlogits: Matrix = []
    for chosen, rejected, reference in zip(answers, answers, references):
        pair_loss, drows, reward = of_pair(chosen, rejected, reference, beta, nll_weight)
        loss += pair_loss
        dlogits += [[slope / len(references) for slope in row] for row in drows]
        rewards.append(reward)
    return loss / len(references), dlogits, rewards


def how_wrong(margin: float) -> float:
    """sigmoid(-margin) = 1 / (1 + exp(margin)) = exp(-softplus(margin))."""
    return math.exp(-softplus(margin))


def softplus(x: float) -> float:
    """ln(1 + exp(x)), for an x of any size: nothing overflows, and small results stay exact."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


# ---------------------------------------------------------------- how it goes


class Preferred(NamedTuple):
    """What pairs look like under a model: the means over them."""

    chosen_reward: float
    rejected_reward: float
    accuracy: float  # share of the pairs with a margin above 0

    @property
    def margin(self) -> float:
        """The mean margin."""
        return self.chosen_reward - self.rejected_reward


def preferred(rewards: Sequence[Rewards]) -> Preferred:
    """The means over these pairs. Raises ValueError for none."""
    if not rewards:
        raise ValueError("a mean needs one pair or more")
    count = len(rewards)
    return Preferred(
        sum(reward.chosen for reward in rewards) / count,
        sum(reward.rejected for reward in rewards) / count,
        sum(reward.margin > 0 for reward in rewards) / count,
    )


def divergence(logits: Matrix, reference: Matrix) -> float:
    """How far the model has gone from the reference along one answer, in nats: both T x V.

    The sum over the answer's places of KL(p || q) = sum over all tokens of p (ln p - ln q), which
    is exact at each place and never below 0. Its mean over answers that p itself writes is the KL
    of the two models. Over answers that others wrote it is an estimate, without any chance in it,
    that does not see where p goes ways which no answer of theirs goes.
    """
    total = 0.0
    for ours, theirs in zip(map(log_softmax, logits), map(log_softmax, reference)):
        total += sum(math.exp(log_p) * (log_p - log_q) for log_p, log_q in zip(ours, theirs))
    return total


def log_softmax(scores: Vector) -> Vector:
    """ln of the softmax, also where the probability itself would round to 0: V -> V."""
    highest = max(scores)
    log_total = math.log(sum(math.exp(score - highest) for score in scores)) + highest
    return [score - log_total for score in scores]


# Try it: give it references of 0. Then it counts which answer is the likelier one at all, and that
# is mostly the shorter one: pairs whose chosen answer is short no longer teach anything.
