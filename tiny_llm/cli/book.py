"""tiny-lm book: the source of the book as one page, explained beside it, to run and to change."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from tiny_llm.cli import options as flags
from tiny_llm.files import atomic
from tiny_llm.files.foreign import beginning_of
from tiny_llm.run.errors import UsageError, check_out, writing
from tiny_llm.view.book.page import GENERATOR, PYODIDE, ROOMS, render
from tiny_llm.view.book.recorded import what_ran
from tiny_llm.view.terminal import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `book`."""
    parser.description = (
        "Write the book as one HTML page: every line of its source, what it says about itself, and "
        "the numbers of a real step beside each function. Reading needs no network. To run it, the "
        "page fetches Python for browsers (Pyodide)."
    )
    parser.set_defaults(command=run)
    parser.add_argument(
        "-o",
        "--out",
        type=flags.file_name,
        metavar="FILE",
        default=Path("book.html"),
        help="the page (book.html)",
    )
    parser.add_argument(
        "--pyodide",
        metavar="WHERE",
        default=PYODIDE,
        help="where the page finds Pyodide: a URL, or a folder as seen from the page (the "
        "published distribution)",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing")


def run(args: argparse.Namespace) -> int:
    """Write the page."""
    out: Path = args.out
    if not re.fullmatch(r"(https?://)?[\w./~%-]+(:\d+)?[\w./~%-]*", args.pyodide):
        raise UsageError("--pyodide must be a URL (https://...) or a folder, without spaces")
    check_out(
        out,
        lambda: out.stat().st_size == 0 or GENERATOR.encode() in beginning_of(out),
        f"{out} exists and is no page of this command; choose another --out",
    )
    where = args.pyodide if args.pyodide.endswith("/") else args.pyodide + "/"
    page = render(what_ran(tuple(ROOMS)), where)
    with writing(out):
        atomic.replace_file(out, [page.encode("utf-8")])
    if not args.quiet:
        tell(f"saved {out} ({len(page) / 1e6:.1f} MB)")
    return 0
