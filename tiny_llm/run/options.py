"""The one table of what decides how a run goes: name, type, default, what is allowed, help.

From it follow the flags of `tiny-lm train`, the checks of whatever is given or read from a file,
and what a checkpoint keeps. A new option is one more entry. A file that was written before there
was an option gives it its default. What another version wrote and this one does not understand is
named; whoever only reads a model does without it, and a run that would go on is refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Callable, NamedTuple, Optional, Union

from tiny_llm.fast.products import WAYS
from tiny_llm.run.errors import UsageError
from tiny_llm.text.shown import shown
from tiny_llm.text.tasks import TASKS

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "constant")
STAGES = ("sft", "dpo")  # what comes after pretraining
LARGEST = 10**12  # of whole numbers
LONGEST_BEGINNING = 24  # characters of a text that a sample begins with


class Check(NamedTuple):
    """What an option may be."""

    says: str  # "at least 0", behind "must be"
    accepts: Callable[[Any], bool]


def at_least(least: float) -> Check:
    """Numbers from here on."""
    return Check(f"at least {least:g}", lambda value: bool(value >= least))


def between(least: int, most: int) -> Check:
    """Numbers from here to there."""
    return Check(f"at least {least} and at most {most:,}", lambda value: least <= value <= most)


POSITIVE = Check("above 0", lambda value: bool(value > 0))
BELOW_1 = Check("at least 0 and below 1", lambda value: 0 <= value < 1)
SHARE = Check("between 0 and 1", lambda value: 0 < value < 1)
ANY = Check("", lambda value: True)
SHORT = Check("a few words", lambda value: len(value) <= LONGEST_BEGINNING)
TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}


def option(
    default: Any,
    check: Union[Check, tuple[str, ...]] = ANY,
    help: str = "",
    group: str = "training",
    flags: tuple[str, ...] = (),
) -> Any:
    """A field of `Options`. check: what is allowed, or the choices. Without help it is no flag."""
    choices = None
    if not isinstance(check, Check):
        choices, check = check, Check(f"one of {', '.join(check)}", check.__contains__)
    return dataclasses.field(
        default=default,
        metadata={
            "check": check, "choices": choices, "help": help, "group": group, "flags": flags
        },
    )  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What decides how a run goes, beside text and sizes. Raises ValueError for nonsense."""

    steps: int = option(1, at_least(1))
    batch_size: int = option(16, at_least(1), "contexts in a batch")
    gradient_accumulation_steps: int = option(
        1, between(1, 10_000), "batches in a step, one after the other, in the memory of one"
    )
    matmul: str = option("auto", ("auto", "float64", *WAYS))
    workers: int = option(
        1, between(1, 10_000), "processes that share each step (1 for small steps, else one a core)"
    )
    seed: int = option(0, at_least(0))
    optimizer: str = option("sgd", OPTIMIZERS, "how slopes become steps", "optimizer")
    learning_rate: float = option(
        0.1, POSITIVE, "the highest of the run", "optimizer", ("--learning-rate", "--lr")
    )
    schedule: str = option(
        "cosine", SCHEDULES, "the rate falls along a cosine to --min-lr, or stays", "optimizer"
    )
    min_lr: float = option(0.0, at_least(0), "the lowest (a tenth of the highest)", "optimizer")
    warmup_steps: int = option(0, at_least(0), "steps in which it rises", "optimizer")
    grad_clip: float = option(0.0, at_least(0), "longest gradient; 0: any", "optimizer")
    weight_decay: float = option(0.01, at_least(0), "of matrices, by adamw", "optimizer")
    beta1: float = option(0.9, BELOW_1, "memory of adamw for slopes", "optimizer")
    beta2: float = option(0.99, BELOW_1, "memory of adamw for their squares", "optimizer")
    dropout: float = option(
        0.0, BELOW_1, "share of the numbers that training drops; modern alone", "optimizer"
    )
    val_fraction: float = option(
        0.1, SHARE, "share of the text held out: its end, or of --lines every 1/X-th", "validation"
    )
    eval_every: int = option(
        1, at_least(1), "steps between validations (a tenth of the run)", "validation"
    )
    patience: int = option(
        0, at_least(0), "end after N validations without a new best; 0: never", "validation"
    )
    beta: float = option(
        0.3, POSITIVE, "reward of a nat: the higher, the nearer to where it began", "preferences"
    )
    nll_weight: float = option(
        0.0, at_least(0), "of the chosen answers' own loss, beside that of the pairs", "preferences"
    )
    learn: str = option(
        "answers", ("answers", "all"), "the answers alone, or all that is said", "conversations"
    )
    replay: int = option(
        0,
        at_least(0),
        "windows of the former text in each batch, against forgetting it",
        "conversations",
    )
    lines: bool = option(False)  # every line is a document of its own
    task: str = option("", ("", *TASKS))  # one of text/tasks.py, if it is no text
    stage: str = option("", ("", *STAGES))  # the command that began it, if not train
    text_sha256: str = option("")
    text_beginning: str = option("", SHORT)  # for samples; "": that of the built-in corpus

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            problem = problem_with(field, getattr(self, field.name))
            if problem:
                raise ValueError(f"{field.name} {problem}")
        if self.min_lr > self.learning_rate:
            raise ValueError(
                f"min_lr {self.min_lr:g} is above learning_rate {self.learning_rate:g}"
            )


BY_NAME = {field.name: field for field in dataclasses.fields(Options)}


def problem_with(field: Any, value: Any) -> Optional[str]:
    """Why this is no value of the option, in a few words; None if it is one."""
    kind, check = TYPES[str(field.type)], field.metadata["check"]
    if kind is float and type(value) is int and abs(value) < LARGEST:
        value = float(value)
    if type(value) is not kind:
        return f"must be of type {kind.__name__}, not {shown(repr(value), 40)}"
    if kind is float and not math.isfinite(value):
        return f"must be a finite number {check.says}, not {value}"
    if not check.accepts(value):
        return f"must be {check.says}, not {shown(value, 40)}"
    if kind is int and value > LARGEST:
        return f"must be at most {LARGEST:,}"
    return None


def options_from(values: dict[str, Any]) -> tuple[Options, list[str]]:
    """The options in a file, and the names of those that another version wrote: that are no options
    here, or have values that mean nothing here. In their place are the defaults."""
    unknown = {
        name
        for name, value in values.items()
        if name not in BY_NAME or problem_with(BY_NAME[name], value)
    }
    known = {name: value for name, value in values.items() if name not in unknown}
    if known.get("min_lr", 0.0) > known.get("learning_rate", BY_NAME["learning_rate"].default):
        del known["min_lr"]
        unknown.add("min_lr")
    return Options(**known), sorted(unknown)


def check_names(kind: str, given: Iterable[Any], known: Iterable[str]) -> None:
    """Raises UsageError for a name that is none of the known ones, and says which may be meant."""
    known = sorted(known)
    for name in given:
        if name not in known:
            close = get_close_matches(str(name), known, 1)
            which = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise UsageError(f"there is no {kind} {name!r}; {which}")
