"""Measure what README.md claims of the three rungs, and write it there.

    python3 benchmarks/ladder.py             measure, write ladder.json, put it in the pages
    python3 benchmarks/ladder.py --render    put the ladder.json of before in the pages again

Runs the commands that README.md shows, as a user would, each in an empty folder. A test renders
ladder.json and compares the result with the pages, so they cannot drift from what was measured.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.pages import write  # noqa: E402
from tiny_llm import cross_entropy  # noqa: E402
from tiny_llm.batches import split  # noqa: E402
from tiny_llm.run.saved import load_run  # noqa: E402
from tiny_llm.text.tasks import TASKS  # noqa: E402

RESULTS = ROOT / "benchmarks" / "ladder.json"
RUNGS = {
    "mlp": "MLPLanguageModel",
    "attention": "AttentionLanguageModel",
    "modern": "ModernLanguageModel",
}
SEEDS = range(3)  # of the runs
SAMPLES = range(10)  # of one of them
SHORT = ["--context-length", "6", "--lr", "0.3"]  # the window that suits rung 1 best
AT_ONCE = 2  # commands

Results = dict[str, Any]


class Done(NamedTuple):
    """A command that has run: all it printed, and the seconds that it had a core for."""

    output: str
    seconds: float


def tiny_lm(folder: Path, *words: str, mixed: bool = True, python: str = sys.executable) -> Done:
    """The output of a command, typed in `folder`; `mixed` with what it says beside its result."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [python, "-m", "tiny_llm", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
            stdout=output,
            stderr=subprocess.STDOUT if mixed else subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        output.seek(0)
        text = output.read().decode("utf-8")
    if status:
        raise RuntimeError(f"{' '.join(words)} ended with {status}:\n{text}")
    return Done(text.rstrip(), usage.ru_utime + usage.ru_stime)


def listing(words: list[str], output: str) -> dict[str, str]:
    """A command as one types it, and what it prints."""
    return {"command": " ".join(["python3 -m tiny_llm", *words]), "output": output}


def full_window_loss(checkpoint: Path) -> float:
    """The mean loss on the held-out text, each character predicted from as many before it as the
    window holds: nats. (Rung 3's loss in training is a mean over all positions of its windows, and
    the first ones have seen little.)"""
    run = load_run(checkpoint)
    ids = run.tokenizer.encode((ROOT / "corpus.txt").read_text("utf-8"))
    window, begin = run.model.config.context_length, len(split(ids, run.options.val_fraction)[0])
    total = 0.0
    for at in range(begin, len(ids)):
        logits, _ = run.model.forward([ids[at - window : at]])
        total += cross_entropy(logits[-1:], [ids[at]])[0]
    return total / (len(ids) - begin)


def corpus_words(folder: Path, checkpoint: str) -> float:
    """The share of words of 200-character samples that are words of the corpus."""
    known = set(re.findall("[a-z]+", (ROOT / "corpus.txt").read_text("utf-8").lower()))
    shares = []
    for seed in SAMPLES:
        words = ["generate", "--checkpoint", checkpoint, "--seed", str(seed)]
        text = tiny_lm(folder, *words, mixed=False).output
        found = re.findall("[a-z]+", text.removeprefix("language models ").lower())
        shares.append(sum(word in known for word in found) / len(found))
    return round(sum(shares) / len(shares), 3)


def trained(model: str, seed: int, more: list[str]) -> dict[str, Any]:
    """What a training run on the built-in text comes to, and what it printed."""
    words = ["train", *(["--model", model] if model != "mlp" else []), *more]
    words += ["--show-attention"] if model != "mlp" else []
    words += ["--seed", str(seed)] if seed else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = tiny_lm(folder, *words)
        last, best = (f"runs/{model}{end}.safetensors" for end in ("", ".best"))
        checkpoint = best if (folder / best).exists() else last
        parameters = re.search(r"([\d,]+) parameters", done.output)
        printed = re.search(r"best validation loss (\S+) at step", done.output)
        counting = re.search(r"counting pairs (\S+)", done.output)
        assert parameters and printed and counting, done.output
        result = {
            "listing": listing(words, done.output),
            "parameters": int(parameters[1].replace(",", "")),
            "printed_loss": float(printed[1]),
            "counting_pairs": float(counting[1]),
            "full_window_loss": round(full_window_loss(folder / checkpoint), 4),
            "seconds": round(done.seconds, 1),
            "real_words": corpus_words(folder, last),
        }
    print(words, {k: v for k, v in result.items() if k != "listing"}, file=sys.stderr, flush=True)
    return result


def solved(task: str, model: str, seed: int) -> dict[str, Any]:
    """How many held-out cases of a task a rung gets right, and how long it took to learn."""
    words = ["train", "--task", task, "--model", model, "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as name:
        done = tiny_lm(Path(name), *words)
    right = re.search(r"([\d.]+)% right", done.output)
    assert right, done.output
    result = {"right": float(right[1]), "seconds": round(done.seconds, 1)}
    print(words, result, file=sys.stderr, flush=True)
    return result


def measure() -> Results:
    """All figures and listings."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    with ThreadPoolExecutor(AT_ONCE) as pool:
        rungs = {m: [pool.submit(trained, m, seed, []) for seed in SEEDS] for m in RUNGS}
        short = [pool.submit(trained, "mlp", seed, SHORT) for seed in SEEDS]
        tasks = {
            task: {m: [pool.submit(solved, task, m, seed) for seed in SEEDS] for m in RUNGS}
            for task in TASKS
        }
    words = ["gradcheck", "--model", "mlp"]
    listings = {m: runs[0].result()["listing"] for m, runs in rungs.items()}
    listings["gradcheck"] = listing(words, tiny_lm(ROOT, *words).output)
    return {
        "python": python,
        "rungs": {m: [_figures(run.result()) for run in runs] for m, runs in rungs.items()},
        "short": [_figures(run.result()) for run in short],
        "tasks": {
            task: {m: [run.result() for run in runs] for m, runs in models.items()}
            for task, models in tasks.items()
        },
        "listings": listings,
    }


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "listing"}


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
        "tasks": task_table(results),
        "attention": console(attention),
        "gradcheck": console(listings["gradcheck"]),
    }


def console(entry: dict[str, str]) -> str:
    """A listing: the command behind a prompt, and what it printed."""
    return f"```console\n$ {entry['command']}\n{entry['output']}\n```"


def values_of(runs: list[dict[str, Any]], name: str) -> list[float]:
    """A figure of each run."""
    return [run[name] for run in runs]


def spread(values: list[float], form: str) -> str:
    """The mean of several runs, and the least and the greatest of them."""
    mean, low, high = (
        format(v, form) for v in (sum(values) / len(values), min(values), max(values))
    )
    return f"{mean} ({low} to {high})"


def ladder_table(results: Results) -> str:
    """The three rungs side by side."""
    lines = [
        "| rung | adds | command | weights | loss | seconds | real words |",
        "|---|---|---|---|---|---|---|",
    ]
    adds = {
        "mlp": "embeddings, a hidden layer, an output layer",
        "attention": "attention in place of the fixed window: query, key, value, positions",
        "modern": "all positions at once, heads, LayerNorm, feed-forward, stacked blocks",
    }
    for number, (model, name) in enumerate(RUNGS.items(), 1):
        runs = results["rungs"][model]
        command = "train" if model == "mlp" else f"train --model {model}"
        words = values_of(runs, "real_words")
        lines.append(
            f"| {number}: `{name}` | {adds[model]} | `{command}` | {runs[0]['parameters']:,} "
            f"| {spread(values_of(runs, 'full_window_loss'), '.2f')} "
            f"| {max(values_of(runs, 'seconds')):.0f} | {sum(words) / len(words):.0%} |"
        )
    modern, short = results["rungs"]["modern"], results["short"]
    printed = values_of(modern, "printed_loss")
    lines += [
        "",
        f"All three see the last 16 characters. Mean of {len(SEEDS)} seeds, and the least and the "
        f"greatest; in nats per held-out character, each predicted from the 16 before it. Counting "
        f"pairs costs {modern[0]['counting_pairs']:.2f}. (While it trains, a run says a little "
        f"more, because its first held-out characters have less before them; rung 3 says "
        f"{sum(printed) / len(printed):.2f}, a mean over all positions of its windows, where the "
        f"first have seen little.) Real words: how many words of 200-character samples at "
        f"temperature 0.7 are words of the corpus, over {len(SAMPLES)} samples of each. Seconds: "
        f"the most that {results['python']} had a core for.",
        "",
        f"A fixed network wants a short window: `train {' '.join(SHORT)}` makes rung 1 reach "
        f"{spread(values_of(short, 'full_window_loss'), '.2f')}. With every place more it has more "
        f"weights to learn from the same text. Attention makes a longer window pay.",
    ]
    return "\n".join(lines)


def task_table(results: Results) -> str:
    """What each rung can that the one below it cannot."""
    heads = " | ".join(f"rung {number}" for number in range(1, len(RUNGS) + 1))
    lines = [f"| `train --task` | what is asked | {heads} |", "|---|---|---|---|---|"]
    slowest = 0.0
    for task, models in results["tasks"].items():
        cells = [spread(values_of(runs, "right"), ".0f") for runs in models.values()]
        slowest = max(slowest, *(max(values_of(runs, "seconds")) for runs in models.values()))
        lines.append(f"| `{task}` | {TASKS[task].about} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Per cent of what was asked in new cases: mean of {len(SEEDS)} seeds, and the least and "
        f"the greatest. No run took more than {slowest:.0f} seconds of a core.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure unless told not to, and renew the pages."""
    if "--render" not in sys.argv:
        RESULTS.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    write(sections(json.loads(RESULTS.read_text("utf-8"))))


if __name__ == "__main__":
    main()
