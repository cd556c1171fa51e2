"""A text is cut as GPT-2 cuts it, whatever characters it holds.

Nothing is said twice: the classes are compared with `unicodedata`, character by character for all
that Unicode has, and the pattern with the original one on texts that hold a plain character of the
same class instead of every other. Those marked `reference` ask the module `regex` itself.
"""

import re
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_llm.text.pretokenize import pieces

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PLAIN = re.compile(  # the same for ASCII
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[a-zA-Z]+| ?[0-9]+| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s+", re.ASCII
)
STAND_INS = {"letter": "x", "number": "7", "space": "\t", "other": "!"}

TRICKY = (
    "'sStTdDmMrRlLvVeE \n\t\r_-.!0123"
    "\x0b\x1c\x1f\x85\xa0\u2003\u2028\u3000\u200b\ufeff"  # spaces, and what only looks like one
    "\u00b2\u00bd\u2167\u3007\u0663\U0001d7d8"  # numbers
    "\u00e9\u00aa\u02b0\u4e00\u3042\u05d0\U00010400"  # letters
    "\u0301\u200d\U0001f600\u20ac\u24d0\ud800\ue000\U000e0001"  # neither
)
texts = st.text(st.one_of(st.sampled_from(TRICKY), st.characters()))


def kind(character):
    """Its class as Unicode has it. White_Space is Python's isspace without four separators."""
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f":
        return "space"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(character)[0], "other")


def stand_in(character):
    return character if character.isascii() and character > "\x1f" else STAND_INS[kind(character)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("it's 42 times  \n", ["it", "'s", " 42", " times", "  \n"]),
        ("a  b", ["a", " ", " b"]),
        ("a\n\nb \n", ["a", "\n", "\n", "b", " \n"]),
        ("don't DON'T", ["don", "'t", " DON", "'", "T"]),
        ("x=1_000.5", ["x", "=", "1", "_", "000", ".", "5"]),
        ("\u00e92\u00b2\u2167", ["\u00e9", "2\u00b2\u2167"]),
        ("a\x1cb", ["a", "\x1c", "b"]),
        ("e\u0301t\u00e9", ["e", "\u0301", "t\u00e9"]),
        (" \u00e9t\u00e9 \u4e00\u4e8c", [" \u00e9t\u00e9", " \u4e00\u4e8c"]),
        ("ab\u00e9 ab\u2014", ["ab\u00e9", " ab", "\u2014"]),
        ("", []),
    ],
)
def test_examples(text, expected):
    assert pieces(text) == expected


def test_every_character_of_unicode_is_in_its_class():
    """All of a class behind one that is surely in it are one piece."""
    every = {name: [] for name in STAND_INS}
    for character in map(chr, range(sys.maxunicode + 1)):
        every[kind(character)].append(character)
    assert sum(map(len, every.values())) == 0x110000
    for name, characters in every.items():
        text = STAND_INS[name] + "".join(characters)
        assert pieces(text) == [text], name


@given(texts)
def test_nothing_is_lost(text):
    assert "".join(pieces(text)) == text


@given(texts)
def test_the_cuts_are_those_of_gpt_2(text):
    plain = "".join(map(stand_in, text))
    assert list(map(len, pieces(text))) == list(map(len, PLAIN.findall(plain)))


def test_the_pattern_is_not_made_before_it_is_needed():
    """It takes a tenth of a second, and `import tiny_llm` should not."""
    code = "import tiny_llm.text.pretokenize as p; assert not p.pattern.cache_info().currsize"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ------------------------------------------------------------------------- with the module `regex`


@pytest.fixture(scope="module")
def original():
    """GPT-2's own pattern."""
    return pytest.importorskip("regex").compile(GPT2)


def assigned(text):
    """Without the characters that this Python does not know; `regex` may be newer."""
    return "".join(c for c in text if unicodedata.category(c) not in ("Cn", "Cs"))


@pytest.mark.reference
def test_every_known_character_is_cut_by_the_original_likewise(original):
    for character in assigned(map(chr, range(sys.maxunicode + 1))):
        text = f"a{character}1{character} {character}!{character} {character}"
        assert pieces(text) == original.findall(text), ascii(character)


@pytest.mark.reference
@given(text=texts)
def test_the_original_cuts_likewise(original, text):
    assert pieces(assigned(text)) == original.findall(assigned(text))
