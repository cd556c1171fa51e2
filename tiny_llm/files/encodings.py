"""Whether a file holds text in the encoding that was named; if not, what it holds and what to do.

Decoding alone does not tell: latin-1 makes some character of every byte, and much else is valid
UTF-8, such as UTF-16 without a mark, whose letters then stand between characters of value 0. So the
beginning of a file is looked at, too.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from typing import Optional

LOOKED_AT = 2**24  # bytes at the beginning of a file that is too large to look at whole

# What begins with these bytes is no text, whatever it decodes as: an archive, or a document.
ARCHIVE, DOCUMENT = "unpack it first", "save the text in it as a text file, and give that"
BEGINNINGS = (
    (b"\x1f\x8b", "a gzip archive", ARCHIVE),
    (b"BZh91AY&SY", "a bzip2 archive", ARCHIVE),
    (b"\xfd7zXZ\0", "an xz archive", ARCHIVE),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", ARCHIVE),
    (b"PK\x03\x04", "a zip archive, or a document such as .docx, .odt and .epub", DOCUMENT),
    (b"\xd0\xcf\x11\xe0", "an Office document", DOCUMENT),
    (b"%PDF-", "a PDF", DOCUMENT),
    (b"\x89PNG", "a picture", DOCUMENT),
    (b"\xff\xd8\xff", "a picture", DOCUMENT),
    (b"GIF89a", "a picture", DOCUMENT),
)
# In this order: a mark of UTF-32 begins as one of UTF-16 does.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
ENDS = ("unexpected end of data", "truncated data", "incomplete multibyte sequence")
OTHERS = "for example --encoding cp1251, gb18030 or shift_jis"
_CONTROLS = re.compile(rb"[\x80-\x9f]")  # in latin-1; quotes and dashes in cp1252


def codec(encoding: str) -> str:
    """The one to read with: in UTF-8, a byte order mark at the beginning is no character."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def misread(beginning: bytes, encoding: str) -> Optional[str]:
    """Why a file of text in this encoding would not begin so, and what to do; None: it may."""
    for mark, kind, advice in BEGINNINGS:
        if beginning.startswith(mark):
            return f"is no text but {kind}; {advice}"
    name = codecs.lookup(encoding).name
    if name.startswith(("utf-16", "utf-32")):
        if b"\0" not in beginning and _decodes(beginning, "utf-8"):
            return f"is not {encoding} but UTF-8 text; leave --encoding out"
        return None
    if b"\0" in beginning:
        wide = _marked(beginning) or _wide(beginning)
        if wide:
            return f"is {wide} text; read it with --encoding {wide}"
        return "holds bytes of value 0, which no text does: it is a binary file; give a text file"
    if name in ("iso8859-1", "iso8859-15") and _CONTROLS.search(beginning):
        is_utf_8 = _decodes(beginning, "utf-8")
        if is_utf_8 or _decodes(beginning, "cp1252"):
            advice = "leave --encoding out" if is_utf_8 else "read it with --encoding cp1252"
            return f"is not {encoding} but {'UTF-8' if is_utf_8 else 'cp1252'} text; {advice}"
    return None


def undecodable(beginning: bytes, error: ValueError, encoding: str) -> str:
    """What to say of a file that cannot be decoded. error: of the decoder, for some part of it."""
    part = b""
    if isinstance(error, UnicodeDecodeError):
        part, tail = error.object, error.object[error.start :]
        before = beginning[: len(beginning) - len(tail) * beginning.endswith(tail)]
        several = b"\0" in before or not before.isascii()  # if there is one, it may be é in latin-1
        if error.reason in ENDS and several:
            last = "byte" if len(tail) == 1 else f"{len(tail)} bytes"
            return (
                f"ends in the middle of a character, so the end of it is missing; get it whole, or "
                f"leave out its last {last}"
            )
    return (
        f"is not {encoding} text; {_advice(beginning if part in beginning else beginning + part)}"
    )


def _advice(sample: bytes) -> str:
    """How to read bytes that are no UTF-8."""
    marked = _marked(sample)
    if marked:
        return f"read it with --encoding {marked}"
    if _decodes(sample, "utf-8", whole=len(sample) < LOOKED_AT):
        return "it is UTF-8: leave --encoding out"
    high = sum(byte >= 0x80 for byte in sample)
    if high > len(sample) / 3 or not _decodes(sample, "cp1252"):  # no Western language has so many
        return f"name its encoding, {OTHERS}"
    western = "cp1252" if _CONTROLS.search(sample) else "latin-1"
    return f"name its encoding, for example --encoding {western}"


def _marked(beginning: bytes) -> Optional[str]:
    """The encoding of more than one byte a character whose mark this begins with."""
    return next((encoding for mark, encoding in MARKS if beginning.startswith(mark)), None)


def _decodes(beginning: bytes, encoding: str, whole: bool = False) -> bool:
    """Whether this may be the beginning of text in the encoding, or the whole of it."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(beginning, whole)
    except ValueError:
        return False
    return True


def _wide(beginning: bytes) -> Optional[str]:
    """The encoding of two or four bytes a character without a mark that this is, if it is one.

    Text has spaces or line ends in it, and nothing that is no character.
    """
    for encoding in WIDE:
        if _decodes(beginning, encoding):
            text = codecs.getincrementaldecoder(encoding)().decode(beginning)
            kinds = {unicodedata.category(c) for c in set(text) - set("\t\n\r\f")}
            if set(text) & set(" \n") and not kinds & {"Cc", "Cn", "Co", "Cs"}:
                return encoding
    return None
