"""Text to token ids and back, without loss, and with errors that say what is unknown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_llm import CharTokenizer


def test_ids_are_places_in_the_sorted_alphabet():
    tokenizer = CharTokenizer.from_text("cabba")
    assert tokenizer.itos == ["a", "b", "c"]
    assert tokenizer.stoi == {"a": 0, "b": 1, "c": 2}
    assert tokenizer.encode("cab") == [2, 0, 1]
    assert tokenizer.decode([2, 0, 1]) == "cab"


def test_vocabulary_counts_each_character_once():
    assert CharTokenizer.from_text("mississippi").vocab_size == 4


@given(st.text(min_size=1))
def test_decode_undoes_encode(text):
    tokenizer = CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text


@given(st.text(min_size=1))
def test_the_order_of_the_text_does_not_matter(text):
    assert CharTokenizer.from_text(text).itos == CharTokenizer.from_text(text[::-1]).itos


@pytest.mark.parametrize("text", ["ä", "ｗ", "\N{GRINNING FACE}", "\r\n", "e\u0301", "\x00"])
def test_characters_of_every_kind_survive(text):
    tokenizer = CharTokenizer.from_text("plain" + text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_nothing_encodes_to_nothing():
    tokenizer = CharTokenizer.from_text("ab")
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


def test_a_given_alphabet_keeps_its_order():
    assert CharTokenizer("ba").encode("ab") == [1, 0]


def test_unknown_characters_are_named_once_each_beside_the_known_ones():
    with pytest.raises(ValueError) as error:
        CharTokenizer.from_text("ab\n").encode("axa\tx")
    assert str(error.value) == (
        r"the model does not know '\t' 'x'; the characters of its training text are '\n' 'a' 'b'"
    )


def test_a_long_alphabet_is_cut_in_the_error():
    tokenizer = CharTokenizer(map(chr, range(0x4E00, 0x4E00 + 1300)))
    with pytest.raises(ValueError, match=r" \.\.\.$"):
        tokenizer.encode("x")


def test_an_empty_text_is_refused():
    with pytest.raises(ValueError, match="give some text"):
        CharTokenizer.from_text("")


@pytest.mark.parametrize("alphabet", [["a", "a"], ["ab"], ["a", ""]])
def test_an_alphabet_holds_single_characters_each_once(alphabet):
    with pytest.raises(ValueError, match="each of them once"):
        CharTokenizer(alphabet)


@pytest.mark.parametrize("token", [2, -1])
def test_decode_refuses_an_id_outside_the_vocabulary(token):
    with pytest.raises(ValueError, match="outside the vocabulary"):
        CharTokenizer.from_text("ab").decode([token])


@given(st.text(min_size=1))
def test_the_bytes_of_the_tokens_are_those_of_the_text(text):
    tokenizer = CharTokenizer.from_text(text)
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode("utf-8")


def test_there_are_no_bytes_of_an_unknown_id():
    with pytest.raises(ValueError, match="token id 2 is outside the vocabulary of 2"):
        CharTokenizer.from_text("ab").token_bytes(2)


def test_the_state_is_plain_data():
    assert CharTokenizer("ba\n").state() == {"kind": "char", "characters": ["b", "a", "\n"]}
