"""tiny-lm import: a model of another program as one file of this one."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tiny_llm.cli import options as flags
from tiny_llm.files import atomic
from tiny_llm.run import torch_folder
from tiny_llm.run.errors import UsageError, UserError, alone, check_out, to_type, writing
from tiny_llm.run.files import check_name, run_files
from tiny_llm.run.metrics import Metrics
from tiny_llm.run.models import foreign_model, run_of
from tiny_llm.run.saved import is_packed, load_run, save_run
from tiny_llm.view.terminal import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `import`."""
    parser.description = (
        "Turn a Hugging Face folder (GPT-2 or Llama: config.json, safetensors, tokenizer) or a "
        "GGUF file into a model of this project, or bring back a run that went on in PyTorch. All "
        "commands that only read a model take the folder or the file itself, too."
    )
    parser.set_defaults(command=run)
    parser.add_argument(
        "source", type=flags.file_name, metavar="SOURCE", help="a folder, or a file"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=flags.file_name,
        required=True,
        metavar="FILE",
        help="ends in .safetensors",
    )
    flags.add_int8(parser)
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Read, convert, write."""

    if torch_folder.is_folder(args.source):
        return _run_from_torch(args)

    def is_model() -> bool:
        try:
            return load_run(args.out).came_from != ""
        except UserError:
            return False

    check_name(args.out)
    check_out(args.out, is_model, f"{args.out} exists and was not imported; choose another --out")
    found = foreign_model(args.source)
    if not found:
        raise UserError(_no_source(args.source))
    current = run_of(args.source, *found, args.int8)
    with alone(args.out), writing(args.out):
        backup = atomic.keep_old(args.out)
        save_run(args.out, current)
    if not args.quiet:
        if backup:
            tell(f"kept: the older {args.out} is now {backup}")
        numbers = "int8 weights" if is_packed(current.model) else "float64 weights"
        tell(f"saved {args.out}: {current.rung}, {numbers}, {args.out.stat().st_size:,} bytes")
        command = "chat" if current.chat.template else "generate"
        tell("    " + to_type(command, {"--checkpoint": str(args.out)}))
    return 0


def _run_from_torch(args: argparse.Namespace) -> int:
    """What was trained in PyTorch, as a checkpoint that goes on here, and its metrics."""
    out: Path = args.out
    if args.int8:
        raise UsageError("--int8 weights cannot go on to be trained; leave it out")
    current = load_run(args.source / torch_folder.RUN, to_train=True)
    files = run_files(out)
    files.check(None)
    with alone(*files), writing(out):
        kept = {out: atomic.keep_old(out)}
        metrics = Metrics(files.metrics, current.step, args.source / torch_folder.METRICS)
        metrics.close()
        kept[files.metrics] = metrics.kept
        save_run(out, current)
    if not args.quiet:
        for path, backup in kept.items():
            if backup:
                tell(f"kept: the older {path} is now {backup}")
        tell(f"saved {out}: step {current.step} of {current.options.steps}. To go on, type")
        tell("    " + to_type("train", {"--resume": str(out)}) + " (and its --data, if it had one)")
    return 0


def _no_source(path: Path) -> str:
    """Why there is nothing to import."""
    try:
        load_run(path)
    except UserError as error:
        if path.is_file() and os.access(path, os.R_OK):
            return f"{path} is neither a folder with a config.json nor a GGUF file; name one"
        return str(error) if path.exists() else f"there is no {path}; name a folder or a GGUF file"
    return f"{path} is a checkpoint of this program, which -c takes as it is"
