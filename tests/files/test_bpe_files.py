"""GPT-2's and Hugging Face's files of tokenizers: there and back, damaged ones, foreign ones.

The one marked `reference` lets Hugging Face's tokenizers read and write them.
"""

import json
from random import Random

import make_references
import pytest

from tiny_llm import BPETokenizer
from tiny_llm.files.bpe_files import (
    BYTE_LEVEL,
    DIGITS,
    from_tokenizer_json,
    from_vocab_and_merges,
    load,
    save,
    to_tokenizer_json,
    to_vocab_and_merges,
)
from tiny_llm.text.bpe import SIGN_OF_BYTE

CORPUS = make_references.BPE_CORPUS.read_text("utf-8")
END = make_references.END_OF_TEXT
TRAINED = BPETokenizer.train(CORPUS, 500)


def same(one, other):
    return (one.vocabulary, one.merges, one.special_tokens, one.cut) == (
        other.vocabulary, other.merges, other.special_tokens, other.cut,
    )  # fmt: skip


def shuffled():
    """A tokenizer whose ids are in no particular order, as other programs lay them out."""
    order = list(TRAINED.vocabulary)
    Random(1).shuffle(order)
    vocabulary = {name: token for token, name in enumerate(order)}
    return BPETokenizer(vocabulary, TRAINED.merges, TRAINED.special_tokens)


TOKENIZERS = {
    "trained": TRAINED,
    "bytes": BPETokenizer.from_merges([], []),
    "several special": BPETokenizer.train(CORPUS, 300, ["<|user|>", "é ü", END]),
    "shuffled": shuffled(),
    "numbers first": BPETokenizer(
        TRAINED.vocabulary, TRAINED.merges, TRAINED.special_tokens, "smollm"
    ),
    "two ways to one token": BPETokenizer.from_merges(
        [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")], [END]
    ),
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


def test_both_forms_of_files_survive(tokenizer, tmp_path):
    for place in (tmp_path / "new" / "tokenizer.json", tmp_path / "folder"):
        if place.name == "folder" and tokenizer.cut != "gpt2":
            return  # GPT-2's pair does not say how a text is cut
        files = save(tokenizer, place)
        assert same(load(files[0].parent), tokenizer)
        assert all(file.is_file() for file in files)
        assert same(load(place), tokenizer)
        assert load(place).encode(CORPUS[:300]) == tokenizer.encode(CORPUS[:300])
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        "merges.txt", "vocab.json",
    ]  # fmt: skip


def test_the_files_of_gpt_2_are_read_as_they_are():
    """Its own form: escaped JSON, a version line, and `# #` is a merge like any other."""
    vocabulary = {SIGN_OF_BYTE[byte]: 257 - byte for byte in range(256)}
    vocabulary = {**vocabulary, "##": 0, "<|endoftext|>": 1}
    merges = "#version: 0.2\n# #\n"
    for text in (merges, merges.replace("\n", "\r\n"), "# #\n", "# #"):
        tokenizer = from_vocab_and_merges(json.dumps(vocabulary), text)
        assert tokenizer.special_tokens == {"<|endoftext|>": 1}
        assert tokenizer.encode("##!") == [0, 257 - ord("!")]


def test_newer_files_have_merges_as_lists():
    whole = json.loads(to_tokenizer_json(TRAINED))
    whole["model"]["merges"] = [merge.split(" ") for merge in whole["model"]["merges"]]
    assert same(from_tokenizer_json(json.dumps(whole)), TRAINED)


def test_a_template_that_adds_nothing_is_none():
    alone = [{"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": alone, "special_tokens": {}}
    assert same(from_tokenizer_json(changed(post_processor=template)), TRAINED)


def changed(**entries):
    """tokenizer.json with other entries; model__x is the entry x of the model."""
    whole = json.loads(to_tokenizer_json(TRAINED))
    for place, value in entries.items():
        *path, last = place.split("__")
        part = whole
        for key in path:
            part = part[key]
        part[last] = value
    return json.dumps(whole)


def steps(*pre_tokenizers):
    return {"type": "Sequence", "pretokenizers": list(pre_tokenizers)}


def without_a_byte(**entries):
    """A tokenizer of the bytes but for the last, with other entries of the model."""
    names = list(BPETokenizer.from_merges([], []).vocabulary)[:-1]
    bare = BPETokenizer({name: token for token, name in enumerate([*names, END])}, [], [END])
    whole = json.loads(to_tokenizer_json(bare))
    assert same(from_tokenizer_json(json.dumps(whole)), bare)
    whole["model"].update(entries)
    return json.dumps(whole)


DAMAGED = {
    "empty": ("", "damaged, or no byte-level BPE"),
    "cut": (changed()[:5000], "damaged, or no byte-level BPE"),
    "no object": ("[]", "not a JSON object"),
    "deep": ("[" * 100_000, "damaged, or no byte-level BPE"),
    "no model": ("{}", "no model"),
    "another model": (changed(model__type="Unigram"), "model.type is \"Unigram\""),
    "a normalizer": (changed(normalizer={"type": "NFC"}), "its normalizer is"),
    "another pattern": (changed(pre_tokenizer={"type": "Whitespace"}), "its pre_tokenizer.type is"),
    "other steps": (changed(pre_tokenizer=steps(BYTE_LEVEL)), "are not Digits"),
    "numbers as a whole": (
        changed(pre_tokenizer=steps({**DIGITS, "individual_digits": False}, BYTE_LEVEL)),
        "are not Digits",
    ),
    "another second step": (
        changed(pre_tokenizer=steps(DIGITS, {"type": "Metaspace"})),
        "pre_tokenizer.type is \"Metaspace\"",
    ),
    "a template that adds": (
        changed(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": END, "type_id": 0}}],
            }
        ),
        "post_processor.type",
    ),
    "a token for bytes": (without_a_byte(unk_token=END), "in the place of a byte"),
    "a prefix": (changed(pre_tokenizer__add_prefix_space=True), "add_prefix_space is true"),
    "no pattern": (changed(pre_tokenizer__use_regex=False), "use_regex is false"),
    "a template": (changed(post_processor={"type": "TemplateProcessing"}), "post_processor.type"),
    "truncation": (changed(truncation={"max_length": 2}), "its truncation is"),
    "ignored merges": (changed(model__ignore_merges=True), "ignore_merges is true"),
    "no vocabulary": (changed(model__vocab=None), "not a JSON object of ids"),
    "ids that are none": (changed(model__vocab={"a": "b"}), "not a JSON object of ids"),
    "a few tokens": (changed(model__vocab={"a": 0}, added_tokens=[]), "no token for 255 of the"),
    "an id twice": (changed(model__vocab__a=5), "must be the numbers from 0 on"),
    "no merges": (changed(model__merges=7), "no list of merges"),
    "a merge of one": (changed(model__merges=["a"]), "two tokens with a space between"),
    "a merge of three": (changed(model__merges=[["a", "b", "c"]]), "two tokens with a space"),
    "a merge of unknown": (changed(model__merges=["q x"]), "needs 'qx'"),
    "a foreign sign": (changed(model__vocab__日=500), "holds '日', which stands for no byte"),
    "no special tokens": (changed(added_tokens=7), "added_tokens are not a list"),
    "a stripping token": (
        changed(added_tokens=[{"id": 499, "content": END, "lstrip": True}]), "has lstrip",
    ),
    "a special token without id": (changed(added_tokens=[{"content": END}]), "has two ids"),
    "a special token far off": (
        changed(added_tokens=[{"id": 900, "content": "<x>"}]), "must be the numbers from 0 on",
    ),
    "a special token that is plain": (
        changed(added_tokens=[{"id": 64, "content": "a"}]), "also the name of an ordinary one",
    ),
    "half a character": (
        changed(added_tokens=[{"id": 500, "content": "\ud800"}]), "a lone surrogate",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_or_foreign_file_is_refused(case, tmp_path):
    content, expected = DAMAGED[case]
    file = tmp_path / "tokenizer.json"
    file.write_text(content, "utf-8")
    with pytest.raises(ValueError) as error:
        load(file)
    assert expected in str(error.value)
    assert str(file) in str(error.value)


def test_a_damaged_pair_of_files_is_refused(tmp_path):
    vocab, merges = to_vocab_and_merges(TRAINED)
    with pytest.raises(ValueError, match=r"holds neither vocab\.json and merges\.txt nor"):
        load(tmp_path)
    for bad_vocab, bad_merges, problem in (
        (vocab[:-9], merges, "no byte-level BPE"),
        (vocab, merges + "a b c\n", "two tokens with a space between"),
        (vocab, merges + "zz zz\n", "needs 'zz'"),
        (vocab.encode("utf-8").decode("latin-1"), merges, "vocab.json and .*merges.txt: damaged"),
    ):
        (tmp_path / "vocab.json").write_text(bad_vocab, "utf-8")
        (tmp_path / "merges.txt").write_text(bad_merges, "utf-8")
        with pytest.raises(ValueError, match=problem):
            load(tmp_path)
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path)


@pytest.mark.parametrize("length", range(0, 3000, 271))
def test_a_file_that_was_cut_is_never_half_a_tokenizer(length, tmp_path):
    file = tmp_path / "tokenizer.json"
    whole = to_tokenizer_json(TRAINED)
    file.write_text(whole[: -length - 2], "utf-8")
    with pytest.raises(ValueError, match="damaged"):
        load(file)


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "tokenizer.json"
    save(TRAINED, file)
    before = file.read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError):
        save(TOKENIZERS["bytes"], file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.reference
def test_hugging_face_reads_the_files_and_writes_them(tokenizer, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    save(tokenizer, tmp_path / "ours.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "ours.json"))
    allowed = set(tokenizer.special_tokens)
    for text in [*make_references.HARD_TEXTS, "<|user|>abcé ü", CORPUS]:
        assert tokenizer.encode(text, allowed) == theirs.encode(text).ids
    theirs.save(str(tmp_path / "theirs.json"))
    assert same(load(tmp_path / "theirs.json"), tokenizer)
    save(tokenizer, tmp_path / "ours")
    paths = [str(tmp_path / "ours" / name) for name in ("vocab.json", "merges.txt")]
    model = tokenizers.models.BPE.from_file(*paths)
    theirs.model = model
    assert theirs.encode(CORPUS).ids == tokenizer.encode(CORPUS)
