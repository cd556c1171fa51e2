"""The command line as a whole: which commands there are, and what becomes of an error."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Optional

from tiny_llm import __version__
from tiny_llm.cli.commands import COMMANDS
from tiny_llm.cli.parser import Parser
from tiny_llm.cli.recipes import with_recipe
from tiny_llm.fast.signals import Stopped, on_signals, stop
from tiny_llm.run.errors import UsageError, UserError, program
from tiny_llm.text.shown import shown
from tiny_llm.training import Diverged
from tiny_llm.view.terminal import tell

UNWRITABLE = {
    errno.ENOSPC,
    errno.EIO,
    errno.EBADF,
    errno.EFBIG,
    getattr(errno, "EDQUOT", errno.EIO),
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command. Exit code 0; 2: the command line is wrong; 1: all else; 130: Ctrl-C, and 143
    and 129 are for SIGTERM and SIGHUP."""
    with on_signals(stop):
        return _main(argv)


def _main(argv: Optional[Sequence[str]]) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    _mend_streams()
    try:
        args = parsed(arguments)
        code: int = args.command(args)
        sys.stdout.flush()
        return code
    except SystemExit as exit_:  # argparse's --help and --version
        return exit_.code if isinstance(exit_.code, int) else 0
    except KeyboardInterrupt as error:
        with suppress(OSError):  # a terminal that was closed
            print("\ntiny-lm: stopped", file=sys.stderr)
        return error.code if isinstance(error, Stopped) else 130
    except BrokenPipeError:  # the reader, for example `head`, has seen enough
        _forget_output()
        return 141
    except Exception as error:
        if "--debug" in arguments:
            with suppress(OSError):
                print(shown(traceback.format_exc(), 0, keep="\n"), file=sys.stderr)
        tell(f"tiny-lm: error: {_one_line(error)}")
        if isinstance(error, OSError):
            _forget_output()
        return 2 if isinstance(error, UsageError) else 1


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line, read. Raises UsageError if it is wrong, UserError for a recipe that is."""
    words = with_recipe(arguments)
    try:
        args, unknown = _parser(arguments).parse_known_args(words)
        if unknown:
            of = next(filter(COMMANDS.__contains__, words))
            what = shown(" ".join(unknown))
            raise UsageError(f"unrecognized arguments: {what} (see {program()} {of} --help)")
    except UsageError as error:
        if words == arguments:
            raise
        raise UsageError(f"{error}; the flags of the recipe count, too") from None
    return args


def _parser(arguments: list[str]) -> Parser:
    """The command line. Only a command that the arguments name is complete."""
    parser = Parser(
        prog=program(),
        description="Language models in plain Python, every moving part in sight.",
        epilog=f"Start with: {program()} train",
    )
    parser.add_argument("--version", action="version", version=f"tiny-llm-demo {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module, what_it_does) in COMMANDS.items():
        command = commands.add_parser(name, help=what_it_does)
        if name in arguments:
            import_module("tiny_llm.beyond.models").plug_in()
            import_module(f"tiny_llm.cli.{module}").add_arguments(command)
    return parser


def _one_line(error: Exception) -> str:
    """What to tell the user. The package's own ValueErrors are written for them."""
    if isinstance(error, (UsageError, UserError, ValueError, Diverged)):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        if error.filename:
            return f"{error.filename}: {reason}"
        # Nothing but the standard streams is written without saying what is.
        return f"standard output: {reason}" if error.errno in UNWRITABLE else reason
    if isinstance(error, MemoryError):
        return "there is not enough memory; choose smaller sizes or a smaller file"
    return f"{type(error).__name__}: {error}; this is a fault of tiny-lm, --debug shows where"


def _mend_streams() -> None:
    """What is closed reads as empty and swallows what is written. Bytes that are no text come in as
    lone surrogates, which whoever needs text refuses. A terminal that cannot show a
    character gets an escape instead of an error; a file or a pipe gets UTF-8, whatever the terminal
    of this machine speaks, or the text in it would be lost."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            encoding = None if stream.isatty() else "utf-8"  # None: as it is
            errors = "surrogateescape" if stream is sys.stdin else "backslashreplace"
            stream.reconfigure(encoding=encoding, errors=errors)


def _forget_output() -> None:
    """Nothing more can be written, so Python must not try to, and complain, when it ends."""
    with suppress(OSError, ValueError):  # standard output need not be a real file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
