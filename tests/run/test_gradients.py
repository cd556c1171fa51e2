"""The gradients of a real run: of several batches and processes, and what they follow from."""

import gc
import math
import multiprocessing
from contextlib import suppress
from types import SimpleNamespace

import pytest
from pytest import approx
from test_training import TOKENIZER, TRAIN, C, examples_of

from tiny_llm import (
    SGD,
    Batches,
    MLPConfig,
    MLPLanguageModel,
    ModernConfig,
    ModernLanguageModel,
    on_batches,
    train,
)
from tiny_llm.fast.products import EXACT, PYPY, WAYS, use
from tiny_llm.fast.tensors import add_scaled, scaled
from tiny_llm.fast.workers import shares
from tiny_llm.matmul import matmul
from tiny_llm.model import rows_of
from tiny_llm.run.dropout import Drop, Dropped
from tiny_llm.run.gradients import Gradients, gradients_of_batch
from tiny_llm.training import Diverged, loss_and_gradients


@pytest.fixture
def model(build):
    return build(TOKENIZER.vocab_size, C)


@pytest.fixture
def modern():
    return ModernLanguageModel(ModernConfig(TOKENIZER.vocab_size, C, 4, n_heads=2, n_layers=2))


def batches_of(model, size=2, seed=0, ids=TRAIN[:30]):
    return Batches(examples_of(model, ids), size, seed)


def assert_close(ours, reference):
    """To 1e-12, or 1e-12 of the largest: some, such as a key's bias, are nothing but rounding."""
    assert ours.keys() == reference.keys()
    largest = max(abs(v) for tensor in reference.values() for row in rows_of(tensor) for v in row)
    for name, tensor in reference.items():
        for row, expected in zip(rows_of(ours[name]), rows_of(tensor)):
            assert row == approx(expected, rel=1e-12, abs=1e-12 * largest)


def test_without_anything_they_are_those_of_chapter_8_to_the_bit(model):
    batches = batches_of(model)
    gradients, plain = Gradients(model, batches), on_batches(model, batches)
    for step in range(4):
        assert gradients(step) == plain(step)
        assert gradients.predictions == len(batches.batch(step)[1])


# -------------------------------------------------------------------------------- several batches


@pytest.mark.parametrize("step", [0, 1])
def test_several_batches_are_one_in_the_memory_of_one(model, step):
    batches = batches_of(model)
    gradients = Gradients(model, batches, batches_per_step=4)
    loss, mean = gradients(step)
    parts = [batches.batch(4 * step + part) for part in range(4)]
    contexts = [context for part in parts for context in part[0]]
    targets = [target for part in parts for target in part[1]]
    expected_loss, expected = loss_and_gradients(model, contexts, targets)
    assert loss == approx(expected_loss, rel=1e-12)
    assert_close(mean, expected)
    assert gradients.predictions == len(targets)


def test_a_smaller_batch_counts_for_less():
    model = MLPLanguageModel(MLPConfig(TOKENIZER.vocab_size, C, d_embedding=3, d_hidden=4))
    batches = batches_of(model, size=10, ids=TRAIN[:13])  # 12 examples: 10, then 2
    parts = [batches.batch(part) for part in (0, 1)]
    assert [len(targets) for _, targets in parts] == [10, 2]
    losses = [loss_and_gradients(model, *part)[0] for part in parts]
    loss, _ = Gradients(model, batches, batches_per_step=2)(0)
    assert loss == approx((10 * losses[0] + 2 * losses[1]) / 12, rel=1e-12)
    assert loss != approx(sum(losses) / 2, rel=1e-3)


def test_a_loss_that_is_not_finite_ends_the_step_and_the_training(model):
    gradients, asked = Gradients(model, batches_of(model), batches_per_step=4), []
    of_batch = gradients.of_batch

    def spoiled(contexts, targets, seed):
        asked.append(seed)
        loss, slopes = of_batch(contexts, targets, seed)
        return (math.inf if len(asked) == 2 else loss), slopes

    gradients.of_batch = spoiled
    assert gradients(0) == (math.inf, {})
    assert len(asked) == 2
    del asked[:]
    with pytest.raises(Diverged, match="step 1 has a loss of inf"):
        next(train(model, SGD(), gradients, 1, float))


# ---------------------------------------------------------------------------------------- dropout


def test_what_is_random_follows_from_seed_step_and_part_alone(model):
    """These texts are frozen: every run with dropout follows from them."""
    seeds = []

    def noted(contexts, targets, seed):
        seeds.append(seed)
        return loss_and_gradients(model, contexts, targets)

    for batches_per_step in (1, 2):
        gradients = Gradients(model, batches_of(model, seed=5), batches_per_step)
        gradients.of_batch = noted
        gradients(7)
    assert seeds == ["5/7", "5/7/0", "5/7/1"]


def test_numbers_are_dropped_as_the_seed_says(modern):
    batches = batches_of(modern, seed=5)
    dropped = Dropped(modern, Drop(0.4, "5/3"))
    expected = loss_and_gradients(dropped, *batches.batch(3))
    assert Gradients(modern, batches, dropout=0.4)(3) == expected
    assert Gradients(modern, batches, dropout=0.4)(3) == expected
    assert Gradients(modern, batches)(3) != expected
    other = Gradients(modern, batches_of(modern, seed=6), dropout=0.4)
    other.batches.batch = batches.batch  # the same examples, another seed
    assert other(3) != expected


def test_a_seed_alone_drops_nothing(model):
    contexts, targets = batches_of(model).batch(0)
    plain = loss_and_gradients(model, contexts, targets)
    assert gradients_of_batch(model, contexts, targets, "1") == plain


# ---------------------------------------------------------------------------------------- workers


def test_two_processes_compute_what_one_does_and_are_gone_in_the_end(model):
    batches = batches_of(model)
    alone = Gradients(model, batches, batches_per_step=2)
    with Gradients(model, batches, batches_per_step=2, workers=2) as together:
        assert len(multiprocessing.active_children()) == 1
        for step in range(2):
            loss, gradients = together(step)
            expected_loss, expected = alone(step)
            assert loss == approx(expected_loss, rel=1e-12)
            assert_close(gradients, expected)
            assert together.predictions == alone.predictions
    assert multiprocessing.active_children() == []


def test_processes_end_with_whatever_goes_wrong(modern):
    with pytest.raises(ZeroDivisionError), Gradients(modern, batches_of(modern), workers=2):
        raise ZeroDivisionError
    assert multiprocessing.active_children() == []


def test_each_process_drops_numbers_of_its_own(modern):
    """To the last bit, so that no share can have had the seed of another."""
    batches = batches_of(modern, seed=5)
    contexts, targets = batches.batch(2)
    assert len(contexts) == 2  # a share each
    with Gradients(modern, batches, dropout=0.4, workers=2) as together:
        loss, gradients = together(2)
    mean_loss, mean = 0.0, {}
    for number, share in enumerate(shares(contexts, targets, True, 2)):
        dropped = Dropped(modern, Drop(0.4, f"5/2/{number}"))
        part_loss, part = loss_and_gradients(dropped, share.contexts, share.targets)
        mean_loss += share.weight * part_loss
        if number == 0:
            mean = scaled(part, share.weight)
        else:
            add_scaled(mean, part, share.weight)
    assert (loss, gradients) == (mean_loss, mean)


# ----------------------------------------------------------------------------- a way to multiply


@pytest.mark.parametrize("batches_per_step", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_only_the_gradients_go_the_chosen_way(model, way, batches_per_step, products):
    gradients = Gradients(model, batches_of(model), batches_per_step, matmul=way)
    gradients(0)
    assert set(products) == {way}
    matmul([[1.0]], [[1.0]])
    assert products[-1] == EXACT


def test_the_chosen_way_gives_the_numbers_of_that_way(model):
    batches = batches_of(model)
    with use("lanes"):
        expected = loss_and_gradients(model, *batches.batch(0))
    assert Gradients(model, batches, matmul="lanes")(0) == expected
    assert Gradients(model, batches)(0) != expected


def test_an_unknown_way_is_refused(model):
    with pytest.raises(ValueError, match="'abacus' is no way to multiply here"):
        Gradients(model, batches_of(model), matmul="abacus")(0)


# ------------------------------------------------------------------------------ garbage collection


@pytest.fixture
def collector():
    """Whether it is on when a test is over does not depend on the test."""
    yield
    gc.enable()


@pytest.mark.parametrize("before", [True, False])
def test_the_garbage_collector_waits_until_the_gradients_are_there(
    modern, before, collector, monkeypatch
):
    enabled, forward = [], ModernLanguageModel.forward

    def noted(self, contexts):
        enabled.append(gc.isenabled())
        return forward(self, contexts)

    monkeypatch.setattr(ModernLanguageModel, "forward", noted)
    (gc.enable if before else gc.disable)()
    Gradients(modern, batches_of(modern), batches_per_step=2)(0)
    assert enabled == [before and PYPY] * 2  # PyPy's is another, and stays as it is
    assert gc.isenabled() == before


def test_the_garbage_collector_works_again_after_an_error(modern, collector):
    with pytest.raises(ValueError, match="outside the vocabulary"):
        gradients_of_batch(modern, [[999]], [0], "")
    assert gc.isenabled()


def test_no_more_workers_are_started_than_a_batch_has_contexts(monkeypatch):
    started = []
    monkeypatch.setattr("tiny_llm.run.gradients.Workers", lambda model, n, *_: started.append(n))
    for size in 2, 1:
        batches = SimpleNamespace(batch_size=size)
        with suppress(AttributeError):  # there are no gradients to be had
            Gradients(None, batches, workers=60)
    assert started == [2]
