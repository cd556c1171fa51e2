"""Measure what rounding costs in loss: short lanes in training, int8 weights in reading.

    python3 benchmarks/precision.py rungs                    the three rungs' default runs
    python3 benchmarks/precision.py names names.txt pypy3 0  the names recipe, seed 0; in float64
                                                             by PyPy, which is faster at that
    python3 benchmarks/precision.py int8 MODEL TEXT          a trained model, its weights rounded
    python3 benchmarks/precision.py --render                 what was measured before

Equal seeds mean equal weights to begin with and equal batches, on every Python; only the products
differ. Each adds to precision.json and renews docs/speed.md.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ladder import AT_ONCE, RUNGS, SEEDS, tiny_lm  # noqa: E402
from benchmarks.pages import write  # noqa: E402
from tiny_llm.run.metrics import read_metrics  # noqa: E402

RESULTS = ROOT / "benchmarks" / "precision.json"
NAMES = {"mlp": "rung 1", "attention": "rung 2", "modern": "rung 3", "names": "`names`"}

Results = dict[str, Any]


def last_loss(words: list[str], seed: int, python: str = sys.executable) -> float:
    """The validation loss at the end of a run, in nats per character."""
    with tempfile.TemporaryDirectory() as name:
        command = ["train", *words, "--seed", str(seed), "-n", "0", "--out", "m", "--quiet"]
        tiny_lm(Path(name), *command, python=python)
        records = read_metrics(Path(name) / "m.metrics.jsonl")
    losses = [record["val_loss"] for record in records if record.get("val_loss") is not None]
    return round(float(losses[-1]), 4)


def rungs() -> Results:
    """Each rung with each seed, in short lanes where `auto` takes them, and in float64."""
    results: Results = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for rung in RUNGS:
            for way in "float64", "auto":
                words = ["--model", rung, "--matmul", way]
                losses = list(pool.map(partial(last_loss, words), SEEDS))
                results.setdefault(rung, {})[way] = losses
                print(rung, way, losses, file=sys.stderr, flush=True)
    return results


def names(text: str, exact_python: str, *seeds: str) -> Results:
    """The recipe with these seeds, the same way."""
    words = ["--recipe", "names", "--data", str(Path(text).resolve()), "--workers", "2", "--matmul"]
    results: Results = {"float64": [], "auto": []}
    for seed in map(int, seeds):
        for way, python in ("float64", exact_python), ("auto", sys.executable):
            results[way].append(last_loss([*words, way], seed, python))
            print("names", seed, way, results[way][-1], file=sys.stderr, flush=True)
    return {"names": results}


def int8(model: str, text: str) -> Results:
    """What `eval --int8` says of a model on a text that it has not learned from."""
    words = [sys.executable, "-m", "tiny_llm", "eval", "-c", model, "--data", text, "--int8"]
    table = subprocess.run(words, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    rows = re.findall(r"^\S+?(, not rounded)? +([\d,]+) +([\d.]+)", table, re.MULTILINE)
    losses = {bool(exact): float(loss) for exact, _, loss in rows}
    figures = {"rounded": losses[False], "exact": losses[True], "tokens": rows[0][1]}
    return {"int8": {"model": Path(model).stem, **figures}}


def section(results: Results) -> str:
    """The table, and a sentence about int8."""
    lines = ["| run | float64 | short lanes | difference |", "|---|---|---|---|"]
    for name, losses in results.items():
        if name in NAMES:
            pairs = list(zip(losses["float64"], losses["auto"]))
            exact, rounded, away = (
                ", ".join(map("{:.3f}".format, values))
                for values in (losses["float64"], losses["auto"], [b - a for a, b in pairs])
            )
            lines.append(f"| {NAMES[name]} | {exact} | {rounded} | {away} |")
    lines += [
        "",
        "The validation loss at the end of a run, in nats per character, with seed 0, 1 and so on.",
    ]
    if "int8" in results:
        measured = results["int8"]
        lines[-1] += (
            f" With its weights as int8, the model of `{measured['model']}` has a loss of "
            f"{measured['rounded']:.3f} on {measured['tokens']} held-out characters, instead of "
            f"{measured['exact']:.3f}."
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for, and renew the page."""
    what, *rest = sys.argv[1:] or ["--render"]
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if what != "--render":
        results.update({"rungs": rungs, "names": names, "int8": int8}[what](*rest))
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write({"precision": section(results)})


if __name__ == "__main__":
    main()
