"""How fast a run goes on under torchrun, beside plain Python, and the figures of docs/scaling.md.

    python3 benchmarks/scaling.py TEXT PYTHON_WITH_TORCH [PLAIN_PYTHON ...]
    python3 benchmarks/scaling.py --render

TEXT is tinyshakespeare.txt. The recipe `shakespeare`: its first steps in plain Python, on to step
500 under torchrun, then from there in turns: in plain Python by each interpreter with 2 workers,
and under torchrun on 1 and 2 processes, all from the same checkpoint. Medians of tokens per second.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.pages import write  # noqa: E402
from tiny_llm.run.metrics import read_metrics  # noqa: E402

RESULTS = ROOT / "benchmarks" / "scaling.json"
SCRIPT = str(ROOT / "scripts" / "train_torchrun.py")
START, PLAIN_STEPS, TORCH_STEPS = 500, 4, 100
NANOGPT = 2000 * 12 * 64 / 180  # its README: 2,000 such steps in about 3 minutes, on a laptop


def call(folder: Path, *words: str) -> None:
    """A command in the folder. Its output is shown if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 130):
        raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}")


def speed(metrics: Path, first: int) -> float:
    """The median of the steps behind this one, in tokens per second."""
    speeds = [r["tokens_per_second"] for r in read_metrics(metrics) if r["step"] > first + 1]
    return statistics.median(speeds)


def name_of(python: str) -> str:
    """An interpreter, with its version."""
    code = ("import platform as p, sys; print('PyPy ' + '.'.join(map(str, "
            "sys.pypy_version_info[:3])) if p.python_implementation() == 'PyPy' else "
            "'CPython ' + p.python_version())")  # fmt: skip
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def measured(text: str, torch: str, pythons: list[str]) -> dict[str, Any]:
    """Tokens per second by way."""
    with tempfile.TemporaryDirectory() as name:
        folder, tiny_lm = Path(name), (pythons[-1], "-m", "tiny_llm")
        (folder / "tinyshakespeare.txt").write_bytes(Path(text).read_bytes())
        data = ("--data", "tinyshakespeare.txt", "--quiet")
        torchrun = (torch, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
        short = ("-n", "0", "--workers", "2", *data)
        call(folder, *tiny_lm, "train", "--recipe", "shakespeare", "--stop-after", "2", "-o", "a",
             *short)  # fmt: skip
        call(folder, *tiny_lm, "export", "-c", "a", "--to", "torch", "-o", "f", *data)
        call(folder, *torchrun, "2", SCRIPT, "f", "--stop-after", str(START))
        call(folder, *tiny_lm, "import", "f", "-o", "b", "--quiet")
        found: dict[str, Any] = {"loss": read_metrics(folder / "b.metrics.jsonl")[-1]["val_loss"]}
        for python in pythons:
            last = str(START + PLAIN_STEPS)
            call(folder, python, "-m", "tiny_llm", "train", "--resume", "b", "-o", "c",
                 "--stop-after", last, *short)  # fmt: skip
            found[f"{name_of(python)}, 2 workers"] = speed(folder / "c.metrics.jsonl", START)
        for count in (1, 2):
            call(folder, *tiny_lm, "export", "-c", "b", "--to", "torch", "-o", f"g{count}", *data)
            last = str(START + TORCH_STEPS)
            call(folder, *torchrun, str(count), SCRIPT, f"g{count}", "--stop-after", last)
            of = f"PyTorch float32, torchrun with {count} process{'es' * (count > 1)}"
            found[of] = speed(folder / f"g{count}" / "metrics.jsonl", START)
    return found


def sections(found: dict[str, Any]) -> dict[str, str]:
    """The table of the page."""
    ways = {name: value for name, value in found.items() if name != "loss"}
    ways["nanoGPT, by its README, on a laptop's processor"] = NANOGPT
    least = min(ways.values())
    lines = ["| the recipe `shakespeare` | tokens/s | |", "|---|---|---|"]
    lines += [f"| {way} | {value:,.0f} | {value / least:.0f} × |" for way, value in ways.items()]
    lines += ["", f"At step {START} the validation loss was {found['loss']:.3f}."]
    return {"scaling": "\n".join(lines)}


def main() -> None:
    """Measure unless told not to, and renew the page."""
    if sys.argv[1:] != ["--render"]:
        text, torch, *pythons = sys.argv[1:]
        found = measured(str(Path(text).resolve()), torch, pythons or [sys.executable])
        print(json.dumps(found, indent=1))
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write(sections(json.loads(RESULTS.read_text("utf-8"))))


if __name__ == "__main__":
    main()
