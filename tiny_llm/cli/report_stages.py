"""The part of a report that compares a model with those of the stages before."""

from __future__ import annotations

import argparse
from pathlib import Path

from tiny_llm.beyond import builtin
from tiny_llm.beyond.answering import Said, speaker
from tiny_llm.cli import options as flags
from tiny_llm.run.errors import UsageError
from tiny_llm.run.files import metrics_beside
from tiny_llm.run.metrics import read_metrics
from tiny_llm.run.models import open_model
from tiny_llm.run.saved import Run
from tiny_llm.view.report.facts import curves_of
from tiny_llm.view.report.page import Stages, StageShown

LONGEST = 60  # characters of an answer without an end
FACTS, OTHERS = 4, 2  # of the questions about the built-in text that are asked unless others are


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--before, --ask."""
    group = parser.add_argument_group("stages")
    group.add_argument(
        "--before",
        nargs="+",
        type=flags.file_name,
        default=[],
        metavar="FILE",
        help="the models of the stages before, whose curves and answers stand beside",
    )
    group.add_argument(
        "--ask",
        nargs="+",
        default=[],
        metavar="QUESTION",
        help="what all of them are asked (a few questions about the built-in corpus)",
    )


def stages_of(args: argparse.Namespace, current: Run) -> Stages:
    """All stages, this model's last. Raises UserError for a model that cannot be asked."""
    if not (args.before or args.ask):
        return Stages([], [])
    if args.before and not (args.model_file or args.is_named):
        raise UsageError("--before names the stages before; name the model itself with -c")
    questions = args.ask or _held_out()
    runs = [*((path, open_model(path)) for path in args.before), (args.checkpoint, current)]
    return Stages(questions, [_stage(path, run, questions) for path, run in runs])


def _stage(path: Path, run: Run, questions: list[str]) -> StageShown:
    said = speaker(run)
    curves = curves_of(read_metrics(metrics_beside(path)))
    answers = [_text(said(question)) for question in questions]
    return StageShown(path.name, run.options.stage or "train", curves, answers)


def _text(said: Said) -> str:
    if not said.text and not said.has_ended:
        return "(the question fills its window)"
    return said.text if said.has_ended else said.text[:LONGEST].rstrip() + " …"


def _held_out() -> list[str]:
    facts = [question for question, _, split in builtin.facts() if split == "val"]
    others = builtin.unknowable("elsewhere", "val")
    return facts[:: len(facts) // FACTS][:FACTS] + others[:: len(others) // OTHERS][:OTHERS]
