"""What multiplies int8 weights: exact whole numbers, whatever the Python that it is made for."""

import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_llm.fast.packed_lanes import BLOCK, TOGETHER, Lanes
from tiny_llm.fast.packed_words import Words

KERNELS = pytest.mark.parametrize("kernel", [Lanes, Words])
BY_OUTPUT = pytest.mark.parametrize("by_output", [True, False])


def made(kernel, weights, by_output):
    """From M x K numbers."""
    numbers = weights if by_output else zip(*weights)
    flat = array("b", [x for row in numbers for x in row]).tobytes()
    return kernel.of(flat, len(weights), len(weights[0]), by_output)


def check(kernel, weights, factors, by_output=True):
    whole = made(kernel, weights, by_output)
    wanted = [sum(x * f for x, f in zip(row, factors)) for row in weights]
    assert [x * whole.unit for x in whole.sums(factors)] == wanted
    return whole


@KERNELS
@BY_OUTPUT
@given(data=st.data(), m=st.integers(1, 20), k=st.integers(1, 40))
def test_sums_and_numbers_are_exact(kernel, by_output, data, m, k):
    rng = random.Random(data.draw(st.integers(0, 10**6)))
    weights = [[rng.randint(-127, 127) for _ in range(k)] for _ in range(m)]
    largest = data.draw(st.sampled_from([0, 1, 3, 1000]))
    factors = [rng.randint(-largest, largest) for _ in range(k)]
    whole = check(kernel, weights, factors, by_output)
    assert [list(whole.numbers_of(i)) for i in range(m)] == weights
    assert whole.numbers() == [array("b", column).tobytes() for column in zip(*weights)]


@KERNELS
@BY_OUTPUT
@pytest.mark.parametrize("outputs", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 9])
def test_more_outputs_than_one_block_has(kernel, by_output, outputs):
    rng = random.Random(outputs)
    weights = [[rng.randint(-127, 127) for _ in range(3)] for _ in range(outputs)]
    whole = check(kernel, weights, [5, -5, 2], by_output)
    for output in {0, BLOCK // 2, BLOCK - 2, outputs - 1}:
        assert list(whole.numbers_of(output)) == weights[output]


@KERNELS
@pytest.mark.parametrize("count", [1, TOGETHER - 1, TOGETHER, TOGETHER + 1, 5 * TOGETHER])
@pytest.mark.parametrize("sign", [1, -1])
def test_equal_inputs_do_not_leave_a_lane_however_many_they_are(kernel, count, sign):
    """The largest weights of both signs side by side, and inputs that only differ in sign."""
    weights = [[127] * count, [-127] * count, [0] * count, [-127] * count, [127] * count]
    check(kernel, weights, [sign * 3] * count)
    turned = [[x * (-1) ** k for k, x in enumerate(row)] for row in weights]
    check(kernel, turned, [sign * 3 * (-1) ** k for k in range(count)])


@KERNELS
@pytest.mark.parametrize("largest", [2**23 // 127, -(2**23) // 127 + 1])
def test_the_largest_sums_of_24_bits(kernel, largest):
    check(kernel, [[127, 0], [-127, 0], [0, 1], [127, 0], [-127, 0]], [largest, 0])
