"""From a command line to a run that can start: a new one, or one that goes on."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Generator
from typing import Any, Callable

from tiny_llm.batches import Batches
from tiny_llm.cli.errors import UsageError, UserError
from tiny_llm.cli.material import Material, Source, known_material, new_material
from tiny_llm.cli.options import chosen_matmul
from tiny_llm.cli.rungs import RUNGS, Rung, build_config, build_optimizer, flag
from tiny_llm.cli.runs import Best, Options, Run, load_run
from tiny_llm.fast.workers import default_count
from tiny_llm.optimizers import cosine_schedule
from tiny_llm.run.gradients import Gradients
from tiny_llm.run.steps import Step
from tiny_llm.run.steps import steps_of as all_steps_of
from tiny_llm.text.orders import Shuffled

VAL_TOKENS = 2000  # predicted at each validation during training, so that a long text costs no more
EVALUATIONS = 10  # in a run, unless --eval-every says otherwise


def begin(args: argparse.Namespace, source: Source) -> tuple[Run, Material]:
    """A new run, as the flags and the rung's defaults describe it."""
    name = args.model or "mlp"
    rung = RUNGS[name]
    material = new_material(source, args)
    config = build_config(name, material.tokenizer.vocab_size, args)
    model = rung.model(config, seed=args.seed or 0)
    options = _options(args, rung, material, model)
    return Run(name, model, material.tokenizer, build_optimizer(options), options), material


def _options(args: argparse.Namespace, rung: Rung, material: Material, model: Any) -> Options:
    """What the flags say, and where they say nothing, what suits the rung."""

    def given(name: str, default: Any) -> Any:
        value = getattr(args, name)
        return default if value is None else value

    passes = args.repeat or rung.repeat
    accumulation = args.gradient_accumulation_steps or 1
    batch_size = args.batch_size or rung.batch_size
    batches = _batches(model, material, batch_size, args.seed or 0)
    steps = args.steps or max(1, passes * batches.steps_per_pass // accumulation)
    learning_rate = args.learning_rate or rung.learning_rate
    min_lr = given("min_lr", learning_rate / 10)
    if min_lr > learning_rate:
        raise UsageError(f"--min-lr {min_lr:g} is above --learning-rate {learning_rate:g}")
    return Options(
        optimizer=args.optimizer or rung.optimizer,
        learning_rate=learning_rate,
        schedule=args.schedule or "cosine",
        min_lr=min_lr,
        warmup_steps=given("warmup_steps", rung.warmup_steps),
        weight_decay=given("weight_decay", 0.01),
        beta1=given("beta1", 0.9),
        beta2=given("beta2", 0.99),
        grad_clip=given("grad_clip", 0.0),
        dropout=given("dropout", 0.0),
        batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        steps=steps,
        eval_every=args.eval_every or max(1, steps // EVALUATIONS),
        patience=args.patience or 0,
        val_fraction=material.val_fraction,
        lines=material.lines,
        seed=args.seed or 0,
        matmul=chosen_matmul(args.matmul, "auto"),
        workers=args.workers or default_count(model, batch_size),
        text_sha256=material.sha256,
    )


def batches_of(run: Run, material: Material) -> Batches:
    """What each step trains on. Raises ValueError for a text that is shorter than a context."""
    return _batches(run.model, material, run.options.batch_size, run.options.seed)


def _batches(model: Any, material: Material, batch_size: int, seed: int) -> Batches:
    length, tokens = model.config.context_length, len(material.train.ids)
    if tokens <= length and not material.lines:
        raise ValueError(
            f"the training part has {tokens} tokens, too few for a context of {length} and the "
            f"token that follows it; use a longer text or a context length of at most "
            f"{max(1, tokens - 1)}"
        )
    examples = material.train.examples(length, model.predicts_every_token)
    return Batches(examples, batch_size, seed, Shuffled)


def resume(args: argparse.Namespace, source: Source) -> tuple[Run, Material]:
    """The run in the checkpoint, as it was. --steps or --repeat make it longer; all else stays."""
    run = load_run(args.resume)
    options = run.options
    build_config(run.rung, run.tokenizer.vocab_size, args)  # refuses a size of another rung
    if source.sha256 != options.text_sha256:
        raise UserError(
            f"{args.resume} was trained on another text than {source.name}; "
            f"give the same text again with --data"
        )
    _refuse_changes(args, run)
    material = known_material(source, run.tokenizer, options.val_fraction, options.lines)
    passes = args.repeat or 0
    batches = batches_of(run, material)
    accumulation = options.gradient_accumulation_steps
    steps = args.steps or passes * batches.steps_per_pass // accumulation or options.steps
    if steps < options.steps:
        raise UsageError(
            f"a run of {options.steps} steps can be made longer, not {steps} steps long"
        )
    patience = options.patience if args.patience is None else args.patience
    run.options = dataclasses.replace(options, steps=steps, patience=patience)
    return run, material


def _refuse_changes(args: argparse.Namespace, run: Run) -> None:
    """Raises UsageError for a flag that would make another run of it."""
    if args.tokenizer_file:
        raise UsageError("--tokenizer-file: the run has its tokenizer; leave it out")
    settled = {
        "model": run.rung,
        "tokenizer": run.tokenizer.kind,
        "vocab_size": run.tokenizer.vocab_size,
        **dataclasses.asdict(run.model.config),
        **dataclasses.asdict(run.options),
    }
    del settled["steps"], settled["patience"]
    for name, value in settled.items():
        if getattr(args, name, None) not in (None, value):
            raise UsageError(
                f"{flag(name)} cannot change in a resumed run (it is {value}); leave it out"
            )


def schedule_of(options: Options) -> Callable[[int], float]:
    """The learning rate of each step of a run, by the number of the step, from 0."""

    def learning_rate(step: int) -> float:
        if options.schedule == "constant" and step >= options.warmup_steps:
            return options.learning_rate
        floor = options.min_lr / options.learning_rate
        return cosine_schedule(
            step, options.steps, options.learning_rate, options.warmup_steps, floor
        )

    return learning_rate


def steps_of(current: Run, material: Material) -> Generator[Step, None, None]:
    """The training steps that the run still has to do, each done when it is yielded.

    The run's step and its best validation loss are then up to date. While it runs, so do the
    workers; closing it ends them. Raises Diverged as `train` does, and WorkerDied.
    """
    options = current.options
    model = current.model
    held_out = material.val.beginning(VAL_TOKENS)
    with Gradients(
        model,
        batches_of(current, material),
        options.gradient_accumulation_steps,
        options.dropout,
        options.workers,
        options.matmul,
    ) as gradients:
        for step in all_steps_of(
            model,
            current.optimizer,
            gradients,
            held_out.examples(model.config.context_length, model.predicts_every_token),
            options.steps,
            schedule_of(options),
            options.eval_every,
            current.step,
            options.grad_clip,
            current.recent,
        ):
            _take_note(current, step)
            yield step


def is_exhausted(current: Run) -> bool:
    """Whether --patience has run out: so many evaluations since the best one."""
    options, best = current.options, current.best
    if not options.patience or not best:
        return False
    return current.step - best.step >= options.patience * options.eval_every


def _take_note(current: Run, step: Step) -> None:
    """Bring the run's step and its best validation loss up to date."""
    current.step = step.number
    if step.val_loss is not None and not (current.best and current.best.val_loss <= step.val_loss):
        current.best = Best(step.number, step.val_loss)
