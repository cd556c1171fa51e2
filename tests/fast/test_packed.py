"""Weights of one byte: what they hold, what they multiply to, and what they refuse."""

import math
import random
from array import array

import pytest
from conftest import attention, mlp, modern, modern_untied
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from tiny_llm.fast import packed as module
from tiny_llm.fast.kv_cache import Reader
from tiny_llm.fast.packed import LARGEST, MANY, UNITS, Packed, is_table, pack, quantize
from tiny_llm.fast.packed_lanes import Lanes
from tiny_llm.fast.packed_words import Words
from tiny_llm.fast.products import WAYS, multiply_with, use
from tiny_llm.files.checkpoint import load, save
from tiny_llm.matmul import PlainLoops, matmul, matmul_bt

WEIGHTS = [[0.5, -1.27, 0.0], [0.0, 0.0, 0.0], [2.54, 0.02, -0.01], [1e-5, -1e-5, 1.1e-5]]


def test_every_number_is_within_half_a_step_of_what_it_was():
    packed = pack(WEIGHTS, is_table=False)
    assert [len(packed), packed.width, len(packed.numbers)] == [4, 3, 12]
    for row, was, scale in zip(packed, WEIGHTS, packed.scales):
        assert scale == max(map(abs, was)) / LARGEST
        assert all(abs(x - y) <= scale / 2 * (1 + 1e-12) for x, y in zip(row, was))
    assert packed[1] == [0.0] * 3  # and no division by zero
    assert packed[-1] == packed[3] == packed[2:][1]
    with pytest.raises(IndexError):
        packed[4]


# What multiplies on PyPy is run everywhere, and what does on CPython there, too.
@pytest.fixture(params=[Lanes, Words], autouse=True)
def kernel(request, monkeypatch):
    monkeypatch.setattr(module, "KERNEL", request.param)
    return request.param


SMALL = st.integers(-LARGEST, LARGEST)


@given(data=st.data(), n=st.integers(1, 4), k=st.integers(1, 6), m=st.integers(1, 6))
@pytest.mark.parametrize("table", [False, True])
def test_whole_numbers_that_fit_are_multiplied_exactly(table, data, n, k, m):
    height, width = (m, k) if table else (k, m)
    numbers = data.draw(st.lists(SMALL, min_size=height * width, max_size=height * width))
    scales = data.draw(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 8.0]), min_size=height, max_size=height)
    )
    rows = data.draw(
        st.lists(st.lists(st.integers(-9, 9), min_size=k, max_size=k), min_size=n, max_size=n)
    )
    packed = Packed(array("b", numbers), scales, table)
    form = matmul_bt if table else matmul
    with multiply_with(PlainLoops()):  # which knows nothing of packed matrices
        expected = form(rows, packed)
    assert form(rows, packed) == expected
    assert type(form(rows, packed)[0][0]) is float


@pytest.mark.parametrize("k", [1, 2, 700, 3000, 70_000])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_stay_within_their_lanes(k, sign):
    """All weights are as large as they may be, beside lanes of zeros and of the other sign."""
    columns = [[LARGEST] * k, [0] * k, [-LARGEST] * k, [-LARGEST] * k, [LARGEST] * k, [0] * k]
    packed = Packed(array("b", [x for column in columns for x in column]), [1.0] * 6, True)
    for x in 1.0, 0.99, 0.7, 0.51:  # of which the first needs no rounding
        (product,) = matmul_bt([[sign * x] * k], packed)
        within = 1e-15 if x == 1 else 1e-2 if k < MANY else 1 / UNITS  # half of a unit
        for value, column in zip(product, columns):
            assert value == approx(sign * x * sum(column), rel=within, abs=0)


def test_the_product_is_near_that_of_the_weights():
    rng = random.Random(0)
    rows, weights = ([[rng.gauss(0, 1) for _ in range(w)] for _ in range(h)]
                     for h, w in ((3, 200), (200, 90)))  # fmt: skip
    for line, wanted in zip(matmul(rows, pack(weights, False)), matmul(rows, weights)):
        assert 0 < max(abs(x - y) for x, y in zip(line, wanted)) < 0.04 * math.sqrt(200)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200, 1e-200])
def test_what_no_lane_can_hold_goes_through_floats(bad):
    packed = pack(WEIGHTS, is_table=False)
    rows = [[bad, 0.0, 0.0, 0.0]]
    assert repr(matmul(rows, packed)) == repr(matmul(rows, list(packed)))


@pytest.mark.parametrize("way", [*WAYS, "auto"])
def test_every_way_takes_packed_weights(way):
    packed = pack(WEIGHTS, is_table=False)
    with use(way):
        assert matmul([[1.0, 2.0, 3.0, 4.0]], packed)[0] == approx(
            matmul([[1.0, 2.0, 3.0, 4.0]], list(packed))[0], abs=1e-3
        )
        assert matmul([], packed) == []


def test_there_is_no_way_back():
    with pytest.raises(ValueError, match="int8 weights have no backward"):
        matmul_bt([[1.0] * 3], pack(WEIGHTS, is_table=False))
    with pytest.raises(ValueError, match="int8 weights have no backward"):
        matmul([[1.0] * 4], pack(WEIGHTS, is_table=True))


BUILDS = pytest.mark.parametrize(
    "build", [mlp, attention, modern, modern_untied], ids=lambda build: build.__name__
)


@BUILDS
def test_the_very_forward_of_every_rung_runs_and_its_backward_refuses(build):
    exact, model = build(seed=3), build(seed=3)
    quantize(model)
    assert {type(t) for t in model.parameters.values()} == {list, Packed}
    contexts = [[1, 2, 3], [4]]
    wanted, _ = exact.forward(contexts)
    logits, cache = model.forward(contexts)
    assert logits != wanted
    for row, other in zip(logits, wanted):
        assert row == approx(other, abs=0.1)
    with pytest.raises(ValueError, match="int8 weights have no backward"):
        model.backward(logits, cache)


def test_quantizing_again_changes_nothing():
    model = modern()
    quantize(model)
    before = dict(model.parameters)
    quantize(model)
    assert all(model.parameters[name] is tensor for name, tensor in before.items())


def test_the_kv_cache_reads_packed_weights():
    model = modern(context_length=8, seed=1)
    quantize(model)
    with_cache, without = Reader(model), Reader(model, remember=False)
    for length in range(1, 6):
        window = [i % 5 for i in range(length)]
        assert with_cache(window) == approx(without(window), abs=1e-3)


def test_a_table_is_known_by_its_name():
    for build in (mlp, attention, modern_untied):
        parameters = build().parameters
        tables = {name for name in parameters if is_table(name)}
        assert tables and all(len(parameters[name]) in (4, 5) for name in tables)
    assert is_table("wte.weight") and not is_table("h.0.mlp.c_fc.weight")


@BUILDS
def test_a_file_of_them_holds_the_same_numbers(build, tmp_path):
    model = build()
    quantize(model)
    save(tmp_path / "m", model.parameters, {"a": 1})
    tensors, metadata = load(tmp_path / "m")
    assert metadata == {"a": 1}
    assert tensors.keys() == model.parameters.keys()
    for name, tensor in model.parameters.items():
        assert type(tensors[name]) is type(tensor)
        assert list(tensors[name]) == list(tensor)
        assert getattr(tensor, "is_table", None) == getattr(tensors[name], "is_table", None)
