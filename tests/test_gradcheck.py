"""The gradient check measures what it says, leaves the model as it was, and can fail."""

import math
from functools import cache
from random import Random

import pytest
from pytest import approx

from tiny_llm import (
    MLPConfig,
    MLPLanguageModel,
    check_model,
    cross_entropy,
    gradcheck,
)
from tiny_llm.fast.products import EXACT, WAYS, use
from tiny_llm.gradcheck import GradientCheck, compare, numerical_slope, weighted_sum
from tiny_llm.model import rows_of

CONTEXTS = [[3, 1, 3, 0], [2], [4, 4]]  # lengths differ, and tokens occur twice


def cubes(vector):
    return lambda: sum(value**3 for value in vector)


def squares(table):
    return lambda: sum(value**2 for row in table for value in row)


def test_numerical_slope_of_a_known_function():
    vector = [2.0, -1.0]
    assert numerical_slope(cubes(vector), vector, 0) == approx(12, rel=1e-8)
    assert numerical_slope(cubes(vector), vector, 1) == approx(3, rel=1e-8)
    assert vector == [2.0, -1.0]


def test_the_right_slopes_pass():
    vector = [2.0, -1.0, 0.5]
    check = compare("cubes", cubes(vector), vector, [3 * value**2 for value in vector])
    assert check.passed
    assert (check.name, check.numbers) == ("cubes", 3)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("wrong", [1 + 3e-5, 0.0, -1.0, math.nan, math.inf])
def test_one_wrong_slope_anywhere_fails_and_is_the_one_reported(place, wrong):
    vector = [2.0, -1.0, 0.5]
    slopes = [3 * value**2 for value in vector]
    slopes[place] *= wrong
    check = compare("cubes", cubes(vector), vector, slopes)
    assert not check.passed
    assert check.analytic == approx(slopes[place], nan_ok=True)
    assert check.numerical == approx(3 * vector[place] ** 2)
    assert check.numbers == 3


def test_a_matrix_is_checked_in_all_its_rows():
    table = [[1.0, 2.0], [3.0, 4.0]]
    assert compare("squares", squares(table), table, [[2.0, 4.0], [6.0, 8.0]]).passed
    assert not compare("squares", squares(table), table, [[2.0, 4.0], [6.0, 8.1]]).passed
    assert table == [[1.0, 2.0], [3.0, 4.0]]


def test_the_tolerance_is_relative_above_a_small_absolute_one():
    def check(n, a):
        vector = [1.0]
        return compare("line", lambda: n * vector[0], vector, [a])

    assert check(1e6, 1e6 + 9).passed and not check(1e6, 1e6 + 11).passed
    assert check(0.0, 0.9e-8).passed and not check(0.0, 1.1e-8).passed


def test_a_check_passes_up_to_the_tolerance():
    check = GradientCheck("name", 1, analytic=2.0, numerical=2.5, excess=1.0)
    assert check.passed
    assert not check._replace(excess=1.01).passed


def test_weighted_sum_by_hand():
    assert weighted_sum([[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.5], [0.0, -1.0]]) == -2.0


def test_every_number_of_every_parameter_of_a_model_is_checked(build):
    model = build()
    before = repr(model.parameters)
    checks = list(check_model(model, CONTEXTS))
    assert [check.name for check in checks] == list(model.parameters)
    for check in checks:
        tensor = model.parameters[check.name]
        size = sum(map(len, tensor)) if isinstance(tensor[0], list) else len(tensor)
        assert check.numbers == size
    assert repr(model.parameters) == before


def test_backward_of_every_rung_agrees_with_measured_slopes(build):
    assert [check.name for check in check_model(build(), CONTEXTS) if not check.passed] == []


def test_backward_agrees_away_from_the_first_numbers(build):
    model, rng = build(), Random(3)
    for tensor in model.parameters.values():  # so that biases are not 0 and gains not 1
        for row in tensor if isinstance(tensor[0], list) else [tensor]:
            row[:] = [value + rng.gauss(0, 0.3) for value in row]
    assert all(check.passed for check in check_model(model, CONTEXTS, seed=1))


def test_a_model_with_a_broken_backward_fails_in_what_is_broken():
    class Broken(MLPLanguageModel):
        def backward(self, dlogits, cache):
            gradients = super().backward(dlogits, cache)
            gradients["hidden.bias"] = [0.0] * len(gradients["hidden.bias"])
            gradients["embedding.weight"][3][0] *= 1.001
            return gradients

    checks = check_model(Broken(MLPConfig(5, 4, d_embedding=3, d_hidden=4)), CONTEXTS)
    assert {check.name for check in checks if not check.passed} == {
        "hidden.bias",
        "embedding.weight",
    }


@pytest.mark.parametrize("gradient", [[[2.0, 4.0]], [[2.0], [6.0]]])
def test_a_gradient_of_another_shape_is_refused(gradient):
    table = [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(ValueError, match=r"squares has rows of \[2, 2\] numbers, its gradient of"):
        compare("squares", squares(table), table, gradient)


# -------------------------------------------------------------------- with every way to multiply

EVERY_WAY = pytest.mark.parametrize("way", ["auto", *sorted(WAYS.keys() - {"short-lanes"})])


class Wrong:
    """A model whose backward is wrong in one slope of each parameter: the smallest.

    It is off by this share of the parameter's largest slope, or of 0.001 if all are smaller.
    """

    def __init__(self, model, share):
        self.model, self.share = model, share
        self.parameters, self.forward = model.parameters, model.forward
        self.config = model.config

    def backward(self, dlogits, cache):
        gradients = self.model.backward(dlogits, cache)
        for tensor in gradients.values():
            slopes = [(row, i) for row in rows_of(tensor) for i in range(len(row))]
            sizes = [abs(row[i]) for row, i in slopes]
            row, i = slopes[sizes.index(min(sizes))]
            row[i] += self.share * max(*sizes, 1e-3)
        return gradients


def check_in(way, model, contexts):
    """What the backward claims goes that way; what is measured does not."""
    with use(way):
        return check_model(model, contexts)


@cache
def remembered(build):
    """A model, and `numerical_slope` for it that measures each slope once, for all the ways."""
    model, known = build(), {}

    def slope(loss, vector, i):
        key = id(vector), i
        if key not in known:
            known[key] = numerical_slope(loss, vector, i)
        return known[key]

    return model, slope


@EVERY_WAY
def test_backward_agrees_with_every_way_to_multiply(build, way, monkeypatch):
    model, slope = remembered(build)
    monkeypatch.setattr(gradcheck, "numerical_slope", slope)
    checks = list(check_in(way, model, CONTEXTS))
    assert [check.name for check in checks if not check.passed] == []
    assert [check.name for check in checks] == list(model.parameters)


@EVERY_WAY
def test_a_backward_wrong_in_the_smallest_slopes_fails_with_every_way(build, way, monkeypatch):
    model, slope = remembered(build)
    monkeypatch.setattr(gradcheck, "numerical_slope", slope)
    checks = check_in(way, Wrong(model, 1e-4), CONTEXTS)
    assert [check.name for check in checks if check.passed] == []


@EVERY_WAY
def test_no_way_is_allowed_more_than_another(way):
    model = MLPLanguageModel(MLPConfig(5, 4, d_embedding=3, d_hidden=4))
    checks = check_in(way, Wrong(model, 3e-6), CONTEXTS)
    assert not all(check.passed for check in checks)


@EVERY_WAY
def test_slopes_that_are_not_finite_fail_with_every_way(way):
    for wrong in math.nan, math.inf:
        model = Wrong(MLPLanguageModel(MLPConfig(5, 2, d_embedding=2, d_hidden=2)), wrong)
        checks = check_in(way, model, [[3, 1]])
        assert not any(check.passed for check in checks)


def test_what_the_lanes_claim_is_measured_in_float64(products):
    model = MLPLanguageModel(MLPConfig(5, 2, d_embedding=2, d_hidden=2))
    numbers = sum(check.numbers for check in check_in("lanes", model, [[3, 1]]))
    # A forward is two products, a backward four; each slope is measured by two forwards.
    assert products == ["lanes"] * 6 + [EXACT] * 4 * numbers


def test_short_lanes_give_nearly_the_same_direction(build):
    """Too coarse for single slopes; all of them together point where the exact ones do."""
    model, slopes = build(seed=4), []
    for way in "float64", "short-lanes":
        with use(way):
            logits, cache = model.forward(CONTEXTS)
            _, dlogits = cross_entropy(logits, [i % 5 for i in range(len(logits))])
            gradients = model.backward(dlogits, cache)
        slopes.append([x for name in gradients for row in rows_of(gradients[name]) for x in row])
    exact, rounded = slopes
    assert exact != rounded
    away = math.dist(exact, rounded) / math.hypot(*exact)
    assert away < 5e-3
