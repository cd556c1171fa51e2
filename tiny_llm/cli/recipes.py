"""Recipes: files of plain flags, so that a run which is known to go well is one word.

A recipe is read as if its flags stood on the command line in front of the user's own, and of a flag
that is given twice the last one counts. Hence the command line wins. Quotes and # mean what they
mean to a shell. A line with nothing but the name of a command begins the part of that command, and
`tiny-lm recipe` runs all parts in order; a recipe without such a line is of `train` alone.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from tiny_llm.cli.commands import COMMANDS
from tiny_llm.files.foreign import opened
from tiny_llm.run.errors import UsageError, UserError
from tiny_llm.text.shown import shown

LONGEST_RECIPE = 2**14  # bytes
OF_RECIPE = "--recipe-checkpoint"  # what its --checkpoint becomes, so that another one wins
STAGES = ("train", "sft", "dpo")
PART = re.compile(rf"^[ \t]*({'|'.join(COMMANDS)})[ \t]*(?:#.*)?$", re.MULTILINE)
FOLDER = Path(__file__).resolve().parent.parent / "recipes"
# Each group is one choice: a flag on the command line replaces any of its group in the recipe.
CHOICES = (("--steps", "--repeat"), ("--tokenizer", "--tokenizer-file"))


def recipes() -> list[str]:
    """The recipes that come along."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def with_recipe(words: Sequence[str]) -> list[str]:
    """The command line with the flags of its --recipe put in. Raises UsageError and UserError."""
    words = list(words)
    if not words or words[0] not in STAGES:
        return words
    command, *rest = words
    rest, recipe = _taken_out(rest)
    if recipe is None:
        return words
    return [command, *_flags(recipe, command, rest), *rest, f"--recipe={recipe}"]


def _taken_out(words: list[str]) -> tuple[list[str], Optional[str]]:
    """The words without --recipe, and its value. Raises UsageError if it is given twice."""
    rest, recipes = [], []
    ahead = iter(words)
    for word in ahead:
        flag, is_joined, value = word.partition("=")
        if flag != "--recipe":
            rest.append(word)
        else:
            recipes.append(value if is_joined else next(ahead, ""))
    if len(recipes) > 1:
        raise UsageError("--recipe is given twice; one run follows one recipe")
    return rest, recipes[0] if recipes else None


def _flags(recipe: str, command: str, rest: list[str]) -> list[str]:
    """The flags of a recipe for a command, but those that the rest of the command line replaces."""
    given = {word.partition("=")[0] for word in rest}
    replaced = {flag for choice in CHOICES if given.intersection(choice) for flag in choice}
    found: list[str] = []
    is_replaced = False
    parts = parts_of(recipe)
    if command not in parts:
        known = " and ".join(parts)
        raise UserError(f"the recipe {recipe} has no part for {command}, but for {known}")
    for word in parts[command]:
        name, is_joined, value = word.partition("=")
        if command != "train" and name in ("-c", "--checkpoint"):
            word = OF_RECIPE + is_joined + value
        if word.startswith("-"):
            flag = word.partition("=")[0]
            if flag == "--recipe":
                raise UsageError(
                    f"the recipe {recipe} names another, which it cannot; leave it out"
                )
            is_replaced = flag in replaced
        if not is_replaced:
            found.append(word)
    return found


def parts_of(recipe: str) -> dict[str, list[str]]:
    """Command -> its words, as a shell would read them, in order. Raises UserError for a recipe
    that cannot be read, or is none."""
    path = FOLDER / f"{recipe}.txt" if recipe in recipes() else Path(recipe)
    try:
        with opened(path) as file:
            content = file.read(LONGEST_RECIPE + 1)
        if len(content) > LONGEST_RECIPE:
            raise UserError(f"the recipe {recipe} is too long to be one: a recipe is a few flags")
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
        before, *pieces = PART.split(text)
        parts = [(name, _words(text)) for name, text in zip(pieces[::2], pieces[1::2])]
        first = _words(before)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"there is no recipe {recipe!r}: neither one of {', '.join(recipes())}, nor a text file"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"the recipe {recipe} is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"cannot read the recipe {recipe}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"the recipe {recipe} cannot be read: {error}") from None
    if first or not parts:
        parts = [("train", first), *parts]
    for number, (name, words) in enumerate(parts):
        if name not in STAGES:
            raise UserError(f"{recipe} has a part for {name}; a recipe's are {', '.join(STAGES)}")
        if name in dict(parts[:number]):
            raise UserError(f"{recipe} has two parts for {name}; put them into one")
        if words and not words[0].startswith("-"):
            begins = shown(words[0])
            raise UserError(f"{recipe} is no recipe: it begins with {begins!r} and not a flag")
    return dict(parts)


def _words(text: str) -> list[str]:
    return shlex.split(text, comments=True)
