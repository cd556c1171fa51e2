"""Pictures as text: what every SVG of the project shares.

A picture refers to nothing outside itself, so it looks the same in a page, in a mail and in years.
Names and prompts may hold anything; `escaped` makes of them what XML can hold.

SVG: https://www.w3.org/TR/SVG2.
"""

from __future__ import annotations

import re
from html import escape

FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escaped(text: str) -> str:
    """`text` for XML, in an element or in quotes; what XML cannot hold becomes U+FFFD."""
    return escape(_NOT_XML.sub("\ufffd", text))


def document(
    width: float, height: float, title: str, style: str, body: list[str], says: str = ""
) -> str:
    """A whole picture: its size in pixels, its name, its style sheet, its elements line by line.

    `says` is what it shows, for who cannot see it; without, the text in it is read instead.
    """
    size = short(width), short(height)
    role = ' role="img"' if says else ""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
        f'viewBox="0 0 {size[0]} {size[1]}"{role}>',
        f"<title>{escaped(title)}</title>",
        f"<desc>{escaped(says)}</desc>" if says else "",
        f"<style>{style}</style>",
        *body,
        "</svg>",
    ]
    return "\n".join(filter(None, lines)) + "\n"


def short(number: float) -> str:
    """A coordinate with a decimal or none: 8.4, 12."""
    return f"{number:.1f}".removesuffix(".0")
