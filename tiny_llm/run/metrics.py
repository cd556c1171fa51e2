"""What a run was like, step by step, as a file that any tool can plot: one JSON object a line.

A line is written as soon as its step is done, so a crash loses nothing that was measured. A resumed
run takes away what lies behind its checkpoint, and goes on.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

from tiny_llm.files import atomic
from tiny_llm.run.steps import Step


class Metrics:
    """The open file. Raises OSError when it cannot be written."""

    def __init__(self, path: Path, start: int, before: Optional[Path] = None) -> None:
        """Go on behind step `start` of what stands in `before` (`path` itself); with 0, begin anew.

        What does not stay of an older file, be it of another run, damaged or of steps that come
        again, is in a copy of it, `kept`.
        """
        self.path = path
        lines = _lines_up_to(before or path, start) if start else []
        whole = "".join(line + "\n" for line in lines).encode()
        self.kept: Optional[Path] = None
        if path.exists() and path.read_bytes() not in (b"", whole):
            self.kept = atomic.keep_old(path)
        atomic.replace_file(path, [whole])
        self.file = path.open("a", encoding="utf-8")

    def write(self, step: Step) -> None:
        """One line: losses in nats per token; the two of an evaluation are null between these."""
        record = {
            "step": step.number,
            "loss": step.loss,
            "train_loss": step.train_loss,
            "val_loss": step.val_loss,
            "learning_rate": step.learning_rate,
            "gradient_norm": step.gradient_norm,
            "tokens": step.tokens,
            "tokens_per_second": round(step.tokens / max(step.seconds, 1e-9), 1),
        }
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def close(self) -> None:
        """End it. A line that could not be written was reported when it was tried."""
        with suppress(OSError):
            self.file.close()


def record_of(line: str) -> Optional[dict[str, Any]]:
    """What a line of metrics says; None if it is damaged."""
    try:
        record = json.loads(line)
        return record if isinstance(record["step"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records in the file, without what is damaged. No file: none."""
    with suppress(FileNotFoundError):
        lines = path.read_text("utf-8", errors="replace").splitlines()
        return [record for record in map(record_of, lines) if record]
    return []


def holds_metrics(path: Path) -> bool:
    """Whether the file is empty, or begins with a record."""
    return path.stat().st_size == 0 or bool(read_metrics(path))


def _lines_up_to(path: Path, step: int) -> list[str]:
    return [json.dumps(record) for record in read_metrics(path) if record["step"] <= step]
