"""Rung 3 asked at some places, and with a head switched off."""

import copy
import random

import pytest
from conftest import attention, mlp, modern

from tiny_llm import cross_entropy
from tiny_llm.gradcheck import check_model
from tiny_llm.run.asked import OnlyAsked
from tiny_llm.run.without_head import switch_off
from tiny_llm.text.tasks import AskedContext


def context(ids, rows):
    asked = AskedContext(ids)
    asked.rows = rows
    return asked


CONTEXTS = [context([1, 2, 3, 0], [1, 3]), context([4, 2], [0])]


def test_only_rows_that_are_asked_for_come_back():
    model = modern()
    logits, _ = OnlyAsked(model).forward(CONTEXTS)
    whole, _ = model.forward(CONTEXTS)
    assert logits == [whole[1], whole[3], whole[4]]


def test_a_context_without_marks_is_asked_everywhere():
    model = modern()
    assert OnlyAsked(model).forward([[1, 2, 3]])[0] == model.forward([[1, 2, 3]])[0]


def test_the_slopes_are_those_of_the_asked_rows_alone():
    model = OnlyAsked(modern())
    assert all(check.passed for check in check_model(model, CONTEXTS, seed=1))


def test_a_wrong_place_of_a_slope_is_caught():
    class Wrong(OnlyAsked):
        def backward(self, dlogits, cache):
            inner, rows, count = cache
            return super().backward(dlogits, (inner, [(row + 1) % count for row in rows], count))

    assert not all(check.passed for check in check_model(Wrong(modern()), CONTEXTS, seed=1))


def test_a_place_that_is_not_asked_for_learns_nothing():
    model = OnlyAsked(modern())
    logits, cache = model.forward([context([1, 2, 3, 0], [0])])
    gradients = model.backward(cross_entropy(logits, [2])[1], cache)
    assert not any(gradients["wpe.weight"][1])  # what comes later had no part in it


@pytest.mark.parametrize("layer, head", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_head_switched_off_writes_nothing(layer, head):
    model = modern(seed=3)
    off = copy.deepcopy(model)
    switch_off(off, layer, head)
    cache = off.forward([[1, 2, 3, 0]])[1]
    block = cache.blocks[layer - 1]
    width = off.config.d_model // off.config.n_heads
    before = off.linear(f"h.{layer - 1}.attn.c_proj", block.mixed)
    for row in block.mixed:  # whatever it finds
        row[(head - 1) * width : head * width] = [random.Random(1).random()] * width
    assert off.linear(f"h.{layer - 1}.attn.c_proj", block.mixed) == before
    assert off.forward([[1, 2, 3, 0]])[0] != model.forward([[1, 2, 3, 0]])[0]


def test_rung_2_without_its_head_reads_the_last_token_alone():
    model = attention()
    switch_off(model, 1, 1)
    assert model.forward([[1, 2, 0]])[0] == model.forward([[3, 4, 0]])[0]


@pytest.mark.parametrize("build, layer, head", [
    (modern, 0, 1), (modern, 3, 1), (modern, 1, 3), (modern, 1, 0), (attention, 2, 1),
    (attention, 1, 2), (mlp, 1, 1),
])  # fmt: skip
def test_a_head_that_is_not_there_is_refused(build, layer, head):
    model = build()
    before = copy.deepcopy(model.parameters)
    with pytest.raises(ValueError, match=rf"no attention head {layer}\.{head}"):
        switch_off(model, layer, head)
    assert model.parameters == before
