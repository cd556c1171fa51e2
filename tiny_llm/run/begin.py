"""A run that can start: a new one, or one that goes on; and its steps.

begin(read_source(None), "mlp")        -> Run, Material
resume(Path("runs/mlp.safetensors"), source) -> Run, Material
for step in steps_of(run, material): ...
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from tiny_llm.batches import Batches, Examples
from tiny_llm.fast.workers import Compute, cores, default_count
from tiny_llm.model import LanguageModel
from tiny_llm.optimizers import cosine_schedule
from tiny_llm.run import steps as loop
from tiny_llm.run.asked import OnlyAsked
from tiny_llm.run.errors import UsageError, UserError, to_type
from tiny_llm.run.gradients import Gradients
from tiny_llm.run.options import BY_NAME, Options, check_names, problem_with
from tiny_llm.run.rungs import RUNGS, build_config, build_optimizer, flag, suiting
from tiny_llm.run.saved import Best, Run, load_run
from tiny_llm.run.saying import Say, silent
from tiny_llm.run.sources import AS_USUAL, Cut, Material, Source, read_source
from tiny_llm.run.steps import Step
from tiny_llm.text.corpus import Spread
from tiny_llm.text.orders import Shuffled
from tiny_llm.text.tasks import TASKS

VAL_TOKENS = 20_000  # predicted at each validation, so that a long text costs no more
EVALUATIONS = 10  # in a run, unless eval_every says otherwise
EVALUATIONS_ON_TASK = 3  # each takes as long as several steps
BYTES = 32  # of a number in a list: a pointer, and an object
MOST_IDLE = 4  # workers that a resumed run may have without a core for each
CHANGEABLE = ("steps", "patience", "workers")  # in a resumed run
OPTIONS = [
    name for name in BY_NAME if name not in ("text_sha256", "task", "stage")
]  # that can be chosen


def begin(
    source: Source,
    rung: str = "mlp",
    sizes: Optional[dict[str, Any]] = None,
    options: Optional[dict[str, Any]] = None,
    repeat: Optional[int] = None,
    cut: Cut = AS_USUAL,
) -> tuple[Run, Material]:
    """A new run. Of sizes and options, what is missing or None is as it suits the rung.

    `repeat`: passes over the training text, unless the options have `steps`.
    Raises UsageError for what makes no sense, ValueError for a text that is too short.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    check_names("rung", [rung], RUNGS)
    check_names("option", given, OPTIONS)
    check_values(given, repeat)
    val_fraction, lines = cut.val_fraction or given.get("val_fraction"), cut.lines
    lines = given.get("lines") if lines is None else lines
    material = source.new(cut._replace(val_fraction=val_fraction, lines=lines))
    own_sizes, own_options = suiting(material.task, rung)
    chosen_sizes = {name: value for name, value in (sizes or {}).items() if value is not None}
    config = build_config(rung, material.tokenizer.vocab_size, {**own_sizes, **chosen_sizes})
    values: dict[str, Any] = {name: f.default for name, f in BY_NAME.items()}
    values.update({**RUNGS[rung].options, **own_options, **given, "task": material.task})
    if "min_lr" not in given:
        values["min_lr"] = values["learning_rate"] / 10
    _check_together(rung, config, values, material)  # before a large model is made in vain
    _check_memory(rung, config, values)
    model = RUNGS[rung].model(config, seed=values["seed"])
    if "steps" not in given and (repeat or "steps" not in own_options):
        batches = _batches(model, material, values["batch_size"], values["seed"])
        passes = (repeat or RUNGS[rung].repeat) * batches.steps_per_pass
        values["steps"] = max(1, passes // values["gradient_accumulation_steps"])
    if "eval_every" not in given:
        evaluations = EVALUATIONS_ON_TASK if material.task else EVALUATIONS
        values["eval_every"] = max(1, values["steps"] // evaluations)
    if "workers" not in given and not material.task:
        values["workers"] = default_count(model, values["batch_size"])
    values["val_fraction"], values["lines"] = material.val_fraction, material.lines
    values["text_sha256"], values["text_beginning"] = material.sha256, material.beginning
    chosen = Options(**values)
    return Run(rung, model, material.tokenizer, build_optimizer(chosen), chosen), material


def resume(
    path: Path,
    source: Source,
    given: Optional[dict[str, Any]] = None,
    repeat: Optional[int] = None,
    say: Say = silent,
) -> tuple[Run, Material]:
    """The run in the checkpoint, as it was.

    `given` ("model", sizes, options, the fields of a Cut; None: not given) may make it longer, and
    change its patience and its workers; all else stays. Another number of workers adds up in
    another order, so that the last bits differ, which is said. No more are started than this
    machine can use. Raises UserError if there is none, UsageError for another change.
    """
    run = load_run(path, to_train=True)
    if run.options.stage:
        on = to_type(run.options.stage, {"--resume": str(path)})
        raise UserError(f"{path} is a run of {run.options.stage}; to go on with it, type {on}")
    given = {name: value for name, value in (given or {}).items() if value is not None}
    own = set(RUNGS[run.rung].sizes)
    sizes = {name for rung in RUNGS.values() for name in rung.sizes}
    check_names("option", given, ["model", *sizes, *OPTIONS, *Cut._fields])
    check_values({name: given[name] for name in CHANGEABLE if name in given}, repeat)
    build_config(run.rung, run.tokenizer.vocab_size, {n: given[n] for n in sizes & set(given)})
    if source.sha256 != run.options.text_sha256:
        task, is_built_in = run.options.task, read_source(None).sha256 == run.options.text_sha256
        give = f"give --task {task}" if task else "give the same text again with --data"
        give = "leave --data and --task out" if is_built_in else give
        raise UserError(f"{path} was trained on another text than {source.name}; {give}")
    refuse_changes(run, {n: v for n, v in given.items() if n not in sizes or n in own})
    material = source.known(run.tokenizer, run.options.val_fraction, run.options.lines)
    _check_length(run.model.config, material)
    change(run, material, given, repeat, say)
    return run, material


def change(
    run: Run, material: Material, given: dict[str, Any], repeat: Optional[int], say: Say
) -> None:
    """Make a resumed run longer, change its patience and its workers. Raises UsageError for a run
    that would become shorter."""
    batches = batches_of(run, material)
    accumulation = run.options.gradient_accumulation_steps
    steps = given.get("steps") or (repeat or 0) * batches.steps_per_pass // accumulation
    steps = steps or run.options.steps
    if steps < run.options.steps:
        raise UsageError(
            f"a run of {run.options.steps} steps can be made longer, not {steps} steps long"
        )
    workers = _workers(run, given.get("workers"), say)
    patience = given.get("patience", run.options.patience)
    run.options = dataclasses.replace(run.options, steps=steps, patience=patience, workers=workers)


def check_values(options: dict[str, Any], repeat: Optional[int]) -> None:
    """Raises UsageError for a value that no run can have."""
    for name, value in options.items():
        problem = problem_with(BY_NAME[name], value)
        if problem:
            raise UsageError(f"{flag(name)} {problem}")
    if repeat is not None and (type(repeat) is not int or repeat < 1):
        raise UsageError(f"--repeat must be a whole number of at least 1, not {repeat!r}")


def _check_together(rung: str, config: Any, options: dict[str, Any], material: Material) -> None:
    """Raises UsageError for what does not go together, ValueError for a text that is too short."""
    if options["dropout"] and rung != "modern":
        raise UsageError(f"--dropout is there for --model modern, not for {rung}")
    if options["min_lr"] > options["learning_rate"]:
        rates = f"{options['min_lr']:g} is above --learning-rate {options['learning_rate']:g}"
        raise UsageError(f"--min-lr {rates}")
    _check_length(config, material)
    task = material.task
    if not task:
        return
    if config.context_length < TASKS[task].window:
        raise UsageError(
            f"the task {task} needs a --context-length of {TASKS[task].window} or more, "
            f"not {config.context_length}"
        )
    if options["dropout"] or options["workers"] > 1:
        raise UsageError("a task is learned without --dropout and by one of --workers")


def _check_memory(rung: str, config: Any, options: dict[str, Any]) -> None:
    """Raises UserError for a model that cannot be trained in all the memory of this machine."""

    def count(config: Any) -> int:
        return sum(math.prod(start.shape) for start in RUNGS[rung].model.layout(config).values())

    layers = getattr(config, "n_layers", 1)
    if layers > 2:  # all have as many as another; the table of a million would be large itself
        one, two = (count(dataclasses.replace(config, n_layers=few)) for few in (1, 2))
        weights = one + (layers - 1) * (two - one)
    else:
        weights = count(config)
    copies = 2 if options["optimizer"] == "sgd" else 4  # weights, gradients, two averages
    needed, there = weights * copies * BYTES, memory()
    if there and needed > there:
        raise UserError(
            f"a model of {weights:,} weights needs about {needed / 1e9:,.0f} GB to be trained, and "
            f"this machine has {there / 1e9:,.0f}; choose smaller sizes"
        )


def memory() -> int:
    """The bytes of memory of this machine; 0 if it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def _workers(run: Run, given: Optional[int], say: Say) -> int:
    """How many processes a resumed run has: the given number, or its own if they fit here."""
    workers = given or min(run.options.workers, max(cores(), MOST_IDLE))
    if workers != run.options.workers:
        say(
            "workers:",
            f"{workers} instead of {run.options.workers}: the last bits of what follows will not "
            f"be those of a run without this change",
        )
    return workers


def refuse_changes(run: Run, given: dict[str, Any]) -> None:
    """Raises UsageError for what would make another run of it."""
    if given.get("tokenizer_file"):
        raise UsageError("--tokenizer-file: the run has its tokenizer; leave it out")
    settled = {
        "model": run.rung,
        "tokenizer": run.tokenizer.kind,
        "vocab_size": run.tokenizer.vocab_size,
        **dataclasses.asdict(run.model.config),
        **dataclasses.asdict(run.options),
    }
    for name, value in settled.items():
        if name not in CHANGEABLE and given.get(name, value) != value:
            raise UsageError(
                f"{flag(name)} cannot change in a resumed run (it is {value}); leave it out"
            )


def _check_length(config: Any, material: Material) -> None:
    """Raises ValueError for a training part that is shorter than a context."""
    length, tokens = config.context_length, len(material.train.ids)
    if tokens <= length and not material.lines:
        raise ValueError(
            f"the training part has {tokens} tokens, too few for a context of {length} and the "
            f"token that follows it; use a longer text or a context length of at most "
            f"{max(1, tokens - 1)}"
        )


def batches_of(run: Run, material: Material) -> Batches:
    """What each step trains on."""
    return _batches(run.model, material, run.options.batch_size, run.options.seed)


def _batches(model: Any, material: Material, batch_size: int, seed: int) -> Batches:
    examples = material.train.examples(model.config.context_length, model.predicts_every_token)
    return Batches(examples, batch_size, seed, Shuffled)


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


class Way(NamedTuple):
    """How a run learns: what reads the contexts of its material, and what is made of them."""

    model: LanguageModel
    compute: Optional[Compute] = None  # loss and gradients, in place of those of the next token
    measure: Callable[[LanguageModel, Examples], dict[str, float]] = loop.measured_loss


def _next_token(run: Run) -> Way:
    asked = run.options.task and run.model.predicts_every_token
    return Way(OnlyAsked(run.model) if asked else run.model)


def steps_of(
    run: Run, material: Material, way: Optional[Way] = None
) -> Generator[Step, None, None]:
    """The training steps that the run still has to do, each done when it is yielded.

    The run's step and its best validation loss are then up to date. While it runs, so do the
    workers; closing it ends them. Raises Diverged as `train` does, and WorkerDied.
    """
    model, options = run.model, run.options
    held_out = material.val.examples(model.config.context_length, model.predicts_every_token)
    model, compute, measure = way or _next_token(run)
    with Gradients(
        model,
        batches_of(run, material),
        options.gradient_accumulation_steps,
        options.dropout,
        options.workers,
        options.matmul,
        compute,
    ) as gradients:
        for step in loop.steps_of(
            model,
            run.optimizer,
            gradients,
            Spread(held_out, VAL_TOKENS),
            options.steps,
            schedule_of(options),
            options.eval_every,
            run.step,
            options.grad_clip,
            run.recent,
            measure,
        ):
            run.step = step.number
            if step.val_loss is not None and not (run.best and run.best.val_loss <= step.val_loss):
                run.best = Best(step.number, step.val_loss)
            yield step
