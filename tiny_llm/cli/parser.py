"""The parser of every command line: an error is one line, and no flag is guessed."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from tiny_llm.run.errors import UsageError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports an error in one line and does not guess abbreviated flags."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")
