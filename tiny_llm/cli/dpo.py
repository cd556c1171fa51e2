"""tiny-lm dpo: teach a model that answers which of two answers is the better one.

--checkpoint, --data --> pairs, reference --> the loop --> runs/dpo.safetensors
--checkpoint, --data with --sample-pairs FILE --> the model's own answers --> FILE, for --data
"""

from __future__ import annotations

import argparse
import random
import sys
from typing import Any, NamedTuple

from tiny_llm.beyond.builtin import ABOUT, PREFERENCES, preferences
from tiny_llm.beyond.chat import template_of
from tiny_llm.beyond.own_answers import Asked, read_asked, sampled
from tiny_llm.beyond.pair_step import pair_step
from tiny_llm.beyond.preference_run import (
    STAGE,
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
from tiny_llm.cli.stage import RunningStage, files_of, in_stages, left_out, print_answers
from tiny_llm.cli.train import add_recipe, add_saving
from tiny_llm.files import atomic
from tiny_llm.run.errors import UsageError, UserError, alone, check_out, to_type, writing
from tiny_llm.run.files import RunFiles
from tiny_llm.run.saved import Run, newest_checkpoint
from tiny_llm.run.texts import Text, read_text
from tiny_llm.sampling import Sampling
from tiny_llm.text.shown import shown
from tiny_llm.view.pair_step import as_lines
from tiny_llm.view.progress import Progress
from tiny_llm.view.terminal import style_for

DEFAULTS = {
    **STAGE.options, **in_stages(STAGE), "repeat": STAGE.repeat, "dropout": None, "beta": 0.3,
    "nll_weight": 0.0,
}  # fmt: skip
ANSWERS = 2  # of the model to each question
LOWER = 4  # times below that of sft a learning rate has to be, not to be warned of
SHOWN = 3  # held-out questions, with what the model says to them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `dpo`."""
    parser.description = (
        "Teach a model that answers which of two answers is the better one: Direct Preference "
        'Optimization. --data has a JSON object a line, with a "prompt" or "messages", and a '
        '"chosen" and a "rejected" answer. KL is the divergence from the model that it began with, '
        "exact for each next token, added up along the chosen answers that are held out."
    )
    parser.set_defaults(command=run)
    add_recipe(parser)
    flags.add_checkpoint(parser)
    flags.add_builtin(flags.add_data(parser, "preferences; - for standard input"), PREFERENCES)
    own = parser.add_argument_group("the model's own answers")
    own.add_argument(
        "--sample-pairs",
        type=flags.file_name,
        metavar="FILE",
        help="instead of learning: ask the questions of the conversations in --data, and write a "
        "pair to FILE for each wrong answer",
    )
    own.add_argument(
        "--answers", type=whole_number(1), metavar="K", help=f"to each question ({ANSWERS})"
    )  # fmt: skip
    flags.add_drawing(own, 1.0, 1.0)
    parser.add_argument(
        "--show-step",
        action="store_true",
        help="instead of learning: one step on one pair, told with its numbers",
    )
    flags.add_training(parser, DEFAULTS, "preferences")
    add_saving(parser, "dpo")
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Learn, or write pairs to learn from. Exit code 0, or that of the signal that stopped it."""
    if args.sample_pairs:
        args.answers = args.answers or ANSWERS
        return _sample_pairs(args)
    if args.answers:
        raise UsageError("--answers is for --sample-pairs; leave it out")
    data = _data(args)
    notes = Progress(sys.stderr, style_for(sys.stderr, args.color), 0, 0, args.quiet)
    given = flags.options_of(args)
    if args.resume:
        if flags.checkpoint_of(args):
            raise UsageError("--resume goes on with a run that has its model; leave the other out")
        current, pairs = resume_run(args.resume, data, given, args.repeat, notes.fact)
    else:
        args.checkpoint = flags.checkpoint_of(args) or newest_checkpoint()
        base = open_checkpoint(args)
        current, pairs = begin_run(base, data, given, args.repeat)
        _warn_of_rate(current, base, notes)
    if args.show_step:
        style = style_for(sys.stdout, args.color)
        told = pair_step(current, pairs.train.pairs[0])
        for line in as_lines(told, current.tokenizer, style):
            print(line)
        return 0
    files = files_of("dpo", args, current)
    with alone(*files):
        return _run(current, pairs, args, files)


def _data(args: argparse.Namespace) -> Text:
    """The lines in --data, or those that come along."""
    if args.data and args.builtin:
        raise UsageError("--builtin takes the place of a file; leave --data out")
    if args.data:
        return read_text(args.data, args.encoding)
    name = args.builtin or PREFERENCES[0]
    return Text("".join(preferences(name)), ABOUT[name])


def _run(current: Run, pairs: Pairs, args: argparse.Namespace, files: RunFiles) -> int:
    """Everything from the first line on, while no other command writes these files."""
    options, total = current.options, len(pairs.train.pairs) + len(pairs.val.pairs)
    style = style_for(sys.stderr, args.color)
    progress = Progress(sys.stderr, style, options.steps, current.step, args.quiet, "pairs")
    _introduce(current, pairs, progress)
    files.make_room(args.resume, current.is_best, progress.fact)
    save_every = args.save_every or options.eval_every
    keeper = PairKeeper(pairs, current, files, save_every, progress.fact, args.resume)

    def heard(done: int) -> None:
        progress.status(f"the reference is asked about {done:,} of {total:,} pairs")

    stage = RunningStage("dpo", current, keeper, progress)
    return stage.run(args, steps_of(current, pairs, heard), lambda: _print_answers(current, pairs))


def _warn_of_rate(current: Run, base: Run, notes: Progress) -> None:
    """Say it if the learning rate is near that of the stage before, which ruins the answers."""
    rate, before = current.options.learning_rate, base.options.learning_rate
    if base.options.stage == "sft" and rate > before / LOWER:
        notes.fact(
            "warning:",
            f"the learning rate {rate:g} is near that of sft ({before:g}); 10 to 20 times below it "
            f"is usual (--lr {before / 20:g})",
        )


def _introduce(current: Run, pairs: Pairs, progress: Progress) -> None:
    """What is about to be learned by what, in a few lines."""
    options = current.options
    learned, held_out = len(pairs.train.pairs), len(pairs.val.pairs)
    progress.fact(
        "pairs:", f"{pairs.material.name}, {learned:,} to learn from, {held_out:,} held out"
    )
    left_out(pairs.too_long, current.model.config.context_length, progress)
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


def _print_answers(current: Run, pairs: Pairs) -> None:
    """Some held-out questions to standard output, with what was and what is now said to them."""
    models = {"before": reference_of(current), "now": current.model}
    asked = {tuple(pair.question): pair.question for pair in pairs.val.pairs}  # each once
    for question in list(asked.values())[:: -(-len(asked) // SHOWN)]:
        print_answers(current, question, models)


# ---------------------------------------------------------------- the model's own answers


def _sample_pairs(args: argparse.Namespace) -> int:
    """Ask the model every question, and write what it says wrong as pairs."""
    out = args.sample_pairs
    if not args.data:
        raise UsageError("--sample-pairs needs --data: conversations, one JSON object a line")
    content, name = read_text(args.data, args.encoding)
    name = shown(name)
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
    told = _ask_all(args, base, asked, progress)
    progress.clear()
    left_out(told.too_long, base.model.config.context_length, progress)
    answered = told.asked - len(told.too_long)
    progress.fact(
        "asked:",
        f"{answered:,} of {len(asked):,} questions, {answered * args.answers:,} answers: "
        f"{told.right:,} as in {name}, {told.endless:,} without an end, {len(told.lines):,} others",
    )
    if not told.lines:
        raise UserError(
            "no answer was a wrong one, so there is no pair; try a higher --temperature"
        )
    with writing(out):
        atomic.replace_file(out, ["".join(told.lines).encode("utf-8")])
    given = {"--checkpoint": str(args.checkpoint), "--data": str(out)}
    progress.note(f"saved {out}. To learn from it, type", to_type("dpo", given))
    return told.code


class _Told(NamedTuple):
    """What the model said to so many questions, as far as it was asked."""

    asked: int
    lines: list[str]  # pairs, for a file
    too_long: list[int]  # the numbers of the lines that leave no room for an answer
    right: int
    endless: int
    code: int  # of the signal that stopped it, or 0


def _ask_all(args: argparse.Namespace, base: Run, asked: list[Asked], progress: Progress) -> _Told:
    """Ask question after question; a signal ends that behind the one that is being answered."""
    sampling = Sampling(args.temperature, args.top_k, args.top_p)
    template, seed = template_of(base.chat.template), args.seed or 0
    ends: Any = base.chat.ends
    tokenizer: Any = base.tokenizer
    lines, too_long, right, endless, number = list[str](), list[int](), 0, 0, 0
    with Interrupt(progress) as interrupt:
        for number, one in enumerate(asked, 1):
            rngs = [random.Random(f"{seed}/{one.line}/{i}") for i in range(args.answers)]
            found = sampled(base.model, tokenizer, template, ends, one, sampling, rngs)
            lines += map(as_line, found.pairs)
            too_long += [] if found.fits else [one.line]
            right, endless = right + found.right, endless + found.endless
            progress.status(f"asked {number:,} of {len(asked):,} questions, {len(lines):,} pairs")
            if interrupt.requested:
                break
    return _Told(number, lines, too_long, right, endless, interrupt.code)
