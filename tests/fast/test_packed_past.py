"""Attention in lanes: near what chapter 4 says, however the past came about."""

import math
import random

import pytest
from conftest import modern
from pytest import approx

from tiny_llm import layers
from tiny_llm.beyond.llama import LlamaConfig, LlamaLanguageModel
from tiny_llm.fast import kv_cache
from tiny_llm.fast.kv_cache import NOTHING, Reader, read_on
from tiny_llm.fast.packed import quantize
from tiny_llm.fast.packed_past import PackedPast, attention

EMPTY = PackedPast([], [], [], [])


def rows(count, width, seed, size=1.0):
    rng = random.Random(seed)
    return [[rng.gauss(0, size) for _ in range(width)] for _ in range(count)]


@pytest.mark.parametrize("width", [1, 2, 5, 64])
@pytest.mark.parametrize("count", [1, 2, 70])
def test_it_is_near_the_attention_of_floats(width, count):
    keys, values, queries = (rows(count, width, seed) for seed in range(3))
    queries = queries[: (count + 1) // 2]
    wanted, cache = layers.attention(queries, keys, values)
    out, ours = attention(queries, EMPTY.grown(keys, values))
    largest = max(abs(x) for row in values for x in row)
    for row, other in zip(out, wanted):
        assert row == approx(other, abs=0.02 * largest)
    for name in "scores", "weights":
        assert list(map(len, getattr(ours, name))) == list(map(len, getattr(cache, name)))
    for row, other in zip(ours.weights, cache.weights):
        assert row == approx(other, abs=0.01)
        assert [x == 0 for x in row] == [x == 0 for x in other]


def test_it_does_not_matter_in_which_pieces_a_past_grew():
    keys, values = rows(23, 6, 0), rows(23, 6, 1, size=1e-3)
    whole, by_one, in_two = EMPTY.grown(keys, values), EMPTY, EMPTY.grown(keys[:9], values[:9])
    for key, value in zip(keys, values):
        before, longer = len(by_one), by_one.grown([key], [value])
        assert (len(by_one), len(longer)) == (before, before + 1)
        by_one = longer
    in_two = in_two.grown(keys[9:], values[9:])
    assert vars(by_one) == vars(in_two) == vars(whole)


@pytest.mark.parametrize("size", [1e-100, 1e-9, 1e9, 1e100])
def test_sizes_do_not_matter(size):
    keys, values, queries = rows(9, 4, 0, size), rows(9, 4, 1, size), rows(1, 4, 2, 1 / size)
    wanted, _ = layers.attention(queries, keys, values)
    out, _ = attention(queries, EMPTY.grown(keys, values))
    assert out[0] == approx(wanted[0], abs=0.02 * max(abs(x) for row in values for x in row))


def test_the_largest_sums_stay_within_their_lanes():
    """All keys point where the query points, or away from it, and all values are alike."""
    keys = [[1.0] * 64, [-1.0] * 64] * 150
    values = [[1.0, -1.0] * 32] * 300
    (out,), cache = attention([[1.0] * 64], EMPTY.grown(keys, values))
    assert out == approx(values[0], rel=1e-3)
    assert cache.scores[0] == approx([8.0, -8.0] * 150, rel=1e-2)


def test_zeros_are_zeros_and_what_is_no_number_is_none():
    zeros = [[0.0, 0.0]]
    (out,), cache = attention(zeros, EMPTY.grown(zeros, zeros))
    assert (out, cache.weights) == ([0.0, 0.0], [[1.0]])
    for bad in math.nan, math.inf, 1e200:
        for keys, values in (([[bad, 1.0]], zeros), (zeros, [[bad, 1.0]])):
            (out,), _ = attention([[1.0, 2.0]], EMPTY.grown(keys, values))
            assert all(map(math.isnan, out))


def llama(seed=0):
    config = LlamaConfig(vocab_size=7, context_length=40, d_model=16, n_heads=4, n_kv_heads=2)
    return LlamaLanguageModel(config, seed=seed)


@pytest.mark.parametrize("build", [llama, lambda: modern(context_length=40, seed=1)])
def test_a_packed_model_remembers_in_lanes_and_reads_the_same(build, monkeypatch):
    monkeypatch.setattr(kv_cache, "LANES_PAY", True)
    model = build()
    quantize(model)
    reader, without = Reader(model), Reader(model, remember=False)
    text = [i * i % 5 for i in range(40)]
    for length in [7, *range(8, 41)]:
        assert reader(text[:length]) == approx(without(text[:length]), abs=1e-2)
    heads = reader.pasts[0].layers[0]
    assert isinstance(heads[0].keys, PackedPast)
    assert len({id(head.keys) for head in heads}) == getattr(model.config, "n_kv_heads", len(heads))


def test_a_long_context_is_read_in_pieces_to_the_same_logits(monkeypatch):
    model, contexts = llama(), [[i * i % 7 for i in range(20)], [3], [1, 2, 3, 4, 5, 6, 0]]
    quantize(model)
    monkeypatch.setattr(kv_cache, "AT_ONCE", 100)
    wanted, pasts = read_on(model, [NOTHING] * 3, contexts)
    for size in 1, 3, 8, 20:
        monkeypatch.setattr(kv_cache, "AT_ONCE", size)
        logits, ours = read_on(model, [NOTHING] * 3, contexts)
        assert [past.tokens for past in ours] == [past.tokens for past in pasts]
        for row, other in zip(logits, wanted):
            assert row == approx(other, abs=1e-9)


def test_another_model_remembers_floats_as_ever():
    _, (past,) = read_on(llama(), [NOTHING], [[1, 2]])
    assert type(past.layers[0][0].keys) is list
