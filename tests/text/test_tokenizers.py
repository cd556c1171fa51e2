"""A tokenizer is built again from its plain data, and from nothing else."""

import pytest

from tiny_llm import BPETokenizer, CharTokenizer
from tiny_llm.text.tokenizers import TOKENIZERS, tokenizer_from


@pytest.mark.parametrize(
    "tokenizer",
    [CharTokenizer("ba\n"), BPETokenizer.train("aaabdaaabac", 260)],
    ids=["char", "bpe"],
)
def test_a_state_gives_the_tokenizer_again(tokenizer):
    again = tokenizer_from(tokenizer.state())
    assert type(again) is type(tokenizer)
    assert again.state() == tokenizer.state()
    assert tokenizer.kind in TOKENIZERS


@pytest.mark.parametrize(
    "state",
    [
        None, {}, {"kind": "char"}, {"kind": "bpe", "characters": ["a"]}, {"kind": ["char"]},
        {"kind": "char", "characters": "ab"}, {"kind": "char", "characters": [1]},
        {"kind": "char", "characters": []}, {"kind": "char", "characters": [["a"]]},
    ],
)  # fmt: skip
def test_nonsense_is_no_state(state):
    with pytest.raises(ValueError):
        tokenizer_from(state)
