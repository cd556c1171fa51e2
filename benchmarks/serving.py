"""Measure what it means to share a model, and write it into docs/serving.md.

    python3 benchmarks/serving.py              adds to serving.json, with the Python that runs it
    python3 benchmarks/serving.py --render     the page from what was measured

A model of the size of the recipe `shakespeare` with random weights: eight texts one after the
other, and the same eight at once, in turns within one run, for the median of the ratios. Then a
request that comes while seven others write: how long until its first token, as a multiple of the
time that it takes alone.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.pages import write  # noqa: E402
from benchmarks.performance import python_name  # noqa: E402
from tiny_llm import ModernConfig, ModernLanguageModel, Sampling  # noqa: E402
from tiny_llm.fast.packed import quantize  # noqa: E402
from tiny_llm.fast.shared import shared  # noqa: E402
from tiny_llm.serve.batch import Batch, Heard, Text, Wish  # noqa: E402

RESULTS = ROOT / "benchmarks" / "serving.json"
SIZES = {"vocab_size": 65, "context_length": 64, "d_model": 128, "n_heads": 4, "n_layers": 4}
TEXTS, TOKENS, TURNS, PROMPT = 8, 24, 3, 16
WAYS = {
    "nested lists": (False, 1),
    "int8 weights": (True, 1),
    "int8 weights, 2 workers": (True, 2),
}


def wishes(most: int = TOKENS) -> list[Wish]:
    """Eight requests."""
    rng = random.Random(0)
    prompts = [[rng.randrange(65) for _ in range(PROMPT)] for _ in range(TEXTS)]
    return [Wish(ids, most, Sampling(), seed) for seed, ids in enumerate(prompts)]


def seconds(model: ModernLanguageModel, at_once: int) -> float:
    """The time that all of them take, so many at once."""
    batch = Batch(model, at_once, TEXTS)
    batch.submit(wishes(), SimpleQueue())
    began = time.perf_counter()
    while batch.running or batch.waiting:
        batch.step()
    return time.perf_counter() - began


def first_token(model: ModernLanguageModel, others: int) -> tuple[float, float]:
    """Seconds until the first token of a newcomer while so many write, and of a step before it."""
    batch, queue = Batch(model, TEXTS, TEXTS), SimpleQueue()  # type: ignore[var-annotated]
    batch.submit(wishes(40)[:others], SimpleQueue())
    for _ in range(others + 2):
        batch.step()
    began = time.perf_counter()
    batch.step()
    step = time.perf_counter() - began
    batch.submit(wishes()[others : others + 1], queue)
    began = time.perf_counter()
    while queue.empty() or not isinstance(queue.get()[1], Heard):
        batch.step()
    return time.perf_counter() - began, step


def measured(packed: bool, workers: int) -> dict[str, Any]:
    """All figures of one way."""
    model = ModernLanguageModel(ModernConfig(**SIZES), seed=0)
    if packed:
        quantize(model)
    with shared(model, workers) if workers > 1 else nullcontext():
        seconds(model, TEXTS)  # to warm up
        ratios, speeds, waits = [], [], []
        for _ in range(TURNS):
            one, together = seconds(model, 1), seconds(model, TEXTS)
            ratios.append(one / together)
            speeds.append(TEXTS * TOKENS / together)
            alone, _ = first_token(model, 0)
            newcomer, step = first_token(model, TEXTS - 1)
            waits.append([newcomer / alone, (newcomer - step) / alone])
    return {
        "ratio": statistics.median(ratios),
        "tokens_per_second": statistics.median(speeds),
        "first": [statistics.median(column) for column in zip(*waits)],
    }


class Watched(Batch):
    """A batch that says who has read."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.readers: list[Text] = []

    def _read(self, text: Text) -> None:
        self.readers.append(text)
        super()._read(text)


def schedule() -> str:
    """Who reads and who writes in each step of a small run: a has come first, b with a long prompt
    behind it, c later."""
    model = ModernLanguageModel(
        ModernConfig(**{**SIZES, "d_model": 4, "n_heads": 1, "n_layers": 1})
    )
    batch = Watched(model, TEXTS, TEXTS)
    coming = {1: ("a", 3, 6), 2: ("b", 50, 3), 6: ("c", 3, 3)}
    texts, rows = {}, {}
    step = 0
    while batch.running or batch.waiting or step < max(coming):
        step += 1
        if step in coming:
            name, length, most = coming[step]
            (texts[name],) = batch.submit([Wish([1] * length, most, seed=0)], SimpleQueue())
            rows[name] = ["   "] * (step - 1)
        before = {name: text.count for name, text in texts.items()}
        batch.readers.clear()
        batch.step()
        for name, text in texts.items():
            marks = "r" * (text in batch.readers) + "w" * (text.count - before[name])
            rows[name].append(marks.rjust(3))
    head = "step " + "".join(f"{number:>3}" for number in range(1, step + 1))
    lines = [f"{name:<5}{''.join(marks)}".rstrip() for name, marks in rows.items()]
    return "\n".join(["```text", head, *lines, "```"])


def section(results: dict[str, Any]) -> str:
    """The table of the page."""
    lines = [
        "| | | tokens/s of 8 at once | against one after the other | first token of a newcomer, "
        "against alone | without the step that it found |",
        "|---" * 6 + "|",
    ]
    for python, ways in results.items():
        for way, found in ways.items():
            first, without = found["first"]
            lines.append(
                f"| {python} | {way} | {found['tokens_per_second']:,.0f} | {found['ratio']:.2f} × "
                f"| {first:.1f} × | {without:.1f} × |"
            )
    return "\n".join(lines)


def sections(results: dict[str, Any]) -> dict[str, str]:
    """The parts of the page, by name."""
    return {"serving": section(results), "schedule": schedule()}


def main() -> None:
    """Measure unless told not to, and renew the page."""
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if sys.argv[1:] != ["--render"]:
        results[python_name()] = {way: measured(*settings) for way, settings in WAYS.items()}
        print(json.dumps(results[python_name()], indent=1))
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write(sections(results))


if __name__ == "__main__":
    main()
