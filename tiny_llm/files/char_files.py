r"""A tokenizer of single characters as Hugging Face's tokenizer.json.

    text --cut behind every character--> "c" "a" "b" --vocabulary--> 2 0 1 --joined--> "cab"

Hugging Face's tokenizers (https://github.com/huggingface/tokenizers) are put together from parts.
These are the ones that make chapter 1's: a pre-tokenizer that splits at every character, line feeds
included, a model that looks each piece up and knows nothing else, and a decoder that joins.
"""

from __future__ import annotations

import json
from typing import Any

from tiny_llm.files.bpe_files import without_template
from tiny_llm.text.bpe import utf8
from tiny_llm.tokenizer import CharTokenizer

MODEL = "WordLevel"
NO_TOKEN = "<unk>"  # of more than one character, so it is in no alphabet, and what has no id fails
PARTS: dict[str, Any] = {
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {
        "type": "Split",
        "pattern": {"Regex": r"[\s\S]"},
        "behavior": "Isolated",
        "invert": False,
    },
    "post_processor": None,
    "decoder": {"type": "Fuse"},
}


def to_tokenizer_json(tokenizer: CharTokenizer) -> str:
    """The content of a tokenizer.json from which Hugging Face's tokenizers give the same ids.

    Raises ValueError for an alphabet with a lone surrogate, which no UTF-8 file can hold.
    """
    utf8("".join(tokenizer.itos))
    model = {"type": MODEL, "vocab": tokenizer.stoi, "unk_token": NO_TOKEN}
    whole = {"version": "1.0", **PARTS, "model": model}
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")) + "\n"


def is_char(whole: dict[str, Any]) -> bool:
    """Whether what a tokenizer.json holds is of this kind rather than another."""
    model = whole.get("model")
    return isinstance(model, dict) and model.get("type") == MODEL


def from_settings(whole: dict[str, Any]) -> CharTokenizer:
    """The tokenizer of a tokenizer.json that `is_char`. Raises ValueError if it has other parts."""
    whole = without_template(whole)
    for part, known in PARTS.items():
        if whole.get(part) != known:
            raise ValueError(f"its {part} is not that of a tokenizer of single characters")
    if whole["model"].get("unk_token") != NO_TOKEN:
        raise ValueError("it has a token for characters that it does not know")
    vocabulary = whole["model"].get("vocab")
    if not isinstance(vocabulary, dict) or not all(type(n) is int for n in vocabulary.values()):
        raise ValueError("its vocabulary is not a JSON object of ids")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError(f"the ids of {len(vocabulary)} characters must be the numbers from 0 on")
    utf8("".join(vocabulary))
    return CharTokenizer(sorted(vocabulary, key=vocabulary.__getitem__))
