"""Byte-level BPE: the worked example, any bytes there and back, GPT-2's ids, states.

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
from tiny_llm.files.bpe_files import to_tokenizer_json
from tiny_llm.text.bpe import LONGEST_CACHED, MOST_CACHED, SIGN_OF_BYTE
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


def name_of_bytes(data):
    """GPT-2's printable name of a byte string."""
    return "".join(map(SIGN_OF_BYTE.__getitem__, data))


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
def test_any_bytes_can_be_decoded(data):
    ids = [TRAINED.vocabulary[name_of_bytes(bytes([byte]))] for byte in data]
    assert TRAINED.decode_bytes(ids) == data
    assert TRAINED.decode(ids) == data.decode("utf-8", "replace")


@given(texts)
def test_the_tokens_of_a_text_are_its_bytes(text):
    assert b"".join(map(TRAINED.token_bytes, TRAINED.encode(text))) == text.encode("utf-8")


def test_broken_characters_are_decoded_to_the_replacement_character():
    smile = TRAINED.encode("\U0001f600")
    assert TRAINED.decode(smile[:-1]) == "\ufffd"
    assert TRAINED.decode(smile[1:2] + TRAINED.encode("a")) == "\ufffda"


@pytest.mark.parametrize("text", ["a\ud800", "\udc80"])
def test_a_lone_surrogate_is_refused(text):
    for use in (TRAINED.encode, lambda text: BPETokenizer.train(text, 300)):
        with pytest.raises(
            ValueError, match=rf"character {len(text)} of the text is .*, a lone surrogate"
        ):
            use(text)
    with pytest.raises(ValueError, match="a byte that is no UTF-8"):
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


# ---------------------------------------------------------------------------- states


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


def test_a_pickle_survives():
    assert pickle.loads(pickle.dumps(TRAINED)).encode(CORPUS) == TRAINED.encode(CORPUS)


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
@given(text=st.text(alphabet="ab '\u00e9", min_size=1, max_size=200), size=st.integers(256, 300))
def test_hugging_face_learns_the_same_merges(text, size):
    pytest.importorskip("tokenizers")
    theirs = make_references.train_hugging_face([text], size)
    ours = BPETokenizer.train(text, size, special_tokens=[])
    assert list(map(" ".join, ours.merges)) == make_references.learned_merges(theirs)
