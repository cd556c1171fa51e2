"""The training loop: losses known in advance, runs that repeat, and an end that is explained."""

import math
import re
from copy import deepcopy

import pytest
from pytest import approx

from tiny_llm import (
    SGD,
    AdamW,
    Batches,
    CharTokenizer,
    Examples,
    Windows,
    cross_entropy,
    evaluate,
    on_batches,
    split,
    train,
)
from tiny_llm.fast.products import EXACT, WAYS, use
from tiny_llm.matmul import matmul
from tiny_llm.modern_block import ModernLanguageModel
from tiny_llm.text.corpus import Lines
from tiny_llm.training import Diverged

TEXT = "the cat sat on the mat. the dog sat on the log. the cat saw the dog."
TOKENIZER = CharTokenizer.from_text(TEXT)
TRAIN, VAL = split(TOKENIZER.encode(TEXT), 0.2)
C = 6


def examples_of(model, ids):
    kind = Windows if model.predicts_every_token else Examples
    return kind(ids, model.config.context_length)


class Run:
    """A tiny training run, whole or in parts."""

    def __init__(self, build, optimizer=None, seed=0):
        self.model = build(TOKENIZER.vocab_size, C, seed)
        modern = isinstance(self.model, ModernLanguageModel)
        self.optimizer = optimizer or (AdamW() if modern else SGD())
        self.peak = 0.02 if modern else 0.2
        self.batches = Batches(examples_of(self.model, TRAIN), 4, seed)

    def schedule(self, step):
        return self.peak / (1 + step)

    def updates(self, steps, start=0, learning_rate=None, way="float64"):
        plain = on_batches(self.model, self.batches)

        def gradients_at(step):
            with use(way):
                return plain(step)

        rate = learning_rate or self.schedule
        return train(self.model, self.optimizer, gradients_at, steps, rate, start)

    def train(self, steps, **options):
        return list(self.updates(steps, **options))

    def val_loss(self):
        return evaluate(self.model, examples_of(self.model, VAL))


# What every Python computes, to nine digits: the losses of five steps, then the validation loss.
# A change here changes what people get from the same seed: the first numbers of a model, the order
# of its batches, a gradient or an update. If it was meant, `-k golden -vv` shows the new ones.
GOLDEN = {
    "mlp": [
        2.749622088599,
        2.676480143143,
        2.678410163301,
        2.654013932787,
        2.636520471255,
        2.62762601951,
    ],
    "attention": [
        2.730238849463,
        2.706489632001,
        2.667691755929,
        2.733543208076,
        2.568312433409,
        2.64238648532,
    ],
    "modern": [
        3.015410781596,
        2.712794735556,
        2.617269791685,
        2.752507591545,
        2.564776496123,
        2.674236952885,
    ],
    "modern_untied": [
        2.935042295556,
        2.750993934464,
        2.757893580205,
        2.55284707413,
        2.564632610557,
        2.434914771395,
    ],
}


def test_golden_losses(build):
    run = Run(build)
    losses = [update.loss for update in run.train(5)] + [run.val_loss()]
    assert losses == approx(GOLDEN[build.__name__], rel=1e-9)


def test_training_lowers_the_loss(build):
    run = Run(build)
    before = evaluate(run.model, examples_of(run.model, TRAIN))
    run.train(60, learning_rate=lambda step: run.peak)
    assert evaluate(run.model, examples_of(run.model, TRAIN)) < before - 0.3


def test_the_same_seed_gives_the_same_bits(build_rung):
    one, two = Run(build_rung), Run(build_rung)
    assert one.train(4) == two.train(4)
    assert one.model.parameters == two.model.parameters
    assert one.train(4) != Run(build_rung, seed=1).train(4)


@pytest.mark.parametrize("part", [1, 3, 5])
def test_a_run_in_two_parts_is_the_whole_run_to_the_bit(build, part):
    whole, parts = Run(build), Run(build)
    steps = whole.train(6)
    first = parts.train(part)
    again = Run(build)
    again.model, again.optimizer = deepcopy(parts.model), deepcopy(parts.optimizer)
    assert first + again.train(6, start=part) == steps
    assert again.model.parameters == whole.model.parameters


def test_each_step_says_what_it_did(build_rung):
    run = Run(build_rung)
    untrained = deepcopy(run.model)
    updates = run.train(5)
    assert [update.step for update in updates] == [1, 2, 3, 4, 5]
    assert [update.learning_rate for update in updates] == [run.schedule(step) for step in range(5)]
    contexts, targets = run.batches.batch(0)
    assert updates[0].loss == cross_entropy(untrained.forward(contexts)[0], targets)[0]
    assert run.optimizer.steps == 5


def test_a_step_is_done_when_it_is_yielded(build_rung):
    run = Run(build_rung)
    before = deepcopy(run.model.parameters)
    loop = run.updates(2)
    assert run.model.parameters == before
    next(loop)
    after_one = deepcopy(run.model.parameters)
    assert after_one != before
    next(loop)
    assert run.model.parameters != after_one
    assert next(loop, None) is None


def test_nothing_is_left_to_do_at_the_end():
    def no_model(*args):
        raise AssertionError("not reached")

    assert list(train(None, None, None, 5, no_model, start=5)) == []


# -------------------------------------------------------------------- with every way to multiply

EVERY_WAY = pytest.mark.parametrize("way", [*WAYS, "auto"])
INEXACT = pytest.mark.parametrize("way", ["distances", "lanes", "short-lanes"])
DIGITS = {"lanes": 1e-6, "short-lanes": 3e-3}


@EVERY_WAY
def test_golden_losses_with_every_way(build, way):
    """Lanes round to about 7 digits, short ones to about 3; all else keeps those of GOLDEN."""
    run = Run(build)
    losses = [update.loss for update in run.train(5, way=way)] + [run.val_loss()]
    assert losses == approx(GOLDEN[build.__name__], rel=DIGITS.get(way, 1e-9))


@pytest.mark.parametrize("way", DIGITS)
def test_the_lanes_are_really_used(build, way):
    exact, rounded = Run(build), Run(build)
    assert exact.train(2) != rounded.train(2, way=way)
    assert exact.model.parameters != rounded.model.parameters


@EVERY_WAY
def test_the_same_seed_gives_the_same_bits_with_every_way(build_rung, way):
    one, two = Run(build_rung), Run(build_rung)
    assert one.train(4, way=way) == two.train(4, way=way)
    assert one.model.parameters == two.model.parameters


@INEXACT
def test_a_run_in_two_parts_is_the_whole_run_to_the_bit_with_every_way(build, way):
    whole, parts = Run(build), Run(build)
    steps = whole.train(5, way=way)
    first = parts.train(2, way=way)
    assert first + parts.train(5, start=2, way=way) == steps
    assert parts.model.parameters == whole.model.parameters


@EVERY_WAY
def test_training_lowers_the_loss_with_every_way(build_rung, way):
    run = Run(build_rung)
    before = evaluate(run.model, examples_of(run.model, TRAIN))
    run.train(25, learning_rate=lambda step: run.peak, way=way)
    assert evaluate(run.model, examples_of(run.model, TRAIN)) < before - 0.2


def test_an_unknown_way_is_refused_before_any_update(build_rung):
    run = Run(build_rung)
    before = deepcopy(run.model.parameters)
    with pytest.raises(ValueError, match="'slow' is no way to multiply here"):
        run.train(2, way="slow")
    assert run.model.parameters == before


@INEXACT
@pytest.mark.parametrize("rate", [1e3, 1e30, 1e100, 1e200, 1e308])
def test_numbers_that_grow_beyond_range_raise_nothing_but_divergence(
    build_rung, way, rate, products
):
    run = Run(build_rung)
    try:
        run.train(12, learning_rate=lambda step: rate, way=way)
    except Diverged as diverged:
        assert re.match(r"step \d+ has a (loss|gradient) of ", str(diverged))
    else:
        assert rate < 1e200
    assert way in products
    matmul([[1.0]], [[1.0]])
    assert products[-1] == EXACT  # the way of before is restored


# ------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
@pytest.mark.parametrize("rate", [1e200, 1e308])
def test_an_absurd_learning_rate_is_reported_as_divergence(build, optimizer, rate):
    run = Run(build, optimizer())
    with pytest.raises(Diverged, match=r"^step \d+ has a loss of (nan|inf)$"):
        run.train(20, learning_rate=lambda step: rate)


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
@pytest.mark.parametrize("rate", [1e3, 1e30, 1e100])
def test_numbers_that_grow_beyond_range_raise_nothing_else(build_rung, optimizer, rate):
    run = Run(build_rung, optimizer())
    before = deepcopy(run.model.parameters)
    try:
        run.train(12, learning_rate=lambda step: rate)
    except Diverged as diverged:
        assert re.match(r"step \d+ has a (loss|gradient) of ", str(diverged))
    assert run.model.parameters != before


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_noticed_before_any_update(build_rung, bad):
    run = Run(build_rung)
    for tensor in run.model.parameters.values():
        if isinstance(tensor[0], list):
            tensor[:] = [[bad] * len(row) for row in tensor]
    before = repr(run.model.parameters)
    with pytest.raises(Diverged, match="step 1 has a loss of nan"):
        run.train(3)
    assert repr(run.model.parameters) == before


class Certain:
    """A model that is sure of token 0, and so infinitely surprised by any other."""

    parameters = {}  # noqa: RUF012

    def forward(self, contexts):
        return [[0.0, -math.inf] for _ in contexts], None

    def backward(self, dlogits, cache):
        return {}


def test_an_infinite_loss_is_divergence_too():
    gradients_at = on_batches(Certain(), Batches(Examples([1] * 9, 4), batch_size=2))
    with pytest.raises(Diverged, match="step 1 has a loss of inf"):
        next(train(Certain(), SGD(), gradients_at, 1, float))


# ------------------------------------------------------------------------------------- evaluation


class Spy:
    """A model that remembers what it was shown."""

    def __init__(self, model):
        self.model = model
        self.config = model.config
        self.targets_per_context = model.targets_per_context
        self.batches = []

    def forward(self, contexts):
        self.batches.append(contexts)
        return self.model.forward(contexts)


def surprise(row, target):
    """-ln of the probability of the target, straight from the definition."""
    return -math.log(math.exp(row[target]) / sum(map(math.exp, row)))


def by_hand(model, ids):
    """The mean loss, each prediction made on its own."""
    total, length = 0.0, model.config.context_length
    for i in range(1, len(ids)):
        # Rungs 1 and 2 see the last tokens, rung 3 its window as far as it goes.
        begin = (i - 1) // length * length if model.predicts_every_token else max(0, i - length)
        total += surprise(model.forward([ids[begin:i]])[0][-1], ids[i])
    return total / (len(ids) - 1)


@pytest.mark.parametrize("length", [2, 6, 7, 8, 13, 40])
def test_evaluate_is_the_mean_over_every_token_but_the_first(build, length):
    model, ids = build(TOKENIZER.vocab_size, C), TRAIN[:length]
    assert evaluate(model, examples_of(model, ids)) == approx(by_hand(model, ids), rel=1e-12)


@pytest.mark.parametrize("context_length", [1, 2])
def test_evaluate_with_the_shortest_contexts(build, context_length):
    model = build(TOKENIZER.vocab_size, context_length)
    assert evaluate(model, examples_of(model, VAL)) == approx(by_hand(model, VAL), rel=1e-12)


@pytest.mark.parametrize("batch_tokens", [1, 7, 12, 1000])
def test_evaluate_does_not_depend_on_how_many_predictions_it_makes_at_a_time(build, batch_tokens):
    spy = Spy(build(TOKENIZER.vocab_size, C))
    examples = examples_of(spy.model, TRAIN)
    assert evaluate(spy, examples, batch_tokens) == approx(evaluate(spy.model, examples), rel=1e-12)
    per_context = spy.targets_per_context
    assert all(len(b) * per_context <= max(batch_tokens, per_context) for b in spy.batches)


def test_evaluate_leaves_the_model_as_it_was(build):
    model = build(TOKENIZER.vocab_size, C)
    before = deepcopy(model.parameters)
    evaluate(model, examples_of(model, VAL))
    assert model.parameters == before


def test_evaluate_of_lines_is_the_mean_over_all_their_tokens(build):
    """Each line on its own: what another line holds changes nothing."""
    model, lines = build(TOKENIZER.vocab_size, C), [TRAIN[:4], TRAIN[4:9], TRAIN[9:10]]

    def loss_of(lines):
        return evaluate(model, Lines(lines, 1).examples(C, model.predicts_every_token))

    alone = [loss_of([line]) for line in lines]
    total = sum(loss * (len(line) + 1) for loss, line in zip(alone, lines))
    assert loss_of(lines) == approx(total / (4 + 5 + 1 + 3), rel=1e-12)
    ids = [1, *lines[0], 1]
    assert alone[0] == approx(evaluate(model, examples_of(model, ids)), rel=1e-12)


def test_training_on_lines_lowers_their_loss(build):
    model = build(TOKENIZER.vocab_size, C)
    words = Lines(map(TOKENIZER.encode, TEXT.split(" ")), separator=TOKENIZER.encode(" ")[0])
    examples = words.examples(C, model.predicts_every_token)
    before = evaluate(model, examples)
    gradients_at = on_batches(model, Batches(examples, 4))
    list(train(model, AdamW(), gradients_at, 60, lambda step: 0.02))
    assert evaluate(model, examples) < before - 0.3


@pytest.mark.parametrize("ids", [[], [1]])
def test_evaluate_wants_something_to_see_and_something_to_predict(build_rung, ids):
    model = build_rung()
    with pytest.raises(ValueError, match="2 tokens or more"):
        evaluate(model, examples_of(model, ids))
