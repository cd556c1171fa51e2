"""What a step trains on: every example once in a pass, and nothing that was held out."""

import math
import random
import time
from array import array
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_llm import Batches, Lines, split, split_lines
from tiny_llm.batches import Examples, LineExamples, Shuffled, beginning, examples_of, running

KINDS = {"one target": 1, "a target for every token": 4}
each_kind = pytest.mark.parametrize("per_context", KINDS.values(), ids=KINDS)
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


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, math.nan])
def test_split_refuses_a_fraction_outside_0_and_1(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        split(list(range(100)), fraction)


@pytest.mark.parametrize(
    "length, fraction, part", [(10, 0.1, "validation"), (10, 0.9, "training"), (0, 0.5, "training")]
)
def test_split_refuses_a_part_without_a_pair(length, fraction, part):
    with pytest.raises(ValueError, match=f"tokens for {part}, and 2 are the least"):
        split(list(range(length)), fraction)


@each_kind
def test_training_never_shows_what_was_held_out(per_context):
    train, val = split(list(range(50)), 0.3)
    batches = Batches(train, C, per_context, batch_size=5, seed=0)
    for number in range(20):
        for context, targets in one_pass(batches, number):
            assert not set(val) & {*context, *targets}


# --------------------------------------------------------------------------------------- examples


@each_kind
@given(st.integers(2, 40), st.integers(1, 6))
def test_each_token_behind_the_first_is_the_target_of_one_example(per_context, length, context):
    per_context = min(per_context, context)
    examples = Examples(list(range(length)), context, per_context)
    _, targets = examples.take(range(len(examples)))
    assert targets == list(range(1, length))


def test_with_one_target_a_context_ends_right_before_it():
    ids = [10, 11, 12, 13, 14, 15]
    contexts, targets = Examples(ids, 3, 1).take([0, 1, 2, 4])
    assert contexts == [[10], [10, 11], [10, 11, 12], [12, 13, 14]]
    assert targets == [11, 12, 13, 15]


def test_with_a_target_for_every_token_windows_follow_one_another():
    ids = [10, 11, 12, 13, 14, 15]
    contexts, targets = Examples(ids, 3, 3).take([0, 1])
    assert contexts == [[10, 11, 12], [13, 14]]
    assert targets == [11, 12, 13, 14, 15]


def test_windows_can_begin_later():
    examples = Examples([10, 11, 12, 13, 14, 15], 3, 3, start=1)
    assert len(examples) == 2
    assert examples.take([1, 0]) == ([[14], [11, 12, 13]], [15, 12, 13, 14])


# ---------------------------------------------------------------------------------------- batches


@each_kind
def test_a_batch_follows_from_seed_and_step_alone(per_context):
    ids = list(range(40))
    forwards = Batches(ids, C, per_context, batch_size=3, seed=7)
    backwards = Batches(ids, C, per_context, batch_size=3, seed=7)
    steps = range(3 * forwards.steps_per_pass)
    in_order = {step: forwards.batch(step) for step in steps}
    reversed_order = {step: backwards.batch(step) for step in reversed(steps)}
    assert in_order == reversed_order
    assert forwards.batch(1) == in_order[1]


@each_kind
def test_another_seed_gives_another_order(per_context):
    ids = list(range(200))
    one, other = (Batches(ids, C, per_context, 10, seed) for seed in (0, 1))
    assert one.batch(0) != other.batch(0)


def test_a_pass_with_one_target_shows_every_example_once_in_a_new_order():
    batches = Batches(list(range(23)), C, 1, batch_size=5, seed=0)
    assert batches.steps_per_pass == 5  # 22 examples
    passes = [[targets[0] for _, targets in one_pass(batches, number)] for number in range(4)]
    assert len({tuple(order) for order in passes}) == 4
    for order in passes:
        assert sorted(order) == list(range(1, 23))
        assert order != sorted(order)


@pytest.mark.parametrize("length", [5, 7, 8, 9, 21, 22, 23, 24, 40])
def test_the_windows_of_a_pass_are_full_and_follow_one_another(length):
    batches = Batches(list(range(length)), C, C, batch_size=2, seed=0)
    for number in range(8):
        examples = sorted(one_pass(batches, number))
        assert {len(context) for context, _ in examples} == {C}
        start = examples[0][0][0]
        targets = [target for _, targets in examples for target in targets]
        assert targets == list(range(start + 1, start + 1 + len(targets)))
        assert length - 1 - len(targets) < 2 * C


def test_windows_come_in_a_new_order_in_each_pass():
    batches = Batches(list(range(202)), C, C, batch_size=8, seed=0)
    orders = []
    for number in range(5):
        begins = [context[0] for context, _ in one_pass(batches, number)]
        orders.append([(begin - min(begins)) // C for begin in begins])
    assert all(orders.count(order) == 1 for order in orders)
    assert [sorted(order) for order in orders] == [list(range(49))] * 5


def test_no_token_behind_the_first_is_left_out_of_every_pass():
    batches = Batches(list(range(23)), C, C, batch_size=2, seed=0)
    passes = [one_pass(batches, number) for number in range(30)]
    assert {t for examples in passes for _, ts in examples for t in ts} == set(range(1, 23))


@each_kind
def test_targets_are_the_tokens_that_follow(per_context):
    batches = Batches(list(range(60)), C, per_context, batch_size=7, seed=3)
    for context, targets in one_pass(batches, 2):
        assert 1 <= len(context) <= C
        assert context == list(range(context[0], context[0] + len(context)))
        assert targets == [token + 1 for token in context][-len(targets) :]


def test_windows_begin_elsewhere_in_each_pass():
    batches = Batches(list(range(200)), C, C, batch_size=8, seed=0)
    starts = [min(context[0] for context, _ in one_pass(batches, n)) for n in range(40)]
    assert set(starts) >= set(range(C))


def test_only_the_last_batch_of_a_pass_is_smaller():
    batches = Batches(list(range(24)), C, 1, batch_size=5, seed=0)
    sizes = [len(batches.batch(step)[0]) for step in range(2 * batches.steps_per_pass)]
    assert sizes == [5, 5, 5, 5, 3] * 2


@pytest.mark.parametrize("length", range(C + 1, 40))
@pytest.mark.parametrize("batch_size", [1, 2, 5])
@each_kind
def test_no_batch_is_empty(length, batch_size, per_context):
    batches = Batches(list(range(length)), C, per_context, batch_size, seed=0)
    for step in range(6 * batches.steps_per_pass):
        assert 1 <= len(batches.batch(step)[0]) <= batch_size


@each_kind
@pytest.mark.parametrize("length", [2, C])
def test_a_text_that_does_not_fill_a_context_is_refused(length, per_context):
    with pytest.raises(ValueError, match=f"context length of at most {length - 1}$"):
        Batches(list(range(length)), C, per_context, 2, seed=0)


@each_kind
def test_the_shortest_text_is_one_context_and_its_successor(per_context):
    batches = Batches(list(range(C + 1)), C, per_context, 100, seed=0)
    contexts, targets = batches.batch(0)
    assert max(contexts, key=len) == [0, 1, 2, 3]
    assert sorted(targets) == [1, 2, 3, 4]
    assert batches.steps_per_pass == 1


# ------------------------------------------------------------------------------------------ order


@pytest.mark.parametrize("size", [*range(1, 300), 1000, 4096, 4097])
def test_an_order_holds_every_number_once(size):
    order = Shuffled(size, random.Random(size))
    assert sorted(order[index] for index in range(size)) == list(range(size))


def as_list(size, seed):
    order = Shuffled(size, random.Random(seed))
    return [order[index] for index in range(size)]


def test_small_orders_are_all_about_as_frequent():
    """Chi-squared over the first two numbers: about 1 for each degree of freedom if random."""
    for size in (2, 3, 4, 5, 7, 10):
        pairs = Counter(tuple(as_list(size, seed)[:2]) for seed in range(3000))
        possible = size * (size - 1)
        expected = 3000 / possible
        excess = sum((count - expected) ** 2 for count in pairs.values()) / expected
        excess += (possible - len(pairs)) * expected
        assert excess / max(1, possible - 1) < 4, size


@pytest.mark.parametrize("seed", range(5))
def test_a_large_order_looks_shuffled(seed):
    size = 10_000
    order = as_list(size, seed)
    steps = [b - a for a, b in zip(order, order[1:])]
    assert sum(number == index for index, number in enumerate(order)) < 8  # about 1
    assert sum(abs(step) == 1 for step in steps) < 12  # about 2
    assert sum(map(abs, steps)) / len(steps) == pytest.approx(size / 3, rel=0.03)
    assert Counter(steps).most_common(1)[0][1] < 15
    early = sum(number < size // 2 for number in order[: size // 2])
    assert early == pytest.approx(size / 4, rel=0.05)


def test_another_seed_gives_another_order_of_many():
    assert len({tuple(as_list(50, seed)) for seed in range(100)}) == 100


@each_kind
def test_a_batch_of_a_text_that_no_memory_could_hold(per_context):
    """Any step, at once: a list of the examples, or of a pass, would need terabytes."""
    batches = Batches(range(10**12), C, per_context, batch_size=8, seed=0)
    steps = [0, 1, 10**6, batches.steps_per_pass - 1, 10**10]
    start = time.perf_counter()
    contexts = [context for step in steps for context in batches.batch(step)[0]]
    assert time.perf_counter() - start < 1
    assert max(context[-1] for context in contexts) > 10**11
    for context in contexts:
        assert context == list(range(context[0], context[0] + C))


@each_kind
def test_ids_may_lie_in_a_memoryview(per_context):
    ids = [number % 7 for number in range(100)]
    in_list = Batches(ids, C, per_context, 3, seed=1)
    in_view = Batches(memoryview(array("H", ids)), C, per_context, 3, seed=1)
    for step in range(2 * in_list.steps_per_pass):
        contexts, targets = in_view.batch(step)
        assert (contexts, targets) == in_list.batch(step)
        assert type(targets) is list
        assert all(type(context) is list for context in contexts)


# ------------------------------------------------------------------------------------------ lines

SEPARATOR = 0
lines_of_ids = st.lists(st.lists(st.integers(1, 9), max_size=9), min_size=1).filter(any)


def test_lines_by_hand():
    lines = Lines([[1, 2, 3], [], [4]], SEPARATOR)
    assert lines.ids == [0, 1, 2, 3, 0, 4, 0]
    assert len(lines) == 2
    assert [lines[0], lines[1]] == [[1, 2, 3], [4]]


def test_lines_with_one_target_reach_back_to_the_beginning_of_their_line():
    examples = LineExamples(Lines([[1, 2, 3], [4]], SEPARATOR), 3, 1)
    contexts, targets = examples.take(range(len(examples)))
    assert contexts == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [0], [0, 4]]
    assert targets == [1, 2, 3, 0, 4, 0]


def test_lines_with_a_target_for_every_token_are_windows_of_their_own():
    examples = LineExamples(Lines([[1, 2], [3, 4, 5, 6], [7]], SEPARATOR), 3, 3)
    contexts, targets = examples.take(range(len(examples)))
    assert contexts == [[0, 1, 2], [0, 3, 4], [5, 6], [0, 7]]
    assert targets == [1, 2, 0, 3, 4, 5, 6, 0, 7, 0]


@each_kind
@given(lines_of_ids, st.integers(1, 6), st.integers(1, 5))
def test_a_pass_predicts_each_token_of_the_lines_once_from_its_own_line(
    per_context, lines, context_length, batch_size
):
    """The lines get ids of their own, so that a token says where it comes from."""
    count, numbered = 0, []
    for line in lines:
        numbered.append(list(range(count + 1, count + 1 + len(line))))
        count += len(line)
    home = {token: tuple(line) for line in numbered for token in line}
    per_context = min(per_context, context_length)
    batches = Batches(Lines(numbered, SEPARATOR), context_length, per_context, batch_size, seed=0)
    predicted = Counter()
    for context, targets in one_pass(batches, 3):
        predicted.update(targets)
        assert len(context) <= context_length
        assert len({home[token] for token in [*context, *targets] if token}) <= 1
        assert SEPARATOR not in context[1:]
        assert SEPARATOR not in targets[:-1]
    separators = sum(map(bool, lines))
    assert predicted == {SEPARATOR: separators, **dict.fromkeys(range(1, count + 1), 1)}


def test_lines_come_in_a_new_order_in_each_pass():
    lines = [[number, number] for number in range(1, 31)]
    batches = Batches(Lines(lines, SEPARATOR), C, C, batch_size=7, seed=0)
    orders = [[context[1] for context, _ in one_pass(batches, number)] for number in range(4)]
    assert len(set(map(tuple, orders))) == 4
    assert [sorted(order) for order in orders] == [list(range(1, 31))] * 4


def test_lines_need_not_fill_a_context():
    assert Batches(Lines([[5]], SEPARATOR), C, C, 2, seed=0).batch(0) == ([[0, 5]], [5, 0])


@pytest.mark.parametrize("lines", [[], [[]], [[], []]])
def test_no_lines_are_refused(lines):
    with pytest.raises(ValueError, match="no line that is not empty"):
        Lines(lines, SEPARATOR)


def test_every_tenth_line_is_held_out():
    train, val = split_lines([str(number) for number in range(35)], 0.1)
    assert val == ["9", "19", "29"]
    assert train == [str(number) for number in range(35) if number % 10 != 9]


def test_empty_lines_do_not_count_when_lines_are_split():
    assert split_lines(["a", "", "b", "c", "", "", "d"], 0.5) == (["a", "c"], ["b", "d"])


@pytest.mark.parametrize(
    "count, fraction, part", [(5, 0.1, "validation"), (0, 0.5, "training"), (0, 0.1, "training")]
)
def test_lines_are_not_split_into_one_part(count, fraction, part):
    with pytest.raises(ValueError, match=f"leaves none of {count} lines for {part}"):
        split_lines(["line"] * count, fraction)


def test_not_more_than_every_second_line_can_be_held_out():
    assert split_lines("abcd", 0.5) == (["a", "c"], ["b", "d"])
    with pytest.raises(ValueError, match=r"at most 0\.5, not 0\.9"):
        split_lines("abcd", 0.9)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, math.nan])
def test_split_lines_refuses_a_fraction_outside_0_and_1(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_lines(["line"] * 100, fraction)


@pytest.mark.parametrize("predictions, count", [(1, 1), (3, 1), (4, 1), (5, 2), (8, 3), (99, 3)])
def test_the_beginning_of_lines_is_whole_lines(predictions, count):
    lines = Lines([[1, 2], [3], [4, 5]], SEPARATOR)  # 3, 2 and 3 predictions
    first = beginning(lines, predictions)
    assert running(first) == running(lines)[: len(running(first))]
    assert [first[number] for number in range(len(first))] == [[1, 2], [3], [4, 5]][:count]


def test_the_beginning_of_a_text_has_so_many_predictions():
    assert beginning([7, 8, 9, 10], 2) == [7, 8, 9]
    assert len(examples_of(beginning(list(range(50)), 20), C, 1)) == 20
