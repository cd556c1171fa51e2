"""Recipes: files of plain flags, so that a run which is known to go well is one word.

A recipe is read as if its flags stood on the command line in front of the user's own, and of a flag
that is given twice the last one counts. Hence the command line wins.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from tiny_llm.cli.errors import UsageError, UserError

FOLDER = Path(__file__).resolve().parent.parent / "recipes"
# Each group is one choice: a flag on the command line replaces any of its group in the recipe.
CHOICES = (("--steps", "--repeat"), ("--tokenizer", "--tokenizer-file"))


def recipes() -> list[str]:
    """The recipes that come along."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def with_recipe(words: Sequence[str]) -> list[str]:
    """The command line with the flags of its --recipe put in. Raises UsageError and UserError."""
    words = list(words)
    for place, word in enumerate(words if words[:1] == ["train"] else []):
        if word == "--recipe" and place + 1 < len(words):
            name, rest = words[place + 1], words[1:place] + words[place + 2 :]
        elif word.startswith("--recipe="):
            name, rest = word.partition("=")[2], words[1:place] + words[place + 1 :]
        else:
            continue
        return [*words[:1], *_flags(name, rest), *rest, f"--recipe={name}"]
    return words


def _flags(name: str, rest: list[str]) -> list[str]:
    """The flags of a recipe, but those that the rest of the command line replaces."""
    path = FOLDER / f"{name}.txt" if name in recipes() else Path(name)
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"there is no recipe {name!r}: neither one of {', '.join(recipes())}, nor a text file"
        ) from None
    given = {word.partition("=")[0] for word in rest}
    replaced = {flag for choice in CHOICES if given.intersection(choice) for flag in choice}
    found: list[str] = []
    for number, line in enumerate(lines, 1):
        try:
            parts = shlex.split(line, comments=True)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        if parts and parts[0] == "--recipe":
            raise UsageError(f"{path}, line {number}: a recipe cannot contain another")
        if parts and parts[0].partition("=")[0] not in replaced:
            found += parts
    return found
