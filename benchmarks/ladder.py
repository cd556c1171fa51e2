"""Measure what README.md claims, and write it there.

    python3 benchmarks/ladder.py             measure, write ladder.json, put it in README.md
    python3 benchmarks/ladder.py --render    put the ladder.json of before in README.md again

Runs the commands that README.md shows, as a user would, in an empty folder. A test renders
ladder.json and compares the result with README.md, so the page cannot drift from what was measured.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "ladder.json"
README = ROOT / "README.md"
RUNGS = {
    "mlp": "MLPLanguageModel",
    "attention": "AttentionLanguageModel",
    "modern": "ModernLanguageModel",
}
SEEDS = range(10)


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


def measure() -> dict[str, object]:
    """All figures and listings."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    results: dict[str, object] = {"python": python, "rungs": {}, "listings": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in RUNGS:
            flags = [] if model == "mlp" else ["--model", model, "--show-attention"]
            began = time.monotonic()
            results["listings"][model] = listing(folder, "train", *flags)
            seconds = time.monotonic() - began
            results["rungs"][model] = {
                **figures(results["listings"][model]["output"], seconds),
                **corpus_words(folder, model),
            }
            print(model, results["rungs"][model], file=sys.stderr)
        results["listings"]["gradcheck"] = listing(folder, "gradcheck", "--model", "mlp")
        results["equal_time"] = equal_time(folder, results["rungs"]["mlp"])
    return results


EQUAL_TIME = ["--model", "modern", "--steps", "400"]


def equal_time(folder: Path, mlp: dict[str, float]) -> dict[str, object]:
    """Rung 3 in no more time than rung 1's default run takes."""
    began = time.monotonic()
    entry = listing(folder, "train", *EQUAL_TIME, "--out", "equal.safetensors")
    return {
        "command": entry["command"].replace(" --out equal.safetensors", ""),
        "modern": figures(entry["output"], time.monotonic() - began),
        "mlp": {key: mlp[key] for key in ("best_val_loss", "final_val_loss", "seconds")},
    }


def sections(results: dict) -> dict[str, str]:
    """The parts of README.md that hold measured figures or listings, by name."""
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


def ladder_table(results: dict) -> str:
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
        f"Measured with {results['python']} on one core. Losses are in nats per character; before "
        f"training it is {first:.2f}, and counting pairs costs {counting:.3f}. Real words: how "
        f"many words of a 200-character sample at temperature 0.8 are words of the corpus, on "
        f"average over {len(SEEDS)} seeds.",
    ]
    return "\n".join(lines)


def equal_time_text(results: dict) -> str:
    """Rung 3 against rung 1 in the same time."""
    entry = results["equal_time"]
    mlp, modern = entry["mlp"], entry["modern"]
    return (
        f"In the time of rung 1's default run ({mlp['seconds']:.1f} s, best validation loss "
        f"{mlp['best_val_loss']:.3f}, last {mlp['final_val_loss']:.3f}), rung 3 reaches "
        f"{modern['best_val_loss']:.3f}, last {modern['final_val_loss']:.3f}, in "
        f"{modern['seconds']:.1f} s with `{entry['command']}`."
    )


def rendered(readme: str, results: dict) -> str:
    """README.md with its sections between `<!-- begin NAME -->` and `<!-- end NAME -->` renewed."""
    for name, text in sections(results).items():
        begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
        before, rest = readme.split(begin)
        readme = before + begin + text + end + rest.split(end.lstrip("\n"), 1)[1]
    return readme


def main() -> None:
    """Measure unless told not to, and renew README.md."""
    if "--render" not in sys.argv:
        RESULTS.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    results = json.loads(RESULTS.read_text("utf-8"))
    README.write_text(rendered(README.read_text("utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
