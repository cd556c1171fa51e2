"""The definition of the product, and where a faster way is plugged in."""

import pytest

from tiny_llm import matmul as module
from tiny_llm.fast.products import multiply_with
from tiny_llm.matmul import (
    PlainLoops,
    dot,
    matmul,
    matmul_at,
    matmul_bt,
    transpose,
)

A = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]  # 3 x 2
B = [[1.0, 0.5, -1.0], [2.0, 0.0, 1.0]]  # 2 x 3


def test_the_definition_by_hand():
    with multiply_with(PlainLoops()):
        assert matmul(A, B) == [[5.0, 0.5, 1.0], [11.0, 1.5, 1.0], [17.0, 2.5, 1.0]]
        assert matmul_bt(A, [[1.0, 1.0]]) == [[3.0], [7.0], [11.0]]
        assert matmul_at(A, A) == [[35.0, 44.0], [44.0, 56.0]]
        assert dot([1.0, 2.0], [3.0, -1.0]) == 1.0
        assert [list(row) for row in transpose(B)] == [[1.0, 2.0], [0.5, 0.0], [-1.0, 1.0]]


class Zeros(PlainLoops):
    """A way that is easily told from any other."""

    def matmul_bt(self, a, b):
        return [[0.0] * len(b) for _ in a]


def test_a_way_is_plugged_in_and_taken_out_again():
    before = matmul(A, B)
    with multiply_with(Zeros()):
        assert matmul(A, B) == [[0.0] * 3] * 3
    assert matmul(A, B) == before


def test_the_way_of_before_comes_back_after_an_error():
    way = module._way
    with pytest.raises(ZeroDivisionError), multiply_with(Zeros()):
        raise ZeroDivisionError
    assert module._way is way


def test_the_package_plugs_in_a_faster_way_that_gives_the_same():
    assert type(module._way) is not PlainLoops
    with multiply_with(PlainLoops()):
        plain = matmul(A, B)
    assert matmul(A, B) == plain
