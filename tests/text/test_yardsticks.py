"""The two losses that every model is measured against."""

from array import array
from math import exp, log

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from tiny_llm import bigram_loss, guessing_loss
from tiny_llm.text import yardsticks
from tiny_llm.text.corpus import Lines

V = 4
tokens = st.integers(0, V - 1)


def test_guessing_costs_the_logarithm_of_the_vocabulary():
    assert guessing_loss(27) == approx(3.295836866004329)
    assert guessing_loss(1) == 0


def test_bigram_loss_by_hand():
    # In training 0 is followed by 1, 1, 2, and 1 by 0, 0; the 2 at the end by nothing.
    train = [0, 1, 0, 1, 0, 2]
    losses = [log((3 + 3) / (2 + 1)), log((2 + 3) / (0 + 1)), log((0 + 3) / (0 + 1))]
    assert bigram_loss(train, [0, 1, 1], 3) == approx((losses[0] + losses[1]) / 2)
    assert bigram_loss(train, [2, 0], 3) == approx(losses[2])


@given(st.lists(tokens, min_size=2), tokens)
def test_the_probabilities_of_what_follows_a_token_sum_to_one(train, first):
    assert sum(exp(-bigram_loss(train, [first, b], V)) for b in range(V)) == approx(1)


@given(st.lists(tokens, min_size=2, max_size=2))
def test_without_counts_a_pair_costs_as_much_as_guessing(val):
    unseen = [V, V]  # its only pair says nothing about the tokens of `val`
    assert bigram_loss(unseen, val, V + 1) == approx(guessing_loss(V + 1))


def test_a_regular_text_costs_less_than_guessing_and_more_than_nothing():
    text = [0, 1, 2, 3] * 50
    assert 0 < bigram_loss(text, text, V) < 0.1 < guessing_loss(V)


def test_ids_may_lie_in_a_memoryview():
    train, val = [0, 1, 0, 1, 0, 2, 3], [2, 0, 1, 1]
    views = [memoryview(array("H", ids)) for ids in (train, val)]
    assert bigram_loss(*views, V) == bigram_loss(train, val, V)


def test_the_separators_of_lines_are_tokens():
    train, val = Lines([[1, 2], [1]], separator=0), Lines([[1]], separator=0)
    assert bigram_loss(train.ids, val.ids, V) == bigram_loss([0, 1, 2, 0, 1, 0], [0, 1, 0], V)


def test_only_the_first_pairs_of_a_long_text_are_counted(monkeypatch):
    start, val = [0, 1, 2, 0, 1], [0, 1, 2, 3, 3]
    whole = bigram_loss(start, val, V)
    monkeypatch.setattr(yardsticks, "MOST_COUNTED", 4)
    assert bigram_loss([*start, 3, 3, 3, 3], val, V) == whole
    monkeypatch.setattr(yardsticks, "MOST_COUNTED", 5)
    assert bigram_loss([*start, 3, 3, 3, 3], val, V) != whole
