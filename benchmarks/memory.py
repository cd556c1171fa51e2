"""Measure how little memory corpora take that are far larger than it.

    python3 benchmarks/memory.py [PYTHON]

`train` on a file of 200 MB of token ids against the same training on a tiny file: the anonymous
memory of its process (RssAnon), which leaves out the pages of the file that happen to be loaded.
`prepare` of 100 MB of text: the resident memory of all its processes together, where pages that
they share count once for each. Both are sampled from /proc (Linux) while the command runs; the
highest sample counts. The text is made of 300,000 random words, the frequent ones as frequent as
those of a language (Zipf, 1935), in 40 files.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOKEN_BYTES, TEXT_BYTES, FILES = 200_000_000, 100_000_000, 40
TRAIN_LIMIT, PREPARE_LIMIT = 150, 500  # MB
EVERY = 0.02  # seconds between two samples
RUNGS = ("mlp", "attention", "modern")


def write_texts(folder: Path) -> None:
    """The text, in FILES files."""
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxzéü"
    lengths = range(2, 13)
    words = ["".join(rng.choices(letters, k=rng.choice(lengths))) for _ in range(300_000)]
    words = [word + rng.choice(["", "", "", "", ",", "."]) for word in words]
    weights = list(accumulate(1 / (rank + 2.7) for rank in range(len(words))))
    folder.mkdir()
    for number in range(FILES):
        with (folder / f"{number:02}.txt").open("wb") as file:
            while file.tell() < TEXT_BYTES // FILES:
                line = " ".join(rng.choices(words, cum_weights=weights, k=12))
                file.write(line.encode("utf-8") + b"\n")


def write_ids(path: Path, size: int) -> None:
    """A token file of so many bytes: the same random text again and again."""
    from tiny_llm import CharTokenizer
    from tiny_llm.files.token_file import packed, write_tokens

    rng = random.Random(0)
    tokenizer = CharTokenizer.from_text("abcdefghijklmnopqrstuvwxyz .\n")
    block = packed(rng.choices(range(tokenizer.vocab_size), k=10_000))
    count = size // len(block)
    val = count // 10
    write_tokens(path, [block] * (count - val), [block] * val, tokenizer.state())


def status(process: int, key: str) -> int:
    """One entry of /proc/PROCESS/status in bytes; 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def family(process: int) -> list[int]:
    """The process and all its descendants."""
    members = [process]
    for member in members:
        try:
            for task in Path(f"/proc/{member}/task").iterdir():
                members += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it has just ended
    return members


def peak(python: str, folder: Path, key: str, *words: str) -> tuple[float, float]:
    """The highest sum of this entry over all processes of a command, in MB, and its seconds."""
    start, highest = time.perf_counter(), 0
    command = [python, "-m", "tiny_llm", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None:
            highest = max(highest, sum(status(each, key) for each in family(process.pid)))
            time.sleep(EVERY)
        if process.returncode:
            sys.exit((process.stderr.read() if process.stderr else b"").decode())
    return highest / 1e6, time.perf_counter() - start


def measure(python: str, folder: Path) -> bool:
    """Print every figure; whether all are below their limits."""
    good = True
    write_ids(folder / "large.bin", TOKEN_BYTES)
    write_ids(folder / "tiny.bin", 200_000)
    for rung in RUNGS:
        sizes = [
            peak(python, folder, "RssAnon", "train", "--data", data, "--model", rung, "--steps",
                 "20", "--quiet", "--workers", "1", "--out", f"{rung}.safetensors")[0]
            for data in ("tiny.bin", "large.bin")
        ]  # fmt: skip
        more = sizes[1] - sizes[0]
        good &= more < TRAIN_LIMIT
        print(
            f"train {rung:<10} tiny file {sizes[0]:6.1f} MB   200 MB file {sizes[1]:6.1f} MB   "
            f"more {more:6.1f} MB (limit {TRAIN_LIMIT})",
            flush=True,
        )
    write_texts(folder / "texts")
    for flags in (["--tokenizer", "char"], ["--tokenizer", "bpe", "--vocab-size", "4096"]):
        size, seconds = peak(
            python, folder, "VmRSS", "prepare", "texts", "--workers", "2", "--quiet", *flags
        )
        good &= size < PREPARE_LIMIT
        print(
            f"prepare {' '.join(flags):<36} {size:6.1f} MB (limit {PREPARE_LIMIT}), "
            f"{seconds:.0f} s",
            flush=True,
        )
    return good


def main() -> None:
    """Measure; exit code 1 if a limit is not kept."""
    sys.path.insert(0, str(ROOT))
    python = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if measure(python, Path(folder)) else 1)


if __name__ == "__main__":
    main()
