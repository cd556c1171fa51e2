"""tiny-lm dpo: teach a model that answers which of two answers is the better one.

--checkpoint, --data --> pairs, reference --> the loop --> runs/dpo.safetensors
--checkpoint, --data with --sample-pairs FILE --> the model's own answers --> FILE, for --data
"""

from __future__ import annotations

import argparse
import random
import sys
from typing import Any

from tiny_llm.beyond.chat import template_of
from tiny_llm.beyond.own_answers import answers, read_asked, sampled
from tiny_llm.beyond.preference_run import (
    REPEAT,
    SUITING,
    PairKeeper,
    Pairs,
    begin_run,
    check_base,
    reference_of,
    resume_run,
    steps_of,
)
from tiny_llm.beyond.preferences import as_line
from tiny_llm.cli import options as flags
from tiny_llm.cli.generate import open_checkpoint
from tiny_llm.cli.interrupt import Interrupt
from tiny_llm.cli.introduce import count_parameters
from tiny_llm.cli.options import whole_number
from tiny_llm.cli.train import add_saving
from tiny_llm.fast.workers import WorkerDied
from tiny_llm.files import atomic
from tiny_llm.run.errors import UsageError, UserError, alone, check_out, to_type, writing
from tiny_llm.run.files import RunFiles, is_a_best, run_files
from tiny_llm.run.keeping import lower
from tiny_llm.run.saved import RUNS, Run, newest_checkpoint
from tiny_llm.run.texts import read_text
from tiny_llm.sampling import Sampling
from tiny_llm.text.shown import shown
from tiny_llm.training import Diverged
from tiny_llm.view.progress import Progress
from tiny_llm.view.terminal import loss_text, style_for

DEFAULTS = {**SUITING, "repeat": REPEAT, "dropout": None, "beta": 0.3, "nll_weight": 0.0}
ANSWERS = 2  # of the model to each question
SHOWN = 3  # held-out questions, with what the model says to them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `dpo`."""
    parser.description = (
        "Teach a model that answers which of two answers is the better one: Direct Preference "
        'Optimization. --data has a JSON object a line, with a "prompt" or "messages", and a '
        '"chosen" and a "rejected" answer.'
    )
    parser.set_defaults(command=run)
    flags.add_checkpoint(parser)
    flags.add_data(parser)
    own = parser.add_argument_group("the model's own answers")
    own.add_argument(
        "--sample-pairs",
        type=flags.file_name,
        metavar="FILE",
        help="instead of learning: ask the questions of the conversations in --data, and write a "
        "pair to FILE for each wrong answer",
    )
    own.add_argument(
        "--answers", type=whole_number(1), default=ANSWERS, metavar="K",
        help="to each question (%(default)s)",
    )  # fmt: skip
    flags.add_drawing(own, 1.0, 1.0)
    flags.add_training(parser, DEFAULTS, "preferences")
    add_saving(parser, "dpo")
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Learn, or write pairs to learn from. Exit code 0, or that of the signal that stopped it."""
    if not args.data:
        raise UsageError("--data is missing: a file of preferences, one JSON object a line")
    data = read_text(args.data, args.encoding)
    if args.sample_pairs:
        return _sample_pairs(args, data.content, shown(data.name))
    notes = Progress(sys.stderr, style_for(sys.stderr, args.color), 0, 0, args.quiet)
    given = flags.options_of(args)
    if args.resume:
        if flags.checkpoint_of(args):
            raise UsageError("--resume goes on with a run that has its model; leave the other out")
        current, pairs = resume_run(args.resume, data, given, args.repeat, notes.fact)
    else:
        args.checkpoint = flags.checkpoint_of(args) or newest_checkpoint()
        current, pairs = begin_run(open_checkpoint(args), data, given, args.repeat)
    if args.stop_after and args.stop_after <= current.step:
        raise UsageError(
            f"--stop-after {args.stop_after} lies behind: the run is at step {current.step}"
        )
    out = args.out or args.resume or RUNS / "dpo.safetensors"
    if args.resume and not args.out and is_a_best(out):
        raise UsageError(f"{out} is the best of a run; name where to go on with --out, so it stays")
    files = run_files(out, args.metrics)
    if not args.resume and out.exists() and out.samefile(args.checkpoint):
        raise UserError(f"{out} is the model that learns; choose another --out")
    files.check(args.data)
    with alone(*files):
        return _run(current, pairs, args, files)


def _run(current: Run, pairs: Pairs, args: argparse.Namespace, files: RunFiles) -> int:
    """Everything from the first line on, while no other command writes these files."""
    style, options = style_for(sys.stderr, args.color), current.options
    progress = Progress(sys.stderr, style, options.steps, current.step, args.quiet, "pairs")
    _introduce(current, pairs, progress)
    files.make_room(args.resume, current.is_best, progress.fact)
    save_every = args.save_every or options.eval_every
    keeper = PairKeeper(pairs, current, files, save_every, progress.fact, args.resume)
    if current.step == options.steps or current.is_exhausted:
        keeper.save(files.out)
    else:
        with Interrupt(progress) as interrupt:
            _learn(current, pairs, args, keeper, interrupt, progress)
        if current.step < options.steps and not current.is_exhausted:
            progress.note(
                f"stopped at step {current.step} of {options.steps}; {files.out} is saved. "
                f"To go on, type",
                to_type("dpo", {"--resume": str(files.out), "--data": args.data}),
            )
            return interrupt.code
    _conclude(current, pairs, args, keeper, progress)
    return 0


def _introduce(current: Run, pairs: Pairs, progress: Progress) -> None:
    """What is about to be learned by what, in a few lines."""
    options = current.options
    learned, held_out = len(pairs.train.pairs), len(pairs.val.pairs)
    progress.fact(
        "pairs:", f"{pairs.material.name}, {learned:,} to learn from, {held_out:,} held out"
    )
    if pairs.too_long:
        lines = ", ".join(map(str, pairs.too_long[:5])) + ", ..." * (len(pairs.too_long) > 5)
        length = current.model.config.context_length
        progress.fact(
            "left out:", f"{len(pairs.too_long):,} longer than the window of {length}: line {lines}"
        )
    nll = f", NLL weight {options.nll_weight:g}" if options.nll_weight else ""
    progress.fact(
        "model:",
        f"{current.rung}, {count_parameters(current):,} parameters; beta {options.beta:g}{nll}",
    )
    workers = f", {options.workers} workers" if options.workers > 1 else ""
    progress.fact(
        "training:",
        f"{options.steps:,} steps of {options.batch_size} pairs with {options.optimizer}, learning "
        f"rate {options.learning_rate:g}, {options.schedule}{workers}",
    )
    if current.step:
        progress.fact("resumed:", f"at step {current.step}")


def _learn(
    current: Run,
    pairs: Pairs,
    args: argparse.Namespace,
    keeper: PairKeeper,
    interrupt: Interrupt,
    progress: Progress,
) -> None:
    """Run the loop up to its end, --stop-after, --patience or Ctrl-C."""
    options, total = current.options, len(pairs.train.pairs) + len(pairs.val.pairs)
    last = min(args.stop_after or options.steps, options.steps)

    def heard(done: int) -> None:
        progress.status(f"the reference is asked about {done:,} of {total:,} pairs")

    steps = steps_of(current, pairs, heard)
    try:
        with keeper:
            for step in steps:
                progress.step(step)
                is_last = step.number == last or interrupt.requested or current.is_exhausted
                keeper.keep(step, is_last)
                if is_last:
                    break
    except Diverged as error:
        raise UserError(
            f"{error}, so training stopped: {lower(options)}; {keeper.left_behind()}"
        ) from None
    except WorkerDied as error:
        raise UserError(f"{error}; {keeper.left_behind()}") from None
    finally:
        steps.close()
        progress.clear()


def _conclude(
    current: Run,
    pairs: Pairs,
    args: argparse.Namespace,
    keeper: PairKeeper,
    progress: Progress,
) -> None:
    """The result, what it says to some questions, and what to do next."""
    best, files = current.best, keeper.files
    if current.is_exhausted:
        patience = current.options.patience
        progress.fact("patience:", f"no better one in {patience} validations: this is the end")
    if best:
        is_beside = best.step < current.step and files.best.exists()
        where = f", kept as {files.best}" if is_beside else ""
        progress.fact(
            "done:", f"best validation loss {loss_text(best.val_loss)} at step {best.step}{where}"
        )
    _print_answers(current, pairs)
    progress.note("")
    progress.note(
        f"saved {files.out} (step {current.step}). To talk to it, type",
        to_type("chat", {"--checkpoint": str(files.out)}),
    )


def _print_answers(current: Run, pairs: Pairs) -> None:
    """Some held-out questions to standard output, with what was and what is now said to them."""
    tokenizer: Any = current.tokenizer
    markers = set(tokenizer.special_tokens.values())
    reference = reference_of(current)
    for pair in pairs.val.pairs[:SHOWN]:
        question = [token for token in pair.question if token not in markers]
        print(f"question  {shown(tokenizer.decode(question))}")
        for when, model in (("before", reference), ("now", current.model)):
            greedy, rngs = Sampling(temperature=0), [random.Random(0)]
            (answer,) = answers(model, pair.question, current.chat.ends, greedy, rngs)
            text = "(no end)" if answer is None else shown(tokenizer.decode(answer))
            print(f"{when:<10}{text}", flush=True)


# ---------------------------------------------------------------- the model's own answers


def _sample_pairs(args: argparse.Namespace, content: str, name: str) -> int:
    """Ask the model every question, and write what it says wrong as pairs."""
    out = args.sample_pairs
    if args.resume:
        raise UsageError("--sample-pairs asks a finished model; leave --resume out")
    args.checkpoint = flags.checkpoint_of(args) or newest_checkpoint()
    base = open_checkpoint(args)
    check_base(base)
    check_out(out, lambda: False, f"{out} exists; choose another name for --sample-pairs")
    asked = list(read_asked(content.split("\n"), name))
    if not asked:
        raise UserError(f"{name} has no conversations; give a JSON object with messages a line")
    progress = Progress(sys.stderr, style_for(sys.stderr, args.color), 0, 0, args.quiet)
    sampling = Sampling(args.temperature, args.top_k, args.top_p)
    template, seed = template_of(base.chat.template), args.seed or 0
    lines, right, endless = list[str](), 0, 0
    for number, one in enumerate(asked, 1):
        rngs = [random.Random(f"{seed}/{one.line}/{i}") for i in range(args.answers)]
        ends: Any = base.chat.ends
        tokenizer: Any = base.tokenizer
        found = sampled(base.model, tokenizer, template, ends, one, sampling, rngs)
        lines += map(as_line, found.pairs)
        right, endless = right + found.right, endless + found.endless
        progress.status(f"asked {number:,} of {len(asked):,} questions, {len(lines):,} pairs")
    progress.clear()
    progress.fact(
        "asked:",
        f"{len(asked):,} questions, {len(asked) * args.answers:,} answers: {right:,} as in {name}, "
        f"{endless:,} without an end, {len(lines):,} others",
    )
    if not lines:
        raise UserError(
            "no answer was a wrong one, so there is no pair; try a higher --temperature"
        )
    with writing(out):
        atomic.replace_file(out, ["".join(lines).encode("utf-8")])
    given = {"--checkpoint": str(args.checkpoint), "--data": str(out)}
    progress.note(f"saved {out}. To learn from it, type", to_type("dpo", given))
    return 0
