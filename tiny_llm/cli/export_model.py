"""tiny-lm export: a model for other programs, Hugging Face's and llama.cpp; a run for PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path

from tiny_llm.cli import options as flags
from tiny_llm.cli.generate import open_checkpoint
from tiny_llm.files import atomic, gguf, gguf_models, hugging_face
from tiny_llm.files.foreign import beginning_of
from tiny_llm.run import torch_folder
from tiny_llm.run.begin import resume
from tiny_llm.run.errors import UsageError, UserError, alone, check_out, quoted, writing
from tiny_llm.run.files import GGUF_ENDING, metrics_beside
from tiny_llm.run.models import portable
from tiny_llm.run.saved import load_run, newest_checkpoint
from tiny_llm.run.sources import read_source
from tiny_llm.view.terminal import tell

NUMBERS = {"hf": ("f32", "f16"), "gguf": ("f32", "f16", "q8_0"), "torch": ("f64",)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `export`."""
    parser.description = (
        "Write a saved model (modern, which is GPT-2, or llama) as a Hugging Face folder, which "
        "`transformers` loads, or as a GGUF file, which llama.cpp and its like run; or a whole run "
        "as a folder in which PyTorch goes on with it (scripts/train_torchrun.py)."
    )
    parser.set_defaults(command=run)
    flags.add_checkpoint(parser)
    parser.add_argument("--to", choices=NUMBERS, required=True, help="a folder, or a file")
    parser.add_argument(
        "-o", "--out", type=flags.file_name, required=True, metavar="TARGET", help="its name"
    )
    parser.add_argument(
        "--numbers",
        choices=NUMBERS["gguf"],
        help="how they are written: in 4 bytes (f32), in 2, or (gguf) in about 1; torch: in 8",
    )
    flags.add_data(parser, "the text of the run, which goes along, for torch")
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Read, convert, write."""
    args.numbers = args.numbers or NUMBERS[args.to][0]
    if args.numbers not in NUMBERS[args.to]:
        raise UsageError(f"--to {args.to} has numbers {' or '.join(NUMBERS[args.to])}")
    if args.to == "torch":
        return _run_for_torch(args)
    if args.data:
        raise UsageError("--data is for --to torch; leave it out")
    out: Path = args.out
    is_folder = args.to == "hf"
    files = [out / name for name in hugging_face.FILES] if is_folder else [out]
    _check(out, files, is_folder)
    model = portable(open_checkpoint(args))
    if not args.quiet:
        tell(f"writing {out} ...")
    write = hugging_face.write if is_folder else gguf_models.write
    try:
        with alone(out), writing(out):
            backups = {file: atomic.keep_old(file) for file in files}
            write(out, model, args.numbers)
    except ValueError as error:
        raise UserError(f"cannot write {out}: {error}") from None
    if not args.quiet:
        for file, backup in backups.items():
            if backup:
                tell(f"kept: the older {file} is now {backup}")
        tell(f"saved {out}: {sum(file.stat().st_size for file in files):,} bytes")
    return 0


def _run_for_torch(args: argparse.Namespace) -> int:
    out, path = args.out, flags.checkpoint_of(args) or newest_checkpoint()
    if out.exists() and not torch_folder.is_folder(out) and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out} holds other files; name an empty folder, or a new one")
    torch_folder.check(load_run(path))
    current, material = resume(path, read_source(args.data, args.encoding))
    metrics = metrics_beside(path)
    try:
        with alone(out), writing(out):
            torch_folder.write(out, current, material, metrics)
    except ValueError as error:
        raise UserError(f"cannot write {out}: {error}") from None
    if not args.quiet:
        step, steps = current.step, current.options.steps
        tell(f"saved {out}: step {step} of {steps}. To go on with it in PyTorch, type")
        tell(f"    torchrun --nproc-per-node 2 scripts/train_torchrun.py {quoted(str(out))}")
    return 0


def _check(out: Path, files: list[Path], is_folder: bool) -> None:
    """Raises UsageError for a name of another kind, UserError for what stands in the way."""
    if is_folder:
        try:
            hugging_face.check_free(out)
        except (ValueError, OSError) as error:
            raise UserError(f"cannot write {out}: {error}") from None
    else:
        if out.suffix != GGUF_ENDING:
            raise UsageError(f"--out {out} has to end in {GGUF_ENDING}")
    problem = f"{out} exists and is no GGUF file; choose another"
    check_out(out, lambda: is_folder or _is_gguf(out), problem, files)


def _is_gguf(path: Path) -> bool:
    try:
        return gguf.is_gguf(beginning_of(path))
    except OSError:
        return False
