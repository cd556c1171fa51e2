"""The files that a run writes, and what stands in their way."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple, Optional

from tiny_llm.files import atomic, checkpoint
from tiny_llm.files.checkpoint import CheckpointError
from tiny_llm.run.errors import UserError, writing
from tiny_llm.run.metrics import holds_metrics
from tiny_llm.run.saying import Say

ENDING, GGUF_ENDING = ".safetensors", ".gguf"


class RunFiles(NamedTuple):
    """Where a run writes: runs/m.safetensors, runs/m.best.safetensors, runs/m.metrics.jsonl."""

    out: Path  # the last checkpoint
    best: Path  # the one with the lowest validation loss
    metrics: Path  # what every step was like

    def check(self, data: Optional[str]) -> None:
        """Raises UserError if one cannot be written, or would replace what is not its own kind."""
        check_name(self.out)
        if len(set(map(os.path.realpath, self))) < len(self):
            raise UserError(f"{self.metrics} is a checkpoint of this run; choose another --metrics")
        for path, flag in zip(self, ("--out", "--out", "--metrics")):
            with writing(path):
                atomic.check_writable(path)
            if data and data != "-" and os.path.realpath(data) == os.path.realpath(path):
                raise UserError(f"{path} is the text itself; choose another {flag}")
        for path in (self.out, self.best):
            try:
                if path.exists():
                    checkpoint.load(path, wanted=lambda name: False)
            except CheckpointError:
                raise UserError(
                    f"{path} exists and is no checkpoint, or a damaged one; choose another --out"
                ) from None
        if self.metrics.exists() and not holds_metrics(self.metrics):
            raise UserError(f"{self.metrics} exists and holds no metrics; choose another --metrics")

    def make_room(self, resumed: Optional[Path], is_best: bool, say: Say) -> None:
        """Put aside as .bak what another run left here, so that what stands here is of one run,
        even if that ends before it has saved anything. A resumed run brings its best along.

        `is_best`: whether that is the resumed checkpoint itself. Raises UserError if there is no
        room for a copy.
        """
        if resumed and os.path.realpath(resumed) == os.path.realpath(self.out):
            return
        own_best = (resumed if is_best else run_files(resumed).best) if resumed else None
        if own_best and not own_best.exists():
            own_best = None
        stays = own_best is not None and os.path.realpath(own_best) == os.path.realpath(self.best)
        try:
            for path in [self.out] if stays else [self.out, self.best]:
                backup = atomic.put_aside(path)
                if backup:
                    say("kept:", f"the older {path} is now {backup}")
            if own_best and not stays:
                atomic.copy_file(own_best, self.best)
        except OSError as error:
            raise UserError(f"cannot write {error.filename}: {error.strerror}") from None


def run_files(out: Path, metrics: Optional[Path] = None) -> RunFiles:
    """The files of the run that is saved to `out`. Raises UserError for a folder without a name."""
    if not out.name:
        raise UserError(f"cannot write {out}: it is a folder; name a file in it")
    is_usual = out.name.endswith(ENDING)
    stem = out.name[: -len(ENDING)] if is_usual else out.name
    best = out.with_name(f"{stem}.best{ENDING if is_usual else ''}")
    return RunFiles(out, best, metrics or out.with_name(f"{stem}.metrics.jsonl"))


def check_name(out: Path) -> None:
    """Raises UserError for a checkpoint that would be taken for another kind of file."""
    if out.suffix == GGUF_ENDING:
        raise UserError(f"{out} would be no GGUF file but a checkpoint; let it end in {ENDING}")


def is_a_best(path: Path) -> bool:
    """Whether the file has the name of a best checkpoint, and the run's last one is beside it."""
    last = path.with_name(re.sub(r"\.best(\.safetensors)?$", r"\1", path.name))
    return last != path and last.exists()


def metrics_beside(path: Path) -> Path:
    """The metrics of the run, whichever of its two checkpoints this is."""
    own = run_files(path).metrics
    whole = path.with_name(path.name.replace(".best.", ".", 1))
    return own if own.exists() or path.stem[-5:] != ".best" else run_files(whole).metrics
