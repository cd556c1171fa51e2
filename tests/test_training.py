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
    Lines,
    cross_entropy,
    evaluate,
    split,
    train,
)
from tiny_llm.matmul import WAYS, matmul, use
from tiny_llm.modern_block import ModernLanguageModel
from tiny_llm.training import Diverged

TEXT = "the cat sat on the mat. the dog sat on the log. the cat saw the dog."
TOKENIZER = CharTokenizer.from_text(TEXT)
TRAIN, VAL = split(TOKENIZER.encode(TEXT), 0.2)
C = 6


class Run:
    """A tiny training run, whole or in parts."""

    def __init__(self, build, optimizer=None, seed=0):
        self.model = build(TOKENIZER.vocab_size, C, seed)
        modern = isinstance(self.model, ModernLanguageModel)
        self.optimizer = optimizer or (AdamW() if modern else SGD())
        self.peak = 0.02 if modern else 0.2
        self.batches = Batches(TRAIN, C, self.model.targets_per_context, 4, seed)

    def schedule(self, step):
        return self.peak / (1 + step)

    def train(self, steps, start=0, eval_every=2, learning_rate=None, way="float64"):
        rate = learning_rate or self.schedule
        args = (self.model, self.optimizer, self.batches, VAL, steps, rate, eval_every)
        return list(train(*args, start=start, matmul=way))


# What every Python computes, to nine digits: the losses of five steps, then the validation loss.
# A change here changes what people get from the same seed: the first numbers of a model, the order
# of its batches, a gradient or an update. If it was meant, `-k golden -vv` shows the new ones.
GOLDEN = {
    "mlp": [
        2.703456531405,
        2.63582881562,
        2.679799079523,
        2.678084916089,
        2.634771899503,
        2.636317580597,
    ],
    "attention": [
        2.600563087241,
        2.556512999014,
        2.565142303513,
        2.705337124469,
        2.491363906667,
        2.543730608416,
    ],
    "modern": [
        2.830873101098,
        2.989106649004,
        2.937284244011,
        2.728471860402,
        2.772234074372,
        2.73597641935,
    ],
    "modern_untied": [
        2.83479626826,
        2.560547282744,
        2.748076215757,
        2.659883362478,
        2.677860875852,
        2.585472265681,
    ],
}


def test_golden_losses(build):
    steps = Run(build).train(5)
    losses = [step.loss for step in steps] + [steps[-1].val_loss]
    assert losses == approx(GOLDEN[build.__name__], rel=1e-9)


def test_training_lowers_the_loss(build):
    run = Run(build)
    before = evaluate(run.model, TRAIN)
    run.train(60, learning_rate=lambda step: run.peak)
    assert evaluate(run.model, TRAIN) < before - 0.3


def test_the_same_seed_gives_the_same_bits(build_rung):
    one, two = Run(build_rung), Run(build_rung)
    assert one.train(4) == two.train(4)
    assert one.model.parameters == two.model.parameters
    assert one.train(4) != Run(build_rung, seed=1).train(4)


@pytest.mark.parametrize("part", [1, 3, 5])
def test_a_run_in_two_parts_is_the_whole_run_to_the_bit(build, part):
    whole, parts = Run(build), Run(build)
    steps = whole.train(6, eval_every=1)
    first = parts.train(part, eval_every=1)
    again = Run(build)
    again.model, again.optimizer = deepcopy(parts.model), deepcopy(parts.optimizer)
    assert first + again.train(6, start=part, eval_every=1) == steps
    assert again.model.parameters == whole.model.parameters


def test_each_step_says_what_it_did(build_rung):
    run = Run(build_rung)
    untrained = deepcopy(run.model)
    steps = run.train(5, eval_every=2)
    assert [step.number for step in steps] == [1, 2, 3, 4, 5]
    assert [step.learning_rate for step in steps] == [run.schedule(step) for step in range(5)]
    assert [step.tokens for step in steps] == [len(run.batches.batch(step)[1]) for step in range(5)]
    assert [step.val_loss is None for step in steps] == [True, False, True, False, False]
    assert steps[-1].val_loss == evaluate(run.model, VAL)
    contexts, targets = run.batches.batch(0)
    assert steps[0].loss == cross_entropy(untrained.forward(contexts)[0], targets)[0]
    assert run.optimizer.steps == 5


def test_a_step_is_done_when_it_is_yielded(build_rung):
    run = Run(build_rung)
    before = deepcopy(run.model.parameters)
    loop = train(run.model, run.optimizer, run.batches, VAL, 2, run.schedule, 10)
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

    assert list(train(None, None, None, VAL, 5, no_model, 1, start=5)) == []


# -------------------------------------------------------------------- with every way to multiply

EVERY_WAY = pytest.mark.parametrize("way", [*WAYS, "auto"])
INEXACT = pytest.mark.parametrize("way", ["distances", "lanes"])


@EVERY_WAY
def test_golden_losses_with_every_way(build, way):
    """The lanes round like float32, to about 7 digits; all else keeps the digits of GOLDEN."""
    steps = Run(build).train(5, way=way)
    losses = [step.loss for step in steps] + [steps[-1].val_loss]
    assert losses == approx(GOLDEN[build.__name__], rel=1e-6 if way == "lanes" else 1e-9)


def test_the_lanes_are_really_used(build):
    exact, rounded = Run(build), Run(build)
    assert exact.train(2) != rounded.train(2, way="lanes")
    assert exact.model.parameters != rounded.model.parameters


@EVERY_WAY
def test_the_same_seed_gives_the_same_bits_with_every_way(build_rung, way):
    one, two = Run(build_rung), Run(build_rung)
    assert one.train(4, way=way) == two.train(4, way=way)
    assert one.model.parameters == two.model.parameters


@INEXACT
def test_a_run_in_two_parts_is_the_whole_run_to_the_bit_with_every_way(build, way):
    whole, parts = Run(build), Run(build)
    steps = whole.train(5, eval_every=1, way=way)
    first = parts.train(2, eval_every=1, way=way)
    assert first + parts.train(5, start=2, eval_every=1, way=way) == steps
    assert parts.model.parameters == whole.model.parameters


@EVERY_WAY
def test_training_lowers_the_loss_with_every_way(build_rung, way):
    run = Run(build_rung)
    before = evaluate(run.model, TRAIN)
    run.train(25, learning_rate=lambda step: run.peak, way=way)
    assert evaluate(run.model, TRAIN) < before - 0.2


@pytest.mark.parametrize("way", ["loops", "unrolled", "distances", "lanes"])
def test_only_the_steps_go_that_way_not_evaluation_nor_what_happens_between(
    build_rung, way, products
):
    run = Run(build_rung)
    args = (run.model, run.optimizer, run.batches, VAL, 2, run.schedule, 2)
    loop = train(*args, matmul=way)
    next(loop)
    assert set(products) == {way}
    del products[:]
    evaluate(run.model, VAL)
    assert set(products) == {"float64"}
    evaluation = len(products)
    del products[:]
    next(loop)  # the last step, and so followed by an evaluation
    assert set(products[:-evaluation]) == {way}
    assert set(products[-evaluation:]) == {"float64"}


def test_a_validation_loss_is_that_of_float64_to_the_bit(build):
    run = Run(build)
    steps = run.train(2, way="lanes")
    assert steps[-1].val_loss == evaluate(run.model, VAL)
    with use("lanes"):
        assert steps[-1].val_loss != evaluate(run.model, VAL)


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
        run.train(12, eval_every=1, learning_rate=lambda step: rate, way=way)
    except Diverged as diverged:
        assert re.match(r"the (loss|gradient) of step \d+ ", str(diverged))
    else:
        assert rate < 1e200
    assert way in products
    matmul([[1.0]], [[1.0]])
    assert products[-1] == "float64"  # the way of before is restored


# ------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
@pytest.mark.parametrize("rate", [1e200, 1e308])
def test_an_absurd_learning_rate_is_reported_as_divergence(build, optimizer, rate):
    run = Run(build, optimizer())
    with pytest.raises(Diverged, match=r"^the loss of step \d+ is (nan|inf)$"):
        run.train(20, eval_every=1, learning_rate=lambda step: rate)


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
@pytest.mark.parametrize("rate", [1e3, 1e30, 1e100])
def test_numbers_that_grow_beyond_range_raise_nothing_else(build_rung, optimizer, rate):
    run = Run(build_rung, optimizer())
    before = deepcopy(run.model.parameters)
    try:
        run.train(12, eval_every=1, learning_rate=lambda step: rate)
    except Diverged as diverged:
        assert re.match(r"the (loss|gradient) of step \d+ ", str(diverged))
    assert run.model.parameters != before


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_noticed_before_any_update(build_rung, bad):
    run = Run(build_rung)
    for tensor in run.model.parameters.values():
        if isinstance(tensor[0], list):
            tensor[:] = [[bad] * len(row) for row in tensor]
    before = repr(run.model.parameters)
    with pytest.raises(Diverged, match="the loss of step 1 is nan"):
        run.train(3)
    assert repr(run.model.parameters) == before


class Certain:
    """A model that is sure of token 0, and so infinitely surprised by any other."""

    targets_per_context = 1

    def forward(self, contexts):
        return [[0.0, -math.inf] for _ in contexts], None


def test_an_infinite_loss_is_divergence_too():
    batches = Batches([1] * 9, 4, 1, batch_size=2, seed=0)
    with pytest.raises(Diverged, match="the loss of step 1 is inf"):
        next(train(Certain(), SGD(), batches, VAL, 1, float, 1))


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
        begin = max(0, i - length) if model.targets_per_context == 1 else (i - 1) // length * length
        total += surprise(model.forward([ids[begin:i]])[0][-1], ids[i])
    return total / (len(ids) - 1)


@pytest.mark.parametrize("length", [2, 6, 7, 8, 13, 40])
def test_evaluate_is_the_mean_over_every_token_but_the_first(build, length):
    model, ids = build(TOKENIZER.vocab_size, C), TRAIN[:length]
    assert evaluate(model, ids) == approx(by_hand(model, ids), rel=1e-12)


@pytest.mark.parametrize("context_length", [1, 2])
def test_evaluate_with_the_shortest_contexts(build, context_length):
    model = build(TOKENIZER.vocab_size, context_length)
    assert evaluate(model, VAL) == approx(by_hand(model, VAL), rel=1e-12)


@pytest.mark.parametrize("batch_tokens", [1, 7, 12, 1000])
def test_evaluate_does_not_depend_on_how_many_predictions_it_makes_at_a_time(build, batch_tokens):
    spy = Spy(build(TOKENIZER.vocab_size, C))
    assert evaluate(spy, TRAIN, batch_tokens) == approx(evaluate(spy.model, TRAIN), rel=1e-12)
    per_context = spy.targets_per_context
    assert all(len(b) * per_context <= max(batch_tokens, per_context) for b in spy.batches)


def test_evaluate_leaves_the_model_as_it_was(build):
    model = build(TOKENIZER.vocab_size, C)
    before = deepcopy(model.parameters)
    evaluate(model, VAL)
    assert model.parameters == before


def test_evaluate_of_lines_is_the_mean_over_all_their_tokens(build):
    """Each line on its own: what another line holds changes nothing."""
    model, lines = build(TOKENIZER.vocab_size, C), [TRAIN[:4], TRAIN[4:9], TRAIN[9:10]]
    alone = [evaluate(model, Lines([line], separator=1)) for line in lines]
    total = sum(loss * (len(line) + 1) for loss, line in zip(alone, lines))
    assert evaluate(model, Lines(lines, separator=1)) == approx(total / (4 + 5 + 1 + 3), rel=1e-12)
    assert alone[0] == approx(evaluate(model, [1, *lines[0], 1]), rel=1e-12)


def test_training_on_lines_lowers_their_loss(build):
    model = build(TOKENIZER.vocab_size, C)
    words = Lines(map(TOKENIZER.encode, TEXT.split(" ")), separator=TOKENIZER.encode(" ")[0])
    batches = Batches(words, C, model.targets_per_context, 4, seed=0)
    before = evaluate(model, words)
    *_, last = train(model, AdamW(), batches, words, 60, lambda step: 0.02, 60)
    assert last.val_loss == evaluate(model, words) < before - 0.3


@pytest.mark.parametrize("ids", [[], [1]])
def test_evaluate_wants_something_to_see_and_something_to_predict(build_rung, ids):
    with pytest.raises(ValueError, match="2 tokens or more"):
        evaluate(build_rung(), ids)
