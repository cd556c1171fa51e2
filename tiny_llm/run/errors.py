"""The two ways in which a run can be refused, each one line for the user, and what to type."""

from __future__ import annotations

import sys
from pathlib import Path


class UsageError(Exception):
    """The command line is wrong, whatever the files hold: exit code 2."""


class UserError(Exception):
    """Anything else that the user can mend: exit code 1."""


def program() -> str:
    """What the user types to run this program."""
    return "tiny-lm" if Path(sys.argv[0]).stem == "tiny-lm" else "python3 -m tiny_llm"
