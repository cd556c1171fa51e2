"""Make the pictures of README.md, by the commands that it shows.

    python3 benchmarks/pictures.py            train the three rungs as by default, draw everything
    python3 benchmarks/pictures.py FOLDER     draw only; FOLDER/runs holds runs trained before

Each picture in docs/ is what one command writes; another one needs a line in PICTURES.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
RUNGS = ("mlp", "attention", "modern")
PICTURES = {
    "curves.svg": ["plot", *(f"runs/{rung}.metrics.jsonl" for rung in RUNGS)],
    "attention.svg": ["attention", "runs/modern.safetensors", "--prompt", "language models "],
    "trace.svg": ["trace", "--model", "attention", "--prompt", "language models "],
}


def tiny_lm(folder: Path, *words: str) -> None:
    """A command, typed in `folder`."""
    print("tiny-lm", *words, file=sys.stderr)
    subprocess.run(
        [sys.executable, "-m", "tiny_llm", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def draw(folder: Path) -> None:
    """All pictures, from the runs in `folder`."""
    for name, words in PICTURES.items():
        tiny_lm(folder, *words, "--svg", str(DOCS / name))


def main() -> None:
    """Train, unless there are runs; draw."""
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]).resolve())
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rung in RUNGS:
            tiny_lm(folder, "train", "--model", rung, "--quiet")
        draw(folder)


if __name__ == "__main__":
    main()
