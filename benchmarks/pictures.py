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
sys.path.insert(0, str(ROOT))

from benchmarks.terminal_picture import terminal_svg  # noqa: E402

DOCS = ROOT / "docs"
RUNGS = ("mlp", "attention", "modern")
PICTURES = {
    "curves.svg": ["plot", *(f"runs/{rung}.metrics.jsonl" for rung in RUNGS)],
    "attention.svg": ["attention", "runs/modern.safetensors", "--prompt", "language models "],
}
TRACE = [
    "trace",
    "--full",
    "--model",
    "attention",
    "--prompt",
    "language models ",
    "--color",
    "always",
]


def tiny_lm(folder: Path, *words: str) -> str:
    """A command, typed in `folder`, and what it prints."""
    print("tiny-lm", *words, file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "tiny_llm", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout.decode("utf-8")


def draw(folder: Path) -> None:
    """All pictures, from the runs in `folder`."""
    for name, words in PICTURES.items():
        tiny_lm(folder, *words, "--svg", str(DOCS / name))
    picture = terminal_svg(tiny_lm(folder, *TRACE), "tiny-lm trace")
    (DOCS / "trace.svg").write_text(picture, "utf-8")


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
