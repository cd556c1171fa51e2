"""Measure what it means to share a model, and write it into docs/serving.md.

    python3 benchmarks/serving.py              adds to serving.json, with the Python that runs it
    python3 benchmarks/serving.py --render     the page from what was measured

A model of the size of the recipe `shakespeare` with random weights: eight texts one after the
other in one process, and the same eight at once, in turns within one run, for the median of the
ratios. Then a request that comes while seven others write: how long until its first token, as a
multiple of the time that it takes alone, and by how many steps one with a long prompt delays the
next token of the others.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Union

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.pages import write  # noqa: E402
from benchmarks.performance import python_name  # noqa: E402
from tiny_llm import ModernConfig, ModernLanguageModel, Sampling  # noqa: E402
from tiny_llm.fast.packed import quantize  # noqa: E402
from tiny_llm.serve.batch import Batch, Heard, Text, Wish  # noqa: E402
from tiny_llm.serve.replicas import Replicas  # noqa: E402

RESULTS = ROOT / "benchmarks" / "serving.json"
SIZES = {"vocab_size": 65, "context_length": 64, "d_model": 128, "n_heads": 4, "n_layers": 4}
TEXTS, TOKENS, TURNS = 8, 24, 3
PROMPT, LONG = 16, 60  # tokens of a prompt
BEFORE = 8  # tokens of each that writes before another comes
AnyBatch = Union[Batch, Replicas]
WAYS = {
    "nested lists": (False, 1),
    "int8 weights": (True, 1),
    "nested lists, 2 workers": (False, 2),
    "int8 weights, 2 workers": (True, 2),
}


def wishes(most: int = TOKENS) -> list[Wish]:
    """Eight requests."""
    rng = random.Random(0)
    prompts = [[rng.randrange(65) for _ in range(PROMPT)] for _ in range(TEXTS)]
    return [Wish(ids, most, Sampling(), seed) for seed, ids in enumerate(prompts)]


class Clock(SimpleQueue):  # type: ignore[type-arg]
    """Takes events, and notes when each came."""

    def put(self, event: Any, *_: Any) -> None:
        """As a queue has it."""
        super().put((time.perf_counter(), event))


@contextmanager
def running(batch: AnyBatch) -> Iterator[AnyBatch]:
    """The batch, with a thread that runs it."""
    thread = threading.Thread(target=batch.run, daemon=True)
    thread.start()
    try:
        yield batch
    finally:
        batch.close()
        thread.join()


def seconds(batch: AnyBatch, at_once: int) -> float:
    """The time that all of them take, so many at once."""
    queue, later, left = Clock(), wishes(), TEXTS
    began = time.perf_counter()
    batch.submit([later.pop(0) for _ in range(at_once)], queue)
    while left:
        _, (_, event) = queue.get()
        if not isinstance(event, Heard):
            left -= 1
            if later:
                batch.submit([later.pop(0)], queue)
    return time.perf_counter() - began


class Newcomer(NamedTuple):
    """What a request means that comes while others write, in seconds."""

    first: float  # until its first token
    step: float  # from one token of the others to the next, before it came
    longest: float  # the same while its prompt was read


def newcomer(batch: AnyBatch, others: int, prompt: int) -> Newcomer:
    """One with a prompt of so many tokens."""
    watched, queue = Clock(), Clock()
    texts = [*batch.submit(wishes(10**6)[:others], watched)]
    before = times_of(watched, BEFORE) if others else []
    time.sleep(random.random() / 100)  # somewhere in a step
    began = time.perf_counter()
    texts += batch.submit([Wish([1] * prompt, 2, seed=0)], queue)
    ended = queue.get()[0]
    after = times_of(watched, 1, ended) if others else []
    for text in texts:
        text.cancel()
    if not others:
        return Newcomer(ended - began, 0.0, 0.0)
    steps = [b - a for a, b in zip(before[1:], before[2:])]
    every = [*before, *after]
    gaps = [b - a for a, b in zip(every, every[1:]) if b > began]
    return Newcomer(ended - began, statistics.median(steps), max(gaps))


def times_of(watched: Clock, count: int, until: float = 0.0) -> list[float]:
    """When the first of those who write got its tokens: so many, and up to the first behind a
    moment."""
    found: list[float] = []
    while len(found) < count or found[-1] <= until:
        when, (number, _) = watched.get()
        if number == 0:
            found.append(when)
    return found


def measured(packed: bool, processes: int) -> dict[str, Any]:
    """All figures of one way."""
    model = ModernLanguageModel(ModernConfig(**SIZES), seed=0)
    if packed:
        quantize(model)
    single = Batch(model, TEXTS, TEXTS)
    several = Replicas(processes, model, TEXTS, TEXTS, None) if processes > 1 else None
    other = running(several) if several else nullcontext(single)
    with several or nullcontext(), running(single), other as batch:
        for one in (single, batch):
            seconds(one, TEXTS)  # to warm up
        ratios, speeds, firsts, delays = [], [], [], []
        for _ in range(TURNS):
            alone, together = seconds(single, 1), seconds(batch, TEXTS)
            ratios.append(alone / together)
            speeds.append(TEXTS * TOKENS / together)
            nobody = newcomer(batch, 0, PROMPT).first
            found = newcomer(batch, TEXTS - 1, PROMPT)
            firsts.append([found.first / nobody, (found.first - found.step) / nobody])
            found = newcomer(batch, TEXTS - 1, LONG)
            delays.append(found.longest / found.step - 1)
    return {
        "ratio": statistics.median(ratios),
        "tokens_per_second": statistics.median(speeds),
        "first": [statistics.median(column) for column in zip(*firsts)],
        "delay": statistics.median(delays),
    }


class Watched(Batch):
    """A batch that says who has read."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.readers: list[Text] = []

    def _read(self, text: Text, most: int) -> None:
        self.readers.append(text)
        super()._read(text, most)


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
        "against alone | without the step that it found | steps that a long prompt delays others |",
        "|---" * 7 + "|",
    ]
    for python, ways in results.items():
        for way, found in ways.items():
            first, without = found["first"]
            lines.append(
                f"| {python} | {way} | {found['tokens_per_second']:,.0f} | {found['ratio']:.2f} × "
                f"| {first:.1f} × | {without:.1f} × | {found['delay']:.1f} |"
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
