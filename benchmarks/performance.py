"""Measure how fast and how small training is, and write it to docs/measured.md.

    python3 benchmarks/performance.py [PYTHON ...]          measure with this Python or with those
    python3 benchmarks/performance.py --only micro [...]    measure again only some of it
    python3 benchmarks/performance.py --render              put what was measured there again

Every measurement runs in a process of its own, one at a time, and writes to performance.json. What
is compared is measured in the same process, in turn, and several times, so that ratios mean
something on a machine that has other things to do.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.pages import write  # noqa: E402

RESULTS = ROOT / "benchmarks" / "performance.json"

Results = dict[str, Any]
Figures = dict[str, float]


def python_name() -> str:
    """The interpreter that runs this."""
    version = platform.python_version()
    if sys.implementation.name != "pypy":
        return f"CPython {version}"
    release = ".".join(map(str, sys.pypy_version_info[:3]))  # type: ignore[attr-defined]
    return f"PyPy {release} (Python {version})"


# ---------------------------------------------------------------- what one process measures


def micro() -> Figures:
    """A whole step of `micro` against the same step on a graph of single numbers, in seconds.

    Each is the mean of some steps in a row, so that it has its part of what Python's collector of
    cyclic garbage takes; the median of several such rounds, in turn (the best would be one in which
    it happened to rest). That collector hardly sees the models of this package, whose numbers are
    no objects with references; it walks through all of a graph. Hence the yardstick once more
    without it, where it collects between rounds, untimed.
    """
    from benchmarks import autograd
    from tiny_llm import ModernLanguageModel
    from tiny_llm.fast import bench

    size = bench.SIZES[0]
    ours = bench.training_step(size)
    contexts, targets = bench.random_batch(size, seed=0)
    parameters = ModernLanguageModel(size.config, seed=0).parameters
    scalars = autograd.Scalars(size.config, parameters)

    def yardstick() -> float:
        return autograd.training_step(scalars, contexts, targets)

    rounds = 8
    times: dict[str, list[float]] = {"step": [], "autograd": [], "autograd_no_gc": []}
    for _ in range(rounds):
        times["step"].append(mean_seconds(ours, 200))
        times["autograd"].append(mean_seconds(yardstick, 10))
        gc.collect()
        gc.disable()
        times["autograd_no_gc"].append(mean_seconds(yardstick, 3))
        gc.enable()
        gc.collect()
    return {name: statistics.median(values) for name, values in times.items()}


def mean_seconds(action: Callable[[], object], runs: int) -> float:
    """Of one of so many runs in a row."""
    start = time.perf_counter()
    for _ in range(runs):
        action()
    return (time.perf_counter() - start) / runs


def small() -> Figures:
    """A whole step of `small`, in three ways, and what its products alone would take, in seconds.

    `bare`: all its multiply-adds at the speed of the fastest way at its largest product, N x D
    times D x 4D. `bare_shapes`: each of its products, as often as it occurs, in the fastest way at
    its own shape. Both on random numbers, transposed beforehand, in the same process as the step.
    """
    from tiny_llm.fast import bench

    size = bench.SIZES[-1]
    shapes = bench.step_products(size)
    step, exact = bench.training_step(size), bench.training_step(size, "float64")
    longer = bench.training_step(size, "lanes")
    rounds = 6 if sys.implementation.name == "pypy" else 3
    seconds, long_seconds, best = [], [], dict.fromkeys(shapes, float("inf"))
    for _ in range(rounds):
        for times in bench.time_products(sorted(shapes), seconds=0.0, longest=0.6):
            best[times.shape] = min(best[times.shape], *times.seconds.values())
        seconds.append(mean_seconds(step, 1))
        long_seconds.append(mean_seconds(longer, 1))
    count = bench.multiply_adds(shapes.elements())
    largest = size.main_product
    return {
        "step": min(seconds),
        "step_in_long_lanes": min(long_seconds),
        "step_in_float64": mean_seconds(exact, 1),
        "tokens": size.tokens,
        "multiply_adds": count,
        "bare": count * best[largest] / bench.multiply_adds([largest]),
        "bare_shapes": sum(best[shape] * times for shape, times in shapes.items()),
    }


def ways() -> Figures:
    """Nanoseconds for one multiply-add at the largest product of `small`, in every way."""
    from tiny_llm.fast import bench

    shape = bench.SIZES[-1].main_product
    (times,) = bench.time_products([shape], seconds=4.0, longest=60.0)
    return {way: times.nanoseconds(way) for way in [*times.seconds, bench.PACKED]}


def memory() -> Figures:
    """The most memory that a process had which made two steps of `small`, in bytes."""
    import resource

    from tiny_llm.fast import bench

    step = bench.training_step(bench.SIZES[-1])
    step()
    step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak": peak * (1 if sys.platform == "darwin" else 1024)}


def workers() -> Figures:
    """A step of `small` by one process and by two, in seconds."""
    from tiny_llm import AdamW, ModernLanguageModel
    from tiny_llm.fast import bench
    from tiny_llm.fast.workers import Workers

    size = bench.SIZES[-1]
    contexts, targets = bench.random_batch(size, seed=0)
    model, optimizer = ModernLanguageModel(size.config, seed=0), AdamW()

    def seconds(count: int) -> float:
        with Workers(model, count, "auto") as group:
            return bench.best_seconds(
                lambda: optimizer.update(model.parameters, group.gradients(contexts, targets)[1]),
                seconds=10.0,
                least=2,
            )

    return {"1": seconds(1), "2": seconds(2)}


def generation() -> Figures:
    """Seconds for a token with the KV cache, with int8 weights, and when all is computed anew."""
    from random import Random

    from benchmarks.generation import CONFIG, PROMPT, continued, recomputing, with_cache
    from tiny_llm import ModernLanguageModel
    from tiny_llm.fast.packed import quantize

    model, rng = ModernLanguageModel(CONFIG, seed=0), Random(0)
    prompt = [rng.randrange(CONFIG.vocab_size) for _ in range(PROMPT)]
    continued(model, prompt, 20, use_cache=True)
    continued(model, prompt, 2, use_cache=False)
    cached, tokens = with_cache(model, prompt)
    seconds = {"cached": cached, "recomputing": recomputing(model, prompt, tokens, every=20)}
    quantize(model)
    continued(model, prompt, 20, use_cache=True)
    seconds["int8"], _ = with_cache(model, prompt)
    return seconds


def drawing() -> Figures:
    """Seconds to draw a token from a vocabulary of 50,000, whose logits deviate by 3."""
    from random import Random

    from tiny_llm import Sampling
    from tiny_llm.fast import bench

    rng = Random(0)
    logits = [rng.gauss(0.0, 3.0) for _ in range(50_000)]
    ways = {"all": Sampling(), "top_k": Sampling(top_k=40), "top_p": Sampling(top_p=0.95)}
    return {
        name: bench.best_seconds(partial(way.draw, logits, rng), 1.0) for name, way in ways.items()
    }


def startup() -> Figures:
    """Seconds until Python has ended that did nothing, imported the package, printed its help."""
    commands = {
        "bare": ["-c", "pass"],
        "import": ["-c", "import tiny_llm"],
        "help": ["-m", "tiny_llm", "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(15):
        for name, words in commands.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


MEASUREMENTS: dict[str, Callable[[], Figures]] = {
    function.__name__: function
    for function in (micro, small, ways, memory, workers, generation, drawing, startup)
}

# ---------------------------------------------------------------- all of them


def measure(pythons: list[str], names: list[str], results: Results) -> Results:
    """`results` with these measurements renewed, for each of these interpreters."""
    results["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    for python in pythons:
        for name in names:
            answer = json.loads(child(python, name))
            figures = results.setdefault("pythons", {}).setdefault(answer["python"], {})
            figures[name] = answer["figures"]
            print(answer["python"], name, answer["figures"], file=sys.stderr, flush=True)
    return results


def child(python: str, name: str) -> str:
    """What a measurement prints in a process of its own."""
    done = subprocess.run(
        [python, str(Path(__file__).resolve()), "--child", name],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout.decode("utf-8")


def section(results: Results) -> str:
    """The table: a line for each figure, a column for each interpreter."""
    pythons = results["pythons"]
    lines = ["| | " + " | ".join(pythons) + " |", "|---|" + "---|" * len(pythons)]
    for label, measurement, cell in ROWS:
        cells = [
            cell(figures[measurement]) if measurement in figures else "–"
            for figures in pythons.values()
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", f"Measured on {results['machine']}, one of them used unless it says otherwise."]
    return "\n".join(lines)


WAYS = {
    "loops": "1. plain loops",
    "mapped": "2. mapped",
    "sumprod": "2. sumprod",
    "unrolled": "2. loops for a compiler, unrolled",
    "distances": "3. distances",
    "lanes": "4. lanes of 64 bits",
    "short-lanes": "5. short lanes, 24 bits",
    "int8, packed": "6. int8 weights, packed before",
}


def ways_table(results: Results) -> str:
    """Every way to multiply, as docs/speed.md tells them: nanoseconds for one multiply-add."""
    pythons = results["pythons"]
    lines = ["| | " + " | ".join(pythons) + " |", "|---|" + "---|" * len(pythons)]
    for way, name in WAYS.items():
        cells = [_way(way)(figures["ways"]) for figures in pythons.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _way(name: str) -> Callable[[Figures], str]:
    """A cell with one way's nanoseconds; not every Python has every way."""
    return lambda f: f"{f[name]:.1f}" if name in f else "–"


# What a line says, the measurement that it comes from, and how to write it.
ROWS: list[tuple[str, str, Callable[[Figures], str]]] = [
    ("micro: one step, ms", "micro", lambda f: f"{f['step'] * 1e3:.2f}"),
    ("the same on a graph of single numbers, ms", "micro", lambda f: f"{f['autograd'] * 1e3:.0f}"),
    ("ratio", "micro", lambda f: f"{f['autograd'] / f['step']:.0f}"),
    (
        "ratio, garbage collector of the graph off",
        "micro",
        lambda f: f"{f['autograd_no_gc'] / f['step']:.0f}",
    ),
    ("small: one step, s", "small", lambda f: f"{f['step']:.1f}"),
    (
        "in lanes of 64 bits, s",
        "small",
        lambda f: f"{f['step_in_long_lanes']:.1f}",
    ),
    ("in float64, s", "small", lambda f: f"{f['step_in_float64']:.1f}"),
    ("tokens per second", "small", lambda f: f"{f['tokens'] / f['step']:.0f}"),
    ("ns for one multiply-add", "small", lambda f: f"{f['step'] / f['multiply_adds'] * 1e9:.1f}"),
    ("bare product, ns", "small", lambda f: f"{f['bare'] / f['multiply_adds'] * 1e9:.1f}"),
    ("step / its multiply-adds bare", "small", lambda f: f"{f['step'] / f['bare']:.2f}"),
    ("step / its own products bare", "small", lambda f: f"{f['step'] / f['bare_shapes']:.2f}"),
    ("two workers instead of one: speed", "workers", lambda f: f"x {f['1'] / f['2']:.2f}"),
    ("peak memory, MB", "memory", lambda f: f"{f['peak'] / 1e6:.0f}"),
    (
        "writing with the KV cache, tokens per second",
        "generation",
        lambda f: f"{1 / f['cached']:.0f}",
    ),
    ("the same with int8 weights", "generation", lambda f: f"{1 / f['int8']:.0f}"),
    ("the same, computing all anew", "generation", lambda f: f"{1 / f['recomputing']:.2f}"),
    ("ratio", "generation", lambda f: f"{f['recomputing'] / f['cached']:.0f}"),
    ("a draw from 50,000 tokens, top-k 40, ms", "drawing", lambda f: f"{f['top_k'] * 1e3:.0f}"),
    ("a draw from 50,000 tokens, top-p 0.95, ms", "drawing", lambda f: f"{f['top_p'] * 1e3:.0f}"),
    ("`import tiny_llm`, ms", "startup", lambda f: f"{(f['import'] - f['bare']) * 1e3:.0f}"),
    ("`tiny-lm --help`, ms", "startup", lambda f: f"{(f['help'] - f['bare']) * 1e3:.0f}"),
]


def main() -> None:
    """Measure unless told not to, and renew the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", default=[sys.executable])
    parser.add_argument("--only", choices=MEASUREMENTS, action="append")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--child", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps({"python": python_name(), "figures": MEASUREMENTS[args.child]()}))
        return
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if not args.render:
        measure(args.pythons, args.only or list(MEASUREMENTS), results)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write({"performance": section(results), "ways": ways_table(results)})


if __name__ == "__main__":
    main()
