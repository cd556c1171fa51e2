"""What a step trains on: every example once in a pass, and nothing that was held out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_llm import Batches, Examples, Windows, split

KINDS = {"one target": Examples, "a target for every token": Windows}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
C = 4


def one_pass(batches, number):
    """The (context, targets) of each example of one pass, batch after batch."""
    for step in range(number * batches.steps_per_pass, (number + 1) * batches.steps_per_pass):
        contexts, targets = batches.batch(step)
        each = 1 if len(targets) == len(contexts) else None
        for context in contexts:
            size = each or len(context)
            yield context, targets[:size]
            targets = targets[size:]
        assert not targets


# ------------------------------------------------------------------------------------------ split


@given(st.integers(20, 500), st.floats(0.15, 0.85))
def test_split_cuts_once_and_holds_out_the_end(length, fraction):
    ids = list(range(length))
    train, val = split(ids, fraction)
    assert train + val == ids
    assert abs(len(val) - length * fraction) <= 0.5


@pytest.mark.parametrize("fraction, left", [(0, 100), (1, 0), (-0.1, 110), (1.5, 0)])
def test_split_refuses_a_fraction_outside_0_and_1(fraction, left):
    with pytest.raises(ValueError, match=f"leaves {left} of 100 tokens for training, and either"):
        split(list(range(100)), fraction)


def test_split_refuses_a_fraction_that_is_no_number():
    with pytest.raises(ValueError, match="NaN"):
        split(list(range(100)), math.nan)


@pytest.mark.parametrize("length, fraction, left", [(10, 0.1, 9), (10, 0.9, 1), (0, 0.5, 0)])
def test_split_refuses_a_part_without_a_pair(length, fraction, left):
    with pytest.raises(ValueError, match=f"leaves {left} of {length} tokens for training, and"):
        split(list(range(length)), fraction)


@each_kind
def test_training_never_shows_what_was_held_out(kind):
    train, val = split(list(range(50)), 0.3)
    batches = Batches(kind(train, C), batch_size=5, seed=0)
    for number in range(20):
        for context, targets in one_pass(batches, number):
            assert not set(val) & {*context, *targets}


# --------------------------------------------------------------------------------------- examples


@each_kind
@given(st.integers(2, 40), st.integers(1, 6))
def test_each_token_behind_the_first_is_the_target_of_one_example(kind, length, context):
    examples = kind(list(range(length)), context)
    _, targets = examples.take(range(len(examples)))
    assert targets == list(range(1, length))


def test_with_one_target_a_context_ends_right_before_it():
    ids = [10, 11, 12, 13, 14, 15]
    contexts, targets = Examples(ids, 3).take([0, 1, 2, 4])
    assert contexts == [[10], [10, 11], [10, 11, 12], [12, 13, 14]]
    assert targets == [11, 12, 13, 15]


def test_with_a_target_for_every_token_windows_follow_one_another():
    ids = [10, 11, 12, 13, 14, 15]
    contexts, targets = Windows(ids, 3).take([0, 1])
    assert contexts == [[10, 11, 12], [13, 14]]
    assert targets == [11, 12, 13, 14, 15]


@each_kind
@pytest.mark.parametrize("ids", [[], [7]])
@pytest.mark.parametrize("context_length", [1, C])
def test_without_a_pair_of_tokens_there_is_no_example(kind, ids, context_length):
    assert len(kind(ids, context_length)) == 0


def test_windows_can_begin_later():
    examples = Windows([10, 11, 12, 13, 14, 15], 3, start=1)
    assert len(examples) == 2
    assert examples.take([1, 0]) == ([[14], [11, 12, 13]], [15, 12, 13, 14])


# ---------------------------------------------------------------------------------------- batches


@each_kind
def test_a_batch_follows_from_seed_and_step_alone(kind):
    ids = list(range(40))
    forwards = Batches(kind(ids, C), batch_size=3, seed=7)
    backwards = Batches(kind(ids, C), batch_size=3, seed=7)
    steps = range(3 * forwards.steps_per_pass)
    in_order = {step: forwards.batch(step) for step in steps}
    reversed_order = {step: backwards.batch(step) for step in reversed(steps)}
    assert in_order == reversed_order
    assert forwards.batch(1) == in_order[1]


@each_kind
def test_another_seed_gives_another_order(kind):
    ids = list(range(200))
    one, other = (Batches(kind(ids, C), 10, seed) for seed in (0, 1))
    assert one.batch(0) != other.batch(0)


class Backwards:
    """An order without a list: what is last comes first."""

    def __init__(self, size, rng):
        self.size = size

    def __getitem__(self, index):
        return self.size - 1 - index


@each_kind
def test_an_order_can_be_given_that_is_no_list(kind):
    examples = kind(list(range(25)), C)
    batches = Batches(examples, batch_size=3, seed=0, order=Backwards)
    contexts = [context for context, _ in one_pass(batches, 0)]
    assert len(contexts) == batches.per_pass
    assert contexts == sorted(contexts, reverse=True)


def test_a_pass_with_one_target_shows_every_example_once_in_a_new_order():
    batches = Batches(Examples(list(range(23)), C), batch_size=5, seed=0)
    assert batches.steps_per_pass == 5  # 22 examples
    passes = [[targets[0] for _, targets in one_pass(batches, number)] for number in range(4)]
    assert len({tuple(order) for order in passes}) == 4
    for order in passes:
        assert sorted(order) == list(range(1, 23))
        assert order != sorted(order)


@pytest.mark.parametrize("length", [5, 7, 8, 9, 21, 22, 23, 24, 40])
def test_the_windows_of_a_pass_are_full_and_follow_one_another(length):
    batches = Batches(Windows(list(range(length)), C), batch_size=2, seed=0)
    for number in range(8):
        examples = sorted(one_pass(batches, number))
        assert {len(context) for context, _ in examples} == {C}
        start = examples[0][0][0]
        targets = [target for _, targets in examples for target in targets]
        assert targets == list(range(start + 1, start + 1 + len(targets)))
        assert length - 1 - len(targets) < 2 * C


def test_windows_come_in_a_new_order_in_each_pass():
    batches = Batches(Windows(list(range(202)), C), batch_size=8, seed=0)
    orders = []
    for number in range(5):
        begins = [context[0] for context, _ in one_pass(batches, number)]
        orders.append([(begin - min(begins)) // C for begin in begins])
    assert all(orders.count(order) == 1 for order in orders)
    assert [sorted(order) for order in orders] == [list(range(49))] * 5


def test_no_token_behind_the_first_is_left_out_of_every_pass():
    batches = Batches(Windows(list(range(23)), C), batch_size=2, seed=0)
    passes = [one_pass(batches, number) for number in range(30)]
    assert {t for examples in passes for _, ts in examples for t in ts} == set(range(1, 23))


@each_kind
def test_targets_are_the_tokens_that_follow(kind):
    batches = Batches(kind(list(range(60)), C), batch_size=7, seed=3)
    for context, targets in one_pass(batches, 2):
        assert 1 <= len(context) <= C
        assert context == list(range(context[0], context[0] + len(context)))
        assert targets == [token + 1 for token in context][-len(targets) :]


def test_windows_begin_elsewhere_in_each_pass():
    batches = Batches(Windows(list(range(200)), C), batch_size=8, seed=0)
    starts = [min(context[0] for context, _ in one_pass(batches, n)) for n in range(40)]
    assert set(starts) >= set(range(C))


def test_only_the_last_batch_of_a_pass_is_smaller():
    batches = Batches(Examples(list(range(24)), C), batch_size=5, seed=0)
    sizes = [len(batches.batch(step)[0]) for step in range(2 * batches.steps_per_pass)]
    assert sizes == [5, 5, 5, 5, 3] * 2


@pytest.mark.parametrize("length", range(C + 1, 40))
@pytest.mark.parametrize("batch_size", [1, 2, 5])
@each_kind
def test_no_batch_is_empty(length, batch_size, kind):
    batches = Batches(kind(list(range(length)), C), batch_size, seed=0)
    for step in range(6 * batches.steps_per_pass):
        assert 1 <= len(batches.batch(step)[0]) <= batch_size


@each_kind
def test_the_shortest_text_is_one_context_and_its_successor(kind):
    batches = Batches(kind(list(range(C + 1)), C), 100, seed=0)
    contexts, targets = batches.batch(0)
    assert max(contexts, key=len) == [0, 1, 2, 3]
    assert sorted(targets) == [1, 2, 3, 4]
    assert batches.steps_per_pass == 1
