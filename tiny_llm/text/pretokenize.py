r"""Text to the pieces that no token crosses: words, numbers, punctuation and white space.

    "it's 42 times  \n"  --pieces-->  "it" "'s" " 42" " times" "  \n"

Byte-pair encoding alone would also learn tokens such as "dog." and "dog!", a new one for each sign
that may follow a word. So GPT-2 (Radford et al., 2019) cuts the text first, and pairs are merged
only inside a piece. A space goes to the word that it precedes. Its pattern, in the syntax of the
third-party module `regex`, takes the first of these that fits:

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

The standard `re` knows no \p{L} (letters), and \p{N} (numbers: also ² and Ⅷ) is more than its \d.
But its \w is just these two and the underscore, so once the numbers are listed, the letters are
what is left. What a character is depends on the version of Unicode that this Python has.

Others cut by the same pattern after they have cut off every number character by itself ("smollm",
named after the model: " 42" becomes " " "4" "2"), so that all numbers of a length look alike.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Callable

# White_Space as Unicode defines it. Python's own \s also holds the separators \x1c to \x1f.
SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


def pieces(text: str) -> list[str]:
    """The text cut by GPT-2's pattern; joined they are the text again."""
    return pattern().findall(text)


def pieces_and_digits(text: str) -> list[str]:
    """Every number character as a piece of its own, and what is between them by the pattern."""
    return [piece for part in _numbers().split(text) for piece in pieces(part)]


CUTS: dict[str, Callable[[str], list[str]]] = {"gpt2": pieces, "smollm": pieces_and_digits}


@cache
def _numbers() -> re.Pattern[str]:
    return re.compile(rf"([\d{_beyond_digits()}])")


@cache
def _beyond_digits() -> str:
    return "".join(_ranges(_numbers_beyond_digits()))


@cache
def pattern() -> re.Pattern[str]:
    """GPT-2's pattern for the standard `re`; made at the first call, which takes a moment."""
    numbers = _beyond_digits()
    return re.compile(
        "'(?:[stmd]|re|ve|ll)"
        # Covered by the next line, but the classes of plain English are twice as fast to look up.
        "| ?[A-Za-z]+(?![A-Za-z\x80-\U0010ffff])"
        rf"| ?[^\W\d_{numbers}]+"
        rf"| ?[\d{numbers}]+"
        rf"| ?(?:[^\w{SPACE}]|_)+"
        rf"|[{SPACE}]+(?![^{SPACE}])"
        rf"|[{SPACE}]+"
    )


def _numbers_beyond_digits() -> Iterator[int]:
    """The code points of letter-like numbers (Nl: Ⅷ) and others (No: ²), which \\d leaves out."""
    for character in filter(str.isnumeric, map(chr, range(sys.maxunicode + 1))):
        if unicodedata.category(character) in ("Nl", "No"):
            yield ord(character)


def _ranges(code_points: Iterable[int]) -> Iterator[str]:
    """Ascending code points as the ranges of a character class: 1 2 3 7 -> "\\1-\\3", "\\7-\\7"."""
    first = last = -1
    for code in code_points:
        if code != last + 1:
            if last >= 0:
                yield f"{chr(first)}-{chr(last)}"
            first = code
        last = code
    if last >= 0:
        yield f"{chr(first)}-{chr(last)}"
