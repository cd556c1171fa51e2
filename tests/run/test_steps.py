"""Chapter 8's loop as a run sees it: evaluations in between, and what each step took."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
from pytest import approx
from test_training import GOLDEN, TOKENIZER, TRAIN, VAL, C, examples_of

from tiny_llm import SGD, AdamW, Batches, evaluate
from tiny_llm.fast.products import EXACT, use
from tiny_llm.model import rows_of
from tiny_llm.modern_block import ModernLanguageModel
from tiny_llm.run import steps as module
from tiny_llm.run.gradients import Gradients
from tiny_llm.run.steps import (
    Evaluation,
    RecentLosses,
    is_above,
    memorizes,
    steps_of,
)
from tiny_llm.training import Diverged


class Run:
    """A tiny training run, whole or in parts."""

    def __init__(self, build, seed=0):
        self.model = build(TOKENIZER.vocab_size, C, seed)
        modern = isinstance(self.model, ModernLanguageModel)
        self.optimizer, self.peak = (AdamW(), 0.02) if modern else (SGD(), 0.2)
        self.batches = Batches(examples_of(self.model, TRAIN), 4, seed)
        self.recent = RecentLosses()

    def schedule(self, step):
        return self.peak / (1 + step)

    def steps(self, steps, start=0, eval_every=2, way="float64", per_step=1, rate=None, clip=0.0):
        gradients = Gradients(self.model, self.batches, per_step, matmul=way)
        held_out = examples_of(self.model, VAL)
        return steps_of(
            self.model, self.optimizer, gradients, held_out, steps, rate or self.schedule,
            eval_every, start, clip, self.recent,
        )  # fmt: skip

    def val_loss(self):
        return evaluate(self.model, examples_of(self.model, VAL))


def test_golden_losses(build):
    steps = list(Run(build).steps(5))
    losses = [step.loss for step in steps] + [steps[-1].val_loss]
    assert losses == approx(GOLDEN[build.__name__], rel=1e-9)


@pytest.mark.parametrize("per_step", [1, 2])
def test_each_step_says_what_it_did(build_rung, per_step):
    run = Run(build_rung)
    steps, val_losses = [], []
    for step in run.steps(5, per_step=per_step):
        steps.append(step)
        val_losses.append(run.val_loss())
    assert [step.number for step in steps] == [1, 2, 3, 4, 5]
    assert [step.learning_rate for step in steps] == [run.schedule(step) for step in range(5)]
    batches = [run.batches.batch(number) for number in range(5 * per_step)]
    sizes = [len(targets) for _, targets in batches]
    assert [step.tokens for step in steps] == [
        sum(sizes[i : i + per_step]) for i in range(0, len(sizes), per_step)
    ]
    assert all(step.gradient_norm > 0 and step.seconds > 0 for step in steps)
    assert [step.val_loss is None for step in steps] == [True, False, True, False, False]
    assert [step.train_loss is None for step in steps] == [True, False, True, False, False]
    assert [step.val_loss for step in steps if step.val_loss] == [val_losses[i] for i in (1, 3, 4)]
    means = [step.train_loss for step in steps if step.train_loss]
    losses = [step.loss for step in steps]
    assert means == [(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2, losses[4]]
    assert run.recent == RecentLosses()


@pytest.mark.parametrize("part", [1, 2, 3, 5])
@pytest.mark.parametrize("way", ["float64", "lanes"])
def test_a_run_in_two_parts_is_the_whole_run_to_the_bit(build, part, way):
    """Apart from the evaluation that ends a part, if none was due."""
    whole, parts = Run(build), Run(build)
    expected = list(whole.steps(6, eval_every=3, way=way))
    stopped = parts.steps(6, eval_every=3, way=way)  # of the whole length, but not to its end
    first = [next(stopped) for _ in range(part)]
    again = Run(build)
    again.model, again.optimizer = deepcopy(parts.model), deepcopy(parts.optimizer)
    again.recent = deepcopy(parts.recent)
    assert first + list(again.steps(6, start=part, eval_every=3, way=way)) == expected
    assert again.model.parameters == whole.model.parameters


def test_steps_are_equal_whatever_time_they_took(build_rung):
    step = next(Run(build_rung).steps(1))
    assert step == replace(step, seconds=step.seconds + 1)
    assert step != replace(step, loss=step.loss + 1)


def test_a_step_is_done_when_it_is_yielded(build_rung):
    run = Run(build_rung)
    before = deepcopy(run.model.parameters)
    loop = run.steps(2)
    assert run.model.parameters == before
    next(loop)
    after_one = deepcopy(run.model.parameters)
    assert after_one != before
    assert (run.recent.count, run.optimizer.steps) == (1, 1)
    next(loop)
    assert run.model.parameters != after_one
    assert next(loop, None) is None


def test_nothing_is_left_to_do_at_the_end(build_rung):
    run = Run(build_rung)
    before = deepcopy(run.model.parameters)
    assert list(run.steps(5, start=5)) == []
    assert run.model.parameters == before


def test_the_seconds_of_a_step_are_not_those_of_evaluations_or_of_what_happens_between(
    build_rung, monkeypatch
):
    """On a clock that only moves when it is told to."""
    now = [0.0]

    def taking(seconds, function):
        def slow(*args):
            now[0] += seconds
            return function(*args)

        return slow

    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(module, "evaluate", taking(100.0, evaluate))
    monkeypatch.setattr(Gradients, "__call__", taking(1.0, Gradients.__call__))
    run = Run(build_rung)
    run.optimizer.update = taking(0.5, run.optimizer.update)
    for step in run.steps(4):
        assert step.seconds == 1.5
        now[0] += 1000.0


def test_a_step_is_as_long_as_the_clipped_gradient_and_tells_the_norm_of_before(build_rung):
    free, clipped = Run(build_rung), Run(build_rung)
    before = deepcopy(clipped.model.parameters)
    clipped.optimizer = SGD()
    step = next(free.steps(2))
    assert next(clipped.steps(2, clip=1e-3)) == step
    assert step.gradient_norm > 1e-3
    moved = [
        new - old
        for name, tensor in before.items()
        for rows in zip(rows_of(clipped.model.parameters[name]), rows_of(tensor))
        for new, old in zip(*rows)
    ]
    assert math.hypot(*moved) == approx(1e-3 * clipped.schedule(0), rel=1e-2)


def test_divergence_ends_it(build_rung):
    run = Run(build_rung)
    with pytest.raises(Diverged, match=r"^step \d+ has a loss of "):
        list(run.steps(20, rate=lambda step: 1e200))


# ------------------------------------------------------------------- with another way to multiply


@pytest.mark.parametrize("way", ["loops", "unrolled", "distances", "lanes"])
def test_only_the_steps_go_that_way_not_evaluation_nor_what_happens_between(
    build_rung, way, products
):
    run = Run(build_rung)
    loop = run.steps(2, way=way)
    next(loop)
    assert set(products) == {way}
    del products[:]
    run.val_loss()
    assert set(products) == {EXACT}
    evaluation = len(products)
    del products[:]
    next(loop)  # the last step, and so followed by an evaluation
    assert set(products[:-evaluation]) == {way}
    assert set(products[-evaluation:]) == {EXACT}


def test_a_validation_loss_is_that_of_float64_to_the_bit(build):
    run = Run(build)
    *_, last = run.steps(2, way="lanes")
    assert last.val_loss == run.val_loss()
    with use("lanes"):
        assert last.val_loss != run.val_loss()


# --------------------------------------------------------------------------------- the two losses


def test_recent_losses_are_a_mean_that_begins_anew():
    recent = RecentLosses()
    for loss in (1.0, 2.0, 6.0):
        recent.add(loss)
    assert recent == RecentLosses(9.0, 3)
    assert recent.take() == 3.0
    assert recent == RecentLosses(0.0, 0)


def history(*losses):
    return [Evaluation(10 * i, *pair) for i, pair in enumerate(losses, 1)]


@pytest.mark.parametrize(
    "losses, expected",
    [
        ([(2.0, 2.0)], False),
        ([(2.0, 2.0), (1.5, 1.9), (1.0, 1.8)], False),  # both fall
        ([(2.0, 2.0), (1.5, 2.1), (1.0, 2.2)], True),  # they part
        ([(2.0, 2.0), (1.5, 2.1)], False),  # once may be chance
        ([(2.0, 2.0), (1.5, 2.01), (1.0, 2.02)], False),  # within 2%
        ([(2.0, 2.0), (2.1, 2.1), (2.2, 2.2)], False),  # both rise: that is no memorizing
        ([(2.0, 2.0), (1.5, 2.2), (1.0, 1.9)], False),  # a new best
    ],
)
def test_a_model_memorizes_when_the_two_losses_part(losses, expected):
    assert memorizes(history(*losses)) is expected


@pytest.mark.parametrize(
    "losses, newest, expected",
    [
        ([], 1, False),
        ([(3.1, 3.1)], 1, True),
        ([(3.1, 3.1)], 2, False),
        ([(2.0, 2.0), (3.1, 3.1), (9.0, 3.1)], 2, True),
        ([(3.1, 3.1), (2.9, 3.1)], 2, False),
        ([(3.1, 3.1), (2.9, 3.1)], 1, False),
        ([(0.1, 9.0)], 1, False),  # it learns its text by heart: that is another matter
    ],
)
def test_a_loss_above_guessing(losses, newest, expected):
    assert is_above(3.0, history(*losses), newest) is expected


def test_a_validation_loss_that_is_not_finite_ends_the_run(build_rung, monkeypatch):
    monkeypatch.setattr(module, "evaluate", lambda *_: math.nan)
    with pytest.raises(Diverged, match="step 2 leaves a validation loss of nan"):
        list(Run(build_rung).steps(2))
