"""Short documents, one a line: no context leaves its line, and every token is predicted once."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_batches import one_pass

from tiny_llm import Batches
from tiny_llm.text.corpus import LineExamples, Lines, LineWindows, RunningText, Spread, split_lines

each_kind = pytest.mark.parametrize("every_token", [False, True])
C = 4
SEPARATOR = 0
lines_of_ids = st.lists(st.lists(st.integers(1, 9), max_size=9), min_size=1).filter(any)


def test_lines_by_hand():
    lines = Lines([[1, 2, 3], [], [4]], SEPARATOR)
    assert lines.ids == [0, 1, 2, 3, 0, 4, 0]
    assert len(lines) == 2
    assert [lines[0], lines[1]] == [[1, 2, 3], [4]]


def test_lines_with_one_target_reach_back_to_the_beginning_of_their_line():
    examples = LineExamples(Lines([[1, 2, 3], [4]], SEPARATOR), 3)
    contexts, targets = examples.take(range(len(examples)))
    assert contexts == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [0], [0, 4]]
    assert targets == [1, 2, 3, 0, 4, 0]


def test_lines_with_a_target_for_every_token_are_windows_of_their_own():
    examples = LineWindows(Lines([[1, 2], [3, 4, 5, 6], [7]], SEPARATOR), 3)
    contexts, targets = examples.take(range(len(examples)))
    assert contexts == [[0, 1, 2], [0, 3, 4], [5, 6], [0, 7]]
    assert targets == [1, 2, 0, 3, 4, 5, 6, 0, 7, 0]


@each_kind
@given(lines_of_ids, st.integers(1, 6), st.integers(1, 5))
def test_a_pass_predicts_each_token_of_the_lines_once_from_its_own_line(
    every_token, lines, context_length, batch_size
):
    """The lines get ids of their own, so that a token says where it comes from."""
    count, numbered = 0, []
    for line in lines:
        numbered.append(list(range(count + 1, count + 1 + len(line))))
        count += len(line)
    home = {token: tuple(line) for line in numbered for token in line}
    examples = Lines(numbered, SEPARATOR).examples(context_length, every_token)
    batches = Batches(examples, batch_size, seed=0)
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
    batches = Batches(LineWindows(Lines(lines, SEPARATOR), C), batch_size=7, seed=0)
    orders = [[context[1] for context, _ in one_pass(batches, number)] for number in range(4)]
    assert len(set(map(tuple, orders))) == 4
    assert [sorted(order) for order in orders] == [list(range(1, 31))] * 4


def test_lines_need_not_fill_a_context():
    windows = LineWindows(Lines([[5]], SEPARATOR), C)
    assert Batches(windows, 2, seed=0).batch(0) == ([[0, 5]], [5, 0])


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
    with pytest.raises(ValueError, match=r"above 0 and at most 0\.5, not"):
        split_lines(["line"] * 100, fraction)


@pytest.mark.parametrize("predictions, count", [(1, 1), (9, 1), (16, 2), (80, 10), (999, 10)])
def test_some_examples_are_spread_over_all(predictions, count):
    whole = RunningText(list(range(81))).examples(8, True)  # ten windows of eight
    some = Spread(whole, predictions)
    assert len(some) == count
    contexts, targets = some.take(range(count))
    begins = [context[0] // 8 for context in contexts]
    assert begins == sorted(set(begins))  # no window twice
    assert sum(begins) / count == pytest.approx(4.5, abs=0.5)  # as many before the middle as after
    assert len(targets) == 8 * count


def test_the_spread_of_a_sorted_list_has_the_loss_of_the_whole():
    lines = Lines([[length] * length for length in range(1, 60)], SEPARATOR)
    whole = lines.examples(C, False)
    some = Spread(whole, 200)

    def mean(examples):
        targets = examples.take(range(len(examples)))[1]
        return sum(targets) / len(targets)

    assert mean(some) == pytest.approx(mean(whole), rel=0.02)
    assert mean(whole) > 1.5 * (sum(lines.ids[:200]) / 200)  # the beginning is not like the rest
