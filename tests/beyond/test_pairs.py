"""Pairs as a run learns from them: what is asked where, whole pairs for every worker, measures."""

import math
import random
from functools import partial

import pytest
from conftest import modern
from pytest import approx

from tiny_llm import Batches, cross_entropy
from tiny_llm.beyond.dpo import PairLogs, dpo, log_softmax
from tiny_llm.beyond.pairs import (
    AT_ONCE,
    Measures,
    OfPairs,
    Pair,
    PairExamples,
    gradients_of_pairs,
    laid_out,
    references_of,
)
from tiny_llm.model import rows_of
from tiny_llm.run.gradients import Gradients

PAIRS = [
    Pair([1, 2], [3, 4, 0], [0]),
    Pair([4], [2, 0], [2, 1, 0]),
    Pair([3, 3, 1], [1, 0], [4, 0]),
]


def many(count, seed=0):
    rng = random.Random(seed)
    return [
        Pair(*([rng.randrange(5) for _ in range(rng.randint(1, 3))] for _ in range(3)))
        for _ in range(count)
    ]


def model_and_reference():
    return modern(context_length=6, seed=1), modern(context_length=6, seed=2)


def test_an_answer_is_asked_from_the_end_of_its_question_to_its_end_token():
    contexts, targets, lengths = laid_out(PAIRS[:2])
    assert contexts == [[1, 2, 3, 4], [1, 2], [4, 2], [4, 2, 1]]
    assert [context.rows for context in contexts] == [[1, 2, 3], [1], [0, 1], [0, 1, 2]]
    assert targets == [3, 4, 0, 0, 2, 0, 2, 1, 0]
    assert lengths == [3, 1, 2, 3]


def test_what_stands_in_a_question_is_no_target_and_other_pairs_are_not_seen():
    model, _ = model_and_reference()
    logits, _ = OfPairs(model).forward(PAIRS)
    alone = [row for pair in PAIRS for row in OfPairs(model).forward([pair])[0]]
    assert logits == alone and len(logits) == sum(laid_out(PAIRS).lengths)


def test_the_reference_says_the_same_whoever_computes_it():
    _, reference = model_and_reference()
    pairs, heard = many(2 * AT_ONCE + 3), []
    found = references_of(reference, pairs, say=heard.append)
    assert heard == [AT_ONCE, 2 * AT_ONCE, 2 * AT_ONCE + 3]
    assert references_of(reference, pairs, workers=2) == found
    for pair, logs in zip(pairs[-3:], found[-3:]):
        for answer, log in zip(pair[1:], logs):
            by_hand = 0.0
            for i, token in enumerate(answer):
                last = reference.forward([[*pair.question, *answer[:i]]])[0][-1]
                by_hand += log_softmax(last)[token]
            assert log == approx(by_hand, rel=1e-12)


def test_the_reference_is_multiplied_in_the_way_that_is_named(products):
    _, reference = model_and_reference()
    references_of(reference, PAIRS, "lanes")
    assert set(products) == {"lanes"}


def batches(reference, pairs, size):
    return Batches(PairExamples(pairs, references_of(reference, pairs)), size, seed=3)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_find_the_slopes_of_the_whole_batch(workers):
    model, reference = model_and_reference()
    compute = partial(gradients_of_pairs, beta=0.5, nll_weight=0.2)
    learned = batches(reference, many(5), 5)
    pairs, references = learned.batch(0)
    expected_loss, expected = compute(OfPairs(model), pairs, references, "")
    with Gradients(OfPairs(model), learned, workers=workers, compute=compute) as gradients:
        loss, found = gradients(0)
    assert loss == approx(expected_loss, rel=1e-12)
    for name, tensor in found.items():
        for row, slopes in zip(rows_of(tensor), rows_of(expected[name])):
            assert row == approx(slopes, rel=1e-9, abs=1e-14)


def test_several_small_batches_are_one_large_one():
    model, reference = model_and_reference()
    compute = partial(gradients_of_pairs, beta=0.5, nll_weight=0.2)
    pairs = many(6)
    large = Gradients(OfPairs(model), batches(reference, pairs, 6), compute=compute)
    small = Gradients(OfPairs(model), batches(reference, pairs, 2), 3, compute=compute)
    assert small(0)[0] == approx(large(0)[0], rel=1e-12)


# ------------------------------------------------------------------------------ measures


def measured(model, reference, pairs, beta=0.5, nll_weight=0.0):
    examples = PairExamples(pairs, references_of(reference, pairs))
    return Measures(reference, beta, nll_weight)(OfPairs(model), examples)


def test_what_is_measured_is_that_of_all_pairs_at_once():
    model, reference = model_and_reference()
    pairs = many(AT_ONCE + 5)
    found = measured(model, reference, pairs, nll_weight=0.3)
    _, targets, lengths = laid_out(pairs)
    logits, _ = OfPairs(model).forward(pairs)
    loss, _, rewards = dpo(logits, targets, lengths, references_of(reference, pairs), 0.5, 0.3)
    assert found["val_loss"] == approx(loss)
    assert found["chosen_reward"] == approx(sum(r.chosen for r in rewards) / len(pairs))
    assert found["rejected_reward"] == approx(sum(r.rejected for r in rewards) / len(pairs))
    assert found["margin"] == approx(found["chosen_reward"] - found["rejected_reward"])
    assert found["accuracy"] == sum(r.margin > 0 for r in rewards) / len(pairs)


def test_the_reference_itself_has_no_rewards_and_is_not_far_from_itself():
    _, reference = model_and_reference()
    found = measured(reference, reference, PAIRS)
    assert found.pop("val_loss") == approx(math.log(2))
    losses = [
        cross_entropy(OfPairs(reference).forward([p])[0][: len(p.chosen)], p.chosen)[0]
        for p in PAIRS
    ]
    assert found.pop("chosen_loss") == approx(sum(losses) / 3)
    assert set(found.values()) == {0.0}


def test_divergence_is_along_the_chosen_answers_alone():
    model, reference = model_and_reference()
    other = [pair._replace(rejected=[1, 1, 1]) for pair in PAIRS]
    first, second = (measured(model, reference, pairs) for pairs in (PAIRS, other))
    assert first["kl"] == approx(second["kl"]) and first["kl"] > 0
    assert first["rejected_reward"] != approx(second["rejected_reward"])
    by_hand = 0.0
    for pair in PAIRS:
        for i in range(len(pair.chosen)):
            context = [*pair.question, *pair.chosen[:i]]
            ours, theirs = (log_softmax(m.forward([context])[0][-1]) for m in (model, reference))
            by_hand += sum(math.exp(a) * (a - b) for a, b in zip(ours, theirs))
    assert first["kl"] == approx(by_hand / 3)


def test_examples_come_with_their_references():
    logs = [PairLogs(-float(i), 0.0) for i in range(3)]
    assert PairExamples(PAIRS, logs).take([2, 0]) == ([PAIRS[2], PAIRS[0]], [logs[2], logs[0]])
