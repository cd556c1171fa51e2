"""What `sft` and `dpo` have in common on the command line: a run from its files to its end."""

from __future__ import annotations

import argparse
import random
from collections.abc import Generator
from typing import Any, Callable, NamedTuple

from tiny_llm.beyond.own_answers import answers
from tiny_llm.beyond.stage import WARMUP, Stage
from tiny_llm.cli.interrupt import Interrupt
from tiny_llm.fast.workers import WorkerDied
from tiny_llm.run.errors import UsageError, UserError, to_type
from tiny_llm.run.files import RunFiles, is_a_best, run_files
from tiny_llm.run.keeping import Keeper, lower
from tiny_llm.run.saved import RUNS, Run
from tiny_llm.run.steps import Step
from tiny_llm.sampling import Sampling
from tiny_llm.text.shown import shown
from tiny_llm.training import Diverged
from tiny_llm.view.progress import Progress
from tiny_llm.view.terminal import loss_text


def files_of(command: str, args: argparse.Namespace, current: Run) -> RunFiles:
    """The files that the run writes. Raises UserError for what stands in their way."""
    if args.stop_after and args.stop_after <= current.step:
        raise UsageError(
            f"--stop-after {args.stop_after} lies behind: the run is at step {current.step}"
        )
    out = args.out or args.resume or RUNS / f"{command}.safetensors"
    if args.resume and not args.out and is_a_best(out):
        raise UsageError(f"{out} is the best of a run; name where to go on with --out, so it stays")
    files = run_files(out, args.metrics)
    if not args.resume and out.exists() and args.checkpoint and out.samefile(args.checkpoint):
        raise UserError(f"{out} is the model that learns; choose another --out")
    files.check(args.data)
    return files


def in_stages(stage: Stage) -> dict[str, str]:
    """What is taken in a stage unless somebody says otherwise, in words, where it depends."""
    return {
        "warmup_steps": f"{WARMUP:.0%} of the run".replace("%", "%%"),  # as argparse has it
        "eval_every": f"{1 / stage.evaluations:.0%} of the run".replace("%", "%%"),
    }


def data_flags(args: argparse.Namespace) -> dict[str, str]:
    """What says which data a run has, to type once more."""
    given = {
        "--data": args.data,
        "--builtin": args.builtin,
        "--replay-data": getattr(args, "replay_data", None),
        "--encoding": None if getattr(args, "encoding", "utf-8") == "utf-8" else args.encoding,
    }
    cut = {"--cut": ""} if getattr(args, "cut", False) else {}
    return {**{flag: value for flag, value in given.items() if value}, **cut}


class RunningStage(NamedTuple):
    """A run of a stage, and those who watch it."""

    command: str
    current: Run
    keeper: Keeper
    progress: Progress

    def run(
        self, args: argparse.Namespace, steps: Generator[Step, None, None], show: Callable[[], None]
    ) -> int:
        """Learn up to the end, and say what came of it. Exit code 0, or that of the signal."""
        current, files, progress = self.current, self.keeper.files, self.progress
        if current.step == current.options.steps or current.is_exhausted:
            self.keeper.save(files.out)
        else:
            with Interrupt(progress, has_begun=False) as interrupt:
                self._learn(args, steps, interrupt)
            if current.step < current.options.steps and not current.is_exhausted:
                progress.note(
                    f"stopped at step {current.step} of {current.options.steps}; {files.out} is "
                    f"saved. To go on, type",
                    to_type(self.command, {"--resume": str(files.out), **data_flags(args)}),
                )
                return interrupt.code
        self._conclude(args, show)
        return 0

    def _learn(
        self, args: argparse.Namespace, steps: Generator[Step, None, None], interrupt: Interrupt
    ) -> None:
        """Run the loop up to its end, --stop-after, --patience or Ctrl-C."""
        current, options = self.current, self.current.options
        last = min(args.stop_after or options.steps, options.steps)
        try:
            with self.keeper:
                for step in steps:
                    interrupt.has_begun = True
                    self.progress.step(step)
                    is_last = step.number == last or interrupt.requested or current.is_exhausted
                    self.keeper.keep(step, is_last)
                    if is_last:
                        break
        except Diverged as error:
            left = self.keeper.left_behind()
            raise UserError(f"{error}, so training stopped: {lower(options)}; {left}") from None
        except WorkerDied as error:
            raise UserError(f"{error}; {self.keeper.left_behind()}") from None
        finally:
            steps.close()
            self.progress.clear()

    def _conclude(self, args: argparse.Namespace, show: Callable[[], None]) -> None:
        """The result, what it says to some questions, and what to do next."""
        current, files, progress = self.current, self.keeper.files, self.progress
        best = current.best
        if current.is_exhausted:
            patience = current.options.patience
            progress.fact("patience:", f"no better one in {patience} validations: this is the end")
        if best:
            is_beside = best.step < current.step and files.best.exists()
            where = f", kept as {files.best}" if is_beside else ""
            loss = loss_text(best.val_loss)
            progress.fact("done:", f"best validation loss {loss} at step {best.step}{where}")
        show()
        if self.keeper.is_ruined():
            raise UserError(
                f"the model is worse than before: {lower(current.options)}; {files.out} holds step "
                f"{current.step}"
            )
        talk = {"--checkpoint": str(files.out), **({} if args.data else {"--forget": ""})}
        progress.note("")
        progress.note(
            f"saved {files.out} (step {current.step}). To talk to it, type", to_type("chat", talk)
        )


def print_answers(current: Run, question: list[int], models: dict[str, Any]) -> None:
    """A question to standard output, and what each of these models says to it, greedily."""
    tokenizer: Any = current.tokenizer
    markers = set(tokenizer.special_tokens.values())
    text = tokenizer.decode([token for token in question if token not in markers])
    print(f"question  {shown(text)}")
    for when, model in models.items():
        greedy, rngs = Sampling(temperature=0), [random.Random(0)]
        (answer,) = answers(model, question, current.chat.ends, greedy, rngs)
        said = "(no end)" if answer is None else shown(tokenizer.decode(answer))
        print(f"{when:<10}{said}", flush=True)


def left_out(lines: list[int], length: int, progress: Progress) -> None:
    """Say which lines are too long for the window, if any are."""
    if lines:
        named = ", ".join(map(str, lines[:5])) + ", ..." * (len(lines) > 5)
        progress.fact(
            "left out:", f"{len(lines):,} longer than the window of {length}: line {named}"
        )
