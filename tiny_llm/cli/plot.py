"""tiny-lm plot: the losses of one or more runs, over their steps."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tiny_llm.cli import options as flags
from tiny_llm.cli.pictures import add_svg, check_svg, write_svg
from tiny_llm.run.errors import UsageError, UserError, program, quoted
from tiny_llm.run.metrics import has_measured, read_all
from tiny_llm.run.saved import RUNS, making, newest
from tiny_llm.view.curves import (
    LOSS,
    PAIR_LOSS,
    REWARDS,
    Curves,
    curves_of,
    reward_curves,
)
from tiny_llm.view.plot import MOST_RUNS, plot
from tiny_llm.view.plot_picture import plot_svg
from tiny_llm.view.progress import measured_text
from tiny_llm.view.terminal import lines_of, style_for, tell, wrap

SUFFIX = ".metrics.jsonl"
LINES = 24  # of a plot that goes to no terminal
MOST_LINES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `plot`."""
    parser.description = (
        "Draw the losses of one or more runs over their steps, from the metrics that `train` "
        "writes. Each run has a letter: small on the curve of its training loss (smoothed), "
        "capital for its validation losses."
    )
    parser.set_defaults(command=run)
    parser.add_argument(
        "files",
        nargs="*",
        type=flags.file_name,
        metavar="FILE",
        help=f"metrics of a run, RUN{SUFFIX} (the newest in runs/)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--train", action="store_true", help="only training losses")
    which.add_argument("--val", action="store_true", help="only validation losses")
    which.add_argument(
        "--rewards",
        action="store_true",
        help="instead of losses: what runs of dpo measured on pairs held out",
    )
    parser.add_argument(
        "--log", action="store_true", help="a logarithmic axis of steps, to see the beginning"
    )
    add_svg(parser)
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Print the plot, and draw it with --svg."""
    files = args.files or [_newest()]
    if len(files) > MOST_RUNS:
        raise UsageError(f"at most {MOST_RUNS} runs fit in a plot, not {len(files)}")
    if args.svg:
        check_svg(args.svg)
    if not (args.files or args.quiet):
        tell(str(files[0]))
    records = [_records(path, args.quiet) for path in files]
    named = list(zip(files, names_of(files), records))
    if args.rewards:
        runs, subject = [curve for one in named for curve in _rewards(*one)], REWARDS
    else:
        runs = [_curves(*one, args) for one in named]
        subject = PAIR_LOSS if all(any(map(has_measured, one)) for one in records) else LOSS
    if len(runs) > MOST_RUNS:
        raise UsageError(f"at most {MOST_RUNS} curves fit in a plot, not {len(runs)}")
    if args.svg:
        write_svg(args.svg, plot_svg(runs, args.log, subject))
    style = style_for(sys.stdout, args.color)
    lines = min(lines_of(sys.stdout) - 1, MOST_LINES) if sys.stdout.isatty() else LINES
    for line in plot(runs, style, lines, args.log, subject):
        print(line)
    for _, name, of_run in named if args.rewards else ():
        last = [record for record in of_run if has_measured(record)][-1]
        for line in wrap(f"{name}: {measured_text(last)}", style):
            print(line)
    return 0


def _rewards(path: Path, name: str, records: list[dict[str, Any]]) -> list[Curves]:
    """The rewards in a file. Raises UserError if there are none."""
    if not any(map(has_measured, records)):
        raise UserError(f"{path} holds no rewards: it is of no run of dpo, or of its first steps")
    return reward_curves(name, records)


def _curves(
    path: Path, name: str, records: list[dict[str, Any]], args: argparse.Namespace
) -> Curves:
    """The curves in a file that are asked for. Raises UserError if there are none."""
    try:
        curves = curves_of(name, records)
    except ValueError as error:
        raise UserError(f"{path} is no file of metrics: {error}") from None
    kept = curves._replace(
        train=[] if args.val else curves.train, val=[] if args.train else curves.val
    )
    if not kept.points:
        kind = "validation" if args.val else "training"
        raise UserError(f"{path} holds no {kind} loss that is a finite number")
    return kept


def _records(path: Path, quiet: bool) -> list[dict[str, Any]]:
    """The steps in a file of metrics; says so if some are left out."""
    try:
        records, damaged, first = read_all(path)
        is_empty = not path.stat().st_size
    except FileNotFoundError:
        raise UserError(
            f"there is no file {path}; train a model, which writes its metrics: {_making(path)}"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    if is_empty:
        raise UserError(f"{path} is empty: no step was done yet")
    if not records:
        known = path.with_suffix("").with_suffix(SUFFIX) if path.suffix == ".safetensors" else None
        hint = f"; those of that run are in {known}" if known and known.exists() else ""
        raise UserError(f"{path} is no file of metrics as train writes them{hint}")
    if damaged and not quiet:
        more = f", as are {damaged - 1} others, and" if damaged > 1 else " and"
        tell(f"{path}: line {first} is damaged{more} left out")
    return records


def _newest() -> Path:
    """The metrics in runs/ that were written last. Raises UserError if there are none."""
    found = newest(SUFFIX)
    if not found:
        raise UserError(
            f"there are no metrics in {RUNS}/; name a file, or train: {program()} train"
        )
    return found


def _making(metrics: Path) -> str:
    """What to type so that a run writes this file."""
    if metrics.name.endswith(SUFFIX):
        return making(metrics.with_name(metrics.name[: -len(SUFFIX)] + ".safetensors"))
    return " ".join([*program().split(), "train", "--metrics", quoted(str(metrics))])


def names_of(files: list[Path]) -> list[str]:
    """A name for each run: its file, without folder and ending, or its path where two are alike."""
    short = [
        path.name[: -len(SUFFIX)] if path.name.endswith(SUFFIX) else path.stem for path in files
    ]
    return [
        str(path) if short.count(name) > 1 else name or str(path)
        for name, path in zip(short, files)
    ]
