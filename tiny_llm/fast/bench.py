"""What this machine and this Python can do: bare products, and whole training steps beside them.

    shape --time_products--> seconds of each way to multiply
    size  --time_step------> seconds of a training step, and its multiply-adds --> tokens per second

A training step is mostly products, so no step can be faster than its multiply-adds in the fastest
bare product. How near it comes to that is what the rest of the code costs (the idea of a roofline:
Williams, Waterman and Patterson, 2009). Nothing here decides anything: which way `auto` takes is
written down in `products.fastest`.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Callable, NamedTuple

from tiny_llm.fast import products
from tiny_llm.fast.packed import pack
from tiny_llm.matmul import Matrix, Rows
from tiny_llm.modern_block import ModernConfig, ModernLanguageModel
from tiny_llm.optimizers import AdamW
from tiny_llm.training import loss_and_gradients

Shape = tuple[int, int, int]  # N, K, M of a product N x K times K x M


class Size(NamedTuple):
    """A model of rung 3 and the batch that it learns from in one step."""

    name: str
    config: ModernConfig
    sequences: int

    @property
    def tokens(self) -> int:
        """How many tokens a step learns from: every sequence is as long as the context."""
        return self.sequences * self.config.context_length

    @property
    def main_product(self) -> Shape:
        """Its largest product, into the feed-forward network: N x D times D x 4D."""
        return self.tokens, self.config.d_model, 4 * self.config.d_model


SIZES = (
    Size("micro", ModernConfig(27, 8, 16, n_heads=4, n_layers=1), 1),
    Size("medium", ModernConfig(65, 32, 48, n_heads=4, n_layers=2), 4),
    Size("small", ModernConfig(65, 64, 128, n_heads=4, n_layers=4), 12),
)
PACKED = "int8, packed"
ATTENTION_PRODUCT = (64, 32, 64)  # queries with keys in one head of `small`


class Effort(NamedTuple):
    """What to measure, and for how long."""

    sizes: tuple[Size, ...]
    seconds: float  # for each way at each shape
    longest: float  # a way that would need more seconds for one product is left out
    step_seconds: float  # for each size

    @property
    def shapes(self) -> list[Shape]:
        """The products to measure, small ones first.

        On PyPy large ones first: it compiles a loop as it finds it, and after a start with short
        inner loops long ones stay four times as slow.
        """
        shapes = [ATTENTION_PRODUCT, *(size.main_product for size in self.sizes)]
        return sorted(shapes, key=lambda shape: multiply_adds([shape]), reverse=products.PYPY)


FULL = Effort(SIZES, seconds=0.6, longest=2.0, step_seconds=4.0)
QUICK = Effort(SIZES[:2], seconds=0.05, longest=0.2, step_seconds=0.3)


class ProductTimes(NamedTuple):
    """One product in several ways."""

    shape: Shape
    seconds: dict[str, float]  # of each way that was measured: the best of several
    chosen: str  # the way that `auto` takes
    packed: float = 0.0  # seconds with int8 columns that were packed before

    def nanoseconds(self, way: str) -> float:
        """For one multiply-add, in a way or `PACKED`."""
        seconds = self.packed if way == PACKED else self.seconds[way]
        return seconds * 1e9 / multiply_adds([self.shape])

    @property
    def best(self) -> str:
        """The way that was fastest."""
        return min(self.seconds, key=self.seconds.__getitem__)


class StepTime(NamedTuple):
    """One training step: forward, loss, backward, AdamW."""

    size: Size
    multiply_adds: int
    seconds: float  # the best of several
    bare_seconds: float  # of as many multiply-adds in the fastest bare product

    @property
    def nanoseconds(self) -> float:
        """For one multiply-add, with all that stands around it."""
        return self.seconds * 1e9 / self.multiply_adds

    @property
    def tokens_per_second(self) -> float:
        """How fast it learns."""
        return self.size.tokens / self.seconds

    @property
    def share(self) -> float:
        """The part of the step, from 0 to 1, that its bare products would take."""
        return self.bare_seconds / self.seconds


def best_seconds(action: Callable[[], object], seconds: float, least: int = 1) -> float:
    """The shortest of many runs, in seconds: `least` runs, and more until `seconds` have passed.

    The shortest, because all that disturbs a run makes it longer. A compiler such as PyPy's needs
    its first runs to get warm; those are then not the shortest ones.
    """
    shortest, runs, began = float("inf"), 0, time.perf_counter()
    while runs < least or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        action()
        shortest, runs = min(shortest, time.perf_counter() - start), runs + 1
    return shortest


def time_products(
    shapes: Iterable[Shape], seconds: float, longest: float
) -> Iterator[ProductTimes]:
    """Every way at every shape, each for about `seconds`, yielded shape by shape.

    A way is left out at a shape where, as slow as it was at the shape before, one run would take
    more than `longest` seconds; never the one that `auto` takes there.
    """
    speeds: dict[str, float] = {}  # seconds for one multiply-add
    for shape in shapes:
        n, k, m = shape
        chosen = products.fastest(*shape)
        rng = random.Random(0)
        rows = _random_matrix(rng, n, k)
        columns = _random_matrix(rng, m, k)
        times = {}
        for way in products.WAYS:
            if way == chosen or speeds.get(way, 0.0) * n * k * m <= longest:
                times[way] = _time_product(way, rows, columns, seconds)
                speeds[way] = times[way] / (n * k * m)
        yield ProductTimes(shape, times, chosen, _time_product(PACKED, rows, columns, seconds))


def _time_product(way: str, rows: Matrix, columns: Matrix, seconds: float) -> float:
    product: Callable[[], Matrix]
    if way == PACKED:
        product = partial(products.Chosen("auto").matmul_bt, rows, pack(columns, is_table=True))
    else:
        product = partial(products.WAYS[way], rows, columns)
    if products.PYPY:
        best_seconds(product, seconds, least=2)
    return best_seconds(product, seconds)


def _random_matrix(rng: random.Random, rows: int, columns: int) -> Matrix:
    return [[rng.gauss(0.0, 1.0) for _ in range(columns)] for _ in range(rows)]


def time_step(size: Size, product: ProductTimes, seconds: float) -> StepTime:
    """A training step of this size as `tiny-lm train` does it, for about `seconds`.

    It is held against as many multiply-adds in the fastest way of `product`.
    """
    least = 3 if products.PYPY else 1
    shortest = best_seconds(training_step(size), seconds, least)
    count = multiply_adds(step_products(size).elements())
    bare = product.nanoseconds(product.best) * 1e-9 * count
    return StepTime(size, count, shortest, bare)


def training_step(size: Size, way: str = "auto", seed: int = 0) -> Callable[[], float]:
    """A function that makes one step on a batch of random tokens, and returns its loss in nats."""
    model = ModernLanguageModel(size.config, seed)
    optimizer = AdamW()
    contexts, targets = random_batch(size, seed)

    def step() -> float:
        with products.use(way):
            loss, gradients = loss_and_gradients(model, contexts, targets)
        optimizer.update(model.parameters, gradients)
        return loss

    return step


def random_batch(size: Size, seed: int) -> tuple[list[list[int]], list[int]]:
    """Contexts and targets of one step: tokens without any sense."""
    rng = random.Random(seed)
    vocabulary, length = range(size.config.vocab_size), size.config.context_length
    contexts = [rng.choices(vocabulary, k=length) for _ in range(size.sequences)]
    return contexts, rng.choices(vocabulary, k=size.tokens)


def step_products(size: Size) -> Counter[Shape]:
    """The shape of every product of a training step, and how often it occurs."""
    with _counted() as shapes:
        training_step(size, way="counted")()
    return shapes


@contextmanager
def _counted() -> Iterator[Counter[Shape]]:
    """For its time there is a way to multiply that notes the shapes and answers with zeros."""
    shapes: Counter[Shape] = Counter()

    def counted(rows: Rows, columns: Rows) -> Matrix:
        shapes[len(rows), len(columns[0]), len(columns)] += 1
        return [[0.0] * len(columns) for _ in rows]

    products.WAYS["counted"] = counted
    try:
        yield shapes
    finally:
        del products.WAYS["counted"]


def multiply_adds(shapes: Iterable[Shape]) -> int:
    """Of these products together: N K M each."""
    return sum(n * k * m for n, k, m in shapes)
