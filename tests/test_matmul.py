"""Every way of multiplying against the three plain loops."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from tiny_llm.matmul import (
    _dot_loop,
    _dot_map,
    dot,
    matmul,
    matmul_at,
    matmul_bt,
    matmul_loops,
    transpose,
)

PRODUCTS = {
    "matmul": matmul,
    "matmul_bt": lambda a, b: matmul_bt(a, rows(transpose(b))),
    "matmul_at": lambda a, b: matmul_at(rows(transpose(a)), b),
}


def rows(matrix):
    return [list(row) for row in matrix]


@st.composite
def factors(draw):
    """Matrices a, N x K, and b, K x M."""
    n, k, m = (draw(st.integers(1, 6)) for _ in range(3))
    numbers = st.floats(-100, 100)

    def matrix(height, width):
        row = st.lists(numbers, min_size=width, max_size=width)
        return draw(st.lists(row, min_size=height, max_size=height))

    return matrix(n, k), matrix(k, m)


def test_the_definition_by_hand():
    a = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    b = [[7.0, 8.0], [9.0, 10.0], [11.0, 12.0]]
    assert matmul_loops(a, b) == [[58.0, 64.0], [139.0, 154.0]]


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
@given(matrices=factors())
def test_every_product_equals_the_plain_loops(product, matrices):
    result, expected = product(*matrices), matmul_loops(*matrices)
    assert len(result) == len(expected)
    for row, expected_row in zip(result, expected):
        assert row == approx(expected_row, rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("product", [matmul_loops, *PRODUCTS.values()])
def test_the_result_is_new_lists_of_floats_and_the_factors_stay(product):
    a, b = [[1.0, 2.0]] * 2, [[3.0], [4.0]]
    result = product(a, b)
    assert result == [[11.0], [11.0]]
    assert [type(row) for row in result] == [list, list]
    assert type(result[0][0]) is float
    assert result[0] is not result[1]
    assert (a, b) == ([[1.0, 2.0]] * 2, [[3.0], [4.0]])


@pytest.mark.parametrize("way", [dot, _dot_loop, _dot_map])
def test_dot_product_by_hand(way):
    assert way([1.0, -2.0, 0.5], (4.0, 3.0, 2.0)) == -1.0


@pytest.mark.parametrize("way", [dot, _dot_loop, _dot_map])
@pytest.mark.parametrize(
    "a, b", [([math.nan, 1.0], [1.0, 1.0]), ([1e200, 1.0], [1e200, 1.0]), ([math.inf, 1.0], [0, 1])]
)
def test_numbers_beyond_range_raise_nothing_and_stay_visible(way, a, b):
    assert not math.isfinite(way(a, b))


def test_transpose_turns_columns_into_rows():
    assert rows(transpose([[1, 2, 3], [4, 5, 6]])) == [[1, 4], [2, 5], [3, 6]]
