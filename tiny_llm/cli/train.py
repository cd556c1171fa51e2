"""tiny-lm train: a text, a model, and the loop between them; shows, samples and saves."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tiny_llm.cli import options as flags
from tiny_llm.cli.interrupt import Interrupt
from tiny_llm.cli.introduce import introduce
from tiny_llm.cli.options import whole_number
from tiny_llm.cli.recipes import OF_RECIPE, recipes
from tiny_llm.cli.sample import print_attention, print_sample, prompt_ids
from tiny_llm.cli.task import print_task
from tiny_llm.fast.workers import WorkerDied
from tiny_llm.run.begin import begin, resume, steps_of
from tiny_llm.run.errors import UsageError, UserError, alone, to_type
from tiny_llm.run.files import RunFiles, is_a_best, run_files
from tiny_llm.run.keeping import Keeper, lower
from tiny_llm.run.rungs import RUNGS
from tiny_llm.run.saved import RUNS, Run
from tiny_llm.run.sources import TASK, Material, read_source
from tiny_llm.text.tasks import TASKS
from tiny_llm.text.yardsticks import guessing_loss
from tiny_llm.training import Diverged
from tiny_llm.view.heads import has_attention
from tiny_llm.view.progress import Progress
from tiny_llm.view.terminal import loss_text, style_for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `train`."""
    parser.description = "Train a model on a text, show what it writes, and save it."
    parser.set_defaults(command=run)
    parser.add_argument("--model", choices=RUNGS, help="the rung of the ladder (mlp)")
    add_recipe(parser)
    text = flags.add_data(parser)
    text.add_argument(
        "--task",
        choices=TASKS,
        help="instead of a text, cases made on the spot: "
        + "; ".join(f"{name}, {task.about}" for name, task in TASKS.items()),
    )
    flags.add_cutting(text)
    flags.add_sizes(parser)
    flags.add_training(parser)
    add_saving(parser, "MODEL").add_argument(
        "--sample-every", type=whole_number(1), metavar="N", help="steps between two samples"
    )
    flags.add_sampling(parser)
    flags.add_display(parser)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """--recipe."""
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"flags that go well together: {', '.join(recipes())}, or a file of your own; "
        "flags on the command line win",
    )
    parser.add_argument(OF_RECIPE, type=flags.file_name, help=argparse.SUPPRESS)


def add_saving(parser: argparse.ArgumentParser, name: str) -> argparse._ArgumentGroup:
    """Where to and when; `name`: of the checkpoint, unless it is given one."""
    group = parser.add_argument_group("saving")
    add = group.add_argument
    add(
        "-o",
        "--out",
        type=flags.file_name,
        metavar="FILE",
        help=f"the checkpoint (runs/{name}.safetensors)",
    )
    add(
        "--save-every",
        type=whole_number(1),
        metavar="N",
        help="steps between two saves (those of --eval-every)",
    )
    add(
        "--metrics",
        type=flags.file_name,
        metavar="FILE",
        help=f"losses, rate and speed of every step, a JSON line each (runs/{name}.metrics.jsonl)",
    )
    add("--stop-after", type=whole_number(1), metavar="K", help="end early, at step K of the run")
    add("--resume", type=flags.file_name, metavar="FILE", help="go on with an interrupted run")
    return group


def run(args: argparse.Namespace) -> int:
    """Train, save, sample. Exit code 0, or that of the signal that stopped it."""
    if args.task and args.data:
        raise UsageError("--task takes the place of a text; leave --data out")
    data = TASK + args.task if args.task else args.data
    source = read_source(data, args.encoding)
    notes = Progress(sys.stderr, style_for(sys.stderr, args.color), 0, 0, args.quiet)
    if args.resume:
        given = {"model": args.model, **flags.sizes_of(args), **flags.cut_of(args)._asdict()}
        given.update(flags.options_of(args), matmul=args.matmul)  # not what the environment says
        current, material = resume(args.resume, source, given, args.repeat, notes.fact)
    else:
        rung, sizes, options = args.model or "mlp", flags.sizes_of(args), flags.options_of(args)
        current, material = begin(source, rung, sizes, options, args.repeat, flags.cut_of(args))
    _check_before_training(current, args)
    out = args.out or args.resume or RUNS / f"{current.rung}.safetensors"
    if args.resume and not args.out and is_a_best(out):
        raise UsageError(f"{out} is the best of a run; name where to go on with --out, so it stays")
    files = run_files(out, args.metrics)
    files.check(data)
    with alone(*files):
        return _run(current, material, args, files)


def _run(current: Run, material: Material, args: argparse.Namespace, files: RunFiles) -> int:
    """Everything from the first line on, while no other command writes these files."""
    style = style_for(sys.stderr, args.color)
    steps = current.options.steps
    progress = Progress(sys.stderr, style, steps, current.step, args.quiet)
    introduce(current, material, progress)
    files.make_room(args.resume, current.is_best, progress.fact)
    save_every = args.save_every or current.options.eval_every
    keeper = Keeper(current, files, save_every, progress.fact, args.resume)
    if current.step == steps or current.is_exhausted:  # nothing left to do, but --out may be new
        keeper.save(files.out)
    else:
        with Interrupt(progress) as interrupt:
            _train(current, material, args, keeper, interrupt, progress)
        if current.step < steps and not current.is_exhausted:
            where = f"stopped at step {current.step} of {steps}; {files.out} is saved"
            progress.note(f"{where}. To go on, type", _resume_command(args, files.out))
            return interrupt.code
    _conclude(current, material, args, keeper, progress)
    return 0


def _check_before_training(current: Run, args: argparse.Namespace) -> None:
    """What would fail behind the training is refused before it."""
    if args.show_attention and not has_attention(current.model):
        raise UsageError(
            f"--model {current.rung} has no attention to show; use --model attention or modern"
        )
    if current.options.task and args.prompt and not args.show_attention:
        raise UsageError("--prompt is for texts; a task asks its own cases, so leave it out")
    if args.stop_after and args.stop_after <= current.step:
        raise UsageError(
            f"--stop-after {args.stop_after} lies behind: the run is at step {current.step}"
        )
    prompt_ids(current, args)
    current.tokenizer.encode(args.stop or "")


def _train(
    current: Run,
    material: Material,
    args: argparse.Namespace,
    keeper: Keeper,
    interrupt: Interrupt,
    progress: Progress,
) -> None:
    """Run the loop up to its end, --stop-after, --patience or Ctrl-C."""
    options = current.options
    last = min(args.stop_after or options.steps, options.steps)
    steps = steps_of(current, material)
    try:
        with keeper:
            for step in steps:
                if step.number == 1:
                    guess = guessing_loss(current.tokenizer.vocab_size)
                    progress.note(
                        f"first loss {step.loss:.3f}: random guessing would cost {guess:.3f}"
                    )
                progress.step(step)
                is_last = step.number == last or interrupt.requested or current.is_exhausted
                keeper.keep(step, is_last)
                if is_last:
                    break
                if args.sample_every and step.number % args.sample_every == 0:
                    progress.clear()
                    if options.task:
                        print_task(current, material)
                    else:
                        print_sample(current, args, options.seed)
    except Diverged as error:
        raise UserError(
            f"{error}, so training stopped: {lower(options)}; {keeper.left_behind()}"
        ) from None
    except WorkerDied as error:
        raise UserError(f"{error}; {keeper.left_behind()}") from None
    finally:
        steps.close()
        progress.clear()


def _resume_command(args: argparse.Namespace, out: Path) -> str:
    """What to type to go on."""
    given = {
        "--resume": out,
        "--task": args.task,
        "--data": args.data,
        "--encoding": args.encoding if args.encoding != "utf-8" else None,
        "--metrics": args.metrics,
        "--save-every": args.save_every,
    }
    return to_type("train", {flag: str(value) for flag, value in given.items() if value})


def _conclude(
    current: Run,
    material: Material,
    args: argparse.Namespace,
    keeper: Keeper,
    progress: Progress,
) -> None:
    """The result, a sample, and what to do next. Raises UserError if it is worse than guessing."""
    best, patience, files = current.best, current.options.patience, keeper.files
    if current.is_exhausted:
        progress.fact("patience:", f"no better one in {patience} validations: this is the end")
    if keeper.is_ruined():
        loss = loss_text(keeper.history[-1].val_loss)
        kept = f", and {files.best} the best, step {best.step}" if best else ""
        raise UserError(
            f"the run ends with a validation loss of {loss} where guessing costs "
            f"{keeper.guessing:.3f}, so the model is worse than none: {lower(current.options)}"
            f"; {keeper.left_behind()}{kept}"
        )
    if best:
        is_beside = best.step < current.step and files.best.exists()
        where = f", kept as {files.best}" if is_beside else ""
        loss = f"best validation loss {loss_text(best.val_loss)} at step {best.step}{where}"
        progress.fact("done:", loss)
    if current.options.task:
        print_task(current, material)
        if args.show_attention:
            print_attention(current, prompt_ids(current, args), args)
        look = "attention" if has_attention(current.model) else "eval"
        progress.note("")
        progress.note(
            f"saved {files.out} (step {current.step}). To look closer, type",
            to_type(look, {"--checkpoint": str(files.out)}),
        )
        return
    print_sample(current, args, current.options.seed)
    prompt = args.prompt or ""  # without one, generate begins as this sample did
    words = {"--prompt": prompt} if prompt and prompt.isprintable() else {}
    if args.allow_special:
        words["--allow-special"] = ""
    progress.note("")
    progress.note(
        f"saved {files.out} (step {current.step}). To let it write more, type",
        to_type("generate", {"--checkpoint": str(files.out), **words, "--seed": "1"}),
    )
