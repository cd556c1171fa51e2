"""A run that learns preferences: it begins with a model that answers, and remembers it.

    model that answers -+-> weights that learn        --steps_of--> Step, Step, ...
                        +-> weights of the reference, which stay as they are

The reference is in the checkpoint, so a run that was stopped goes on exactly. What it says of every
pair follows from it, and is computed again then.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from tiny_llm.batches import Examples
from tiny_llm.beyond.chat import can_speak, template_of
from tiny_llm.beyond.dpo import PairLogs
from tiny_llm.beyond.pairs import (
    Measures,
    OfPairs,
    Pair,
    PairExamples,
    gradients_of_pairs,
    laid_out,
    references_of,
)
from tiny_llm.beyond.preferences import fitting, read_preferences
from tiny_llm.beyond.stage import (
    OPTIONS,
    Stage,
    check_learns,
    check_resumed,
    given_options,
    options_of,
    resumed,
)
from tiny_llm.model import LanguageModel
from tiny_llm.run import begin
from tiny_llm.run.errors import UserError, to_type
from tiny_llm.run.keeping import Keeper
from tiny_llm.run.options import check_names
from tiny_llm.run.rungs import build_optimizer
from tiny_llm.run.saved import Run, model_from
from tiny_llm.run.saying import Say, silent
from tiny_llm.run.sources import VAL_FRACTION, Material
from tiny_llm.run.steps import Step
from tiny_llm.run.texts import Text
from tiny_llm.text.shown import shown

STAGE = Stage("dpo", repeat=2, evaluations=5, options={
    "optimizer": "adamw", "learning_rate": 1e-4, "batch_size": 8, "grad_clip": 1.0,
    "weight_decay": 0.0,
})  # fmt: skip


class PairCorpus:
    """Pairs as a corpus. ids: the tokens of all answers. references: once they are computed."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs, self.references = pairs, list[PairLogs]()
        self.ids = laid_out(pairs).targets

    def examples(self, context_length: int, predicts_every_token: bool) -> Examples:
        """The pairs, each with its reference."""
        return PairExamples(self.pairs, self.references)


class Pairs(NamedTuple):
    """The pairs of a run, in two parts."""

    train: PairCorpus
    val: PairCorpus  # the part held out
    too_long: list[int]  # the numbers of the lines that are left out
    material: Material  # the same as a run sees it

    @property
    def chosen_loss(self) -> float:
        """What `Measures` calls so, of the reference. Known once it was asked about every pair."""
        logs = zip(self.val.pairs, self.val.references)
        return -sum(log.chosen / len(pair.chosen) for pair, log in logs) / len(self.val.pairs)


def begin_run(
    base: Run,
    data: Text,
    options: Optional[dict[str, Any]] = None,
    repeat: Optional[int] = None,
) -> tuple[Run, Pairs]:
    """A new run. Of the options, what is missing or None is as it suits preferences.

    `repeat`: passes over the pairs, unless the options have `steps`. Raises UserError for a model
    that cannot learn from them, UsageError for options that make no sense, ValueError for a line
    that is no preference.
    """
    given = given_options(options, repeat)
    check_base(base)
    pairs = pairs_of(base, data, given.get("val_fraction", VAL_FRACTION))
    count = len(pairs.train.pairs)
    chosen = options_of(STAGE, given, repeat, count, data.sha256, base.model)
    run = Run(
        base.rung, base.model, base.tokenizer, build_optimizer(chosen), chosen, chat=base.chat,
        came_from=base.came_from, reference=copy.deepcopy(base.model.parameters),
    )  # fmt: skip
    return run, pairs


def resume_run(
    path: Path,
    data: Text,
    given: Optional[dict[str, Any]] = None,
    repeat: Optional[int] = None,
    say: Say = silent,
) -> tuple[Run, Pairs]:
    """The run in the checkpoint, as it was. `given` may make it longer, and change its patience and
    its workers. Raises UserError if there is none, UsageError for another change."""
    run = resumed(STAGE, path)
    given = {name: value for name, value in (given or {}).items() if value is not None}
    check_names("option", given, OPTIONS)
    check_resumed(run, path, data.sha256, data.name, given)
    pairs = pairs_of(run, data, run.options.val_fraction)
    begin.change(run, pairs.material, given, repeat, say)
    return run, pairs


def check_base(base: Run) -> None:
    """Raises UserError, with the reason, for a model that cannot learn preferences."""
    check_learns(base, "weigh whole answers")
    template = base.chat.template
    if not template or not can_speak(base.tokenizer, template_of(template)):
        raise UserError(
            f"the model was not taught to answer, and preferences are about answers; one that was "
            f"is made by {to_type('recipe', {'chat': ''})}, and `sft` teaches others"
        )


def pairs_of(run: Run, data: Text, val_fraction: float) -> Pairs:
    """The preferences as tokens, in two parts. Raises ValueError as `fitting` does."""
    tokenizer: Any = run.tokenizer  # one that can speak, which `check_base` has seen to
    found = fitting(
        read_preferences(data.content.split("\n"), shown(data.name)),
        template_of(run.chat.template),
        tokenizer,
        run.model.config.context_length,
        val_fraction,
        shown(data.name),
    )
    train, val = PairCorpus(found.learned), PairCorpus(found.held_out)
    material = Material(data.name, run.tokenizer, train, val, val_fraction, False, data.sha256)
    return Pairs(train, val, found.too_long, material)


def reference_of(run: Run) -> LanguageModel:
    """The model that the run began with."""
    return model_from(type(run.model), run.model.config, run.reference)


def steps_of(
    run: Run, pairs: Pairs, heard: Callable[[int], None] = lambda done: None
) -> Generator[Step, None, None]:
    """The steps that the run still has to do, as `begin.steps_of` has them.

    The reference is asked about every pair first; `heard` is told how many it has answered.
    """
    options, reference = run.options, reference_of(run)
    for part in (pairs.train, pairs.val):
        part.references = references_of(
            reference, part.pairs, options.matmul, options.workers, heard
        )
    way = begin.Way(
        OfPairs(run.model),
        partial(gradients_of_pairs, beta=options.beta, nll_weight=options.nll_weight),
        Measures(reference, options.beta, options.nll_weight, options.matmul),
    )
    yield from begin.steps_of(run, pairs.material, way)


# ---------------------------------------------------------------- what there is to say about it

# Nats per token by which the chosen answers became rarer. Of 18 runs of a model of 77,000 weights,
# those below 0.04 still answered; those above 0.18 had lost what they knew.
BROKEN = 0.15
NEAR_ZERO = 0.1  # a loss of this size has margins above 2
NEARLY_ALL = 0.95  # of the pairs


def has_collapsed(step: Step, before: float) -> bool:
    """Whether all looks well at this evaluation, and the answers are broken.

    before: the chosen_loss of the reference. The loss and the accuracy know only differences: they
    are at their best, too, where both answers have become all but impossible.
    """
    looks_well = (step.train_loss or step.loss) <= NEAR_ZERO or (
        step.measured["accuracy"] >= NEARLY_ALL
    )
    return looks_well and not step.measured["chosen_loss"] <= before + BROKEN


class PairKeeper(Keeper):
    """Warns of what goes wrong with preferences, where a Keeper warns of what does with texts."""

    def __init__(self, pairs: Pairs, *args: Any) -> None:
        super().__init__(*args)
        self.pairs, self.has_collapsed = pairs, False

    def is_ruined(self) -> bool:
        """Whether the last evaluation found a collapse; the loss would not tell."""
        return self.has_collapsed

    def warn(self, step: Step) -> None:
        """Say once what is usual though it looks bad, and once what is bad though it looks well."""
        before = self.pairs.chosen_loss
        self.has_collapsed = has_collapsed(step, before)
        if self.has_collapsed:
            lost = step.measured["chosen_loss"] - before
            self.warn_once(
                f"the model has collapsed: it tells the answers of a pair apart (accuracy "
                f"{step.measured['accuracy']:.0%}), and would give neither: each token of a chosen "
                f"answer that was held out costs {lost:.2f} nats more than before. Try "
                f"--lr {self.run.options.learning_rate / 10:g}, a higher --beta, or --nll-weight 1",
                "collapse",
            )
        elif step.measured["chosen_reward"] < 0 and "reward" not in self.warned:
            self.warned.add("reward")
            self.say(
                "note:",
                "the reward of the chosen answers is below 0: they became rarer, the rejected "
                "ones more so. That is usual, since only the difference is learned; --nll-weight "
                "holds against it",
            )
