"""An order that is computed, not stored: every number once, and as random as a shuffled list."""

import random
from array import array
from collections import Counter

import pytest

from tiny_llm import Batches, Examples, Windows
from tiny_llm.text.orders import Shuffled

KINDS = {"one target": Examples, "a target for every token": Windows}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
C = 4


@pytest.mark.parametrize("size", [*range(1, 300), 1000, 4096, 4097])
def test_an_order_holds_every_number_once(size):
    order = Shuffled(size, random.Random(size))
    assert sorted(order[index] for index in range(size)) == list(range(size))


def as_list(size, seed):
    order = Shuffled(size, random.Random(seed))
    return [order[index] for index in range(size)]


def test_small_orders_are_all_about_as_frequent():
    """Chi-squared over the first two numbers: about 1 for each degree of freedom if random."""
    for size in (2, 3, 4, 5, 7, 10):
        pairs = Counter(tuple(as_list(size, seed)[:2]) for seed in range(3000))
        possible = size * (size - 1)
        expected = 3000 / possible
        excess = sum((count - expected) ** 2 for count in pairs.values()) / expected
        excess += (possible - len(pairs)) * expected
        assert excess / max(1, possible - 1) < 4, size


@pytest.mark.parametrize("seed", range(5))
def test_a_large_order_looks_shuffled(seed):
    size = 10_000
    order = as_list(size, seed)
    steps = [b - a for a, b in zip(order, order[1:])]
    assert sum(number == index for index, number in enumerate(order)) < 8  # about 1
    assert sum(abs(step) == 1 for step in steps) < 12  # about 2
    assert sum(map(abs, steps)) / len(steps) == pytest.approx(size / 3, rel=0.03)
    assert Counter(steps).most_common(1)[0][1] < 15
    early = sum(number < size // 2 for number in order[: size // 2])
    assert early == pytest.approx(size / 4, rel=0.05)


def test_another_seed_gives_another_order_of_many():
    assert len({tuple(as_list(50, seed)) for seed in range(100)}) == 100


@each_kind
def test_a_batch_of_a_text_that_no_memory_could_hold(kind):
    """A list of the examples, or of a pass, would need terabytes, and a pass through it hours."""
    batches = Batches(kind(range(10**12), C), batch_size=8, seed=0, order=Shuffled)
    steps = [0, 1, 10**6, batches.steps_per_pass - 1, 10**10]
    contexts = [context for step in steps for context in batches.batch(step)[0]]
    assert max(context[-1] for context in contexts) > 10**11
    for context in contexts:
        assert context == list(range(context[0], context[0] + C))


@each_kind
def test_ids_may_lie_in_a_memoryview(kind):
    ids = [number % 7 for number in range(100)]
    in_list = Batches(kind(ids, C), 3, seed=1, order=Shuffled)
    in_view = Batches(kind(memoryview(array("H", ids)), C), 3, seed=1, order=Shuffled)
    for step in range(2 * in_list.steps_per_pass):
        contexts, targets = in_view.batch(step)
        assert (contexts, targets) == in_list.batch(step)
        assert type(targets) is list
        assert all(type(context) is list for context in contexts)
