"""Train the two large recipes as a user would, and write what they gave into docs/training.md.

    python3 benchmarks/recipes.py shakespeare tinyshakespeare.txt   train, evaluate, sample
    python3 benchmarks/recipes.py names names.txt                   train, evaluate, 200 new names
    python3 benchmarks/recipes.py speed tinyshakespeare.txt         50 steps of shakespeare, and how
                                                                    long the whole would then take
    python3 benchmarks/recipes.py --render                          the page from what was measured

Each adds to recipes.json what it measured with the Python that runs it. The two texts are not part
of this repository; docs/training.md says where they are. `shakespeare` takes half an hour on PyPy.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ladder import tiny_lm  # noqa: E402
from benchmarks.pages import write  # noqa: E402
from benchmarks.performance import python_name  # noqa: E402
from tiny_llm.run.metrics import read_metrics  # noqa: E402

RESULTS = ROOT / "benchmarks" / "recipes.json"
WORKERS = "2"
SPEED_STEPS = 50

Figures = dict[str, Any]


def train(folder: Path, recipe: str, text: Path, *flags: str) -> Figures:
    """Run a recipe: seconds, weights and the checkpoint's name."""
    began = time.monotonic()
    words = ["train", "--recipe", recipe, "--data", str(text), "--workers", WORKERS, *flags]
    output = tiny_lm(folder, *words).output
    parameters = re.search(r"([\d,]+) parameters", output)
    assert parameters, output
    return {
        "python": python_name(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": round(time.monotonic() - began),
        "parameters": int(parameters[1].replace(",", "")),
    }


def held_out_loss(folder: Path, recipe: str, text: Path) -> float:
    """What `eval` says of the whole held-out part, in nats per character."""
    checkpoint = f"runs/{recipe}.safetensors"
    table = tiny_lm(folder, "eval", "--checkpoint", checkpoint, "--data", str(text)).output
    row = re.search(r"^validation part +[\d,]+ +([\d.]+)", table, re.MULTILINE)
    assert row, table
    return float(row[1])


def shakespeare(folder: Path, text: Path) -> Figures:
    """The whole recipe, its loss on all of the held-out part, and a sample of 500 characters."""
    measured = train(folder, "shakespeare", text, "--max-new-tokens", "0")
    words = ["generate", "-c", "runs/shakespeare.safetensors", "--prompt", "ROMEO:", "-n", "494"]
    return {
        **measured,
        "val_loss": held_out_loss(folder, "shakespeare", text),
        "sample": tiny_lm(folder, *words, "--temperature", "0.8", "--quiet").output.rstrip("\n"),
    }


def names(folder: Path, text: Path) -> Figures:
    """The whole recipe, its loss on the names held out, and how many of 200 names are new."""
    measured = train(folder, "names", text, "--max-new-tokens", "0")
    words = [
        "generate",
        "-c",
        "runs/names.safetensors",
        "--prompt",
        "\n",
        "--stop",
        "\n",
        "--quiet",
    ]
    words += ["--num-samples", "200", "--temperature", "1", "--max-new-tokens", "20"]
    made = tiny_lm(folder, *words).output.split()
    every = text.read_text("utf-8").split()
    known = {name for place, name in enumerate(every) if place % 10 != 9}
    return {
        **measured,
        "val_loss": held_out_loss(folder, "names", text),
        "made": len(made),
        "unique": len(set(made)),
        "new": sum(name not in known for name in made),
        "examples": [name for name in made if name not in known][:12],
    }


def speed(folder: Path, text: Path) -> Figures:
    """The median second per step of the first 50 of `shakespeare`, and of the whole run from it."""
    flags = ["--stop-after", str(SPEED_STEPS), "--eval-every", "2000"]
    measured = train(folder, "shakespeare", text, *flags)
    records = read_metrics(folder / "runs" / "shakespeare.metrics.jsonl")
    step = statistics.median(r["tokens"] / r["tokens_per_second"] for r in records)
    return {**measured, "seconds_per_step": round(step, 2), "hours": round(step * 2000 / 3600, 1)}


def sections(results: dict[str, Figures]) -> dict[str, str]:
    """The parts of the pages that these figures fill, by name."""
    lines = [
        "| recipe | weights | held-out loss, nats per character | minutes | with |",
        "|---|---|---|---|---|",
    ]
    for recipe in ("shakespeare", "names"):
        run = results[recipe]
        lines.append(
            f"| `{recipe}` | {run['parameters']:,} | {run['val_loss']:.3f} "
            f"| {run['seconds'] / 60:.0f} | {run['python']}, {WORKERS} workers |"
        )
    slow, made = results["speed"], results["names"]
    lines += [
        "",
        f"On {slow['python']} a step of `shakespeare` took {slow['seconds_per_step']} s (the "
        f"median of {SPEED_STEPS}), so all of it would take {slow['hours']} hours. Of "
        f"{made['made']} names that the other model made, {made['unique']} were different and "
        f"{made['new']} new, that is, not among those that it had learned from: "
        f"{', '.join(made['examples'])}.",
    ]
    return {
        "recipes": "\n".join(lines),
        "shakespeare": f"```text\n{results['shakespeare']['sample']}\n```",
    }


def main() -> None:
    """Measure unless told not to, and renew the pages."""
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if sys.argv[1:] != ["--render"]:
        name, text = sys.argv[1], Path(sys.argv[2]).resolve()
        measure = {"shakespeare": shakespeare, "names": names, "speed": speed}[name]
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(Path(folder), text)
        print(json.dumps(results[name], indent=1))
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if {"shakespeare", "names", "speed"} <= results.keys():
        write(sections(results))


if __name__ == "__main__":
    main()
