"""tiny-lm sft: teach a model that goes on with texts to answer.

--checkpoint, --data --> lessons --> the loop --> runs/sft.safetensors
"""

from __future__ import annotations

import argparse
import sys

from tiny_llm.beyond.builtin import CONVERSATIONS
from tiny_llm.beyond.conversations import Lines
from tiny_llm.beyond.lesson_step import lesson_step
from tiny_llm.beyond.sft import Lesson, marked
from tiny_llm.beyond.sft_run import STAGE, Taught, begin_run, resume_run, steps_of
from tiny_llm.cli import options as flags
from tiny_llm.cli.generate import open_checkpoint
from tiny_llm.cli.introduce import count_parameters
from tiny_llm.cli.stage import RunningStage, files_of, in_stages, left_out, print_answers
from tiny_llm.cli.train import add_recipe, add_saving
from tiny_llm.run.errors import UsageError, alone
from tiny_llm.run.files import RunFiles
from tiny_llm.run.keeping import Keeper
from tiny_llm.run.saved import Run, newest_checkpoint
from tiny_llm.run.texts import read_text
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.shown import shown
from tiny_llm.view.lesson_step import as_lines
from tiny_llm.view.progress import Progress
from tiny_llm.view.terminal import BOLD, paint, style_for

DEFAULTS = {
    **STAGE.options, **in_stages(STAGE), "repeat": STAGE.repeat, "dropout": None,
    "learn": "answers", "replay": 0,
}  # fmt: skip
SHOWN = 3  # held-out questions, with what the model says to them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `sft`."""
    parser.description = (
        "Teach a model that goes on with texts to answer: supervised fine-tuning. --data has a "
        'JSON object a line, {"messages": [{"role": "user", "content": ...}, {"role": '
        '"assistant", "content": ...}]}.'
    )
    parser.set_defaults(command=run)
    add_recipe(parser)
    flags.add_checkpoint(parser)
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        type=flags.data_name,
        metavar="FILE",
        help="conversations; - for standard input (those that come along)",
    )
    flags.add_builtin(group, CONVERSATIONS)
    group.add_argument(
        "--cut", action="store_true", help="of conversations that are too long learn the end"
    )
    group.add_argument(
        "--replay-data", type=flags.data_name, metavar="FILE",
        help="the text for --replay (built-in corpus)",
    )  # fmt: skip
    group.add_argument(
        "--show-mask", action="store_true",
        help="instead of learning: a conversation, with what is learned marked",
    )  # fmt: skip
    group.add_argument(
        "--show-step", action="store_true",
        help="instead of learning: one step on one conversation, told with its numbers",
    )  # fmt: skip
    flags.add_training(parser, DEFAULTS, "conversations")
    add_saving(parser, "sft")
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Learn, or show what would be. Exit code 0, or that of the signal that stopped it."""
    if args.data and args.builtin:
        raise UsageError("--builtin takes the place of a file; leave --data out")
    if args.replay_data and not (args.replay or args.resume):
        raise UsageError("--replay-data is the text for --replay N, which is missing")
    data, given = Lines(args.data, args.builtin or CONVERSATIONS[0]), flags.options_of(args)
    before = read_text(args.replay_data, "utf-8").content if _replays(args) else ""
    notes = Progress(sys.stderr, style_for(sys.stderr, args.color), 0, 0, args.quiet)
    if args.resume:
        if flags.checkpoint_of(args):
            raise UsageError("--resume goes on with a run that has its model; leave the other out")
        current, taught = resume_run(
            args.resume, data, given, args.repeat, before, args.cut, notes.fact
        )
    else:
        args.checkpoint = flags.checkpoint_of(args) or newest_checkpoint()
        base = open_checkpoint(args)
        to_show = args.show_mask or args.show_step
        current, taught = begin_run(base, data, given, args.repeat, before, args.cut, to_show)
    if args.show_mask:
        _print_mask(current, taught.train[0], args.color)
        return 0
    if args.show_step:
        told = lesson_step(current, taught.train[0])
        for line in as_lines(told, current.tokenizer, style_for(sys.stdout, args.color)):
            print(line)
        return 0
    files = files_of("sft", args, current)
    with alone(*files):
        return _run(current, taught, args, files)


def _replays(args: argparse.Namespace) -> bool:
    return bool(args.replay or args.replay_data or args.resume)


def _run(current: Run, taught: Taught, args: argparse.Namespace, files: RunFiles) -> int:
    """Everything from the first line on, while no other command writes these files."""
    options, style = current.options, style_for(sys.stderr, args.color)
    progress = Progress(sys.stderr, style, options.steps, current.step, args.quiet)
    _introduce(current, taught, progress)
    files.make_room(args.resume, current.is_best, progress.fact)
    save_every = args.save_every or options.eval_every
    keeper = Keeper(current, files, save_every, progress.fact, args.resume)
    stage = RunningStage("sft", current, keeper, progress)
    return stage.run(args, steps_of(current, taught), lambda: _print_answers(current, taught))


def _introduce(current: Run, taught: Taught, progress: Progress) -> None:
    """What is about to be learned by what, in a few lines."""
    options = current.options
    learned, held_out, name = len(taught.train), len(taught.val), taught.material.name
    progress.fact("data:", f"{name}, {learned:,} to learn from, {held_out:,} held out")
    left_out(taught.too_long, current.model.config.context_length, progress)
    what = "its answers alone" if options.learn == "answers" else "all that is said"
    windows = f"{options.replay} window{'s' * (options.replay > 1)} of the text in each batch"
    replay = f", {windows}" if options.replay else ""
    progress.fact(
        "model:", f"{current.rung}, {count_parameters(current):,} parameters; learns {what}{replay}"
    )
    workers = f", {options.workers} workers" if options.workers > 1 else ""
    progress.fact(
        "training:",
        f"{options.steps:,} steps of {options.batch_size} conversations with {options.optimizer}, "
        f"learning rate {options.learning_rate:g}, {options.schedule}{workers}",
    )
    if current.step:
        progress.fact("resumed:", f"at step {current.step}")


def _print_answers(current: Run, taught: Taught) -> None:
    """Some held-out questions to standard output, with the answer that was wished and the one that
    is given."""
    for number in range(min(SHOWN, len(taught.val))):
        lesson = taught.val[number]
        print_answers(current, lesson.ids[: lesson.asked[0]], {"now": current.model})


def _print_mask(current: Run, lesson: Lesson, color: str) -> None:
    """One conversation, token by token: in brackets, and in colour, what is learned."""
    assert isinstance(current.tokenizer, BPETokenizer)
    style = style_for(sys.stdout, color)
    for text, is_learned in marked(lesson, current.tokenizer):
        print(paint(f"[{shown(text)}]", BOLD, style) if is_learned else shown(text), end="")
    print()
    count, of = len(lesson.asked), len(lesson.ids)
    print(f"{count} of {of} tokens are learned: those in brackets", file=sys.stderr)
