"""Slopes to weights: by hand, and against twenty steps of PyTorch's AdamW."""

import json
import math
from copy import deepcopy
from pathlib import Path

import pytest
from pytest import approx

from tiny_llm import SGD, AdamW, cosine_schedule
from tiny_llm.optimizers import clip_by_global_norm, global_norm

FOLDER = Path(__file__).parent / "references"
REFERENCE = json.loads((FOLDER / "adamw.json").read_text("utf-8"))
OPTIMIZERS = [SGD, AdamW]


def flat(tensor):
    return [value for row in tensor for value in row] if isinstance(tensor[0], list) else tensor


def example():
    parameters = {"matrix": [[1.0, -2.0], [3.0, 0.5]], "vector": [4.0, -5.0]}
    gradients = {"matrix": [[0.5, 1.0], [0.0, -2.0]], "vector": [-1.0, 10.0]}
    return parameters, gradients


def test_sgd_by_hand():
    parameters, gradients = example()
    SGD(learning_rate=0.1).update(parameters, gradients)
    assert parameters["matrix"] == [approx([0.95, -2.1]), approx([3.0, 0.7])]
    assert parameters["vector"] == approx([4.1, -6.0])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_update_is_in_place_and_leaves_the_slopes(optimizer):
    parameters, gradients = example()
    matrix, row, vector = parameters["matrix"], parameters["matrix"][0], parameters["vector"]
    slopes = deepcopy(gradients)
    optimizer(learning_rate=0.1).update(parameters, gradients)
    assert parameters["matrix"] is matrix and matrix[0] is row and parameters["vector"] is vector
    assert row != [1.0, -2.0] and vector != [4.0, -5.0]
    assert gradients == slopes


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_counts_its_steps_and_names_what_it_keeps(optimizer):
    parameters, gradients = example()
    subject = optimizer(learning_rate=0.1)
    assert (subject.steps, subject.state) == (0, {})
    for _ in range(3):
        subject.update(parameters, gradients)
    assert subject.steps == 3
    assert set(subject.state) == {f"{m}.{name}" for m in subject.moments for name in parameters}


def test_adamw_is_pytorchs_adamw():
    optimizer = AdamW(**REFERENCE["options"])
    parameters = deepcopy(REFERENCE["parameters"])
    steps = zip(REFERENCE["learning_rates"], REFERENCE["gradients"], REFERENCE["after"])
    for rate, gradients, after in steps:
        optimizer.learning_rate = rate
        optimizer.update(parameters, gradients)
        for name, expected in after.items():
            assert flat(parameters[name]) == approx(flat(expected), rel=1e-12, abs=1e-14)
    assert optimizer.steps == 20


def test_clipping_schedule_and_adamw_together_are_pytorchs():
    reference = json.loads((FOLDER / "training.json").read_text("utf-8"))
    optimizer, parameters = AdamW(**reference["options"]), deepcopy(reference["parameters"])
    steps = reference["steps"]
    for number, step in enumerate(steps):
        gradients = deepcopy(step["gradients"])
        norm = global_norm(gradients)
        assert norm == approx(step["norm"], rel=1e-12)
        clip_by_global_norm(gradients, norm, reference["clip"])
        optimizer.learning_rate = cosine_schedule(number, len(steps), **reference["schedule"])
        assert optimizer.learning_rate == approx(step["rate"], rel=1e-12)
        optimizer.update(parameters, gradients)
        for name, expected in step["after"].items():
            assert flat(parameters[name]) == approx(flat(expected), rel=1e-12, abs=1e-14)
    clipped = [step["norm"] > reference["clip"] for step in steps]
    assert len(steps) == 20 and 0 < sum(clipped) < 20


def test_clipping_shortens_what_is_too_long_and_nothing_else():
    _, gradients = example()
    before, norm = deepcopy(gradients), global_norm(gradients)
    assert norm == approx(math.sqrt(0.25 + 1 + 4 + 1 + 100))
    clip_by_global_norm(gradients, norm, 2 * norm)
    assert gradients == before
    clip_by_global_norm(gradients, norm, 1.0)
    assert global_norm(gradients) == approx(1, rel=1e-5)
    assert gradients["vector"][1] / gradients["vector"][0] == approx(-10)


def test_the_first_step_of_adamw_is_the_learning_rate_whatever_the_size_of_the_slope():
    parameters = {"vector": [1.0, 1.0, 1.0]}
    AdamW(learning_rate=0.01).update(parameters, {"vector": [1e-4, -1e6, 0.0]})
    assert parameters["vector"] == approx([0.99, 1.01, 1.0], rel=1e-5)


def test_adamw_decays_matrices_and_not_vectors():
    parameters, gradients = example()
    zeros = {name: [[0.0] * 2] * 2 if name == "matrix" else [0.0] * 2 for name in gradients}
    AdamW(learning_rate=0.1, weight_decay=0.5).update(parameters, zeros)
    assert parameters["matrix"] == [approx([0.95, -1.9]), approx([2.85, 0.475])]
    assert parameters["vector"] == [4.0, -5.0]


def test_adamw_goes_on_from_its_state_to_the_bit():
    whole, gradients = example()
    parts, _ = example()
    one = AdamW()
    for _ in range(6):
        one.update(whole, gradients)
    first, second = AdamW(), AdamW()
    for _ in range(2):
        first.update(parts, gradients)
    second.steps, second.state = first.steps, deepcopy(first.state)
    for _ in range(4):
        second.update(parts, gradients)
    assert parts == whole


def test_moments_have_the_shape_of_what_they_belong_to():
    parameters, gradients = example()
    optimizer = AdamW(beta1=0.5)
    optimizer.update(parameters, gradients)
    assert optimizer.state["m.matrix"] == [[0.25, 0.5], [0.0, -1.0]]
    assert optimizer.state["m.vector"] == [-0.5, 5.0]
    assert optimizer.state["v.vector"] == approx([0.01, 1.0])


# --------------------------------------------------------------------------------------- schedule


def rates(steps, **options):
    return [cosine_schedule(step, steps, peak=2.0, **options) for step in range(steps + 1)]


def test_the_schedule_falls_from_its_peak_to_a_tenth():
    schedule = rates(100)
    assert schedule[0] == 2.0
    assert schedule[50] == approx(2.0 * 0.55)
    assert schedule[100] == approx(0.2)
    assert schedule == sorted(schedule, reverse=True)


def test_the_schedule_warms_up_in_a_straight_line():
    schedule = rates(100, warmup_steps=4)
    assert schedule[:5] == approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert schedule[4:] == sorted(schedule[4:], reverse=True)
    assert schedule[100] == approx(0.2)


@pytest.mark.parametrize("floor", [0.0, 0.3, 1.0])
def test_the_schedule_ends_at_its_floor(floor):
    assert rates(10, floor=floor)[10] == approx(2.0 * floor)


def test_half_a_cosine_by_hand():
    expected = 2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert cosine_schedule(25, 100, 2.0) == approx(expected)


@pytest.mark.parametrize("steps, warmup_steps", [(1, 0), (1, 1), (3, 3), (2, 5)])
def test_the_shortest_runs_have_a_rate_above_zero(steps, warmup_steps):
    assert all(0 < rate <= 2.0 for rate in rates(steps, warmup_steps=warmup_steps))
