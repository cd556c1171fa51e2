"""The pages that hold measured figures: README.md and docs/. Each figure stands between two marks.

<!-- begin NAME -->
text that a script writes
<!-- end NAME -->
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def pages() -> dict[Path, str]:
    """README.md and the pages of docs/, with their text."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return {path: path.read_text("utf-8") for path in paths}


def renewed(page: str, texts: dict[str, str]) -> str:
    """The page with these texts between the marks of their names, where it has them."""
    for name, text in texts.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        if begin in page:
            before, _, rest = page.partition(begin)
            page = before + begin + text + "\n" + end + rest.partition(end)[2]
    return page


def is_current(texts: dict[str, str]) -> bool:
    """Whether all pages hold these texts, each of which has a place in one of them."""
    found = pages()
    homeless = [n for n in texts if not any(f"<!-- begin {n} -->\n" in p for p in found.values())]
    if homeless:
        raise ValueError(f"no page has a place for {', '.join(homeless)}")
    return all(renewed(page, texts) == page for page in found.values())


def write(texts: dict[str, str]) -> None:
    """Put these texts into the pages that have a place for them."""
    for path, page in pages().items():
        new = renewed(page, texts)
        if new != page:
            path.write_text(new, encoding="utf-8")
