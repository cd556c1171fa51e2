"""The two ways in which a run can be refused, each one line for the user, and what to type."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable, Optional

from tiny_llm.files import atomic


class UsageError(Exception):
    """The command line is wrong, whatever the files hold: exit code 2."""


class UserError(Exception):
    """Anything else that the user can mend: exit code 1."""


def program() -> str:
    """What the user types to run this program."""
    return "tiny-lm" if Path(sys.argv[0]).stem == "tiny-lm" else "python3 -m tiny_llm"


def typed(words: Iterable[str], columns: int = 75, indent: str = "    ") -> str:
    """A command for a shell, which goes on in another line where it would not fit in this one.

    So a terminal need not break it inside a word, where a copy of it would have a line end.
    """
    first, *others = map(quoted, words)
    lines = [first]
    for word in others:
        if len(lines[-1]) + len(f" {word} \\") <= columns:
            lines[-1] += f" {word}"
        else:
            lines.append(f"{indent}{word}")
    return f" \\\n{indent}".join(lines)


def quoted(word: str) -> str:
    r"""A word as a shell takes it; what no terminal should be sent as bash has it: $'a\x1bb'."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = (
        "".join(f"\\x{byte:02x}" for byte in os.fsencode(c)) if not c.isprintable() else c
        for c in word.replace("\\", "\\\\").replace("'", "\\'")
    )
    return f"$'{''.join(escaped)}'"


def to_type(command: str, flags: Mapping[str, str]) -> str:
    """What to type in a shell; flags: flag -> value or "", joined if it looks like a flag."""
    words = [*program().split(), command]
    for flag, value in flags.items():
        words += [f"{flag}={value}"] if re.match("-.", value) else [flag, value]
    return typed(filter(None, words))


def problem_with_name(name: str) -> Optional[str]:
    """Why there can be no file of this name, and what to do; None: there can."""
    if not name:
        return "is empty; name a file"
    if "\0" in name:
        return "holds a character of value 0, which no name of a file does"
    if re.match(r"\w\w+://", name):
        return "is an address, and only files of this machine are read; download it first"
    return None


@contextmanager
def writing(path: Path, left: str = "") -> Iterator[None]:
    """Turns an OSError within it into one line that names the file; `left`: what is left then."""
    try:
        yield
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror or error}"
        raise UserError(f"{reason}; {left}" if left else reason) from None


@contextmanager
def alone(*paths: Path) -> Iterator[None]:
    """Within, no other command writes one of these files. Raises UserError if one is about to."""
    with ExitStack() as locks:
        for path in paths:
            try:
                locks.enter_context(atomic.alone(path))
            except BlockingIOError:
                raise UserError(
                    f"another command is about to write {path}; wait for it, or name another file"
                ) from None
        yield


def check_out(
    path: Path, is_ours: Callable[[], bool], problem: str, files: Iterable[Path] = ()
) -> None:
    """Whether what is called `path` may be written: that file, or these `files`.

    Raises UserError with the reason, or with `problem` if something else is there already.
    """
    files = list(files) or [path]
    try:
        for file in files:
            atomic.check_writable(file)
        foreign = any(file.exists() for file in files) and not is_ours()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    if foreign:
        raise UserError(problem)
