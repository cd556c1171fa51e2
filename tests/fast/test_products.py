"""Every way of multiplying against the plain loops, each within the error that it claims."""

import math
import random
from fractions import Fraction
from itertools import product as pairs

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytest import approx

from tiny_llm.fast import products as module
from tiny_llm.fast.lanes import LONG, SHORT, longest, multiply_in_lanes
from tiny_llm.fast.products import (
    BALANCED,
    EXACT,
    WAYS,
    combined,
    distances,
    fastest,
    lanes,
    short_lanes,
    unrolled,
    use,
)
from tiny_llm.matmul import PlainLoops, dot, matmul, matmul_at, matmul_bt, transpose

loops = PlainLoops().matmul_bt

FORMS = {  # each from the same N rows and M columns of K numbers
    "matmul": lambda rows, columns: matmul(rows, flipped(columns)),
    "matmul_bt": matmul_bt,
    "matmul_at": lambda rows, columns: matmul_at(flipped(rows), flipped(columns)),
}
EVERY_WAY = pytest.mark.parametrize("way", [*WAYS, "auto"])
MANY = settings(max_examples=100)
EVERY_FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)

EPSILON = 2.0**-52
SMALLEST = 5e-324
LANES = {"lanes": LONG, "short-lanes": SHORT}


def flipped(matrix):
    """Transposed, as lists."""
    return [list(row) for row in transpose(matrix)]


def exact(row, column):
    """The product of two rows without any rounding."""
    return sum((Fraction(x) * Fraction(y) for x, y in zip(row, column)), Fraction(0))


def error(value, row, column):
    return float(abs(Fraction(value) - exact(row, column)))


def error_in_lanes(row, column, size):
    """The most that products of these in lanes of `size` bytes may be away from the exact one."""
    inner = len(row)
    while inner > longest(size, inner):  # multiplied in pieces
        inner = (inner + 1) // 2
    lengths = math.hypot(*row) * math.hypot(*column)
    return (2 * math.sqrt(inner) + 1) * lengths / longest(size, inner)


def kind(value):
    """A number, or the name of what is none."""
    return "finite" if math.isfinite(value) else repr(value)


def allowed(way, row, column):
    """How far a way may be from the plain loops in one finite number of its product."""
    inner = len(row)
    rounding = (inner + 2) * EPSILON * sum(abs(x * y) for x, y in zip(row, column))
    claimed = 0.0
    if way == "distances":
        claimed = 1e-8 * math.hypot(*row) * math.hypot(*column)
    elif way in LANES:
        claimed = error_in_lanes(row, column, LANES[way])
    # Where the claim itself leaves the range, these two multiply in float64.
    return rounding + (claimed if claimed < 1e300 else 0.0) + 2 * inner * SMALLEST


def assert_every_way_is_like_the_loops(rows, columns):
    for way in WAYS:
        assert_like_the_loops(way, rows, columns)


def assert_like_the_loops(way, rows, columns):
    """All three forms of the product, in one way."""
    expected = loops(rows, columns)
    with use(way):
        results = {name: form(rows, columns) for name, form in FORMS.items()}
    if way == "auto":
        way = fastest(len(rows), len(rows[0]), len(columns))
    for name, result in results.items():
        assert [len(row) for row in result] == [len(row) for row in expected], (way, name)
        for i, j in pairs(range(len(rows)), range(len(columns))):
            value, wanted = result[i][j], expected[i][j]
            place = f"{name} by {way}, row {i}, column {j}"
            assert kind(value) == kind(wanted), place
            if math.isfinite(wanted):
                assert abs(value - wanted) <= allowed(way, rows[i], columns[j]), place


# ------------------------------------------------------------------------------ random matrices

MODERATE = st.floats(-100, 100)
ANY_SIZE = st.builds(math.ldexp, st.floats(-1, 1), st.integers(-1073, 1023))
WITHIN_LANES = st.builds(math.ldexp, st.floats(-1, 1), st.integers(-400, 400))
NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])
SPECIAL = st.sampled_from([0.0, -0.0, SMALLEST, -1e-310, 1e-160, 1e160, -1e300, 1.7e308])


@st.composite
def factors(draw, *numbers, smallest=0, longest=6, kinds=(list, tuple)):
    """N rows and M columns of K numbers, some of them all zeros."""
    n, m = (draw(st.integers(smallest, 6)) for _ in range(2))
    k = draw(st.integers(1, longest))
    row = st.lists(st.one_of(*numbers), min_size=k, max_size=k) | st.just([0.0] * k)
    make = draw(st.sampled_from(kinds))
    matrix = [draw(st.lists(row, min_size=size, max_size=size)) for size in (n, m)]
    return tuple([make(line) for line in lines] for lines in matrix)


def matrices(n, k, m, rng, spread=0.0):
    """Rows and columns of normal numbers, each times a random power of ten up to +-`spread`."""
    return tuple(
        [[rng.gauss(0, 1) * 10 ** rng.uniform(-spread, spread) for _ in range(k)] for _ in range(h)]
        for h in (n, m)
    )


@MANY
@given(matrices=factors(MODERATE))
def test_every_way_equals_the_plain_loops(matrices):
    assert_every_way_is_like_the_loops(*matrices)


@MANY
@given(matrices=factors(ANY_SIZE, SPECIAL))
@example(matrices=([[1e200, 0.0]], [[0.0, 1e200], [-1e200, 1.0], [1e200, 1e200]]))
def test_every_way_with_huge_and_tiny_numbers_in_one_matrix(matrices):
    assert_every_way_is_like_the_loops(*matrices)


@MANY
@given(matrices=factors(WITHIN_LANES))
def test_every_way_with_sizes_that_are_far_apart_but_can_be_squared(matrices):
    assert_every_way_is_like_the_loops(*matrices)


@MANY
@given(matrices=factors(MODERATE, SPECIAL, NOT_FINITE))
@example(matrices=([[1.0, 1.0], [math.nan, 1.0]], [[1.0, 2.0]]))  # a maximum may overlook a NaN
@example(matrices=([[0.0, math.nan]], [[0.0, 0.0]]))
@example(matrices=([[1.0], [math.inf]], [[0.0], [-2.0]]))
@example(matrices=([[math.inf, math.nan]], [[1.0, 1.0]]))  # the distance of these is infinite
def test_nan_and_infinity_stand_where_the_loops_have_them(matrices):
    assert_every_way_is_like_the_loops(*matrices)


@MANY
@given(matrices=factors(MODERATE, st.integers(-9, 9)))
def test_whole_numbers_may_stand_among_the_floats(matrices):
    assert_every_way_is_like_the_loops(*matrices)


@EVERY_WAY
@pytest.mark.parametrize("spread", [0, 4, 140])
@pytest.mark.parametrize(
    "n, k, m",
    [(1, 1, 1), (1, 1, 150), (150, 1, 1), (1, 700, 1), (1, 40, 99), (90, 2, 3), (97, 5, 96)],
)
def test_every_way_at_long_and_thin_shapes(way, n, k, m, spread):
    assert_like_the_loops(way, *matrices(n, k, m, random.Random(k), spread))


@EVERY_WAY
@EVERY_FORM
def test_no_rows_and_no_columns(way, form):
    with use(way):
        assert form([], [[1.0, 2.0]]) == []
        assert form([[1.0, 2.0], [3.0, 4.0]], []) == [[], []]
        assert form([], []) == []


@EVERY_WAY
def test_rows_without_numbers(way):
    with use(way):
        assert matmul_bt([[], []], [[], [], []]) == [[0.0] * 3] * 2
        assert matmul([[], []], []) == [[], []]  # how wide it was meant, nobody can say
        assert matmul([[1.0]], [[]]) == [[]]


@EVERY_WAY
@EVERY_FORM
def test_a_zero_row_gives_exact_zeros(way, form):
    for size in SMALLEST, 1e-300, 1e-20, 1 / 3, 3e19, 1e300:
        rows = [[0.0] * 3, [size, -size, 0.7], [0.0, -0.0, 0.0]]
        with use(way):
            square, product = form(rows, rows), form(rows, [[1.0, 2.0, 3.0], [-size, 0.0, 0.1]])
        assert set(square[0] + square[2] + product[0] + product[2]) == {0.0}
        assert square[1][0] == square[1][2] == 0
        assert square[1][1] and product[1][0]


@EVERY_WAY
@EVERY_FORM
def test_the_result_is_new_lists_of_floats_and_the_factors_stay(way, form):
    rows, columns = [[1.0, 2.0]] * 2, [[3.0, 4.0]]
    with use(way):
        result = form(rows, columns)
    assert result == [[approx(11.0, rel=1e-6)]] * 2
    assert [type(row) for row in result] == [list, list]
    assert type(result[0][0]) is float
    assert result[0] is not result[1]
    assert (rows, columns) == ([[1.0, 2.0]] * 2, [[3.0, 4.0]])


@EVERY_WAY
@EVERY_FORM
def test_the_same_factors_give_the_same_bits(way, form):
    factors = matrices(7, 9, 5, random.Random(1), 3)
    with use(way):
        assert form(*factors) == form(*factors)


# ------------------------------------------------------------------------------------ by hand


def test_the_definition_by_hand():
    rows, columns = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[7.0, 9.0, 11.0], [8.0, 10.0, 12.0]]
    assert loops(rows, columns) == [[58.0, 64.0], [139.0, 154.0]]


@EVERY_WAY
def test_the_three_forms_by_hand(way):
    a, b = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[7.0, 8.0], [9.0, 10.0], [11.0, 12.0]]
    with use(way):
        assert flat(matmul(a, b)) == approx([58, 64, 139, 154], rel=1e-6)
        assert flat(matmul_bt(a, [[1.0, 0.0, -1.0]])) == approx([-2, -2], rel=1e-6)
        assert flat(matmul_at(a, [[1.0], [-1.0]])) == approx([-3, -3, -3], rel=1e-6)


def flat(matrix):
    return [value for row in matrix for value in row]


def test_dot_product_by_hand():
    assert dot([1.0, -2.0, 0.5], (4.0, 3.0, 2.0)) == -1.0
    assert dot([], []) == 0


@pytest.mark.parametrize(
    "a, b", [([math.nan, 1.0], [1.0, 1.0]), ([1e200, 1.0], [1e200, 1.0]), ([math.inf, 1.0], [0, 1])]
)
def test_a_dot_product_beyond_range_raises_nothing_and_stays_visible(a, b):
    assert not math.isfinite(dot(a, b))


def test_transpose_turns_columns_into_rows():
    assert flipped([[1, 2, 3], [4, 5, 6]]) == [[1, 4], [2, 5], [3, 6]]
    assert flipped([]) == []


@given(matrices=factors(ANY_SIZE, smallest=1))
def test_unrolled_adds_in_the_order_of_the_loops(matrices):
    assert repr(unrolled(*matrices)) == repr(loops(*matrices))  # to the bit, and NaN is NaN
    rows, columns = matrices
    if rows and columns:
        assert repr(combined(rows, flipped(columns))) == repr(loops(rows, columns))


# ---------------------------------------------------------------------------------- distances


@st.composite
def vectors(draw, norms):
    """Two vectors of the norms, at any angle: the same, opposite, orthogonal and arbitrary ones."""
    k = draw(st.integers(1, 12))
    one, other = (
        draw(st.lists(st.floats(-1, 1), min_size=k, max_size=k).filter(lambda v: math.hypot(*v)))
        for _ in range(2)
    )
    orthogonal = [-one[1], one[0], *[0.0] * (k - 2)] if k > 1 else [0.0]
    other = draw(st.sampled_from([other, one, [-x for x in one], orthogonal]))
    return scaled(one, draw(norms)), scaled(other, draw(norms))


def scaled(vector, norm):
    """The vector in the length `norm`."""
    vector = [x / max(map(abs, vector)) for x in vector] if any(vector) else vector
    return [x / (math.hypot(*vector) or 1.0) * norm for x in vector]


def assert_error_of_distances(row, column, share):
    bound = share * math.hypot(*row) * math.hypot(*column)
    assert error(distances([row], [column])[0][0], row, column) <= bound


@given(pair=vectors(st.floats(1, 99.9)), power=st.integers(-450, 450))
def test_distances_of_norms_within_100_of_each_other_keep_13_digits(pair, power):
    row, column = ([math.ldexp(x, power) for x in vector] for vector in pair)
    assert_error_of_distances(row, column, 1e-13)


@given(pair=vectors(st.floats(1e-140, 1e140) | st.sampled_from([1e-140, 1e-7, 1.0, 1e5, 1e140])))
def test_distances_of_any_norms_keep_8_digits(pair):
    assert_error_of_distances(*pair, 1e-8)


@given(pair=vectors(st.just(1.0)), factor=st.sampled_from([0.5, 0.999, 1.001, 2.0, 1e3]))
def test_distances_about_the_ratio_where_they_begin_to_scale(pair, factor):
    row, column = pair[0], [x * BALANCED * factor for x in pair[1]]
    assert_error_of_distances(row, column, 1e-8 if factor < 1 else 1e-14)
    assert_error_of_distances(column, row, 1e-8 if factor < 1 else 1e-14)


@given(powers=st.lists(st.integers(-140, 140), min_size=4, max_size=8), seed=st.integers(0, 99))
def test_distances_in_one_matrix_of_norms_many_powers_of_ten_apart(powers, seed):
    rng = random.Random(seed)
    rows = [[rng.gauss(0, 1) * 10.0**power for _ in range(5)] for power in powers]
    product = distances(rows[::2], rows[1::2])
    for (i, row), (j, column) in pairs(enumerate(rows[::2]), enumerate(rows[1::2])):
        bound = 1e-8 * math.hypot(*row) * math.hypot(*column)
        assert error(product[i][j], row, column) <= bound


@pytest.mark.parametrize("size", [SMALLEST, 1e-310, 1e-200, 1e160, 1e200, 1e300, 1.7e308])
def test_distances_whose_squares_leave_the_range_are_those_of_floats(size):
    rows = [[size, 0.0], [0.0, -size], [-size, size]]
    others = [[0.5, -0.25], [0.0, 0.0], [SMALLEST, 0.5]]
    assert repr(distances(rows, rows)) == repr(WAYS[EXACT](rows, rows))
    assert repr(distances(rows, others)) == repr(WAYS[EXACT](rows, others))
    assert distances(rows, rows)[0][1] == 0  # orthogonal: neither infinity nor NaN


# -------------------------------------------------------------------------------------- lanes

EVERY_SIZE = pytest.mark.parametrize("size", [LONG, SHORT])


def exact_but_for_their_last_bit(row, columns):
    """A long lane may hold more than the 53 bits of a float."""
    return [approx(float(exact(row, column)), rel=EPSILON, abs=0) for column in columns]


@EVERY_SIZE
@pytest.mark.parametrize("inner", [1, 2, 100, 2800])
def test_the_longest_rows_and_columns_stay_within_their_lane(size, inner):
    """Rounded up in every number, and side by side; with 1 to spare for the length's rounding."""
    rounded = longest(size, inner) + math.sqrt(inner) / 2
    assert rounded * rounded < 2 ** (8 * size - 1)
    assert rounded < 2**30  # of a factor: one digit of Python's integers


@EVERY_SIZE
@pytest.mark.parametrize("inner", [1, 2, 3, 100, 2841, 2842, 2843, 2844, 5000])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_lanes_at_their_extremes_do_not_disturb_their_neighbours(size, inner, sign):
    """Rows and columns as long as they may be, so that their product is the largest of a lane."""
    pieces = 1 if inner <= longest(size, inner) else 2
    largest = float(math.isqrt(int(longest(size, inner // pieces) ** 2 / inner * pieces)))
    up, down, zero = [largest] * inner, [-largest] * inner, [0.0] * inner
    alternating = [largest, -largest] * (inner // 2) + [largest] * (inner % 2)
    first, last = [largest, *zero[1:]], [*zero[1:], -largest]
    columns = [zero, down, zero, up, down, last, up, zero, alternating, down, first, up, up, last]
    rows = [[sign * x for x in up], zero, alternating]
    product = multiply_in_lanes(rows, columns, size, True)
    for values, row in zip(product, rows):
        assert values == exact_but_for_their_last_bit(row, columns)


@given(
    matrices=factors(st.integers(-800, 800).map(float), smallest=1),
    size=st.sampled_from([LONG, SHORT]),
    power=st.integers(-400, 400),
)
def test_whole_numbers_that_fit_are_multiplied_without_any_rounding(matrices, size, power):
    rows, columns = ([[math.ldexp(x, power) for x in row] for row in m] for m in matrices)
    for values, row in zip(multiply_in_lanes(rows, columns, size, True), rows):
        assert values == exact_but_for_their_last_bit(row, columns)


@EVERY_SIZE
def test_the_error_in_lanes_comes_near_its_bound(size):
    """Every number lies nearly in the middle between two whole ones, so all are rounded alike."""
    inner = 400
    limit = longest(size, inner)
    middle = math.floor(limit / math.sqrt(inner) / 1.9) + 0.4999
    row = [middle] * inner
    (((value,),),) = (multiply_in_lanes([row], [row], size, True),)
    away = error(value, row, row)
    assert 0.4 < away / error_in_lanes(row, row, size) < 1


@given(
    seed=st.integers(0, 9999),
    power=st.integers(-130, 130),
    k=st.integers(1, 200) | st.integers(2500, 6000),
    size=st.sampled_from([LONG, SHORT]),
)
@settings(max_examples=30)
def test_the_error_in_lanes_stays_below_its_bound(seed, power, k, size):
    (row,), columns = matrices(1, k, 3, random.Random(seed), 1)
    row = [x * 10.0**power for x in row]
    for value, column in zip(multiply_in_lanes([row], columns, size, True)[0], columns):
        assert error(value, row, column) <= error_in_lanes(row, column, size)


@EVERY_SIZE
@pytest.mark.parametrize("above", [0.01, 0.49, 0.51, 0.99])
def test_numbers_are_rounded_to_the_nearest_whole_one(size, above):
    row = [700.0, 500 + above]
    half = 0.5 / 2.0 ** math.floor(math.log2(longest(size, 2) / math.hypot(*row)))
    for value in multiply_in_lanes([row], [[0.0, 1.0]], size, True)[0] + [
        line[0] for line in multiply_in_lanes([[0.0, 1.0]], [row], size, True)
    ]:
        assert abs(value - row[1]) <= half


@given(matrices=factors(MODERATE, NOT_FINITE, longest=13, smallest=1))
@pytest.mark.parametrize("way", LANES)
def test_products_that_are_split(way, matrices):
    def short(size, inner, longest=longest):
        return longest(size, inner) if inner <= 4 else 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiny_llm.fast.lanes.longest", short)
        patch.setitem(globals(), "longest", short)
        assert_like_the_loops(way, *matrices)


@pytest.mark.parametrize("way", LANES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, SMALLEST, 1e-160, 1e160, -1.7e308])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_a_lane_cannot_hold_is_multiplied_by_floats(way, bad, place):
    rows, columns = [[0.25, 0.5, -1.0], [1.0, 1 / 3, 0.0]], [[1 / 7, -2.0, 3.0]]
    rows[1][place] = bad
    if abs(bad) < 1e-150:  # of these the row must have no larger one
        rows[1] = [bad if k == place else 0.0 for k in range(3)]
    wanted = WAYS[EXACT](rows, columns)
    assert repr(WAYS[way](rows, columns)) == repr(wanted)
    assert repr(WAYS[way](columns, rows)) == repr([list(row) for row in zip(*wanted)])


# ---------------------------------------------------------------------------------- which way


@EVERY_FORM
def test_outside_of_use_every_product_is_one_of_float64(form, products):
    form([[1.0]], [[2.0]])
    with use("lanes"):
        form([[1.0]], [[2.0]])
    form([[1.0]], [[2.0]])
    assert products == [EXACT, "lanes", EXACT]


@EVERY_FORM
@pytest.mark.parametrize("way", WAYS)
def test_within_use_every_product_goes_that_way(form, way, products):
    with use(way):
        form([[1.0]], [[2.0]])
        form([[1.0, 2.0]] * 99, [[2.0, 3.0]] * 99)
    assert products == [way, way]


@EVERY_FORM
def test_auto_asks_for_the_fastest_way_of_each_shape(form, products, monkeypatch):
    asked = []

    def odd(n, k, m):
        asked.append((n, k, m))
        return "mapped" if n == 2 else "unrolled"

    monkeypatch.setattr(module, "fastest", odd)
    with use("auto"):
        form([[1.0] * 3] * 2, [[2.0] * 3] * 4)
        form([[1.0] * 5] * 6, [[2.0] * 5] * 7)
    assert asked == [(2, 3, 4), (6, 5, 7)]
    assert products == ["mapped", "unrolled"]


def test_use_within_use(products):
    with use("loops"):
        with use("mapped"):
            matmul([[1.0]], [[1.0]])
        matmul([[1.0]], [[1.0]])
    assert products == ["mapped", "loops"]


@EVERY_WAY
def test_use_restores_the_way_after_an_exception(way, products):
    with use("unrolled"):
        with pytest.raises(ZeroDivisionError), use(way):
            raise ZeroDivisionError
        matmul([[1.0]], [[1.0]])
    matmul([[1.0]], [[1.0]])
    assert products == ["unrolled", EXACT]


@pytest.mark.parametrize("way", ["", "Lanes", "numpy", "sumprod ", "fastest", None])
def test_an_unknown_way_is_refused_and_changes_nothing(way, products):
    refused = pytest.raises(ValueError, match="is no way to multiply here; these are: auto,")
    with refused, use(way):
        raise AssertionError("not reached")
    matmul([[1.0]], [[1.0]])
    assert products == [EXACT]


@pytest.mark.parametrize("pypy", [False, True])
@given(shape=st.tuples(*[st.integers(0, 5) | st.integers(1, 100_000)] * 3))
def test_the_fastest_way_is_one_of_the_ways_and_always_the_same(pypy, shape):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PYPY", pypy)
        assert fastest(*shape) in WAYS
        assert fastest(*shape) == fastest(*shape)


def test_float64_is_one_of_the_ways_that_exchange_nothing():
    assert WAYS[EXACT] not in (distances, lanes, short_lanes)


def test_float64_names_the_exact_one(products):
    with use("float64"):
        matmul([[1.0]], [[1.0]])
    assert products == [EXACT]
