"""The files that tokenizers are exchanged in: GPT-2's pair, and Hugging Face's tokenizer.json.

    tokenizer --save--> FOLDER/vocab.json + merges.txt, or FILE.json --load--> tokenizer

vocab.json is a JSON object, name -> id, and merges.txt has a line for each merge, in order; these
came with GPT-2 (Radford et al., 2019). tokenizer.json holds both, the special tokens, and settings
for every step of https://github.com/huggingface/tokenizers. Here only the settings of GPT-2 are
known, and the cutting off of numbers before it: a file with others is refused, since it would give
other ids than its makers intended.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

from tiny_llm.files.atomic import replace_file
from tiny_llm.files.foreign import content_of, parsed_object, text_of
from tiny_llm.text.bpe import BYTE_OF_SIGN, BPETokenizer, Merge, parse_merges
from tiny_llm.text.shown import LONGEST_MESSAGE, shown

VOCAB, MERGES, WHOLE = "vocab.json", "merges.txt", "tokenizer.json"
VERSION = "#version: 0.2"  # the first line of merges.txt
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
DIGITS = {"type": "Digits", "individual_digits": True}
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {  # how a text is cut, by BPETokenizer's names
    "gpt2": BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [DIGITS, BYTE_LEVEL]},
}
TEXT_ALONE = [{"Sequence": {"id": "A", "type_id": 0}}]  # a template that adds no token
# What the parts of tokenizer.json must be: each value listed here, or no entry at all.
SETTINGS: dict[str, tuple[Any, ...]] = {
    "normalizer": (None,),
    "truncation": (None,),
    "padding": (None,),
    "model.type": ("BPE",),
    "model.dropout": (None, 0),
    "model.continuing_subword_prefix": (None, ""),
    "model.end_of_word_suffix": (None, ""),
    "model.ignore_merges": (False,),
    "pre_tokenizer.type": ("ByteLevel",),
    "pre_tokenizer.add_prefix_space": (False,),
    "pre_tokenizer.use_regex": (True,),
    "post_processor.type": ("ByteLevel",),
}


def save(tokenizer: BPETokenizer, path: Path) -> list[Path]:
    """Write one tokenizer.json if `path` ends in .json, else both files of GPT-2 in that folder.

    Returns the files. Raises OSError when one cannot be written; what stood in its place stays.
    """
    files = files_of(path)
    pair = to_vocab_and_merges(tokenizer)
    for file, text in zip(files, pair if len(files) == 2 else [to_tokenizer_json(tokenizer)]):
        _write_text(file, text)
    return files


def files_of(path: Path) -> list[Path]:
    """The files that `save` writes for this path."""
    return [path] if path.suffix == ".json" else [path / VOCAB, path / MERGES]


def load(path: Path) -> BPETokenizer:
    """The tokenizer in a tokenizer.json, or in a folder that holds it or GPT-2's two files.

    Raises ValueError, with what is wrong, for other content, and OSError if it cannot be read.
    """
    files = [path]
    if path.is_dir():
        pair = all((path / name).exists() for name in (VOCAB, MERGES))
        files = [path / VOCAB, path / MERGES] if pair else [path / WHOLE]
        if not files[0].exists():
            raise ValueError(f"{path} holds neither {VOCAB} and {MERGES} nor {WHOLE}")
    contents = list(map(content_of, files))
    parse: Callable[..., BPETokenizer] = (
        from_vocab_and_merges if len(files) == 2 else from_tokenizer_json
    )
    try:
        return parse(*map(text_of, contents))
    except ValueError as error:
        names = " and ".join(map(str, files))
        raise ValueError(
            f"{names}: damaged, or no byte-level BPE tokenizer as GPT-2 has it: "
            f"{shown(error, LONGEST_MESSAGE // 2)}"
        ) from None


def to_vocab_and_merges(tokenizer: BPETokenizer) -> tuple[str, str]:
    """The content of vocab.json and of merges.txt."""
    lines = [VERSION, *map(" ".join, tokenizer.merges), ""]
    return _to_json(_by_id(tokenizer.vocabulary)) + "\n", "\n".join(lines)


def from_vocab_and_merges(vocab: str, merges: str) -> BPETokenizer:
    """The tokenizer in these two. A token that is no byte, and that no merge makes, is special.

    Raises ValueError for other content.
    """
    vocabulary = _vocabulary(parsed_object(vocab))
    lines = merges.split("\n")
    if lines[0].startswith("#version"):  # "# #" may well be a merge
        del lines[0]
    pairs = parse_merges(filter(None, (line.rstrip("\r") for line in lines)))
    ordinary = BYTE_OF_SIGN.keys() | {left + right for left, right in pairs}
    return BPETokenizer(vocabulary, pairs, vocabulary.keys() - ordinary)


def to_tokenizer_json(tokenizer: BPETokenizer) -> str:
    """The content of a tokenizer.json from which Hugging Face's tokenizers give the same ids."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = [
        {"id": token, "content": name, **flags, "special": True}
        for name, token in tokenizer.special_tokens.items()
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "vocab": _by_id(tokenizer.vocabulary),
        "merges": [*map(" ".join, tokenizer.merges)],
    }
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[tokenizer.cut],
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": model,
    }
    return _to_json(whole) + "\n"


def from_tokenizer_json(text: str) -> BPETokenizer:
    """The tokenizer in this tokenizer.json. Raises ValueError if it is damaged or of another kind.

    Merges may be strings or, as newer files have them, lists of two.
    """
    return from_settings(parsed_object(text))


def from_settings(whole: dict[str, Any]) -> BPETokenizer:
    """As `from_tokenizer_json`, from what the JSON text stands for."""
    model, cut = whole.get("model"), whole.get("pre_tokenizer")
    if not isinstance(model, dict) or not isinstance(cut, dict):
        raise ValueError("it has no model or no pre_tokenizer")
    numbers_first = cut.get("type") == "Sequence"
    whole = without_template(whole)
    if numbers_first:
        whole = {**whole, "pre_tokenizer": _behind_digits(cut.get("pretokenizers"))}
    _check_settings(whole)
    vocabulary = _vocabulary(model.get("vocab"))
    special = _added_tokens(whole.get("added_tokens") or [])
    for name, token in special.items():
        if vocabulary.setdefault(name, token) != token:
            raise ValueError(f"the special token {shown(repr(name))} has two ids")
    if not vocabulary.keys() >= BYTE_OF_SIGN.keys() and (
        model.get("unk_token") or model.get("byte_fallback")
    ):
        raise ValueError("it puts another token in the place of a byte that has none")
    merges = _merges(model.get("merges"))
    return BPETokenizer(vocabulary, merges, special, "smollm" if numbers_first else "gpt2")


def without_template(whole: dict[str, Any]) -> dict[str, Any]:
    """The settings without a template for special tokens that adds none, as newer files have."""
    last = whole.get("post_processor")
    adds_nothing = isinstance(last, dict) and last.get("single") == TEXT_ALONE
    return {**whole, "post_processor": None} if adds_nothing else whole


def _behind_digits(steps: Any) -> Any:
    """The second of two steps, the first of which cuts off numbers character by character."""
    if not isinstance(steps, list) or len(steps) != 2 or steps[0] != DIGITS:
        raise ValueError("the steps of its pre_tokenizer are not Digits (individual) and ByteLevel")
    return steps[1]


def _check_settings(whole: dict[str, Any]) -> None:
    """Raises ValueError for a setting that would give other ids than GPT-2's way of encoding."""
    for place, allowed in SETTINGS.items():
        value, known = whole, True
        for key in place.split("."):
            known = isinstance(value, dict) and key in value
            if not known:
                break
            value = value[key]
        if known and value not in allowed:
            raise ValueError(f"its {place} is {json.dumps(value)[:60]}, which is not known here")


def _added_tokens(entries: Any) -> dict[str, int]:
    """Name -> id. Raises ValueError for entries of another form."""
    special: dict[str, int] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise ValueError("its added_tokens are not a list of objects with a content")
        name = entry["content"]
        for key in ("single_word", "lstrip", "rstrip"):
            if entry.get(key):
                name = shown(repr(name))
                raise ValueError(f"its special token {name} has {key}, which is not known here")
        special[name] = entry.get("id", -1)
    return _vocabulary(special)


def _merges(entries: Any) -> list[Merge]:
    """Merges as strings or as lists of two. Raises ValueError for anything else."""
    if not isinstance(entries, list):
        raise ValueError("it has no list of merges")
    lines = [" ".join(map(str, e)) if isinstance(e, list) else str(e) for e in entries]
    return parse_merges(lines)


def _vocabulary(value: Any) -> dict[str, int]:
    """Raises ValueError unless `value` is a dict of whole numbers."""
    if not isinstance(value, dict) or not all(type(token) is int for token in value.values()):
        raise ValueError("its vocabulary is not a JSON object of ids")
    return value


def _by_id(vocabulary: dict[str, int]) -> dict[str, int]:
    return {name: vocabulary[name] for name in sorted(vocabulary, key=vocabulary.__getitem__)}


def _to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, [text.encode("utf-8")])
