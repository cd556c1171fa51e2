"""What the page of the book does in a browser: a run that is led on a little at a time.

    call("begin", ...) -> call("lead_on", ...) again and again -> call("write" or "save", ...)

JSON in and JSON out, so that it can be asked from another language. Nobody can interrupt Python in
a browser; whoever leads it on by parts of a second can stop in between.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

from tiny_llm.beyond.models import plug_in
from tiny_llm.fast.tensors import count
from tiny_llm.run.asked import OnlyAsked
from tiny_llm.run.begin import begin as begin_run
from tiny_llm.run.begin import resume, steps_of
from tiny_llm.run.errors import UsageError, UserError
from tiny_llm.run.models import open_model
from tiny_llm.run.saved import Run, save_run
from tiny_llm.run.sources import TASK, Material, Source, TextSource, read_source
from tiny_llm.run.steps import Step
from tiny_llm.run.texts import Text, choose_prompt
from tiny_llm.text.shown import shown
from tiny_llm.text.tasks import TASKS, accuracy
from tiny_llm.text.yardsticks import bigram_loss, guessing_loss
from tiny_llm.training import Diverged
from tiny_llm.view.heads import has_attention
from tiny_llm.view.report.facts import curves_of, write_samples
from tiny_llm.view.report.pictures import Yardstick, loss_curves
from tiny_llm.view.talk.page import looked_into

PASTED = "the pasted text"
EXPECTED = (UsageError, UserError, ValueError, Diverged, OSError)  # each says what is wrong
WRITTEN = 200  # tokens of a sample


class Workshop:
    """A run, and the steps that it has made here."""

    def __init__(self) -> None:
        self.run: Optional[Run] = None
        self.material: Optional[Material] = None
        self.steps: Iterator[Step] = iter(())
        self.source: Source = read_source(None)
        self.records: list[dict[str, Any]] = []
        self.yardsticks: list[Yardstick] = []

    def begin(
        self, rung: str, text: Optional[str], task: str, options: dict[str, Any]
    ) -> dict[str, Any]:
        """A new run on a pasted text, a task, or else the built-in text."""
        self.source = read_source(TASK + task) if task else read_source(None)
        if text is not None:
            lines = text.replace("\r\n", "\n").replace("\r", "\n")
            self.source = TextSource(Text(lines, PASTED))
        run, material = begin_run(self.source, rung, {}, options)
        return self._start(run, material)

    def _start(self, run: Run, material: Optional[Material]) -> dict[str, Any]:
        self.run, self.material, self.records = run, material, []
        self.steps = steps_of(run, material) if material else iter(())
        self.yardsticks = _yardsticks(run, material) if material else []
        options, unit = run.options, run.tokenizer.unit
        facts = [["model", f"{run.rung}, {count(run.model.parameters):,} weights"]]
        if material:
            learned, held_out = material.sizes
            facts.append(
                [
                    "text",
                    f"{material.name}: {learned:,} {unit}s to learn from, {held_out:,} held out",
                ]
            )
            facts += [[y.name, f"{y.loss:.3f} nats per {unit}"] for y in self.yardsticks]
        return {
            "facts": facts,
            "step": run.step,
            "steps": options.steps,
            "attention": has_attention(run.model),
            "task": options.task,
            "prompt": ""
            if options.task
            else choose_prompt(None, run.tokenizer, options.lines, options.text_beginning),
        }

    def _there(self) -> Run:
        if not self.run:
            raise UsageError("there is no model yet; train one, or open one")
        return self.run

    def lead_on(self, seconds: float) -> dict[str, Any]:
        """Train for about so long: the losses of the steps made, in nats per token, what was last
        measured, tokens per second, and the curve so far."""
        run, end, began = self._there(), time.perf_counter() + seconds, len(self.records)
        took, tokens, measured = 0.0, 0, None
        while run.step < run.options.steps:
            step = next(self.steps, None)
            if step is None:
                raise UsageError("this run has ended; train anew")
            took, tokens = took + step.seconds, tokens + step.tokens
            losses = {"loss": step.loss, "train_loss": step.train_loss, "val_loss": step.val_loss}
            self.records.append({"step": step.number, **losses})
            if step.val_loss is not None:
                measured = {"number": step.number, "train": step.train_loss, "val": step.val_loss}
            if time.perf_counter() > end:
                break
        made = len(self.records) - began
        return {
            "step": run.step,
            "steps": run.options.steps,
            "losses": [record["loss"] for record in self.records[began:]],
            "loss": self.records[-1]["loss"] if self.records else None,
            "measured": measured,
            "speed": tokens / took if took else 0.0,
            "left": took / max(1, made) * (run.options.steps - run.step),
            "curve": self._curve(),
            "right": self._right() if run.step == run.options.steps else None,
        }

    def _right(self) -> Optional[float]:
        """Of a task, the share of held-out cases that the model gets right."""
        run, material = self._there(), self.material
        if not material or not material.task:
            return None
        every = run.model.predicts_every_token
        model = OnlyAsked(run.model) if every else run.model
        return accuracy(model, material.val.examples(run.model.config.context_length, every))

    def _curve(self) -> str:
        curves = curves_of(self.records)
        if not curves or not (curves.batches or curves.val):
            return ""
        last = self.records[-1]["loss"]
        return loss_curves(curves, self.yardsticks, None, f"The last loss is {last:.3f}.")

    def write(self, prompt: str, temperature: float, seed: int) -> str:
        """The prompt, and what the model writes after it."""
        run = self._there()
        ids = run.tokenizer.encode(prompt)
        separator = run.tokenizer.encode("\n")[0] if run.options.lines else None
        (sample,) = write_samples(
            run.model, run.tokenizer, ids, WRITTEN, [temperature], seed, separator, run.chat.ends
        )
        return prompt + sample.text

    def look(self, prompt: str) -> dict[str, Any]:
        """Labels and attention maps, as parts.js draws them."""
        run = self._there()
        return looked_into(run.model, run.tokenizer, None, run.tokenizer.encode(prompt))

    def save(self, path: str) -> str:
        """Write the run to a file; its name."""
        save_run(Path(path), self._there())
        return path

    def open(self, path: str) -> dict[str, Any]:
        """A saved run. It can go on if it was trained on the built-in text, or on a task."""
        run = open_model(Path(path))
        task = run.options.task
        source = read_source(TASK + task if task in TASKS and task else None)
        if not run.options.stage and source.sha256 == run.options.text_sha256:
            self.source = source
            return self._start(*resume(Path(path), source))
        return self._start(run, None)


def _yardsticks(run: Run, material: Material) -> list[Yardstick]:
    size = run.tokenizer.vocab_size
    found = [Yardstick("guessing", guessing_loss(size))]
    if not material.task:
        pairs = bigram_loss(material.train.ids, material.val.ids, size)
        found.append(Yardstick("counting pairs", pairs))
    return found


_workshop = Workshop()


def call(name: str, given: str) -> str:
    """{"result": ...}, or {"error": a line that says what is wrong}."""
    try:
        return json.dumps({"result": ACTIONS[name](**json.loads(given))})
    except EXPECTED as error:
        return json.dumps({"error": shown(" ".join(str(error).split()), 300)})
    except Exception as error:  # a chapter that the reader has changed
        places = [
            f"{Path(frame.filename).name} line {frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        what = shown(f"{type(error).__name__}: {error}", 300)
        return json.dumps({"error": f"{what} ({' > '.join(places[-3:])})"})


plug_in()
ACTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(_workshop, name) for name in ("begin", "lead_on", "write", "look", "save", "open")
}
