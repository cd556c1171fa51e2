"""What is shown of foreign text cannot command a terminal, and is short."""

import unicodedata

import pytest

from tiny_llm.text.shown import CUT, shown

BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def commands():
    """Every character that could command a terminal or turn the order of a line around."""
    for code in range(0x110000):
        character = chr(code)
        is_command = unicodedata.category(character) in ("Cc", "Zl", "Zp")
        if is_command or unicodedata.bidirectional(character) in BIDI:
            yield character
    yield from "\u061c\u200e\u200f"


def test_no_character_that_commands_a_terminal_is_left():
    everything = "".join(commands())
    assert len(everything) > 70
    for character in everything:
        assert shown(character).isascii(), hex(ord(character))
        assert shown(character).isprintable()
    assert shown(everything, longest=0).isprintable()


def test_letters_of_all_scripts_stay():
    text = "déjà vu, שלום, سلام, 中文, क्षि, 👩\u200d🚀, a\xa0b"
    assert shown(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("two\nlines", "two\\x0alines"),
        ("\udc80", "\\udc80"),
    ],
)
def test_what_commands_is_written_as_an_escape(text, expected):
    assert shown(text) == expected


def test_samples_keep_lines_and_tabs():
    assert shown("a\n\tb\r\x9b", 0, keep="\n\t") == "a\n\tb\\x0d\\x9b"


@pytest.mark.parametrize("text", ["x" * 10**6, "\x1b" * 10**6, "\x1b" * 79])
def test_what_is_long_is_cut_in_its_middle(text):
    short = shown(f"<{text}>")
    assert len(short) <= 80
    assert short.startswith("<")
    assert CUT in short
    assert short.endswith(">")
    assert CUT not in shown(text, longest=0)


def test_any_value_can_be_shown():
    assert shown(None) == "None"
    assert shown(KeyError("\x1b")) == "'\\x1b'"
