"""Foreign text on its way to people: what could command a terminal is escaped, what is long is cut.

A file's name, what stands in a file and what a model writes may hold anything: characters that
begin a command to the terminal (one of them is enough, U+009B), or that turn the order of all that
follows around. Whatever such text is shown in, it goes through `shown` first.
"""

from __future__ import annotations

import re

LONGEST = 80  # characters of a foreign name or value
LONGEST_MESSAGE = 1000  # of an error that quotes several of them
CUT = " ... "

# Controls (C0, delete, C1), marks of direction, separators of lines, halves of characters.
_COMMANDS = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def shown(value: object, longest: int = LONGEST, keep: str = "") -> str:
    """The value as text that is safe to print: in one line, of at most so many characters.

    0 for `longest`: in full. `keep`: of the characters that would be escaped, those that stay.
    """
    text = value if isinstance(value, str) else str(value)
    if longest and len(text) > longest:
        text = _cut(text, longest)
    text = _COMMANDS.sub(lambda found: found[0] if found[0] in keep else escape(found[0]), text)
    return _cut(text, longest) if longest and len(text) > longest else text


def _cut(text: str, longest: int) -> str:
    """Its beginning and its end, where an error has its advice."""
    half = (longest - len(CUT)) // 2
    return text[:half] + CUT + text[len(text) - half :]


def escape(character: str) -> str:
    """As Python writes it, without the zeros that would make a column wide: \\x1b, \\u202e."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\{'u' if code < 0x10000 else 'U'}{code:04x}"
