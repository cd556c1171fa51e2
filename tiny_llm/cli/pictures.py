"""--svg: a picture written beside what a command prints."""

from __future__ import annotations

import argparse
from pathlib import Path

from tiny_llm.cli import options as flags
from tiny_llm.files import atomic
from tiny_llm.files.foreign import beginning_of
from tiny_llm.run.errors import check_out, writing


def add_svg(parser: argparse.ArgumentParser) -> None:
    """--svg."""
    parser.add_argument(
        "--svg", type=flags.file_name, metavar="FILE", help="draw it as a picture, too"
    )


def check_svg(path: Path) -> None:
    """Raises UserError if no picture can be written there, or something else is there already."""
    check_out(
        path,
        lambda: path.stat().st_size == 0 or b"<svg" in beginning_of(path),
        f"{path} exists and is no SVG picture; choose another --svg",
    )


def write_svg(path: Path, picture: str) -> None:
    """The picture as a file. Raises UserError if it cannot be written."""
    with writing(path):
        atomic.replace_file(path, [picture.encode("utf-8")])
