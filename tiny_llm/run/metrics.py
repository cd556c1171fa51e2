"""What a run was like, step by step, as a file that any tool can plot: one JSON object a line.

A line is written as soon as its step is done, so a crash loses nothing that was measured. A resumed
run takes away what lies behind its checkpoint, and goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple, Optional

from tiny_llm.files import atomic
from tiny_llm.files.foreign import opened, parsed
from tiny_llm.run.steps import Step

FIELDS = (
    "step",
    "loss",
    "train_loss",
    "val_loss",
    "learning_rate",
    "gradient_norm",
    "tokens",
    "tokens_per_second",
)
MEASURED = (  # of runs that learn preferences, at an evaluation
    "chosen_reward",
    "rejected_reward",
    "margin",
    "accuracy",
    "kl",
    "chosen_loss",
)
LONGEST_LINE = 2**16  # bytes; a record has about 200


class Metrics:
    """The open file. Raises OSError when it cannot be written."""

    def __init__(self, path: Path, start: int, before: Optional[Path] = None) -> None:
        """Go on behind step `start` of what stands in `before` (`path` itself); with 0, begin anew.

        What does not stay of an older file, be it of another run, damaged or of steps that come
        again, is in a copy of it, `kept`.
        """
        self.path = path
        lines = _lines_up_to(before or path, start) if start else iter(())
        whole = "".join(line + "\n" for line in lines).encode()
        self.kept: Optional[Path] = None
        if path.exists() and path.read_bytes() not in (b"", whole):
            self.kept = atomic.keep_old(path)
        atomic.replace_file(path, [whole])
        self.file = path.open("a", encoding="utf-8")

    def write(self, step: Step) -> None:
        """One line: losses in nats per token; the two of an evaluation are null between these."""
        speed = round(step.tokens / max(step.seconds, 1e-9), 1)
        values = (
            step.number,
            step.loss,
            step.train_loss,
            step.val_loss,
            step.learning_rate,
            step.gradient_norm,
            step.tokens,
            speed,
        )
        self.file.write(json.dumps({**dict(zip(FIELDS, values)), **step.measured}) + "\n")
        self.file.flush()

    def close(self) -> None:
        """End it. A line that could not be written was reported when it was tried."""
        with suppress(OSError):
            self.file.close()


def record_of(line: str) -> Optional[dict[str, Any]]:
    """What a line of metrics says: its step, and what it has of the known fields. None: damaged.

    A value is a number of any kind, or None; whoever draws it leaves out what is not finite.
    """
    try:
        record = parsed(line, all_floats=True)
        record = {name: record[name] for name in (*FIELDS, *MEASURED) if name in record}
        step, values = record["step"], [record[name] for name in record if record[name] is not None]
        whole = type(step) is int and step >= 0 and all(type(v) in (int, float) for v in values)
        return record if whole else None
    except (ValueError, KeyError, TypeError):
        return None


def has_measured(record: dict[str, Any]) -> bool:
    """Whether all of MEASURED is in this record, as finite numbers."""
    values = [record.get(name) for name in MEASURED]
    return all(value is not None and math.isfinite(value) for value in values)


def _numbered(path: Path) -> Generator[tuple[int, str], None, None]:
    """The lines of the file with their numbers, from 1. One that is too long is a damaged one."""
    number, is_new = 0, True
    with opened(path) as file:
        for part in iter(lambda: file.readline(LONGEST_LINE), b""):
            if is_new:
                number += 1
                yield number, part.decode("utf-8", "replace")
            is_new = part.endswith(b"\n")


class Read(NamedTuple):
    """A file of metrics: its records, and what is damaged in it. The last line does not count as
    damaged: it may be in the middle of writing."""

    records: list[dict[str, Any]]
    damaged: int = 0  # lines
    first: int = 0  # of them, by number


def read_all(path: Path) -> Read:
    """All that can be read. Raises OSError if the file cannot be."""
    records: list[dict[str, Any]] = []
    damaged = first = last = 0
    for number, line in _numbered(path):
        record = record_of(line)
        if record:
            records.append(record)
        else:
            damaged, first, last = damaged + 1, first or number, number
    if last and last == len(records) + damaged:
        damaged -= 1
    return Read(records, damaged, first)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records in the file, without what is damaged. No file: none."""
    with suppress(FileNotFoundError):
        return read_all(path).records
    return []


def holds_metrics(path: Path) -> bool:
    """Whether the file is empty, or has a record in it."""
    with closing(_numbered(path)) as lines:
        return path.stat().st_size == 0 or any(record_of(line) for _, line in lines)


def _lines_up_to(path: Path, step: int) -> Iterator[str]:
    """The lines of the steps up to this one, as they are."""
    with suppress(FileNotFoundError):
        for _, line in _numbered(path):
            record = record_of(line)
            if record and record["step"] <= step:
                yield line.rstrip("\r\n")
