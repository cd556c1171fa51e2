"""A stage after pretraining: a new run that begins with the weights of a finished model.

The weights are all that is carried along. The optimizer's averages, the schedule and the learning
rate are those of the new stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Optional

from tiny_llm.fast.workers import default_count
from tiny_llm.model import LanguageModel
from tiny_llm.run import begin
from tiny_llm.run.errors import UsageError, UserError, to_type
from tiny_llm.run.options import BY_NAME, Options, check_names
from tiny_llm.run.saved import Run, is_packed, load_run

RUNG_3 = {"--model": "modern", "--tokenizer": "bpe"}  # what can learn to answer
WARMUP = 0.05  # of the steps
# Options that are not chosen in a stage.
FIXED = ("text_sha256", "text_beginning", "task", "stage", "lines", "dropout")
OPTIONS = [name for name in BY_NAME if name not in FIXED]


class Stage(NamedTuple):
    """What suits it, unless somebody says otherwise."""

    command: str
    repeat: int  # passes over the data
    evaluations: int  # in a run
    options: dict[str, Any]


def given_options(options: Optional[dict[str, Any]], repeat: Optional[int]) -> dict[str, Any]:
    """Those that are given. Raises UsageError for options that make no sense."""
    given = {name: value for name, value in (options or {}).items() if value is not None}
    check_names("option", given, OPTIONS)
    begin.check_values(given, repeat)
    return given


def options_of(
    stage: Stage,
    given: dict[str, Any],
    repeat: Optional[int],
    count: int,
    sha256: str,
    model: LanguageModel,
) -> Options:
    """The options of a new run over so many examples. Raises UsageError as `given_options` does."""
    values: dict[str, Any] = {name: field.default for name, field in BY_NAME.items()}
    values.update({**stage.options, **given})
    if "steps" not in given:
        passes = (repeat or stage.repeat) * -(-count // values["batch_size"])
        values["steps"] = max(1, passes // values["gradient_accumulation_steps"])
    following = {
        "min_lr": values["learning_rate"] / 10,
        "warmup_steps": round(WARMUP * values["steps"]),
        "eval_every": max(1, values["steps"] // stage.evaluations),
        "workers": default_count(model, values["batch_size"]),
    }
    values.update({**following, **given, "text_sha256": sha256, "stage": stage.command})
    if values["min_lr"] > values["learning_rate"]:
        rates = f"{values['min_lr']:g} is above --learning-rate {values['learning_rate']:g}"
        raise UsageError(f"--min-lr {rates}")
    return Options(**values)


def resumed(stage: Stage, path: Path) -> Run:
    """The run of this stage in a checkpoint. Raises UserError if there is none."""
    run = load_run(path, to_train=True)
    if run.options.stage != stage.command:
        raise UserError(
            f"{path} is no run of {stage.command}; to begin one with it, give it as --checkpoint"
        )
    return run


def check_resumed(run: Run, path: Path, sha256: str, name: str, given: dict[str, Any]) -> None:
    """Raises UserError for other data, UsageError for what would make another run of it."""
    changeable = {name: given[name] for name in begin.CHANGEABLE if name in given}
    begin.check_values(changeable, None)
    if sha256 != run.options.text_sha256:
        raise UserError(
            f"{path} learned from other data than {name}; give the same again (--data, --builtin, "
            f"--replay-data, --cut)"
        )
    begin.refuse_changes(run, given)


def check_parts(
    name: str, what: str, learned: int, held_out: int, too_long: int, length: int
) -> None:
    """Raises ValueError, with what to do, if a part of the data is left without anything."""
    if learned and held_out:
        return
    longer = f"; longer than the window of {length} tokens: {too_long}" * bool(too_long)
    of = "hold out" if learned else "learn from"
    raise ValueError(
        f'{name} has no {what} to {of}{longer}; give more lines, or let some say "split": '
        f'"{"val" if learned else "train"}"'
    )


def check_learns(base: Run, why: str) -> None:
    """Raises UserError, with the reason, for a model that no stage is for."""
    if not base.model.predicts_every_token:
        raise UserError(
            f"the model is {base.rung}, which predicts one token at a time from a short window, so "
            f"it cannot {why}; take one of rung 3: {to_type('train', RUNG_3)}"
        )
    if is_packed(base.model):
        raise UserError(
            "the model has int8 weights, which are read and not trained; take the checkpoint that "
            "it was made of"
        )
