"""What a file holds that is no text in the encoding that was named, and what is said to do."""

import gzip
import random
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiny_llm.cli import main
from tiny_llm.files.encodings import codec, misread
from tiny_llm.run.errors import UserError
from tiny_llm.run.texts import read_text

QUOTES = "He said “no” – it’s a café. " * 40
ENGLISH, RUSSIAN = "the cat sat on the mat. " * 40, "привет, мир. " * 40
JAPANESE = "日本語の文章です。 " * 40
FILES = {
    "gzip": (gzip.compress(ENGLISH.encode(), mtime=0), "is no text but a gzip archive; unpack"),
    "pdf": (b"%PDF-1.4\n1 0 obj\n<< >>\nendobj\n", "is no text but a PDF; save the text"),
    "png": (b"\x89PNG\r\n\x1a\nxx", "is no text but a picture"),
    "zeros": (b"ab\0cd\0" * 20, "holds bytes of value 0"),
    "random": (random.Random(1).getrandbits(8000).to_bytes(1000, "big"), "value 0"),
    "cut": (("naïve " * 9 + "é").encode()[:-1], "leave out its last byte"),
    "cut by more": (("naïve " * 9 + "\U0001f600").encode()[:-1], "leave out its last 3 bytes"),
    "cp1252": (QUOTES.encode("cp1252"), "--encoding cp1252"),
    "latin-1": ("café au lait. ".encode("latin-1") * 9, "--encoding latin-1"),
    "latin-1 at its end": ("café".encode("latin-1"), "--encoding latin-1"),
    "cyrillic": (RUSSIAN.encode("cp1251"), "for example --encoding cp1251"),
    "japanese": (JAPANESE.encode("shift_jis"), "or shift_jis"),
    "marked utf-16": (ENGLISH.encode("utf-16"), "with --encoding utf-16"),
    "marked utf-32": (ENGLISH.encode("utf-32"), "with --encoding utf-32"),
    "utf-16-le": (ENGLISH.encode("utf-16-le"), "--encoding utf-16-le"),
    "utf-16-be": (ENGLISH.encode("utf-16-be"), "--encoding utf-16-be"),
    "utf-16 of Russian": (RUSSIAN.encode("utf-16-be"), "--encoding utf-16-be"),
    "utf-16 of Japanese": (JAPANESE.encode("utf-16-le"), "--encoding utf-16-le"),
    "utf-16, no space": (b"a\0b\0\n\0" * 9, "--encoding utf-16-le"),
    "utf-32-le": (ENGLISH.encode("utf-32-le"), "--encoding utf-32-le"),
}
NAMED_WRONGLY = {
    "cp1252 as latin-1": (QUOTES.encode("cp1252"), "latin-1", "not latin-1 but cp1252 text"),
    "UTF-8 as latin-1": (QUOTES.encode(), "latin-1", "but UTF-8 text; leave --encoding out"),
    "UTF-8 as utf-16": (ENGLISH.encode(), "utf-16", "but UTF-8 text; leave --encoding out"),
    "UTF-8 as ascii": ("café ".encode() * 9, "ascii", "it is UTF-8: leave --encoding out"),
    "gzip as latin-1": (FILES["gzip"][0], "latin-1", "a gzip archive"),
    "utf-16 as latin-1": (ENGLISH.encode("utf-16-le"), "latin-1", "--encoding utf-16-le"),
    "cut utf-16": (ENGLISH.encode("utf-16")[:-1], "utf-16", "leave out its last byte"),
}
RIGHT = [
    (ENGLISH, "utf-8"), (QUOTES, "utf-8"), (QUOTES, "cp1252"), (RUSSIAN, "cp1251"),
    (RUSSIAN, "koi8-r"), (JAPANESE, "shift_jis"), (ENGLISH, "utf-16"), (ENGLISH, "utf-16-le"),
    (JAPANESE, "utf-16-be"), (JAPANESE, "utf-32"), ("café ", "latin-1"), ("\x1b[1mbold", "utf-8"),
    ("", "utf-8"), (QUOTES, "utf-8-sig"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(content, capsys, *command):
    Path("text").write_bytes(content)
    assert main([*command]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tiny-lm: error: text ")
    return line


@pytest.mark.parametrize("command", [["train", "--data"], ["prepare"]], ids=["train", "prepare"])
@pytest.mark.parametrize("case", FILES)
def test_what_is_no_utf_8_text_is_told_by_its_content(case, command, capsys):
    content, problem = FILES[case]
    assert problem in error_of(content, capsys, *command, "text")


@pytest.mark.parametrize("command", [["train", "--data"], ["prepare"]], ids=["train", "prepare"])
@pytest.mark.parametrize("case", NAMED_WRONGLY)
def test_an_encoding_that_would_make_garbage_is_refused(case, command, capsys):
    content, encoding, problem = NAMED_WRONGLY[case]
    assert problem in error_of(content, capsys, *command, "text", "--encoding", encoding)


def test_a_docx_is_no_text(capsys):
    with zipfile.ZipFile("text", "w") as file:
        file.writestr("word/document.xml", ENGLISH)
    assert "such as .docx" in error_of(Path("text").read_bytes(), capsys, "train", "--data", "text")


@pytest.mark.parametrize("text, encoding", RIGHT)
def test_text_is_read_in_its_own_encoding(text, encoding):
    assert misread(text.encode(encoding), encoding) is None


def test_utf_8_by_any_name_has_no_mark_in_it():
    for name in ("utf-8", "UTF8", "U8", "utf_8"):
        assert codec(name) == "utf-8-sig"


def test_the_encoding_that_is_named_reads_the_text():
    Path("text").write_bytes(QUOTES.encode("cp1252"))
    words = ["train", "--data", "text", "--encoding", "cp1252", "--steps", "1", "--quiet"]
    assert main([*words, "--context-length", "4", "-n", "0", "-p", "“no”"]) == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_no_text_in_utf_8_is_taken_for_something_else(text):
    content = text.encode()
    known = content.startswith((b"%PDF-", b"GIF89a", b"BZh91AY&SY"))
    assert known or misread(content, "utf-8") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(), st.sampled_from(["utf-8", "latin-1", "utf-16", "shift_jis"]))
def test_any_bytes_are_text_or_refused_in_a_line(content, encoding):
    Path("text").write_bytes(content)
    try:
        text = read_text("text", encoding).content
    except UserError as error:
        assert str(error).startswith("text ") and "\n" not in str(error)
    else:
        assert (text and "\0" not in text) or encoding == "utf-16"
