"""Llama against measured slopes, against Hugging Face, and against what its parts promise."""

import math
import random
from functools import partial

import make_references
import pytest
from pytest import approx
from test_reference import agree, computed

from tiny_llm import AdamW, check_model, cross_entropy
from tiny_llm.beyond import llama
from tiny_llm.beyond.llama import (
    LlamaConfig,
    LlamaLanguageModel,
    rms_norm,
    rotate,
    rotate_backward,
    sigmoid,
    swiglu,
    turns,
)
from tiny_llm.fast.packed import quantize
from tiny_llm.fast.tensors import shape
from tiny_llm.matmul import dot
from tiny_llm.model import rows_of

CONTEXTS = [[1, 2, 3, 4, 1, 6], [0, 2], [5]]


def tiny(heads=4, kv_heads=2, layers=2, tied=True, seed=0, width=2):
    config = LlamaConfig(7, 6, heads * width, heads, kv_heads, layers, 5, tied, rope_theta=50.0)
    model = LlamaLanguageModel(config, seed)
    for tensor in model.parameters.values():  # no gain of 1, which hides errors
        for row in rows_of(tensor):
            row[:] = [number + 0.1 * (i % 3) for i, number in enumerate(row)]
    return model


# ------------------------------------------------------------------------------ slopes

EVERY_GROUPING = pytest.mark.parametrize(
    "heads, kv_heads", [(1, 1), (3, 1), (4, 2), (9, 3), (3, 3)]
)


@EVERY_GROUPING
@pytest.mark.parametrize("tied", [True, False])
def test_every_slope_agrees_with_the_measured_one(heads, kv_heads, tied):
    model = tiny(heads, kv_heads, layers=1 if heads == 9 else 2, tied=tied)
    checks = list(check_model(model, CONTEXTS))
    assert [check.name for check in checks] == list(model.parameters)
    assert [check.name for check in checks if not check.passed] == []


def no_turn_back(dout, by):
    return rotate(dout, by)


def first_of_the_group(add, slopes):
    return next(iter(slopes))


def norm_without_its_second_term(dy, gain, cache):
    _, dgain = llama_rms_norm_backward(dy, gain, cache)
    return [
        [d * g * inverse for d, g in zip(row, gain)] for row, (_, inverse) in zip(dy, cache)
    ], dgain


def gate_as_a_line(dout, gate, up):
    _, dup = llama_swiglu_backward(dout, gate, up)
    return [[d * u * sigmoid(g) for d, g, u in zip(*rows)] for rows in zip(dout, gate, up)], dup


llama_rms_norm_backward, llama_swiglu_backward = llama.rms_norm_backward, llama.swiglu_backward


@pytest.mark.parametrize(
    "name, broken",
    [
        ("rotate_backward", no_turn_back),
        ("reduce", first_of_the_group),
        ("rms_norm_backward", norm_without_its_second_term),
        ("swiglu_backward", gate_as_a_line),
    ],
)
def test_a_broken_backward_is_caught(name, broken, monkeypatch):
    monkeypatch.setattr(llama, name, broken)
    assert not all(check.passed for check in check_model(tiny(), CONTEXTS))


# ------------------------------------------------------------------------------ Hugging Face


def with_parameters(config, parameters):
    model = LlamaLanguageModel(LlamaConfig(**config))
    assert {n: shape(t) for n, t in model.parameters.items()} == {
        n: shape(t) for n, t in parameters.items()
    }
    model.parameters.update(parameters)
    return model


@pytest.mark.parametrize("name", make_references.LLAMAS)
def test_logits_loss_and_every_gradient_are_those_of_hugging_face(name):
    reference = make_references.read(name)
    model = with_parameters(reference["config"], reference["parameters"])
    contexts, targets = make_references.llama_examples(reference["config"])
    assert max(map(len, contexts)) > 64
    ours = computed(model, contexts, targets)
    assert agree(ours, reference)
    assert not agree(
        {**ours, "logits": [[x + 1e-6 for x in row] for row in ours["logits"]]}, reference
    )


@pytest.mark.parametrize("change", [{"rope_theta": 501.0}, {"norm_epsilon": 1.1e-5}])
def test_a_small_difference_would_be_noticed(change):
    reference = make_references.read("llama_3_1")
    model = with_parameters({**reference["config"], **change}, reference["parameters"])
    ours = computed(model, *make_references.llama_examples(reference["config"]))
    assert not agree(ours, reference)


@pytest.mark.reference
@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (3, 1), (9, 3), (4, 4)])
@pytest.mark.parametrize("tied", [True, False])
def test_hugging_face_computes_the_same_with_our_parameters(heads, kv_heads, tied):
    pytest.importorskip("transformers")
    config = {
        **make_references.LLAMA_SIZES, "d_model": 4 * heads, "n_heads": heads,
        "n_kv_heads": kv_heads, "n_layers": 2, "d_hidden": 9, "tie_embeddings": tied,
    }  # fmt: skip
    model = LlamaLanguageModel(LlamaConfig(**config), seed=heads)
    theirs = make_references.llama_results(config, model.parameters)
    assert agree(computed(model, *make_references.llama_examples(config)), theirs)


@pytest.mark.reference
@pytest.mark.parametrize("name", make_references.LLAMAS)
def test_the_stored_references_are_what_hugging_face_computes(name):
    pytest.importorskip("transformers")
    stored, again = make_references.read(name), make_references.compute(name)
    assert agree(again, stored) and again["parameters"] == stored["parameters"]


# ------------------------------------------------------------------------------ its parts


def test_rms_norm_by_hand():
    (row,), _ = rms_norm([[3.0, -4.0]], [2.0, 1.0], 0.0)
    assert row == approx([6 / math.sqrt(12.5), -4 / math.sqrt(12.5)])


def test_a_quarter_turn_by_hand():
    by = [([0.0, 1.0], [1.0, 0.0])]  # the first pair by 90 degrees, the second not at all
    assert rotate([[1.0, 2.0, 3.0, 4.0]], by) == [[-3.0, 2.0, 1.0, 4.0]]
    assert rotate_backward(rotate([[1.0, 2.0, 3.0, 4.0]], by), by) == [[1.0, 2.0, 3.0, 4.0]]


def test_attention_sees_how_far_apart_two_positions_are_and_not_where():
    rng = random.Random(0)
    query, key = ([rng.gauss(0, 1) for _ in range(8)] for _ in range(2))

    def product(of_query, of_key):
        by = turns([of_query, of_key], 8, 10000.0)
        return dot(*rotate([query, key], by))

    assert product(9, 4) == approx(product(105, 100), abs=1e-12)
    assert product(9, 4) != approx(product(9, 5), abs=1e-3)
    assert product(4, 9) != approx(product(9, 4), abs=1e-3)


def test_the_first_pair_is_fast_and_the_last_slow():
    ((cosines, sines),) = turns([1], 8, 10000.0)
    angles = list(map(math.atan2, sines, cosines))
    assert angles == approx([1.0, 0.1, 0.01, 0.001])


def test_swiglu_by_hand():
    assert swiglu([[0.0, math.log(3)]], [[5.0, 2.0]]) == [[0.0, approx(0.75 * math.log(3) * 2)]]
    assert sigmoid(-1e9) == 0 and sigmoid(1e9) == 1


def test_no_position_sees_what_comes_later():
    model = tiny()
    first, _ = model.forward([[1, 2, 3, 4]])
    other, _ = model.forward([[1, 2, 6, 0]])
    assert first[:2] == other[:2] and first[2] != other[2]


def test_a_context_has_the_logits_that_it_has_alone():
    model = tiny()
    together, _ = model.forward(CONTEXTS)
    alone = [row for context in CONTEXTS for row in model.forward([context])[0]]
    assert [approx(row, abs=1e-12) for row in alone] == together


def test_query_heads_of_a_group_read_the_same_keys_and_values():
    model = tiny(heads=4, kv_heads=2, layers=1)
    _, cache = model.forward([[1, 2, 3]])
    heads = cache.blocks[0].heads[0]
    assert heads[0].keys == heads[1].keys != heads[2].keys == heads[3].keys
    assert heads[0].values == heads[1].values != heads[2].values == heads[3].values
    assert [len(layer) for layer in model.attention(cache)[0]] == [4]


def test_it_learns():
    model, optimizer = tiny(layers=1, tied=False), AdamW(learning_rate=0.02)
    targets = [2, 3, 4, 1, 6, 0, 2, 5, 5]
    losses = []
    for _ in range(60):
        logits, cache = model.forward(CONTEXTS)
        loss, dlogits = cross_entropy(logits, targets)
        optimizer.update(model.parameters, model.backward(dlogits, cache))
        losses.append(loss)
    assert losses[-1] < 0.1 * losses[0]


def test_packed_weights_take_the_place_of_its_own():
    model, rounded = tiny(heads=4, width=4), tiny(heads=4, width=4)
    quantize(rounded)
    for row, other in zip(model.forward(CONTEXTS)[0], rounded.forward(CONTEXTS)[0]):
        assert 0 < max(abs(x - y) for x, y in zip(row, other)) < 0.2


@pytest.mark.parametrize(
    "sizes, problem",
    [
        ({"d_model": 12, "n_heads": 4, "n_kv_heads": 1}, "make d_model a multiple of 8"),
        ({"n_heads": 4, "n_kv_heads": 3}, "make n_heads a multiple of n_kv_heads"),
        ({"n_kv_heads": 0}, "n_kv_heads must be a whole number of at least 1"),
        ({"rope_theta": 0.0}, "rope_theta must be above 0"),
        ({"norm_epsilon": math.nan}, "norm_epsilon must be above 0"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(sizes, problem):
    with pytest.raises(ValueError, match=problem):
        LlamaConfig(5, **sizes)


@pytest.mark.parametrize("wrong", [[], [[]], [[1] * 7], [[7]], [[-1]]])
def test_contexts_that_it_cannot_read_are_refused(wrong):
    with pytest.raises(ValueError):
        partial(tiny().forward, wrong)()
