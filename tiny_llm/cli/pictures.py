"""--svg: a picture written beside what a command prints."""

from __future__ import annotations

import argparse
from pathlib import Path

from tiny_llm.files import checkpoint
from tiny_llm.run.errors import UserError


def add_svg(parser: argparse.ArgumentParser) -> None:
    """--svg."""
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw it as a picture, too")


def check_svg(path: Path) -> None:
    """Raises UserError if no picture can be written there, or something else is there already."""
    try:
        checkpoint.check_writable(path)
        beginning = path.read_bytes()[:500] if path.exists() else b""
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    if beginning and b"<svg" not in beginning:
        raise UserError(f"{path} exists and is no SVG picture; choose another --svg")


def write_svg(path: Path, picture: str) -> None:
    """The picture as a file. Raises UserError if it cannot be written."""
    try:
        checkpoint.replace_file(path, [picture.encode("utf-8")])
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
