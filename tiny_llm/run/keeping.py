"""What a run leaves behind while it trains: its metrics, its best checkpoint, its last one.

The best is written before the last. A run that is killed between the two goes on from the last one
before, comes to the same best again and writes the same bytes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

from tiny_llm.files.atomic import backups
from tiny_llm.run.errors import writing
from tiny_llm.run.files import RunFiles, run_files
from tiny_llm.run.metrics import Metrics, read_metrics
from tiny_llm.run.options import Options
from tiny_llm.run.saved import Run, save_run
from tiny_llm.run.saying import Say
from tiny_llm.run.steps import Evaluation, Step, is_above, memorizes
from tiny_llm.text.yardsticks import guessing_loss
from tiny_llm.training import Diverged

LOST = 1.5  # times guessing: so bad is no model that learns slowly, but one that was thrown off


class Keeper:
    """Writes down each step of a run. Use it in a `with` block.

    Every method raises UserError, which says what is left, when a file cannot be written, and
    Diverged when the last update left a number that is not finite.
    """

    def __init__(
        self,
        run: Run,
        files: RunFiles,
        save_every: int,
        say: Say,
        resumed: Optional[Path] = None,
    ) -> None:
        self.run, self.files, self.resumed = run, files, resumed
        self.save_every, self.say = save_every, say
        self.saved: Optional[tuple[Path, int]] = (resumed, run.step) if resumed else None
        self.history: list[Evaluation] = []
        self.warned: set[str] = set()  # of what
        self.guessing = guessing_loss(run.tokenizer.vocab_size)

    def __enter__(self) -> Keeper:
        with writing(self.files.metrics, self.left_behind()):
            self.metrics = Metrics(self.files.metrics, self.run.step, self._metrics_before())
        if self.metrics.kept:
            older = f"{self.files.metrics} holds more than this run's steps so far"
            self.say("kept:", f"the older {older}; it is now {self.metrics.kept}")
        for record in read_metrics(self.files.metrics):
            train_loss, val_loss = record.get("train_loss"), record.get("val_loss")
            if train_loss is not None and val_loss is not None:
                self.history.append(Evaluation(record["step"], train_loss, val_loss))
        return self

    def __exit__(self, *_: object) -> None:
        self.metrics.close()

    def _metrics_before(self) -> Optional[Path]:
        """The metrics of the steps so far: those of the run that goes on, not of another one."""
        if not self.resumed or os.path.realpath(self.resumed) == os.path.realpath(self.files.out):
            return None
        own = run_files(self.resumed).metrics
        is_named = self.files.metrics != run_files(self.files.out).metrics
        return None if is_named and not own.exists() else own

    def keep(self, step: Step, is_last: bool) -> None:
        """Write down what this step did; save the run when it is due, and if it is the best yet."""
        with writing(self.files.metrics, self.left_behind()):
            self.metrics.write(step)
        if step.train_loss is not None and step.val_loss is not None:
            self.history.append(Evaluation(step.number, step.train_loss, step.val_loss))
            if self.run.is_best:
                self.save(self.files.best)
            self.warn(step)
        if is_last or step.number % self.save_every == 0:
            self.save(self.files.out)
            self.saved = self.files.out, step.number

    def save(self, path: Path) -> None:
        """Write the run as it is to a checkpoint."""
        try:
            with writing(path, self.left_behind()):
                save_run(path, self.run)
        except ValueError:
            what = "the run holds numbers that are not finite"
            raise Diverged(f"after step {self.run.step}, {what}") from None

    def warn(self, step: Step) -> None:
        """Say once that the model only learns its text by heart, or is worse than guessing."""
        above = f"the loss stays above guessing ({self.guessing:.3f})"
        if self.run.best and memorizes(self.history):
            self.warn_once(
                f"since step {self.run.best.step} the model only learns its text by heart: the "
                f"training loss falls while the validation loss rises. More text, a smaller model, "
                f"--dropout or --weight-decay help; {self.files.best} holds the best",
                "by heart",
            )
        if self.is_above(LOST, newest=2):
            self.warn_once(f"{above}: {lower(self.run.options)}", "above")
        elif self.is_above(1, newest=5 if self.run.step < self.run.options.steps else 1):
            rate = f"another learning rate than {self.run.options.learning_rate:g}"
            self.warn_once(
                f"{above}, so the model has learned nothing yet: take more steps, or {rate}",
                "above",
            )

    def warn_once(self, sentence: str, subject: str) -> None:
        """Say a warning, unless there was one about this before."""
        if subject not in self.warned:
            self.warned.add(subject)
            self.say("warning:", sentence)

    def is_above(self, times: float, newest: int = 1) -> bool:
        """Whether the newest so many evaluations found a loss of more than so many times guessing,
        on what the model learns from and elsewhere."""
        return is_above(times * self.guessing, self.history, newest)

    def is_ruined(self) -> bool:
        """Whether the last evaluation found a model that is worse than none."""
        return self.is_above(LOST)

    def left_behind(self) -> str:
        """What there is to go on with after an error."""
        if not self.saved:
            before = backups(self.files.out)[0]
            return "this run had saved nothing yet" + f", {before} is of one before" * bool(before)
        path, step = self.saved
        return f"{path} holds step {step}"


def lower(options: Options) -> str:
    """What to lower when a loss rises."""
    rate = options.learning_rate
    clip = "" if options.grad_clip else ", or clip long gradients (--grad-clip 1)"
    lower = f"{min(rate / 10, 1):g}"
    return f"the learning rate {rate:g} is too high, try a lower one (--lr {lower}){clip}"
