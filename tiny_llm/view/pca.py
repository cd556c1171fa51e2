"""Many dimensions seen in two: the directions in which the rows of a table differ most.

    rows, N x D --minus their mean--> centred --covariance--> D x D
    covariance x v, again and again --> v turns to the longest axis of the cloud: the 1st component
    the same without what lies along that axis                       -->          the 2nd component
    centred rows x components --> N x 2

Principal components are Pearson's (1901) and Hotelling's (1933). Multiplying by a matrix until the
vector no longer turns is the power iteration (von Mises and Pollaczek-Geiringer, 1929): each round
lengthens what lies along the longest axis more than all else.
"""

from __future__ import annotations

import random
from math import fsum, sqrt
from typing import NamedTuple

from tiny_llm.matmul import Matrix, Vector, dot, matmul_at, transpose

ROUNDS = 300  # at most; two axes of nearly one length take long to tell apart, and need not be
STILL = 1e-12  # the change of a unit vector below which it has stopped turning
HUGE = 1e100
NOISE = 1e-12  # the share of the variance below which an axis is only rounding


class Projection(NamedTuple):
    """The rows of a table along its two main axes."""

    points: list[tuple[float, float]]  # N, their mean at (0, 0)
    shares: tuple[float, float]  # of the whole variance that lies along each axis


def project(rows: Matrix) -> Projection:
    """N x D -> N points in the plane that keeps as much of the variance as any plane can.

    The sign of an axis means nothing; it is chosen so that the largest part of its direction is
    positive. Where nothing varies, all is 0. Numbers whose squares no float holds are shrunk first,
    so their points keep only their proportions. Raises ValueError for a table without numbers.
    """
    if not rows or not rows[0]:
        raise ValueError("a projection needs at least one row with one number")
    largest = max(abs(value) for row in rows for value in row)
    if largest > HUGE:
        rows = [[value / largest for value in row] for row in rows]
    means = [fsum(column) / len(rows) for column in transpose(rows)]
    centred = [[value - mean for value, mean in zip(row, means)] for row in rows]
    covariance = [[value / len(rows) for value in row] for row in matmul_at(centred, centred)]
    total = fsum(covariance[i][i] for i in range(len(covariance)))
    axes, shares = [], []
    for _ in range(2):
        axis = _longest_axis(covariance)
        variance = dot(axis, _times(covariance, axis))
        if variance <= NOISE * total:
            axis, variance = [0.0] * len(axis), 0.0
        covariance = _without(covariance, axis, variance)
        axes.append(axis)
        shares.append(variance / total if total else 0.0)
    points = [(dot(row, axes[0]), dot(row, axes[1])) for row in centred]
    return Projection(points, (shares[0], shares[1]))


def _longest_axis(covariance: Matrix) -> Vector:
    """D x D -> the unit vector that the matrix stretches most, or zeros if it stretches none."""
    rng = random.Random(0)  # a random start has a part along every axis
    axis = _unit([rng.gauss(0.0, 1.0) for _ in covariance])
    for _ in range(ROUNDS):
        turned = _unit(_times(covariance, axis))
        change = max(abs(new - old) for new, old in zip(turned, axis))
        axis = turned
        if change < STILL:
            break
    sign = -1.0 if max(axis, key=abs) < 0 else 1.0
    return [sign * value for value in axis]


def _without(covariance: Matrix, axis: Vector, variance: float) -> Matrix:
    """The covariance of what is left when nothing lies along this axis any more."""
    return [
        [value - variance * x * y for value, y in zip(row, axis)]
        for row, x in zip(covariance, axis)
    ]


def _times(matrix: Matrix, vector: Vector) -> Vector:
    return [dot(row, vector) for row in matrix]


def _unit(vector: Vector) -> Vector:
    """The vector at length 1; zeros if it has none."""
    length = sqrt(dot(vector, vector))
    return [value / length if length else 0.0 for value in vector]
