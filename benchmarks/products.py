"""Measure every way to multiply at many shapes: where the constants of `matmul.fastest` come from.

    python3 benchmarks/products.py             a few minutes on CPython
    python3 benchmarks/products.py --quick     rougher, in a few seconds

Prints the nanoseconds that one multiply-add takes in each way, a line for each shape N x K times
K x M, and behind it the fastest way and the one that `auto` takes. Then the best rules that could
stand in `matmul.fastest` (lanes from so many rows and columns on, the float64 way below so many),
with what they lose against always knowing the fastest way.
"""

from __future__ import annotations

import itertools
import math
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_llm import bench, matmul
from tiny_llm.bench import ProductTimes

SIDES = (4, 8, 16, 32, 64, 128, 256, 768)  # N and M
INNER = (4, 8, 16, 32, 64, 128, 512)  # K
LARGEST = 2**26  # multiply-adds of one product
THRESHOLDS = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 10**6)


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
        for way in bench.ways()
    ]
    loss = times.seconds[times.chosen] / times.seconds[times.best]
    note = "" if loss < 1.05 else f" (x {loss:.2f})"
    return f"{shape:<16}{''.join(cells)}  {times.best:<12}{times.chosen}{note}"


def excess(products: list[ProductTimes], float64_below: int, lanes_from: int) -> float:
    """How much longer than the fastest way a rule takes: the mean of log(time / best time).

    The rule: lanes where N and M are `lanes_from` or more, the float64 way where one of them is
    below `float64_below`, else distances. A mean of logarithms, because a slow small product is as
    bad for a small model as a slow large one is for a large model.
    """
    exact = next(way for way in bench.ways() if matmul.WAYS[way] is matmul.float64)
    logs = []
    for times in products:
        side = min(times.shape[0], times.shape[2])
        way = "lanes" if side >= lanes_from else exact if side < float64_below else "distances"
        seconds = times.seconds.get(way, math.inf)  # left out: too slow to be measured
        logs.append(math.log(seconds / times.seconds[times.best]))
    return sum(logs) / len(logs)


def rules(products: list[ProductTimes]) -> list[str]:
    """The ten best rules, one line each."""
    found = sorted(
        (excess(products, low, high), low, high)
        for low, high in itertools.product(THRESHOLDS, repeat=2)
        if low <= high
    )
    never = THRESHOLDS[-1]
    return [
        f"{math.exp(loss) - 1:>6.1%} above the fastest: float64 where N or M "
        f"{'is anything' if low == never else f'< {low}'}, lanes where N and M "
        f"{'are never large enough' if high == never else f'>= {high}'}"
        for loss, low, high in found[:10]
    ]


def main() -> None:
    """Measure and print."""
    quick = "--quick" in sys.argv
    print(f"{platform.python_implementation()} {platform.python_version()}\n")
    names = "".join(f"{way:>12}" for way in bench.ways())
    print(f"{'N x K x M':<16}{names}  {'fastest':<12}auto")
    seconds, longest = (0.01, 0.1) if quick else (0.03, 1.5)
    products = []
    for times in bench.time_products(grid(quick), seconds, longest):
        products.append(times)
        print(line(times), flush=True)
    if not matmul.PYPY:
        print("\n" + "\n".join(rules(products)))


if __name__ == "__main__":
    main()
