"""The projection of a table onto its two main axes."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_llm.view.pca import project


def cloud(rng, stretches, rows=200):
    """Rows whose columns spread by these amounts, independent of one another."""
    return [[rng.gauss(3.0, 1.0) * stretch for stretch in stretches] for _ in range(rows)]


def turned(rows, angle):
    """The rows with their first two columns turned by an angle."""
    cos, sin = math.cos(angle), math.sin(angle)
    return [[cos * x - sin * y, sin * x + cos * y, *rest] for x, y, *rest in rows]


def variance(values):
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / len(values)


def total_variance(rows):
    return math.fsum(variance(column) for column in zip(*rows))


def test_a_worked_example():
    """Points on the corners of a rectangle twice as wide as high, turned by 45 degrees."""
    corners = turned([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]], math.pi / 4)
    points, shares = project([[x + 5, y - 7] for x, y in corners])
    assert shares == pytest.approx((0.8, 0.2))
    assert sorted(abs(x) for x, _ in points) == pytest.approx([2.0] * 4)
    assert sorted(y for _, y in points) == pytest.approx([-1.0, -1.0, 1.0, 1.0])


def test_the_longest_axis_is_found_though_no_column_lies_along_it():
    """One column varies more than any other, and two that vary together more still."""
    rng = random.Random(1)
    rows = []
    for _ in range(500):
        common = rng.gauss(0.0, 1.3)
        rows.append([rng.gauss(0.0, 1.5), common, common])
    points, shares = project(rows)
    assert shares[0] == pytest.approx(variance([x for x, _ in points]) / total_variance(rows))
    assert shares[0] > variance([row[0] for row in rows]) / total_variance(rows)
    axis = [row[1] * math.sqrt(2) for row in rows]
    mean = math.fsum(axis) / len(axis)
    assert math.fsum(x * (a - mean) for (x, _), a in zip(points, axis)) > 0.9 * len(rows)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 12))
def test_what_holds_for_every_table(seed, width, height):
    rng = random.Random(seed)
    rows = [[rng.gauss(0.0, 1.0) for _ in range(width)] for _ in range(height)]
    points, (first, second) = project(rows)
    total = total_variance(rows)
    xs, ys = zip(*points)
    assert len(points) == height
    assert 0 <= second <= first + 1e-9 <= 1 + 2e-9
    assert math.fsum(xs) == pytest.approx(0, abs=1e-9)
    assert variance(xs) == pytest.approx(first * total, abs=1e-9)
    assert variance(ys) == pytest.approx(second * total, abs=1e-9)
    assert math.fsum(x * y for x, y in points) == pytest.approx(0, abs=1e-6)  # uncorrelated
    assert first >= max(variance(column) for column in zip(*rows)) / (total or 1) - 1e-9


@pytest.mark.reference
def test_numpy_finds_the_same_axes():
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    rows = turned(cloud(random.Random(2), [5.0, 2.0, 0.5, 0.1]), 0.7)
    centred = numpy.array(rows) - numpy.mean(rows, axis=0)
    _, lengths, axes = numpy.linalg.svd(centred, full_matrices=False)
    points, shares = project(rows)
    assert shares == pytest.approx(tuple(lengths[:2] ** 2 / sum(lengths**2)))
    expected = numpy.abs(centred @ axes[:2].T)
    assert numpy.allclose(numpy.abs(points), expected, atol=1e-6)


def test_a_moved_and_a_mirrored_table_look_the_same():
    rows = cloud(random.Random(3), [3.0, 1.0, 0.2])
    points, shares = project(rows)
    moved, _ = project([[value + 100 for value in row] for row in rows])
    assert [x for x, _ in moved] == pytest.approx([x for x, _ in points], abs=1e-6)
    mirrored, same = project([[-value for value in row] for row in rows])
    assert same == pytest.approx(shares)
    assert [x for x, _ in mirrored] == pytest.approx([-x for x, _ in points], abs=1e-6)


@pytest.mark.parametrize(
    "rows, shares",
    [
        ([[1.0, 2.0, 3.0]], (0.0, 0.0)),  # one row
        ([[1.0, 2.0], [1.0, 2.0]], (0.0, 0.0)),  # no variance
        ([[1.0], [2.0], [4.0]], (1.0, 0.0)),  # one column
        ([[1.0, 3.0], [2.0, 6.0], [4.0, 12.0]], (1.0, 0.0)),  # on one line
        ([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]], (1.0, 0.0)),  # two points are always on a line
    ],
)
def test_an_axis_along_which_nothing_varies_is_zero(rows, shares):
    points, found = project(rows)
    assert found == pytest.approx(shares, abs=1e-12)
    for axis, share in enumerate(shares):
        if share == 0.0:
            assert [point[axis] for point in points] == [0.0] * len(rows)


@pytest.mark.parametrize("rows", [[], [[]]])
def test_a_table_without_numbers_is_refused(rows):
    with pytest.raises(ValueError, match="at least one row"):
        project(rows)


@pytest.mark.parametrize("huge", [1e154, 1e200, 1.7e308])
def test_huge_numbers_keep_their_proportions(huge):
    rows = [[1.0, 0.5], [-1.0, -0.25], [0.5, -0.5], [0.25, 1.0]]
    points, shares = project([[huge * value for value in row] for row in rows])
    expected = project(rows)
    assert shares == pytest.approx(expected.shares)
    for point, other in zip(points, expected.points):
        assert point == pytest.approx(other)
