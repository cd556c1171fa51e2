"""From a command line to a run that can start: a new one, or one that goes on."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Generator
from typing import Any, NamedTuple

from tiny_llm.batches import Batches, split
from tiny_llm.cli.errors import UsageError, UserError
from tiny_llm.cli.options import chosen_matmul
from tiny_llm.cli.rungs import RUNGS, Rung, build_config, build_optimizer, flag
from tiny_llm.cli.runs import Best, Options, Run, load_run
from tiny_llm.cli.texts import Text
from tiny_llm.contract import LanguageModel
from tiny_llm.optimizers import cosine_schedule
from tiny_llm.parallel import Workers, default_count
from tiny_llm.tokenizer import CharTokenizer
from tiny_llm.training import Step, train

VAL_FRACTION = 0.1
VAL_TOKENS = 2000  # predicted at each validation during training, so that a long text costs no more
EVALUATIONS = 10  # in a run, unless --eval-every says otherwise


class Material(NamedTuple):
    """The text as a run sees it."""

    text: Text
    ids: list[int]  # all of them
    train_ids: list[int]
    val_ids: list[int]  # the first of the held-out ones: those that each validation predicts
    batches: Batches
    val_fraction: float


def begin(args: argparse.Namespace, text: Text) -> tuple[Run, Material]:
    """A new run, as the flags and the rung's defaults describe it."""
    name = args.model or "mlp"
    rung = RUNGS[name]
    tokenizer = CharTokenizer.from_text(text.content)
    seed = args.seed or 0
    model = rung.model(build_config(name, tokenizer.vocab_size, args), seed=seed)
    val_fraction = args.val_fraction or VAL_FRACTION
    batch_size = args.batch_size or rung.batch_size
    material = prepare(model, tokenizer, text, val_fraction, batch_size, seed)
    options = _options(args, rung, material, model)
    return Run(name, model, tokenizer, build_optimizer(options), options), material


def _options(args: argparse.Namespace, rung: Rung, material: Material, model: Any) -> Options:
    """What the flags say, and where they say nothing, what suits the rung."""

    def given(name: str, default: Any) -> Any:
        value = getattr(args, name)
        return default if value is None else value

    passes = args.repeat or rung.repeat
    accumulation = args.gradient_accumulation_steps or 1
    steps = args.steps or max(1, passes * material.batches.steps_per_pass // accumulation)
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
        batch_size=material.batches.batch_size,
        gradient_accumulation_steps=accumulation,
        steps=steps,
        eval_every=args.eval_every or max(1, steps // EVALUATIONS),
        patience=args.patience or 0,
        val_fraction=material.val_fraction,
        seed=args.seed or 0,
        matmul=chosen_matmul(args.matmul, "auto"),
        workers=args.workers or default_count(model, material.batches.batch_size),
        text_sha256=material.text.sha256,
    )


def resume(args: argparse.Namespace, text: Text) -> tuple[Run, Material]:
    """The run in the checkpoint, as it was. --steps or --repeat make it longer; all else stays."""
    run = load_run(args.resume)
    options = run.options
    build_config(run.rung, run.tokenizer.vocab_size, args)  # refuses a size of another rung
    if text.sha256 != options.text_sha256:
        raise UserError(
            f"{args.resume} was trained on another text than {text.name}; "
            f"give the same text again with --data"
        )
    settled = {
        "model": run.rung,
        **dataclasses.asdict(run.model.config),
        **dataclasses.asdict(options),
    }
    del settled["steps"]
    for name, value in settled.items():
        if getattr(args, name, None) not in (None, value):
            raise UsageError(
                f"{flag(name)} cannot change in a resumed run (it is {value}); leave it out"
            )
    material = prepare(
        run.model, run.tokenizer, text, options.val_fraction, options.batch_size, options.seed
    )
    steps = args.steps or (args.repeat or 0) * material.batches.steps_per_pass or options.steps
    if steps < options.steps:
        raise UsageError(
            f"a run of {options.steps} steps can be made longer, not {steps} steps long"
        )
    run.options = dataclasses.replace(options, steps=steps)
    return run, material


def steps_of(current: Run, material: Material) -> Generator[Step, None, None]:
    """The training steps that the run still has to do, each done when it is yielded.

    The run's step and its best validation loss are then up to date. While it runs, so do the
    workers; closing it ends them. Raises Diverged as `train` does, and WorkerDied.
    """
    options = current.options

    def learning_rate(step: int) -> float:
        if options.schedule == "constant" and step >= options.warmup_steps:
            return options.learning_rate
        floor = options.min_lr / options.learning_rate
        return cosine_schedule(
            step, options.steps, options.learning_rate, options.warmup_steps, floor
        )

    with Workers(current.model, options.workers, options.matmul) as workers:
        steps = train(
            current.model,
            current.optimizer,
            material.batches,
            material.val_ids,
            options.steps,
            learning_rate,
            options.eval_every,
            start=current.step,
            gradient_accumulation_steps=options.gradient_accumulation_steps,
            grad_clip=options.grad_clip,
            dropout_seed=options.seed if getattr(current.model.config, "dropout", 0) else None,
            matmul=options.matmul,
            gradients_of=workers.gradients,
        )
        for step in steps:
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


def prepare(
    model: LanguageModel,
    tokenizer: CharTokenizer,
    text: Text,
    val_fraction: float,
    batch_size: int,
    seed: int,
) -> Material:
    """The text as ids, split and put in batches. Raises ValueError if it is too short for that."""
    ids = tokenizer.encode(text.content)
    train_ids, val_ids = split(ids, val_fraction)
    batches = Batches(
        train_ids, model.config.context_length, model.targets_per_context, batch_size, seed
    )
    return Material(text, ids, train_ids, val_ids[: VAL_TOKENS + 1], batches, val_fraction)
