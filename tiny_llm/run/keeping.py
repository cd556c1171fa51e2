"""What a run leaves behind while it trains: its metrics, its best checkpoint, its last one.

The best is written before the last. A run that is killed between the two goes on from the last one
before, comes to the same best again and writes the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from tiny_llm.run.errors import UserError
from tiny_llm.run.files import RunFiles
from tiny_llm.run.metrics import Metrics, read_metrics
from tiny_llm.run.saved import Run, save_run
from tiny_llm.run.saying import Say
from tiny_llm.run.steps import Evaluation, Step, memorizes
from tiny_llm.training import Diverged


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
        self.run, self.files = run, files
        self.save_every, self.say = save_every, say
        self.saved: Optional[tuple[Path, int]] = (resumed, run.step) if resumed else None
        self.history: list[Evaluation] = []
        self.warned = False

    def __enter__(self) -> Keeper:
        try:
            self.metrics = Metrics(self.files.metrics, self.run.step)
        except OSError as error:
            raise self._cannot_write(self.files.metrics, error) from None
        for record in read_metrics(self.files.metrics):
            if record.get("val_loss") is not None:
                losses = record["train_loss"], record["val_loss"]
                self.history.append(Evaluation(record["step"], *losses))
        return self

    def __exit__(self, *_: object) -> None:
        self.metrics.close()

    def keep(self, step: Step, is_last: bool) -> None:
        """Write down what this step did; save the run when it is due, and if it is the best yet."""
        try:
            self.metrics.write(step)
        except OSError as error:
            raise self._cannot_write(self.files.metrics, error) from None
        if step.train_loss is not None and step.val_loss is not None:
            self.history.append(Evaluation(step.number, step.train_loss, step.val_loss))
            if self.run.is_best:
                self.save(self.files.best)
            self._warn()
        if is_last or step.number % self.save_every == 0:
            self.save(self.files.out)
            self.saved = self.files.out, step.number

    def save(self, path: Path) -> None:
        """Write the run as it is to a checkpoint."""
        try:
            save_run(path, self.run)
        except ValueError:
            step = self.run.step
            raise Diverged(
                f"after step {step}, the run holds numbers that are not finite"
            ) from None
        except OSError as error:
            raise self._cannot_write(path, error) from None

    def _warn(self) -> None:
        """Say once that the model only learns its text by heart."""
        if self.run.best and not self.warned and memorizes(self.history):
            self.warned = True
            self.say(
                "warning:",
                f"since step {self.run.best.step} the model only learns its text by heart: the "
                f"training loss falls while the validation loss rises. More text, a smaller model, "
                f"--dropout or --weight-decay help; {self.files.best} holds the best",
            )

    def left_behind(self) -> str:
        """What there is to go on with after an error."""
        if not self.saved:
            return "this run had saved nothing yet"
        path, step = self.saved
        return f"{path} holds step {step}"

    def _cannot_write(self, path: Path, error: OSError) -> UserError:
        return UserError(f"cannot write {path}: {error.strerror or error}; {self.left_behind()}")
