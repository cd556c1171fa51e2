"""tiny-lm bench: what this machine and this Python can do, and which way of multiplying runs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from typing import Any

from tiny_llm.cli import options as flags
from tiny_llm.fast import bench
from tiny_llm.fast.bench import FULL, PACKED, QUICK, ProductTimes, StepTime
from tiny_llm.fast.products import WAYS
from tiny_llm.view.terminal import BOLD, Style, paint, style_for, tell, wrap

NAME, COLUMN = 13, 16  # wide enough for the name of every way, and for every shape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench`."""
    parser.description = (
        "Measure every way to multiply matrices at several shapes, and training steps "
        "of the modern block in three sizes, on one core. Takes about a minute."
    )
    parser.set_defaults(command=run)
    parser.add_argument("--quick", action="store_true", help="a few seconds: rougher, two sizes")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Measure, and print two tables or one JSON object."""
    effort = QUICK if args.quick else FULL
    products, steps = [], []
    for times in bench.time_products(effort.shapes, effort.seconds, effort.longest):
        products.append(times)
        _progress(f"measured the product {shape_text(times)}", args)
    for size in effort.sizes:
        product = next(times for times in products if times.shape == size.main_product)
        steps.append(bench.time_step(size, product, effort.step_seconds))
        _progress(f"measured a training step of {size.name}", args)
    if args.json:
        print(json.dumps({**machine(), **plain_data(products, steps)}, indent=1))
    else:
        style = style_for(sys.stdout, args.color)
        facts = machine()
        print("{python} on {machine}, {cores} cores, of which one is used\n".format(**facts))
        print("\n".join([*products_table(products, style), "", *steps_table(steps, style)]))
    return 0


def _progress(text: str, args: argparse.Namespace) -> None:
    if not args.quiet:
        tell(text)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": platform.machine() or "a machine without a name",
        "cores": os.cpu_count() or 1,
    }


def shape_text(times: ProductTimes) -> str:
    """N x K x M."""
    return " x ".join(map(str, times.shape))


def products_table(products: list[ProductTimes], style: Style) -> list[str]:
    """Nanoseconds for one multiply-add, a line for each way, a column for each shape."""
    lines = wrap(
        "Bare products, N x K times K x M: nanoseconds for one multiply-add. "
        "* is the way that auto takes there, - was left out because it would take too long.",
        style,
    )
    lines += [
        "",
        "".join([f"{'N x K x M':<{NAME}}", *(f"{shape_text(p):>{COLUMN}}" for p in products)]),
    ]
    for name in [*WAYS, PACKED]:
        cells = [_cell(times, name, style) for times in products]
        lines.append("".join([f"{name:<{NAME}}", *cells]))
    return lines


def _cell(times: ProductTimes, way: str, style: Style) -> str:
    if way not in times.seconds and way != PACKED:
        return f"{'-':>{COLUMN}}"
    mark = "*" if way == times.chosen else ""
    text = f"{mark + format(times.nanoseconds(way), '.1f'):>{COLUMN}}"
    return paint(text, BOLD, style) if way == times.best else text


def steps_table(steps: list[StepTime], style: Style) -> list[str]:
    """Each size with its speed, and how near it comes to its bare products."""
    lines = wrap(
        "Training steps of the modern block (forward, loss, backward, AdamW). Bare: the part of "
        "the step that its multiply-adds would take in the fastest bare product of its own size.",
        style,
    )
    lines += ["", f"{'size':<8}{'tokens':>7}{'multiply-adds':>15}{'seconds':>11}{'tokens/s':>11}"
                  f"{'ns each':>9}{'bare':>6}"]  # fmt: skip
    for step in steps:
        lines.append(
            f"{step.size.name:<8}{step.size.tokens:>7}{step.multiply_adds:>15,}"
            f"{step.seconds:>11.4f}{step.tokens_per_second:>11,.0f}"
            f"{step.nanoseconds:>9.1f}{step.share:>6.0%}"
        )
    return lines


def plain_data(products: list[ProductTimes], steps: list[StepTime]) -> dict[str, Any]:
    """The results for a program: dicts, lists and numbers, times in seconds or nanoseconds."""
    return {
        "products": [
            {
                "shape": list(times.shape),
                "nanoseconds": {way: times.nanoseconds(way) for way in [*times.seconds, PACKED]},
                "auto": times.chosen,
            }
            for times in products
        ],
        "steps": [
            {
                "size": step.size.name,
                "tokens": step.size.tokens,
                "multiply_adds": step.multiply_adds,
                "seconds": step.seconds,
                "bare_seconds": step.bare_seconds,
                "tokens_per_second": step.tokens_per_second,
            }
            for step in steps
        ],
    }
