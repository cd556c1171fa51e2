"""Every layer's backward against measured slopes; and every way to break it has to be noticed.

The slopes are those of a weighted sum of the layer's outputs with random weights, the upstream
gradient. A check that accepts everything proves nothing, so the second half of this file hands it
backwards with the mistakes that people make.
"""

import math
from copy import deepcopy
from random import Random
from typing import Callable, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from tiny_llm import cross_entropy
from tiny_llm.gradcheck import compare, weighted_sum
from tiny_llm.layers import (
    AttentionCache,
    add_rows,
    attention,
    attention_backward,
    embedding,
    embedding_backward,
    gelu,
    gelu_backward,
    join_columns,
    layer_norm,
    layer_norm_backward,
    linear,
    linear_backward,
    multi_head_attention,
    multi_head_attention_backward,
    softmax,
    softmax_backward,
    split_columns,
    split_rows,
    tanh,
    tanh_backward,
)
from tiny_llm.matmul import matmul, matmul_at, matmul_bt


def normal(rng, rows, columns, std):
    return [[rng.gauss(0.0, std) for _ in range(columns)] for _ in range(rows)]


class Layer(NamedTuple):
    """A layer as a function of named tensors, and its backward with the same arguments."""

    inputs: dict
    forward: Callable  # (**inputs) -> matrix
    backward: Callable  # (dout, **inputs) -> the gradient of each input, in order


def verdicts(layer, backward, upstream=None):
    """Input name -> whether its gradient agrees with the measured slopes."""
    out = layer.forward(**layer.inputs)
    factors = upstream or normal(Random(1), len(out), len(out[0]), std=1.0)
    gradients = backward(factors, **layer.inputs)
    assert len(gradients) == len(layer.inputs)

    def loss():
        return weighted_sum(layer.forward(**layer.inputs), factors)

    return {
        name: compare(name, loss, tensor, gradient).passed
        for (name, tensor), gradient in zip(layer.inputs.items(), gradients)
    }


rng = Random(0)


def matrix(rows, columns, std=1.0):
    return normal(rng, rows, columns, std)


def vector(size):
    return matrix(1, size)[0]


IDS = [2, 0, 2, 5]  # a token twice, tokens never
TARGETS = [3, 0, 3]
LENGTHS = [3, 1, 2]
HEADS = 2


def attention_inputs(queries, keys, width=4):
    return {"q": matrix(queries, width), "k": matrix(keys, width), "v": matrix(keys, width)}


def run_attention(q, k, v):
    return attention(q, k, v)[0]


def run_attention_backward(dout, q, k, v):
    return attention_backward(dout, attention(q, k, v)[1])


def blocks(x, parts):
    """The parts of a matrix below one another, so that they make one output."""
    return [row for part in split_columns(x, parts) for row in part]


LAYERS = {
    "embedding": Layer(
        {"table": matrix(6, 3)},
        lambda table: embedding(IDS, table),
        lambda dout, table: [embedding_backward(dout, IDS, len(table))],
    ),
    "linear": Layer(
        {"x": matrix(4, 3), "weight": matrix(3, 3), "bias": vector(3)},
        linear,
        lambda dy, x, weight, bias: linear_backward(dy, x, weight),
    ),
    "tanh": Layer({"x": matrix(3, 4)}, tanh, lambda dy, x: [tanh_backward(dy, tanh(x))]),
    "softmax": Layer(
        {"scores": matrix(3, 4)},
        lambda scores: [softmax(row) for row in scores],
        lambda dp, scores: [[softmax_backward(d, softmax(row)) for d, row in zip(dp, scores)]],
    ),
    "cross_entropy": Layer(
        {"logits": matrix(3, 5)},
        lambda logits: [[cross_entropy(logits, TARGETS)[0]]],
        lambda d, logits: [
            [[d[0][0] * s for s in row] for row in cross_entropy(logits, TARGETS)[1]]
        ],
    ),
    "attention from every position": Layer(
        attention_inputs(4, 4), run_attention, run_attention_backward
    ),
    "attention from the last position": Layer(
        attention_inputs(1, 5), run_attention, run_attention_backward
    ),
    "attention from the last two": Layer(
        attention_inputs(2, 5), run_attention, run_attention_backward
    ),
    "add_rows": Layer({"x": matrix(3, 4), "y": matrix(3, 4)}, add_rows, lambda d, x, y: (d, d)),
    "layer_norm": Layer(
        {"x": matrix(4, 5, std=3.0), "gain": vector(5), "bias": vector(5)},
        lambda x, gain, bias: layer_norm(x, gain, bias)[0],
        lambda dy, x, gain, bias: layer_norm_backward(dy, gain, layer_norm(x, gain, bias)[1]),
    ),
    "gelu": Layer({"x": matrix(3, 4, std=2.0)}, gelu, lambda dy, x: [gelu_backward(dy, x)]),
    "split_columns": Layer(
        {"x": matrix(3, 6)},
        lambda x: blocks(x, 2),
        lambda d, x: [join_columns(split_rows(d, [3, 3]))],
    ),
    "join_columns": Layer(
        {"x": matrix(3, 2), "y": matrix(3, 2)},
        lambda x, y: join_columns([x, y]),
        lambda d, x, y: split_columns(d, 2),
    ),
    "multi_head_attention": Layer(
        {"qkv": matrix(6, 12)},
        lambda qkv: multi_head_attention(qkv, HEADS, LENGTHS)[0],
        lambda d, qkv: [
            multi_head_attention_backward(d, multi_head_attention(qkv, HEADS, LENGTHS)[1])
        ],
    ),
}
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


@each_layer
def test_backward_agrees_with_measured_slopes(layer):
    assert all(verdicts(layer, layer.backward).values())


@each_layer
def test_forward_and_backward_change_nothing_that_they_are_given(layer):
    before = deepcopy(layer.inputs)
    out = layer.forward(**layer.inputs)
    layer.backward(normal(Random(2), len(out), len(out[0]), 1.0), **layer.inputs)
    assert layer.inputs == before


# ------------------------------------------------------------------------------- broken backwards


def scaled(tensor, factor):
    return [[factor * value for value in row] for row in tensor]


def transposed(a):
    return [list(row) for row in zip(*a)]


def overwriting_embedding(dout, table):
    dtable = scaled(table, 0.0)
    for token, drow in zip(IDS, dout):
        dtable[token] = drow
    return [dtable]


def elementwise(dy, x, slope):
    return [[[d * slope(value) for d, value in zip(*rows)] for rows in zip(dy, x)]]


def softmax_with(dp, scores, formula):
    return [[formula(d, softmax(row)) for d, row in zip(dp, scores)]]


def cross_entropy_with(d, logits, one_hot, rows):
    return [
        [
            [d[0][0] * (p - one_hot * (i == target)) / rows for i, p in enumerate(softmax(row))]
            for row, target in zip(logits, TARGETS)
        ]
    ]


def attention_without_scale(dout, q, k, v):
    dq, dk, dv = run_attention_backward(dout, q, k, v)
    root = math.sqrt(len(q[0]))
    return scaled(dq, root), scaled(dk, root), dv


def attention_with_dq_and_dk_swapped(dout, q, k, v):
    dq, dk, dv = run_attention_backward(dout, q, k, v)
    return dk, dq, dv


def attention_that_sees_the_future(dout, q, k, v):
    cache = attention(q, k, v)[1]
    scores = scaled(matmul_bt(q, k), 1 / math.sqrt(len(q[0])))
    return attention_backward(dout, cache._replace(weights=list(map(softmax, scores))))


def attention_without_softmax(dout, q, k, v):
    weights = attention(q, k, v)[1].weights
    seen = [[d * (w > 0) for d, w in zip(*rows)] for rows in zip(matmul_bt(dout, v), weights)]
    dscores = scaled(seen, 1 / math.sqrt(len(q[0])))
    return matmul(dscores, k), matmul_at(dscores, q), matmul_at(weights, dout)


def attention_with_weights_not_transposed(dout, q, k, v):
    dq, dk, _ = run_attention_backward(dout, q, k, v)
    return dq, dk, matmul(attention(q, k, v)[1].weights, dout)


def layer_norm_with(dy, x, gain, bias, mean=1, along=1, deviation=1, gain_in_dn=1):
    """The right backward, with each of its parts in reach to leave out (0)."""
    cache = layer_norm(x, gain, bias)[1]
    dx = []
    for drow, (unit, inverse) in zip(dy, cache):
        dn = [d * (g if gain_in_dn else 1) for d, g in zip(drow, gain)]
        mean_dn = mean * sum(dn) / len(dn)
        mean_dn_n = along * sum(d * n for d, n in zip(dn, unit)) / len(dn)
        slopes = [d - mean_dn - n * mean_dn_n for d, n in zip(dn, unit)]
        dx.append([slope * (inverse if deviation else 1) for slope in slopes])
    _, dgain, dbias = layer_norm_backward(dy, gain, cache)
    return dx, dgain, dbias


def layer_norm_gain_by_output(dy, x, gain, bias):
    y, cache = layer_norm(x, gain, bias)
    dx, _, dbias = layer_norm_backward(dy, gain, cache)
    return dx, [sum(d * out for d, out in zip(*c)) for c in zip(zip(*dy), zip(*y))], dbias


def gelu_first_term(v):
    return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))


def gelu_exact_slope(v):
    """The slope of the form with the error function, which GPT-2 does not use."""
    density = math.exp(-v * v / 2) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + math.erf(v / math.sqrt(2))) + v * density


def heads_backward(dout, qkv, lengths=LENGTHS, order=(0, 1, 2, 3, 4, 5)):
    """The right backward, but for the lengths of the sequences or the order of the columns."""
    caches = multi_head_attention(qkv, HEADS, lengths)[1]
    columns = split_columns(multi_head_attention_backward(dout, caches), 3 * HEADS)
    return [join_columns([columns[i] for i in order])]


# (layer, the mistake) -> (a backward that makes it, the inputs whose gradient it spoils)
BROKEN = {
    ("embedding", "a repeated token overwrites"): (overwriting_embedding, "table"),
    ("embedding", "rows handed to the wrong tokens"): (
        lambda d, table: [embedding_backward(d, IDS[::-1], len(table))],
        "table",
    ),
    ("linear", "bias from the first row alone"): (
        lambda dy, x, weight, bias: (*linear_backward(dy, x, weight)[:2], dy[0]),
        "bias",
    ),
    ("linear", "bias averaged over the rows"): (
        lambda dy, x, weight, bias: (
            *linear_backward(dy, x, weight)[:2],
            [sum(column) / len(dy) for column in zip(*dy)],
        ),
        "bias",
    ),
    ("linear", "dweight transposed"): (
        lambda dy, x, weight, bias: (
            matmul_bt(dy, weight),
            matmul_at(dy, x),
            linear_backward(dy, x, weight)[2],
        ),
        "weight",
    ),
    ("linear", "dx by the weight, not transposed"): (
        lambda dy, x, weight, bias: (matmul(dy, weight), *linear_backward(dy, x, weight)[1:]),
        "x",
    ),
    ("tanh", "1 - y"): (lambda dy, x: elementwise(dy, x, lambda v: 1 - math.tanh(v)), "x"),
    ("tanh", "1 - x^2"): (lambda dy, x: elementwise(dy, x, lambda v: 1 - v * v), "x"),
    ("softmax", "without the mean"): (
        lambda dp, scores: softmax_with(dp, scores, lambda d, p: [a * b for a, b in zip(d, p)]),
        "scores",
    ),
    ("softmax", "each score alone, p (1 - p)"): (
        lambda dp, scores: softmax_with(
            dp, scores, lambda d, p: [a * b * (1 - b) for a, b in zip(d, p)]
        ),
        "scores",
    ),
    ("cross_entropy", "not divided by N"): (
        lambda d, logits: cross_entropy_with(d, logits, one_hot=1, rows=1),
        "logits",
    ),
    ("cross_entropy", "without the one-hot"): (
        lambda d, logits: cross_entropy_with(d, logits, one_hot=0, rows=len(logits)),
        "logits",
    ),
    ("attention from every position", "without the scale"): (attention_without_scale, "q k"),
    ("attention from every position", "dq and dk swapped"): (
        attention_with_dq_and_dk_swapped,
        "q k",
    ),
    ("attention from every position", "the mask leaks"): (attention_that_sees_the_future, "q k v"),
    ("attention from every position", "weights^T forgotten"): (
        attention_with_weights_not_transposed,
        "v",
    ),
    ("attention from the last position", "without the scale"): (attention_without_scale, "q k"),
    ("attention from the last position", "without softmax"): (attention_without_softmax, "q k"),
    ("attention from the last two", "the mask leaks"): (attention_that_sees_the_future, "q k v"),
    ("attention from the last two", "without softmax"): (attention_without_softmax, "q k"),
    ("add_rows", "the slope shared out"): (
        lambda d, x, y: (scaled(d, 0.5), scaled(d, 0.5)),
        "x y",
    ),
    ("add_rows", "no slope for the layers"): (lambda d, x, y: (d, scaled(d, 0.0)), "y"),
    ("layer_norm", "without the 2nd term, the mean"): (
        lambda *args, **inputs: layer_norm_with(*args, **inputs, mean=0),
        "x",
    ),
    ("layer_norm", "without the 3rd term, the deviation"): (
        lambda *args, **inputs: layer_norm_with(*args, **inputs, along=0),
        "x",
    ),
    ("layer_norm", "not divided by the deviation"): (
        lambda *args, **inputs: layer_norm_with(*args, **inputs, deviation=0),
        "x",
    ),
    ("layer_norm", "dx without the gain"): (
        lambda *args, **inputs: layer_norm_with(*args, **inputs, gain_in_dn=0),
        "x",
    ),
    ("layer_norm", "dgain from the output"): (layer_norm_gain_by_output, "gain"),
    ("gelu", "without the second term of the product rule"): (
        lambda dy, x: elementwise(dy, x, gelu_first_term),
        "x",
    ),
    ("gelu", "the slope of the erf form"): (
        lambda dy, x: elementwise(dy, x, gelu_exact_slope),
        "x",
    ),
    ("split_columns", "parts in the wrong order"): (
        lambda d, x: [join_columns(split_rows(d, [3, 3])[::-1])],
        "x",
    ),
    ("join_columns", "parts in the wrong order"): (
        lambda d, x, y: split_columns(d, 2)[::-1],
        "x y",
    ),
    ("multi_head_attention", "sequences run into one another"): (
        lambda d, qkv: heads_backward(d, qkv, lengths=[6]),
        "qkv",
    ),
    ("multi_head_attention", "lengths in the wrong order"): (
        lambda d, qkv: heads_backward(d, qkv, lengths=LENGTHS[::-1]),
        "qkv",
    ),
    ("multi_head_attention", "queries and keys swapped"): (
        lambda d, qkv: heads_backward(d, qkv, order=(2, 3, 0, 1, 4, 5)),
        "qkv",
    ),
    ("multi_head_attention", "q, k, v head by head"): (
        lambda d, qkv: heads_backward(d, qkv, order=(0, 2, 4, 1, 3, 5)),
        "qkv",
    ),
}


@pytest.mark.parametrize(
    "name, backward, spoiled",
    [(name, *case) for (name, _), case in BROKEN.items()],
    ids=[f"{name}: {mistake}" for name, mistake in BROKEN],
)
def test_a_broken_backward_is_rejected(name, backward, spoiled):
    layer = LAYERS[name]
    rejected = [which for which, passed in verdicts(layer, backward).items() if not passed]
    assert rejected == spoiled.split()


def test_every_layer_has_a_broken_backward():
    assert {name for name, _ in BROKEN} == LAYERS.keys()


@pytest.mark.parametrize("factor", [0.0, 2.0, -1.0])
def test_an_upstream_of_ones_would_hide_a_broken_softmax(factor):
    def broken(dp, scores):
        return [scaled(LAYERS["softmax"].backward(dp, scores)[0], factor)]

    ones = [[1.0] * 4] * 3
    assert verdicts(LAYERS["softmax"], broken, ones) == {"scores": True}
    assert verdicts(LAYERS["softmax"], broken) == {"scores": False}


def test_an_upstream_of_ones_would_hide_a_layer_norm_without_its_input():
    layer = LAYERS["layer_norm"]
    inputs = {**layer.inputs, "gain": [1.0] * 5}

    def broken(dy, x, gain, bias):
        _, dgain, dbias = layer.backward(dy, x, gain, bias)
        return scaled(x, 0.0), dgain, dbias

    even = layer._replace(inputs=inputs)
    assert all(verdicts(even, broken, [[1.0] * 5] * 4).values())
    assert not verdicts(even, broken)["x"]


# ----------------------------------------------------------------------- values, rung 1's layers


def test_embedding_copies_no_row_wrongly():
    assert embedding([1, 0, 1], [[1.0, 2.0], [3.0, 4.0]]) == [[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]


def test_a_token_that_occurs_twice_gathers_both_slopes():
    dtable = embedding_backward([[1.0, 2.0], [10.0, 20.0], [0.5, 0.5]], [3, 3, 0], rows=5)
    assert dtable == [[0.5, 0.5], [0.0, 0.0], [0.0, 0.0], [11.0, 22.0], [0.0, 0.0]]


def test_linear_by_hand():
    x, weight, bias = [[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]], [0.5, -0.5]
    assert linear(x, weight, bias) == [[13.5, 15.5]]


def test_linear_backward_by_hand():
    dy, x, weight = [[1.0, 0.0], [0.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]
    dx, dweight, dbias = linear_backward(dy, x, weight)
    assert dx == [[5.0, 7.0], [12.0, 16.0]]
    assert dweight == [[1.0, 6.0], [2.0, 8.0]]
    assert dbias == [1.0, 2.0]


scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8)


@given(scores)
def test_softmax_gives_probabilities_in_the_order_of_the_scores(row):
    p = softmax(row)
    assert sum(p) == approx(1)
    assert all(0 <= value <= 1 for value in p)
    ranked = sorted(range(len(row)), key=row.__getitem__)
    assert all(p[low] <= p[high] for low, high in zip(ranked, ranked[1:]))


@given(scores, st.integers(-1000, 1000))
def test_only_differences_of_scores_matter(row, shift):
    assert softmax([score + shift for score in row]) == approx(softmax(row), abs=1e-8)


def test_softmax_by_hand():
    assert softmax([0.0, math.log(3)]) == approx([0.25, 0.75])


def test_cross_entropy_of_even_scores_is_guessing():
    loss, dlogits = cross_entropy([[7.0] * 4], [2])
    assert loss == approx(math.log(4))
    assert dlogits == [approx([0.25, 0.25, -0.75, 0.25])]


def test_cross_entropy_is_the_mean_of_its_rows():
    rows, targets = matrix(3, 5), [4, 0, 2]
    alone = [cross_entropy([row], [target])[0] for row, target in zip(rows, targets)]
    assert cross_entropy(rows, targets)[0] == approx(sum(alone) / 3)


def test_repeating_every_row_keeps_the_loss_and_halves_the_slope_of_each():
    rows, targets = matrix(3, 5), [4, 0, 2]
    loss, dlogits = cross_entropy(rows, targets)
    twice, dtwice = cross_entropy(rows * 2, targets * 2)
    assert twice == approx(loss)
    assert scaled(dtwice[:3], 2) == [approx(row) for row in dlogits]


def test_the_slopes_of_a_row_of_logits_sum_to_zero():
    _, dlogits = cross_entropy(matrix(3, 5), TARGETS)
    assert [sum(row) for row in dlogits] == approx([0, 0, 0], abs=1e-15)


@pytest.mark.parametrize("targets", [[], [0], [0, 1, 2]])
def test_cross_entropy_wants_one_target_for_each_row(targets):
    with pytest.raises(ValueError, match="2 rows of logits need as many targets"):
        cross_entropy([[0.0, 0.0]] * 2, targets)


def test_cross_entropy_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 rows"):
        cross_entropy([], [])


@pytest.mark.parametrize("target", [-1, 2])
def test_cross_entropy_refuses_a_target_outside_the_vocabulary(target):
    with pytest.raises(ValueError, match=f"target {target} is outside the vocabulary of 2"):
        cross_entropy([[0.0, 0.0]], [target])


# ------------------------------------------------------------------------- values, rung 2 and 3


def test_a_single_key_is_read_whole():
    out, cache = attention([[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]])
    assert out == [[5.0, 6.0]]
    assert cache.weights == [[1.0]]


def test_equal_keys_are_read_evenly_as_far_as_each_query_sees():
    _, cache = attention(matrix(3, 2), [[1.0, 1.0]] * 3, matrix(3, 2))
    assert cache.weights == [approx(row) for row in ([1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3)]


def test_attention_by_hand():
    # Scores 0 and ln 3 after the division by sqrt(4), so weights 1/4 and 3/4.
    query, keys = [[2.0, 0.0, 0.0, 0.0]], [[0.0] * 4, [math.log(3), 0.0, 0.0, 0.0]]
    out, cache = attention(query, keys, [[4.0] * 4, [8.0] * 4])
    assert cache.weights == [approx([0.25, 0.75])]
    assert out == [approx([7.0] * 4)]


@pytest.mark.parametrize("queries, keys", [(5, 5), (3, 5), (1, 5)])
def test_a_query_sees_itself_and_what_came_before(queries, keys):
    _, cache = attention(*attention_inputs(queries, keys).values())
    for i, row in enumerate(cache.weights, start=keys - queries + 1):
        assert all(weight > 0 for weight in row[:i])
        assert row[i:] == [0.0] * (keys - i)
        assert sum(row) == approx(1)


def test_what_a_query_cannot_see_gets_no_slope_from_it():
    q, k, v = attention_inputs(4, 4).values()
    dout = [[1.0] * 4, *scaled(q, 0.0)[1:]]  # the loss depends on the first query alone
    _, dk, dv = attention_backward(dout, attention(q, k, v)[1])
    assert dk[1:] == dv[1:] == [[0.0] * 4] * 3


def test_attention_cache_says_what_it_holds():
    q, k, v = attention_inputs(2, 3).values()
    _, cache = attention(q, k, v)
    assert isinstance(cache, AttentionCache)
    assert (cache.queries, cache.keys, cache.values) == (q, k, v)
    assert cache.scores[0][0] == approx(sum(a * b for a, b in zip(q[0], k[0])) / 2)


def test_layer_norm_gives_every_row_mean_0_and_variance_1():
    y, cache = layer_norm(matrix(4, 6, std=100.0), [1.0] * 6, [0.0] * 6)
    for row in y:
        assert sum(row) == approx(0, abs=1e-12)
        assert sum(value * value for value in row) / 6 == approx(1, rel=1e-7)
    assert [unit for unit, _ in cache] == y


def test_layer_norm_by_hand():
    y, _ = layer_norm([[1.0, 3.0]], [2.0, 10.0], [0.5, -1.0])
    unit = 1 / math.sqrt(1 + 1e-5)
    assert y == [approx([-2 * unit + 0.5, 10 * unit - 1])]


def test_layer_norm_of_a_constant_row_is_its_bias():
    y, cache = layer_norm([[7.0] * 3], [2.0] * 3, [1.0, 2.0, 3.0])
    assert y == [[1.0, 2.0, 3.0]]
    dx, _, _ = layer_norm_backward([[1.0, 2.0, 3.0]], [2.0] * 3, cache)
    assert all(map(math.isfinite, dx[0]))


def test_gelu_is_the_tanh_form():
    # torch.nn.functional.gelu(x, approximate="tanh")
    expected = [-0.15880800939172324, 0.0, 0.8411919906082768, 2.996362607918227]
    assert gelu([[-1.0, 0.0, 1.0, 3.0]]) == [approx(expected, rel=1e-9)]


def test_columns_split_and_join():
    x = [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert split_columns(x, 2) == [[[1, 2], [5, 6]], [[3, 4], [7, 8]]]
    assert join_columns(split_columns(x, 2)) == x
    assert split_columns(x, 1) == [x]


def test_rows_split_by_lengths():
    assert split_rows([[1], [2], [3]], [1, 2]) == [[[1]], [[2], [3]]]


def test_each_head_attends_on_its_own_columns():
    qkv = matrix(3, 12)
    out, caches = multi_head_attention(qkv, 2, [3])
    q, k, v = split_columns(qkv, 3)
    for head in (0, 1):
        alone, cache = attention(*(split_columns(m, 2)[head] for m in (q, k, v)))
        assert split_columns(out, 2)[head] == alone
        assert caches[0][head] == cache


def test_sequences_do_not_attend_to_one_another():
    qkv = matrix(6, 12)
    out, caches = multi_head_attention(qkv, HEADS, LENGTHS)
    alone = [multi_head_attention(rows, HEADS, [len(rows)])[0] for rows in split_rows(qkv, LENGTHS)]
    assert split_rows(out, LENGTHS) == alone
    assert [[len(head.weights[0]) for head in heads] for heads in caches] == [
        [3, 3],
        [1, 1],
        [2, 2],
    ]


# ------------------------------------------------------------------------------- extreme numbers


@pytest.mark.parametrize("huge", [1e3, 1e100, 1e308])
def test_huge_scores_do_not_overflow(huge):
    assert softmax([huge, 0.0, -huge]) == [1.0, 0.0, 0.0]
    assert softmax([-huge, -huge]) == [0.5, 0.5]


def test_huge_logits_do_not_overflow():
    assert cross_entropy([[1e4, 0.0, -1e4]], [0]) == (0.0, [[0.0, 0.0, 0.0]])
    loss, dlogits = cross_entropy([[1e4, 0.0, -1e4]], [2])
    assert loss == 2e4
    assert dlogits == [[1.0, 0.0, -1.0]]


def test_huge_queries_pick_one_key_and_let_no_slope_through():
    q, k, v = [[1e150]], [[1.0], [2.0]], [[3.0], [4.0]]
    out, cache = attention(q, k, v)
    assert out == [[4.0]]
    assert attention_backward([[1.0]], cache) == ([[0.0]], [[0.0], [0.0]], [[0.0], [1.0]])


@pytest.mark.parametrize("huge", [20.0, 1e6, 1e150])
def test_squashing_and_switching_are_flat_far_from_zero(huge):
    assert tanh([[huge, -huge]]) == [[1.0, -1.0]]
    assert gelu([[huge, -huge]]) == [[huge, 0.0]]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_numbers_that_are_not_finite_raise_nothing(value):
    loss, _ = cross_entropy([[value, 0.0]], [1])
    assert not math.isfinite(loss)
    y, cache = layer_norm([[value, 0.0]], [1.0, 1.0], [0.0, 0.0])
    dx, _, _ = layer_norm_backward([[1.0, 2.0]], [1.0, 1.0], cache)
    assert math.isnan(y[0][0]) and math.isnan(dx[0][0])
    assert not math.isfinite(gelu([[value]])[0][0])
