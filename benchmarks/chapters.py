"""How long the chapters of the book are, as a table for README.md.

    python3 benchmarks/chapters.py        count, and write the table into README.md

Counted are the lines that are not empty, docstrings and comments among them. Rung 1 needs of each
file what stands before the first heading that names a later rung, or says that it can be skipped.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tiny_llm.view.book.source import BOOK  # noqa: E402

COMPLETE = "sampling"  # with it, a reader has a complete language model
LATER = re.compile(r"# -{16,} .*(rungs? [23]|a faster way|what is refused)")
BEGIN, END = "<!-- begin chapters -->", "<!-- end chapters -->"


class Chapter(NamedTuple):
    """The lines of a file, or of several, and those that rung 1 needs."""

    name: str
    title: str
    lines: int
    with_empty: int
    for_rung_1: int
    for_rung_1_with_empty: int


class Length(NamedTuple):
    """Lines that are not empty, and all."""

    lines: int
    with_empty: int


def chapters(sources: Optional[dict[str, str]] = None) -> list[Chapter]:
    """Every chapter, in order; `sources` may give other texts for some."""
    result = []
    for name in BOOK:
        path = ROOT / "tiny_llm" / f"{name}.py"
        lines = ((sources or {}).get(name) or path.read_text("utf-8")).splitlines()
        later = next((i for i, line in enumerate(lines) if LATER.match(line)), len(lines))
        first = re.match(r'"""CHAPTER \d+\. (?:RUNG \d: )?(.*?)[.,:]?$', lines[0])
        title = first[1] if first else name
        result.append(Chapter(name, title, _full(lines), len(lines), _full(lines[:later]), later))
    return result


def _full(lines: list[str]) -> int:
    return sum(bool(line.strip()) for line in lines)


def total(found: list[Chapter]) -> tuple[Length, Length]:
    """Until rung 1 writes its sample, and to the end of rung 3."""
    until = found[: BOOK.index(COMPLETE) + 1]
    first = Length(sum(c.for_rung_1 for c in until), sum(c.for_rung_1_with_empty for c in until))
    return first, Length(sum(c.lines for c in found), sum(c.with_empty for c in found))


def table(found: list[Chapter]) -> str:
    """Markdown: a line a chapter."""
    lines = ["| | chapter | about | lines | of these for rung 1 |", "|---|---|---|---|---|"]
    complete = BOOK.index(COMPLETE)
    for number, c in enumerate(found, 1):
        needed = f"{c.for_rung_1}" if number <= complete + 1 else ""
        link = f"[`{c.name}.py`](tiny_llm/{c.name}.py)"
        lines.append(f"| {number} | {link} | {c.title} | {c.lines} | {needed} |")
    first, whole = total(found)
    lines.append(f"| | together | | {whole.lines:,} | {first.lines} |")
    lines.append("")
    lines.append(
        f"Counted are lines that are not empty, docstrings and comments among them (with empty "
        f"lines: {whole.with_empty:,} and {first.with_empty})."
    )
    return "\n".join(lines)


def rendered(readme: str) -> str:
    """The page with the table as it is now. Raises ValueError if it has no place for one."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table(chapters())}\n{END}{after}"


if __name__ == "__main__":
    page = ROOT / "README.md"
    page.write_text(rendered(page.read_text("utf-8")), "utf-8")
    print(table(chapters()), file=sys.stdout)
