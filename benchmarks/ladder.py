"""Measure what README.md and docs/ claim of the three rungs, and write it there.

    python3 benchmarks/ladder.py             measure, write ladder.json, put it in the pages
    python3 benchmarks/ladder.py --render    put the ladder.json of before in the pages again

Runs the commands that README.md shows, as a user would, in an empty folder. A test renders
ladder.json and compares the result with the pages, so they cannot drift from what was measured.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.pages import write  # noqa: E402

RESULTS = ROOT / "benchmarks" / "ladder.json"
RUNGS = {
    "mlp": "MLPLanguageModel",
    "attention": "AttentionLanguageModel",
    "modern": "ModernLanguageModel",
}
SEEDS = range(10)

Results = dict[str, Any]


def tiny_lm(folder: Path, *words: str, mixed: bool = False) -> str:
    """The standard output of a command, typed in `folder`; `mixed` with what it says beside it."""
    done = subprocess.run(
        [sys.executable, "-m", "tiny_llm", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if mixed else subprocess.DEVNULL,
        check=True,
    )
    return done.stdout.decode("utf-8")


def listing(folder: Path, *words: str) -> dict[str, str]:
    """A command as one types it, and what it prints."""
    return {
        "command": " ".join(["python3 -m tiny_llm", *words]),
        "output": tiny_lm(folder, *words, mixed=True).rstrip(),
    }


def used() -> float:
    """Seconds that the commands so far had a core for, whatever else the machine did."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def figures(output: str, seconds: float) -> dict[str, float]:
    """What a training run says of itself."""
    losses = re.findall(r"val loss (\S+)", output)
    best = re.search(r"best validation loss (\S+) at step (\d+)", output)
    parameters = re.search(r"([\d,]+) parameters", output)
    counting = re.search(r"counting pairs (\S+)", output)
    first = re.search(r"first loss (\S+):", output)
    assert best and parameters and counting and first, output
    return {
        "parameters": int(parameters[1].replace(",", "")),
        "first_loss": float(first[1]),
        "best_val_loss": float(best[1]),
        "final_val_loss": float(losses[-1]),
        "counting_pairs": float(counting[1]),
        "seconds": round(seconds, 1),
    }


def corpus_words(folder: Path, model: str) -> dict[str, float]:
    """How many words of a 200-character sample are words of the corpus, over ten seeds."""
    known = set(re.findall("[a-z]+", (ROOT / "corpus.txt").read_text("utf-8").lower()))
    shares, different = [], []
    for seed in SEEDS:
        checkpoint = f"runs/{model}.safetensors"
        text = tiny_lm(folder, "generate", "--checkpoint", checkpoint, "--seed", str(seed))
        words = re.findall("[a-z]+", text.removeprefix("language models ").lower())
        shares.append(sum(word in known for word in words) / len(words))
        different.append(len(known.intersection(words)))
    return {
        "share_mean": round(sum(shares) / len(shares), 2),
        "share_least": round(min(shares), 2),
        "different_least": min(different),
        "share_seed_0": round(shares[0], 2),
        "different_seed_0": different[0],
    }


def measure() -> Results:
    """All figures and listings."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    results: Results = {"python": python, "rungs": {}, "listings": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in RUNGS:
            flags = [] if model == "mlp" else ["--model", model, "--show-attention"]
            began = used()
            results["listings"][model] = listing(folder, "train", *flags)
            seconds = used() - began
            results["rungs"][model] = {
                **figures(results["listings"][model]["output"], seconds),
                **corpus_words(folder, model),
            }
            print(model, results["rungs"][model], file=sys.stderr)
        results["listings"]["gradcheck"] = listing(folder, "gradcheck", "--model", "mlp")
        results["equal_time"] = equal_time(folder)
    return results


# Rung 1 for as long as rung 3's default run takes here: with rung 3's window, and with its own.
EQUAL_TIME = {
    "rung 3's window": ["--context-length", "16", "--repeat", "9"],
    "its own window": ["--repeat", "17"],
}


def equal_time(folder: Path) -> dict[str, Any]:
    """Rung 1 in the time of rung 3."""
    runs = {}
    for name, flags in EQUAL_TIME.items():
        began = used()
        entry = listing(folder, "train", *flags, "--out", "equal.safetensors")
        command = entry["command"].replace(" --out equal.safetensors", "")
        runs[name] = {
            "command": command,
            **figures(entry["output"], used() - began),
        }
    return runs


def sections(results: Results) -> dict[str, str]:
    """The parts of the pages that hold measured figures or listings, by name."""
    listings = results["listings"]
    attention = dict(listings["attention"])
    attention["output"] = (
        "[...]\n\n" + attention["output"].split("\nprompt ", 1)[1].split("\n", 2)[2]
    )
    attention["output"] = attention["output"].split("\n\nsaved ")[0]
    return {
        "train": console(listings["mlp"]),
        "ladder": ladder_table(results),
        "attention": console(attention),
        "gradcheck": console(listings["gradcheck"]),
        "equal-time": equal_time_text(results),
    }


def console(entry: dict[str, str]) -> str:
    """A listing: the command behind a prompt, and what it printed."""
    return f"```console\n$ {entry['command']}\n{entry['output']}\n```"


def ladder_table(results: Results) -> str:
    """The three rungs side by side."""
    lines = [
        "| rung | adds | command | weights | validation loss, best | last | seconds | real words |",
        "|---|---|---|---|---|---|---|---|",
    ]
    adds = {
        "mlp": "embeddings, a hidden layer, an output layer",
        "attention": "positions, query, key and value, a residual path",
        "modern": "all positions at once, heads, LayerNorm, feed-forward, stacked blocks",
    }
    for number, (model, name) in enumerate(RUNGS.items(), 1):
        figure = results["rungs"][model]
        command = "train" if model == "mlp" else f"train --model {model}"
        lines.append(
            f"| {number}: `{name}` | {adds[model]} | `{command}` | {figure['parameters']:,} "
            f"| {figure['best_val_loss']:.3f} | {figure['final_val_loss']:.3f} "
            f"| {figure['seconds']:.0f} | {figure['share_mean']:.0%} |"
        )
    counting = results["rungs"]["mlp"]["counting_pairs"]
    first = results["rungs"]["mlp"]["first_loss"]
    lines += [
        "",
        f"Measured with {results['python']}; seconds are those that the run had a core for. Losses "
        f"are in nats per character; before training it is {first:.2f}, and counting pairs costs "
        f"{counting:.3f}. Real words: how many words of a 200-character sample at temperature 0.7 "
        f"are words of the corpus, on average over {len(SEEDS)} seeds.",
    ]
    return "\n".join(lines)


def equal_time_text(results: Results) -> str:
    """Rung 3 against rung 1 in the same time."""
    modern = results["rungs"]["modern"]
    lines = [
        "| model | best validation loss | last | seconds |",
        "|---|---|---|---|",
        equal_time_row("rung 3, `train --model modern`, 16 characters of context", modern),
    ]
    for name, figure in results["equal_time"].items():
        command = figure["command"].replace("python3 -m tiny_llm ", "")
        lines.append(equal_time_row(f"rung 1, `{command}`, {name}", figure))
    return "\n".join(lines)


def equal_time_row(name: str, figure: dict[str, Any]) -> str:
    """One line of the table."""
    return (
        f"| {name} | {figure['best_val_loss']:.3f} | {figure['final_val_loss']:.3f} "
        f"| {figure['seconds']:.0f} |"
    )


def main() -> None:
    """Measure unless told not to, and renew the pages."""
    if "--render" not in sys.argv:
        RESULTS.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    write(sections(json.loads(RESULTS.read_text("utf-8"))))


if __name__ == "__main__":
    main()
