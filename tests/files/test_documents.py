"""Documents in blocks have the ids of documents as a whole, and no document is on both sides."""

import math
import os
import subprocess
import sys
import time
from itertools import chain
from multiprocessing import get_start_method
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tiny_llm import BPETokenizer, CharTokenizer
from tiny_llm.files import documents
from tiny_llm.files.documents import (
    NotText,
    Span,
    encoder,
    files_in,
    jobs,
    learn,
    parts,
    scan,
    whole_pieces,
)
from tiny_llm.files.token_file import packed
from tiny_llm.text.pretokenize import pieces
from tiny_llm.text.tokenizers import TOKENIZERS

ROOT = Path(__file__).parents[2]
CORPUS = (ROOT / "corpus.txt").read_text("utf-8")
BPE = BPETokenizer.train(CORPUS, 300)

# What decides where GPT-2's pattern cuts, and what Python and Unicode call white space.
TRICKY = " \n\t\r\x0b\x1c\x1f\x85\xa0\u2003\u2028\u3000'stmdrevl!?.,_-aZé²½Ⅷ7١日本。\u0301\u200d😀"
tricky_texts = st.text(st.sampled_from(TRICKY)) | st.text(st.characters(exclude_categories=["Cs"]))


def write(folder, **texts):
    """name="content" -> folder/name.txt"""
    for name, text in texts.items():
        (folder / f"{name}.txt").write_bytes(text.encode("utf-8"))


def read(document):
    return "".join(Span(document, 0, document.characters).blocks())


# ----------------------------------------------------------------------------------------- blocks


def in_blocks(text, size):
    return [text[begin : begin + size] for begin in range(0, len(text), size)]


@given(tricky_texts, st.integers(1, 9))
@example("it's'll we'", 1)
@example("a  \n\n  b", 2)
@example("end!\x1c\x1d more", 3)
@example("abc\u3000 def\xa0ghi", 1)
def test_blocks_are_cut_where_no_piece_notices(text, size):
    blocks = list(whole_pieces(in_blocks(text, size)))
    assert "".join(blocks) == text
    assert list(chain.from_iterable(map(pieces, blocks))) == pieces(text)


@given(tricky_texts, st.integers(1, 9))
def test_the_ids_of_blocks_are_those_of_the_text(text, size):
    blocks = whole_pieces(in_blocks(text, size))
    assert list(chain.from_iterable(map(BPE.encode, blocks))) == BPE.encode(text)


def test_a_text_is_cut_as_soon_as_it_can_be():
    assert list(whole_pieces(["the c", "at sa", "t. a", "b"])) == ["the", " cat", " sat.", " ab"]
    assert list(whole_pieces(["日本。日", "本"])) == ["日本", "。日本"]


def test_a_text_without_a_place_to_cut_takes_no_quadratic_time():
    assert len(list(whole_pieces(["x" * 1000] * 3000))) == 1


# ---------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("block", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    "content, encoding, text",
    [
        (b"ab\r\ncd\re\n", "utf-8", "ab\ncd\ne\n"),
        (b"\xef\xbb\xbfcaf\xc3\xa9", "utf-8", "café"),
        (b"\xef\xbb\xbfcaf\xc3\xa9", "UTF_8", "café"),
        (b"caf\xe9\r", "latin-1", "café\n"),
        ("日本\U0001f600".encode("utf-16"), "utf-16", "日本\U0001f600"),
        (b"", "utf-8", ""),
    ],
)
def test_a_document_is_read_as_train_reads_a_text(
    tmp_path, monkeypatch, block, content, encoding, text
):
    from tiny_llm.run.texts import read_text

    monkeypatch.setattr(documents, "BLOCK", block)
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    alphabet = {"z"}
    document = scan(path, encoding, alphabet)
    assert read(document) == text
    assert document.characters == len(text)
    assert alphabet == {"z", *text}
    if text:
        assert read_text(str(path), encoding).content == text


@pytest.mark.parametrize("content", [b"good text, then \xff", b"\x80"])
def test_a_file_that_is_no_text_is_named_and_leaves_no_trace(tmp_path, content):
    path = tmp_path / "binary"
    path.write_bytes(content)
    alphabet = set()
    with pytest.raises(NotText, match=r"binary is not utf-8 text.*--encoding"):
        scan(path, "utf-8", alphabet)
    assert alphabet == set()


@given(st.text("ab\n", max_size=20), st.data())
def test_a_span_is_a_slice(tmp_path_factory, text, data):
    path = tmp_path_factory.mktemp("span") / "text.txt"
    path.write_bytes(text.encode())
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "BLOCK", data.draw(st.integers(1, 5)))
        span = Span(scan(path, "utf-8"), begin, end)
        assert "".join(span.blocks()) == text[begin:end]
        assert span.characters == end - begin


@pytest.mark.parametrize("now", ["", "shorter", "longer than it was before"])
def test_a_file_that_changes_meanwhile_is_noticed(tmp_path, now):
    write(tmp_path, text="as it was before")
    document = scan(tmp_path / "text.txt", "utf-8")
    write(tmp_path, text=now)
    with pytest.raises(ValueError, match="has changed since it was first read"):
        read(document)


def test_a_file_that_is_gone_meanwhile_is_named(tmp_path):
    write(tmp_path, text="as it was before")
    document = scan(tmp_path / "text.txt", "utf-8")
    document.path.unlink()
    with pytest.raises(ValueError, match=r"^cannot read .*text\.txt: No such file or directory$"):
        read(document)


def test_a_folder_is_read_with_what_is_in_it_sorted_and_without_what_is_hidden(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/b.md", ".git/config", "a/.hidden", "a/b/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("x", "utf-8")

    def found(*pattern):
        return [path.relative_to(tmp_path).as_posix() for path in files_in(tmp_path, *pattern)]

    assert found() == ["a/b/c.txt", "a/b.md", "a/z.txt", "b.txt"]
    assert found("*.txt") == ["a/b/c.txt", "a/z.txt", "b.txt"]
    assert found("*.py") == []
    assert files_in(tmp_path / "a" / ".." / "a" / "b") != []


# ------------------------------------------------------------------------------------------ parts


def scanned(folder, texts):
    for number, text in enumerate(texts):
        write(folder, **{f"{number:03}": text})
    return [scan(path, "utf-8") for path in sorted(folder.glob("*.txt"))]


def test_the_end_of_a_single_document_is_held_out_as_split_does_it(tmp_path):
    from tiny_llm import split

    (document,) = scanned(tmp_path, [CORPUS])
    (train,), (val,) = parts([document], 0.1)
    expected = split(list(CORPUS), 0.1)
    assert ["".join(span.blocks()) for span in (train, val)] == ["".join(e) for e in expected]


@pytest.mark.parametrize(
    "count, fraction, held_out",
    [(2, 0.1, [1]), (2, 0.9, [1]), (10, 0.1, [9]), (10, 0.3, [2, 5, 9]), (4, 0.99, [0, 1, 3]),
     (30, 0.1, [9, 19, 29])],
)  # fmt: skip
def test_whole_documents_are_held_out_throughout(tmp_path, count, fraction, held_out):
    found = scanned(tmp_path, [f"text {number}" for number in range(count)])
    train, val = parts(found, fraction)
    assert [span.document for span in val] == [found[number] for number in held_out]
    assert [s.document for s in train] == [d for d in found if d not in [s.document for s in val]]
    assert all(span.characters == span.document.characters for span in train + val)


@given(st.lists(st.sampled_from("abcdef"), min_size=2), st.floats(0.01, 0.99))
def test_copies_are_on_the_same_side(names, fraction):
    made = [documents.Document(Path(name), "utf-8", 1, name.encode()) for name in names]
    if len(set(names)) == 1:
        with pytest.raises(ValueError, match="copies of one"):
            parts(made, fraction)
        return
    train, val = ({span.document.digest for span in part} for part in parts(made, fraction))
    assert train and val
    assert not train & val
    assert len(train) + len(val) == len(set(names))
    assert math.isclose(len(val), len(set(names)) * fraction, abs_tol=1)


# ------------------------------------------------------------------------------------------- jobs


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("tokenizer", [BPE, CharTokenizer.from_text(CORPUS)], ids=["bpe", "char"])
def test_any_number_of_processes_gives_the_ids_in_order(monkeypatch, workers, tokenizer):
    monkeypatch.setattr(documents, "BLOCK", 100)
    texts = [CORPUS[:1500], "", CORPUS[1500:1510], CORPUS[1510:]]
    expected = [id for text in texts for id in [*tokenizer.encode(text), 7]]
    with encoder(tokenizer, workers) as encode:
        for _ in range(2):
            blocks = (whole_pieces(in_blocks(text, 100)) for text in texts)
            assert b"".join(encode(jobs(blocks, separator=7))) == packed(expected)


def test_small_texts_share_a_job_and_large_ones_take_several(monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", 4)
    assert list(jobs([["a"], ["b"], ["cdef"]], 0)) == [["a", 0, "b", 0, "cdef"], [0]]
    assert list(jobs([["abcd", "ef", "gh"]])) == [["abcd"], ["ef", "gh"]]
    assert list(jobs([])) == []


def test_no_more_jobs_are_read_than_are_needed():
    read = []

    def endless():
        while True:
            read.append(1)
            yield ["the model"]

    with encoder(BPE, 2) as encode:
        ids = encode(endless())
        for _ in range(10):
            next(ids)
    assert len(read) <= 10 + 2 * 2 + 1


def test_what_cannot_be_encoded_is_said_by_any_process():
    for workers in (1, 2):
        expected = pytest.raises(ValueError, match="does not know 'z'")
        with expected, encoder(CharTokenizer("ab"), workers) as encode:
            list(encode([["ab"], ["az"]]))


class Deadly(CharTokenizer):
    """Ends the process that encodes with it."""

    def encode(self, text):
        os._exit(3)


@pytest.mark.skipif(get_start_method() != "fork", reason="the table of the parent is changed")
def test_a_process_that_dies_is_noticed(monkeypatch):
    monkeypatch.setitem(TOKENIZERS, "char", lambda state: Deadly("ab"))
    expected = pytest.raises(ValueError, match="a worker process died")
    with expected, encoder(CharTokenizer("ab"), 2) as encode:
        list(encode([["ab"], ["ab"]]))


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_no_process_outlives_a_killed_one(tmp_path):
    code = """
import os, sys, time
from tiny_llm import CharTokenizer
from tiny_llm.files.documents import encoder
with encoder(CharTokenizer("ab"), 2) as encode:
    next(encode([["ab"]] * 9))
    print(open(f"/proc/self/task/{os.getpid()}/children").read(), flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        children = process.stdout.readline().split()
        process.kill()
    assert len(children) >= 2
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("workers", [1, 2])
def test_learning_from_documents_in_blocks_is_learning_from_their_texts(
    tmp_path, monkeypatch, workers
):
    monkeypatch.setattr(documents, "BLOCK", 70)
    texts = [CORPUS[:2000], CORPUS[2000:]]
    spans = [Span(document, 0, document.characters) for document in scanned(tmp_path, texts)]
    tokenizer, characters = learn(spans, 300, workers)
    assert tokenizer.state() == BPETokenizer.train(texts, 300).state()
    assert characters == len(CORPUS)


@pytest.mark.parametrize(
    "limit, value, most", [("LEARNED_FROM", 1000, 1100), ("MOST_PIECES", 50, 500)]
)
def test_learning_stops_where_memory_is_bounded(tmp_path, monkeypatch, limit, value, most):
    monkeypatch.setattr(documents, "BLOCK", 70)
    monkeypatch.setattr(documents, limit, value)
    (document,) = scanned(tmp_path, [CORPUS])
    tokenizer, characters = learn([Span(document, 0, len(CORPUS))], 280, 1)
    assert 100 < characters < most
    assert tokenizer.state() == BPETokenizer.train(CORPUS[:characters], 280).state()
