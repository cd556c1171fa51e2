"""Byte-level BPE: the worked example, any bytes there and back, GPT-2's ids, files, damaged files.

`tests/references/bpe.json` holds what Hugging Face's tokenizers learned and gave. Those marked
`reference` ask them again, for what hypothesis thinks of.
"""

import doctest
import json
import pickle
import unicodedata
from random import Random

import make_references
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_llm.text.bpe
from tiny_llm import BPETokenizer
from tiny_llm.files.bpe_files import (
    from_tokenizer_json,
    from_vocab_and_merges,
    load,
    save,
    to_tokenizer_json,
    to_vocab_and_merges,
)
from tiny_llm.text.bpe import LONGEST_CACHED, MOST_CACHED, name_of_bytes
from tiny_llm.text.pretokenize import pieces

REFERENCE = make_references.read("bpe")
CORPUS = make_references.BPE_CORPUS.read_text("utf-8")
END = make_references.END_OF_TEXT
TRAINED = BPETokenizer.train(CORPUS, 500)

# Words that have long merges, and what is rare.
texts = st.lists(
    st.one_of(st.text(max_size=4), st.sampled_from([*pieces(CORPUS[:2000]), END, "'s", "  "])),
    max_size=12,
).map("".join)


def names(tokenizer, ids):
    return [name_of_bytes(tokenizer.token_bytes(token)) for token in ids]


def plain_encode(tokenizer, text):
    """What encoding is, in the fewest words: the first learned merge first, the leftmost first."""
    ids = []
    for piece in pieces(text):
        parts = [name_of_bytes(bytes([byte])) for byte in piece.encode("utf-8")]
        while True:
            pairs = list(zip(parts, parts[1:]))
            merge = next((merge for merge in tokenizer.merges if merge in pairs), None)
            if merge is None:
                break
            place = pairs.index(merge)
            parts[place : place + 2] = ["".join(merge)]
        ids += [tokenizer.vocabulary[part] for part in parts]
    return ids


# ---------------------------------------------------------------------------- the worked example


def test_the_classic_example():
    """Wikipedia's article on byte-pair encoding: Z = aa, Y = ab, X = ZY, and then no pair twice."""
    tokenizer = BPETokenizer.train("aaabdaaabac", 1000, special_tokens=[])
    assert tokenizer.merges == [("a", "a"), ("a", "b"), ("aa", "ab")]
    assert tokenizer.vocab_size == 256 + 3
    letters = {"aa": "Z", "ab": "Y", "aaab": "X"}
    spelled = [
        "".join(letters.get(name, name) for name in names(tokenizer, step.ids))
        for step in tokenizer.steps("aaabdaaabac")
    ]
    # Each merge is done at one place after the other, the leftmost first.
    assert spelled[::2] == ["aaabdaaabac", "ZabdZabac", "ZYdZYac", "XdXac"]
    assert [step.merge for step in tokenizer.steps("aaabdaaabac")] == [None, 0, 0, 1, 1, 2, 2]
    assert names(tokenizer, tokenizer.encode("aaabdaaabac")) == ["aaab", "d", "aaab", "a", "c"]


def test_the_example_in_the_docstring():
    assert doctest.testmod(tiny_llm.text.bpe).attempted >= 3
    assert doctest.testmod(tiny_llm.text.bpe).failed == 0


# ------------------------------------------------------------------------------------- training


def test_the_merges_are_those_that_hugging_face_learns():
    tokenizer = BPETokenizer.train(CORPUS, REFERENCE["vocab_size"], special_tokens=[])
    assert list(map(" ".join, tokenizer.merges)) == REFERENCE["merges"]


def test_ids_are_laid_out_as_in_gpt_2():
    tokenizer = BPETokenizer.train("ab ab ab", 260, special_tokens=["<a>", "<b>"])
    assert tokenizer.vocab_size == 260
    assert [tokenizer.token_bytes(token) for token in (0, 93, 94, 187, 188, 220, 255)] == [
        b"!", b"~", b"\xa1", b"\xff", b"\x00", b" ", b"\xad",
    ]  # fmt: skip
    assert [tokenizer.token_bytes(token) for token in (256, 257)] == [b"ab", b" ab"]
    assert tokenizer.special_tokens == {"<a>": 258, "<b>": 259}


def test_several_texts_are_one_corpus_and_no_pair_crosses_from_one_to_the_next():
    assert (
        BPETokenizer.train(["ab ", "ab"], 300).merges == BPETokenizer.train("ab \nab", 300).merges
    )
    assert BPETokenizer.train(iter(["a", "b"] * 5), 300).merges == []


def test_training_ends_when_no_pair_occurs_twice():
    assert BPETokenizer.train("abcdefg", 300).vocab_size == 257
    assert BPETokenizer.train("", 300).vocab_size == 257


def test_among_equals_the_smaller_ids_go_first():
    assert BPETokenizer.train("zy ba zy ba", 258).merges == [("b", "a")]


def test_a_vocabulary_below_that_of_the_bytes_is_refused():
    assert BPETokenizer.train("aa", 257).merges == []
    with pytest.raises(ValueError, match=r"256 bytes and 1 special tokens make 257"):
        BPETokenizer.train("aa", 256)


@given(st.text(alphabet="ab '", min_size=1), st.integers(256, 290))
def test_every_merge_was_the_most_frequent_pair(text, size):
    """Training counted anew after every merge, on the pieces of the text as they then are."""
    tokenizer = BPETokenizer.train(text, size, special_tokens=[])
    words = [
        list(map(name_of_bytes, (bytes([b]) for b in piece.encode()))) for piece in pieces(text)
    ]
    for merge in [*tokenizer.merges, None]:
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        if merge is None:
            assert tokenizer.vocab_size == size or max(counts.values(), default=0) < 2
            break
        rank = {pair: (-n, *map(tokenizer.vocabulary.get, pair)) for pair, n in counts.items()}
        assert counts[merge] >= 2
        assert min(counts, key=rank.get) == merge
        for word in words:
            place = 0
            while place < len(word) - 1:
                if (word[place], word[place + 1]) == merge:
                    word[place : place + 2] = ["".join(merge)]
                place += 1


# ----------------------------------------------------------------------------- there and back


@given(texts)
def test_decode_undoes_encode(text):
    assert TRAINED.decode(TRAINED.encode(text)) == text


@given(texts)
def test_encoding_is_what_its_definition_says(text):
    assert TRAINED.encode(text) == plain_encode(TRAINED, text)


@given(
    st.text(alphabet="abc", max_size=40), st.text(alphabet="abc", max_size=40), st.integers(0, 20)
)
def test_the_heap_keeps_the_order_of_the_definition(text, other, merges):
    tokenizer = BPETokenizer.train(text, 257 + merges)
    assert tokenizer.encode(other) == plain_encode(tokenizer, other)


@given(st.binary())
def test_any_bytes_survive(data):
    assert TRAINED.decode_bytes(TRAINED.encode_bytes(data)) == data


def test_each_single_byte_survives():
    for byte in range(256):
        assert TRAINED.decode_bytes(TRAINED.encode_bytes(bytes([byte]))) == bytes([byte])


@given(texts)
def test_the_bytes_of_a_text_have_its_ids(text):
    assert TRAINED.encode_bytes(text.encode("utf-8")) == TRAINED.encode(text)
    assert b"".join(map(TRAINED.token_bytes, TRAINED.encode(text))) == text.encode("utf-8")


def test_broken_characters_are_decoded_to_the_replacement_character():
    smile = TRAINED.encode("\U0001f600")
    assert TRAINED.decode(smile[:-1]) == "\ufffd"
    assert TRAINED.decode(smile[1:2] + TRAINED.encode("a")) == "\ufffda"


@pytest.mark.parametrize("text", ["a\ud800", "\udc80"])
def test_a_lone_surrogate_is_refused_even_if_its_byte_was_seen_before(text):
    TRAINED.encode_bytes(b"\x80")
    for use in (TRAINED.encode, lambda text: BPETokenizer.train(text, 300)):
        with pytest.raises(
            ValueError, match=rf"as its character {len(text) - 1}, a lone surrogate"
        ):
            use(text)
    with pytest.raises(ValueError, match="errors='replace'"):
        list(TRAINED.steps(text))


@pytest.mark.parametrize("token", [-1, 500])
def test_an_unknown_id_is_refused(token):
    for use in (TRAINED.token_bytes, lambda t: TRAINED.decode([0, t, 1])):
        with pytest.raises(ValueError, match=rf"token id {token} is outside the vocabulary of 500"):
            use(token)


def test_a_long_piece_takes_no_square_of_its_length():
    """A hundred thousand letters: n² steps would take minutes."""
    text = "".join(Random(0).choices("etaoin", k=100_000))
    assert TRAINED.decode(TRAINED.encode(text)) == text


def test_what_is_remembered_is_bounded(monkeypatch):
    tokenizer = BPETokenizer.train(CORPUS, 300)
    tokenizer.encode("a" * (LONGEST_CACHED + 1) + " model")
    assert set(tokenizer._ids_of_pieces) == {" model"}
    assert MOST_CACHED >= 2**16
    monkeypatch.setattr(tiny_llm.text.bpe, "MOST_CACHED", 3)
    tokenizer.encode("a b c d e")
    tokenizer.encode("f")
    assert set(tokenizer._ids_of_pieces) == {"f"}


# ------------------------------------------------------------------------------ special tokens


def test_special_tokens_are_made_from_text_only_if_allowed():
    (special,) = TRAINED.special_tokens.values()
    text = f"the{END} model{END}{END}"
    assert special not in TRAINED.encode(text)
    ids = TRAINED.encode(text, allowed_special={END})
    model = TRAINED.encode(" model")
    assert ids == [*TRAINED.encode("the"), special, *model, special, special]
    assert TRAINED.decode(ids) == TRAINED.decode(TRAINED.encode(text)) == text


def test_only_those_that_are_named_and_the_longest_first():
    tokenizer = BPETokenizer.from_merges([], ["<a", "<a>", "(.*)"])
    assert tokenizer.encode("<a><a", {"<a", "<a>"}) == [257, 256]
    assert tokenizer.encode("(.*)<a>", {"(.*)"}) == [258, *tokenizer.encode("<a>")]
    with pytest.raises(ValueError, match=r"'<c>' is no special token .* are <a, <a>, \(\.\*\)$"):
        tokenizer.encode("x", {"<c>"})


# ------------------------------------------------------------------------------- Hugging Face


@pytest.fixture(scope="module")
def learned():
    """The tokenizer with the merges of the stored reference and no special token."""
    return BPETokenizer.from_merges([tuple(m.split(" ")) for m in REFERENCE["merges"]], [])


@pytest.mark.parametrize("text, ids", REFERENCE["texts"])
def test_ids_are_those_of_hugging_face(learned, text, ids):
    assert learned.encode(text) == ids


def test_decoded_texts_are_those_of_hugging_face(learned):
    assert [learned.decode(ids) for ids, _ in REFERENCE["decoded"]] == [
        text for _, text in REFERENCE["decoded"]
    ]


def test_the_references_exercise_what_is_easily_wrong():
    hard = "".join(text for text, _ in REFERENCE["texts"])
    for what in ("'ll", "   ", "\t", "\u200d", "\u0301", "\u05e9", "日", "\x1c", "²", END):
        assert what in hard
    assert sum("\ufffd" in text for _, text in REFERENCE["decoded"]) > 10
    assert max(max(ids, default=0) for _, ids in REFERENCE["texts"]) > 500


# ---------------------------------------------------------------------------- states and files


def same(one, other):
    return (one.vocabulary, one.merges, one.special_tokens) == (
        other.vocabulary, other.merges, other.special_tokens,
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
    "two ways to one token": BPETokenizer.from_merges(
        [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")], [END]
    ),
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


def test_a_state_survives_json(tokenizer):
    state = json.loads(json.dumps(tokenizer.state()))
    assert state["kind"] == BPETokenizer.kind == "bpe"
    assert same(BPETokenizer.from_state(state), tokenizer)


def test_a_state_says_no_more_than_it_must():
    assert set(TRAINED.state()) == {"kind", "merges", "special"}
    assert set(shuffled().state()) == {"kind", "merges", "special", "vocabulary"}


def test_both_forms_of_files_survive(tokenizer, tmp_path):
    for place in (tmp_path / "new" / "tokenizer.json", tmp_path / "folder"):
        files = save(tokenizer, place)
        assert all(file.is_file() for file in files)
        assert same(load(place), tokenizer)
        assert load(place).encode(CORPUS[:300]) == tokenizer.encode(CORPUS[:300])
    assert same(load(tmp_path / "new"), tokenizer)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        "merges.txt", "vocab.json",
    ]  # fmt: skip


def test_the_files_of_gpt_2_are_read_as_they_are():
    """Its own form: escaped JSON, a version line, and `# #` is a merge like any other."""
    names = [name_of_bytes(bytes([byte])) for byte in range(256)]
    vocabulary = {name: 257 - token for token, name in enumerate(names)}
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


def test_a_pickle_survives():
    assert pickle.loads(pickle.dumps(TRAINED)).encode(CORPUS) == TRAINED.encode(CORPUS)


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


DAMAGED = {
    "empty": ("", "damaged, or no byte-level BPE"),
    "cut": (changed()[:5000], "damaged, or no byte-level BPE"),
    "no object": ("[]", "not a JSON object"),
    "deep": ("[" * 100_000, "damaged, or no byte-level BPE"),
    "no model": ("{}", "no model"),
    "another model": (changed(model__type="Unigram"), "model.type is \"Unigram\""),
    "a normalizer": (changed(normalizer={"type": "NFC"}), "its normalizer is"),
    "another pattern": (changed(pre_tokenizer={"type": "Whitespace"}), "its pre_tokenizer.type is"),
    "a prefix": (changed(pre_tokenizer__add_prefix_space=True), "add_prefix_space is true"),
    "no pattern": (changed(pre_tokenizer__use_regex=False), "use_regex is false"),
    "a template": (changed(post_processor={"type": "TemplateProcessing"}), "post_processor.type"),
    "truncation": (changed(truncation={"max_length": 2}), "its truncation is"),
    "ignored merges": (changed(model__ignore_merges=True), "ignore_merges is true"),
    "no vocabulary": (changed(model__vocab=None), "not a JSON object of ids"),
    "ids that are none": (changed(model__vocab={"a": "b"}), "not a JSON object of ids"),
    "a few tokens": (changed(model__vocab={"a": 0}, added_tokens=[]), "no token for the byte 0x21"),
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


@pytest.mark.parametrize("state", [None, [], {}, {"kind": "char", "characters": ["a"]}])
def test_nonsense_is_no_state(state):
    with pytest.raises(ValueError, match="not the state of a BPE tokenizer"):
        BPETokenizer.from_state(state)


@pytest.mark.parametrize(
    "entries",
    [
        {"merges": None}, {"special": None}, {"merges": "a b"}, {"merges": [["a", "b"]]},
        {"merges": ["ab"]}, {"merges": ["a bc"]}, {"special": [""]}, {"special": ["a"]},
        {"merges": ["a b"], "special": ["ab"]}, {"vocabulary": ["a", "a"]}, {"vocabulary": ["a"]},
        {"vocabulary": None}, {"special": {"a": 1}}, {"special": ["\ud800"]},
    ],
)  # fmt: skip
def test_a_state_with_a_part_that_does_not_fit_is_refused(entries):
    state = {"kind": "bpe", "merges": [], "special": []}
    assert BPETokenizer.from_state(state).vocab_size == 256
    with pytest.raises(ValueError):
        BPETokenizer.from_state({**state, **entries})


# --------------------------------------------------------------- with Hugging Face's tokenizers


@pytest.fixture(scope="module")
def hugging_face():
    """Theirs, from the file that we write; without the special tokens that it would always make."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = BPETokenizer.from_merges(TRAINED.merges, [])
    return tokenizers.Tokenizer.from_str(to_tokenizer_json(tokenizer))


def assigned(text):
    """Without the characters that this Python does not know; they may have newer tables."""
    return "".join(c for c in text if unicodedata.category(c) != "Cn")


@pytest.mark.reference
@given(text=texts)
def test_hugging_face_gives_the_same_ids(hugging_face, text):
    assert TRAINED.encode(assigned(text)) == hugging_face.encode(assigned(text)).ids


@pytest.mark.reference
def test_hugging_face_gives_the_same_ids_for_every_character(hugging_face):
    known = assigned(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    for start in range(0, len(known), 1000):
        text = "".join(f"a{c}1 {c}!" for c in known[start : start + 1000])
        assert TRAINED.encode(text) == hugging_face.encode(text).ids


@pytest.mark.reference
@given(ids=st.lists(st.integers(0, TRAINED.vocab_size - 2)))
def test_hugging_face_decodes_likewise(hugging_face, ids):
    assert TRAINED.decode(ids) == hugging_face.decode(ids, skip_special_tokens=False)


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


@pytest.mark.reference
@given(text=st.text(alphabet="ab '\u00e9", min_size=1, max_size=200), size=st.integers(256, 300))
def test_hugging_face_learns_the_same_merges(text, size):
    pytest.importorskip("tokenizers")
    theirs = make_references.train_hugging_face([text], size)
    ours = BPETokenizer.train(text, size, special_tokens=[])
    assert list(map(" ".join, ours.merges)) == make_references.learned_merges(theirs)
