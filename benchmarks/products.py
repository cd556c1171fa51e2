"""Measure every way to multiply at many shapes: where the constants of `fastest` come from.

    python3 benchmarks/products.py             a few minutes on CPython
    python3 benchmarks/products.py --quick     rougher, in a few seconds

Prints the nanoseconds that one multiply-add takes in each way, a line for each shape N x K times
K x M, and behind it the fastest way and the one that `auto` takes. Then the best rules that could
stand in `fastest`, with what they lose against always knowing the fastest way.
"""

from __future__ import annotations

import itertools
import math
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_llm.fast import bench
from tiny_llm.fast import products as ways
from tiny_llm.fast.bench import ProductTimes

SIDES = (4, 8, 16, 32, 64, 128, 256, 768)  # N and M
INNER = (4, 8, 16, 32, 64, 128, 512)  # K
LARGEST = 2**26  # multiply-adds of one product
SMALL = (0, 4, 8, 16, 32, 64, 128)  # constants to try in `rule`
LANES_FROM = (4, 8, 12, 16, 20, 24, 32, 40, 48, 64)


def grid(quick: bool) -> list[tuple[int, int, int]]:
    """The shapes, small ones first."""
    sides, inner = (SIDES[::2], INNER[::2]) if quick else (SIDES, INNER)
    shapes = [
        (n, k, m)
        for n, k, m in itertools.product(sides, inner, sides)
        if n * k * m <= (LARGEST >> 6 if quick else LARGEST)
    ]
    return sorted(shapes, key=math.prod)


def line(times: ProductTimes) -> str:
    """A row of the table."""
    shape = " x ".join(map(str, times.shape))
    cells = [
        f"{times.nanoseconds(way):>12.1f}" if way in times.seconds else f"{'-':>12}"
        for way in ways.WAYS
    ]
    loss = times.seconds[times.chosen] / times.seconds[times.best]
    note = "" if loss < 1.05 else f" (x {loss:.2f})"
    return f"{shape:<16}{''.join(cells)}  {times.best:<12}{times.chosen}{note}"


def rule(shape: bench.Shape, small: int, lanes_from: int) -> str:
    """The way that `fast/products.py` would take on CPython with these two constants in it."""
    n, k, m = shape
    if n * m >= lanes_from * (n + m):
        return "short-lanes"
    if ways.HAS_SUMPROD and not ways.WASM:
        return "sumprod" if min(n, m) <= small else "distances"
    return "unrolled" if k * min(n, m) <= small else "distances"


def excess(products: list[ProductTimes], small: int, lanes_from: int) -> float:
    """How much longer than the fastest way a rule takes: the mean of log(time / best time).

    A mean of logarithms, because a slow small product is as bad for a small model as a slow large
    one is for a large model.
    """
    logs = []
    for times in products:
        seconds = times.seconds.get(rule(times.shape, small, lanes_from), math.inf)
        logs.append(math.log(seconds / times.seconds[times.best]))
    return sum(logs) / len(logs)


def rules(products: list[ProductTimes]) -> list[str]:
    """The ten best rules, one line each."""
    found = sorted(
        (excess(products, small, high), small, high)
        for small, high in itertools.product(SMALL, LANES_FROM)
    )
    below = "min(n, m)" if ways.HAS_SUMPROD and not ways.WASM else "k * min(n, m)"
    return [
        f"{math.exp(loss) - 1:>6.1%} above the fastest: "
        f"short-lanes where n * m >= {high} * (n + m), "
        f"{ways.fastest(1, 1, 1)} where {below} <= {small}"
        for loss, small, high in found[:10]
    ]


def main() -> None:
    """Measure and print."""
    quick = "--quick" in sys.argv
    print(f"{platform.python_implementation()} {platform.python_version()}\n")
    names = "".join(f"{way:>12}" for way in ways.WAYS)
    print(f"{'N x K x M':<16}{names}  {'fastest':<12}auto")
    seconds, longest = (0.01, 0.1) if quick else (0.03, 1.5)
    products = []
    for times in bench.time_products(grid(quick), seconds, longest):
        products.append(times)
        print(line(times), flush=True)
    if not ways.PYPY:
        print("\n" + "\n".join(rules(products)))


if __name__ == "__main__":
    main()
