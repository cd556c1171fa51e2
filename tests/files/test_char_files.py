"""A tokenizer of single characters as tokenizer.json: there and back, damaged, and foreign."""

import json

import make_references
import pytest

from tiny_llm.files.char_files import from_settings, is_char, to_tokenizer_json
from tiny_llm.tokenizer import CharTokenizer

TEXT = '\n\r\n\t \0\x1b\x1c\x85\u2028 <unk> a\u0301 日本 😀 ²½Ⅷ "\\/' + "".join(
    make_references.HARD_TEXTS
)
TOKENIZERS = {
    "sorted": CharTokenizer.from_text(TEXT),
    "in no order": CharTokenizer("cab\n "),
    "one": CharTokenizer("\n"),
}


def settings(tokenizer=TOKENIZERS["in no order"]):
    return json.loads(to_tokenizer_json(tokenizer))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_it_survives(name):
    tokenizer = TOKENIZERS[name]
    assert is_char(settings(tokenizer))
    assert from_settings(settings(tokenizer)).itos == tokenizer.itos


def test_half_a_character_is_not_written():
    with pytest.raises(ValueError, match="a lone surrogate"):
        to_tokenizer_json(CharTokenizer("a\ud800"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"pre_tokenizer": None}, "its pre_tokenizer is not that of"),
        ({"normalizer": {"type": "NFC"}}, "its normalizer is not"),
        ({"added_tokens": [{"id": 0, "content": "a"}]}, "its added_tokens is not"),
        ({"model": {"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0}}}, "not know"),
        ({"model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": []}}, "JSON object of"),
        ({"model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"a": 1}}}, "from 0 on"),
        ({"model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"ab": 0}}}, "single"),
        ({"model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": {}}}, "is empty"),
        ({"model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"\ud800": 0}}}, "lone"),
    ],
)
def test_another_is_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        from_settings({**settings(), **changes})


@pytest.mark.reference
@pytest.mark.parametrize("name", TOKENIZERS)
def test_hugging_face_gives_the_same_ids(name):
    tokenizers, tokenizer = pytest.importorskip("tokenizers"), TOKENIZERS[name]
    theirs = tokenizers.Tokenizer.from_str(to_tokenizer_json(tokenizer))
    text = "".join(tokenizer.itos) * 2 + "\n\n\n"
    assert theirs.encode(text).ids == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text
    assert from_settings(json.loads(theirs.to_str())).itos == tokenizer.itos
    with pytest.raises(Exception, match="UNK"):
        theirs.encode("ψ")
