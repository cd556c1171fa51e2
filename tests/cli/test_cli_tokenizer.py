"""tiny-lm tokenizer: what is learned and saved, what is shown, and one line for every mistake."""

import json
import re
from pathlib import Path

import pytest

from tiny_llm import BPETokenizer, CharTokenizer
from tiny_llm.cli import main
from tiny_llm.files import bpe_files
from tiny_llm.run.errors import UserError
from tiny_llm.run.tokenizer_files import load_tokenizer
from tiny_llm.text.tokenizers import tokenizer_from
from tiny_llm.view.terminal import Style, display_width, plain
from tiny_llm.view.tokens import explain


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every command runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def text(folder):
    (folder / "text.txt").write_text("low lower lowest " * 3, encoding="utf-8")
    return "text.txt"


def train(*flags):
    return main(["tokenizer", "train", *flags])


def show(*words):
    return main(["tokenizer", "show", *words])


def error_of(capsys):
    """The only line on standard error, which a user reads."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("tiny-lm: error: ")
    return lines[0]


# ---------------------------------------------------------------------------------------- train


@pytest.mark.parametrize("out", ["new/words.json", "folder"])
def test_train_saves_what_it_learned(text, out, capsys):
    assert train("--data", text, "--vocab-size", "262", "-o", out) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    files = [line[len("saved ") :] for line in stderr.splitlines() if line.startswith("saved ")]
    assert files == [str(path) for path in bpe_files.files_of(Path(out))]
    learned = BPETokenizer.train(Path(text).read_text("utf-8"), 262)
    assert load_tokenizer(Path(out)).state() == learned.state()
    ids = learned.encode(Path(text).read_text("utf-8"))
    assert f"51 bytes, which are now {len(ids)} tokens: {51 / len(ids):.2f} bytes" in stderr
    assert "262: 256 bytes, 5 merged ones, <|endoftext|>" in stderr
    assert re.search(r"^first: +lo low ", stderr, re.MULTILINE)


def test_train_takes_the_built_in_corpus_and_says_where_it_saved(capsys):
    assert train("--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert load_tokenizer(Path("runs/tokenizer.json")).vocab_size == 512


def test_a_vocabulary_that_stays_smaller_is_explained(text, capsys):
    assert train("--data", text, "--vocab-size", "5000") == 0
    assert "not 5,000, for no pair occurs twice any more" in " ".join(
        capsys.readouterr().err.split()
    )


def test_an_older_tokenizer_is_kept_as_bak(text, capsys):
    train("--data", text, "-o", "t.json")
    before = Path("t.json").read_bytes()
    assert train("--data", text, "--vocab-size", "258", "-o", "t.json") == 0
    assert "the older t.json is kept as t.json.bak" in capsys.readouterr().err
    assert Path("t.json.bak").read_bytes() == before
    assert Path("t.json").read_bytes() != before


@pytest.mark.parametrize("out", ["text.txt", "notes.json", "half"])
def test_what_is_no_tokenizer_is_never_overwritten(text, out, capsys):
    Path("notes.json").write_text('{"precious": true}', encoding="utf-8")
    Path("half").mkdir()
    Path("half/vocab.json").write_text("precious", encoding="utf-8")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert train("--data", text, "-o", out) == 1
    assert f"{out} " in error_of(capsys)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("out", ["text.txt/t.json", "text.txt/folder", "folder.json"])
def test_a_place_that_cannot_be_written(text, out, capsys):
    Path("folder.json").mkdir()
    assert train("--data", text, "-o", out) == 1
    assert "cannot write" in error_of(capsys)


def test_training_mistakes(text, capsys):
    assert train("--vocab-size", "256") == 2
    assert "must be at least 257, not 256" in error_of(capsys)
    assert train("--data", "none.txt") == 1
    assert "there is no file none.txt" in error_of(capsys)
    assert main(["tokenizer"]) == 2
    assert "COMMAND" in error_of(capsys)
    assert main(["tokenizer", "train", "--help"]) == 0


# ----------------------------------------------------------------------------------------- show


def test_show_prints_pieces_ids_and_merges(text, capsys):
    train("--data", text, "--vocab-size", "262", "-o", "t.json", "--quiet")
    assert show("lowest low", "--tokenizer", "t.json") == 0
    out, err = capsys.readouterr()
    assert err == "tokenizer: 262 tokens, t.json\n\n"
    assert (
        out
        == """\
10 characters -> 10 bytes -> 2 pieces -> 4 tokens

piece   token   id
lowest  low    257
        e       68
        st     260
·low    ·low   258

The merges that made them, numbered in the order in which they were learned:

lowest
  6 bytes          l o w e s t
  merge 1: l + o   lo w e s t
  merge 2: lo + w  low e s t
  merge 5: s + t   low e st

·low
  4 bytes           · l o w
  merge 1: l + o    · lo w
  merge 2: lo + w   · low
  merge 3: · + low  ·low
"""
    )


def test_show_says_which_tokenizer_it_uses_by_default(capsys):
    assert show("the model") == 0
    out, err = capsys.readouterr()
    assert "512 tokens, learned from the built-in corpus just now; --tokenizer FILE" in err
    assert "·model" in out
    assert show("the model", "--quiet") == 0
    assert capsys.readouterr() == (out, "")


def test_show_reads_a_folder(text, capsys):
    train("--data", text, "-o", "folder", "--quiet")
    assert show("low", "--tokenizer", "folder", "--quiet") == 0
    assert "low" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, problem",
    [
        (["--tokenizer", "none.json"], "there is no none.json; give a tokenizer.json, or a folder"),
        (["--tokenizer", "."], "holds neither vocab.json and merges.txt nor tokenizer.json"),
        (["--tokenizer", "text.txt"], "text.txt: damaged, or no byte-level BPE tokenizer"),
    ],
)
def test_a_tokenizer_that_is_none(text, words, problem, capsys):
    assert show("x", *words) == 1
    assert problem in error_of(capsys)


def test_bytes_that_are_no_text(capsys):
    """Python hands them over as lone surrogates."""
    assert show("a\udcff", "--quiet") == 1
    assert "a lone surrogate" in error_of(capsys)


# ------------------------------------------------------------------------------------ the display

HARD = "the  日本語 👩\u200d👩\u200d👦 e\u0301 שלום \t\x00\x1b[31m ﷽\n" + "lowest" * 40
TOKENIZER = BPETokenizer.train("lowest lower 日本 日本 שלום שלום " * 3, 290)


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [40, 80])
def test_lines_fit_and_columns_stand_under_one_another(width, unicode):
    lines = list(explain(TOKENIZER, HARD, Style(width=width, unicode=unicode)))
    assert max(map(display_width, lines)) <= max(width, 28 + 2 + 28 + 2 + 3)
    table = lines[2 : lines.index("", 2)]
    assert len(table) == 1 + len(TOKENIZER.encode(HARD))
    assert len(set(map(display_width, table))) == 1
    assert [int(line.split()[-1]) for line in table[1:]] == TOKENIZER.encode(HARD)
    if not unicode:
        assert all(map(str.isascii, lines))


def test_merges_lead_from_the_bytes_to_the_tokens():
    lines = list(explain(TOKENIZER, "lowest lowest 日本", Style()))
    assert lines.count("lowest") == lines.count("·lowest") == 1
    start = lines.index("lowest")
    assert lines[start + 1].split() == ["6", "bytes", *"lowest"]
    end = lines.index("", start)
    final = [TOKENIZER.token_bytes(t).decode() for t in TOKENIZER.encode("lowest")]
    assert lines[end - 1].split()[-len(final) :] == final
    for line in lines[start + 2 : end]:
        number, left, right = re.match(r"  merge (\d+): (\S+) \+ (\S+) ", line).groups()
        assert TOKENIZER.merges[int(number) - 1] == (left, right)
    assert any("\\xe6" in line for line in lines)


def test_a_repeated_piece_is_explained_once_and_colour_adds_no_width():
    text = "lowest lowest lowest"
    bare = list(explain(TOKENIZER, text, Style()))
    assert bare.count("·lowest") == 1
    coloured = list(explain(TOKENIZER, text, Style(color=True)))
    assert list(map(plain, coloured)) == bare != coloured


@pytest.mark.parametrize(
    "text, counts",
    [
        ("", "0 characters -> 0 bytes -> 0 pieces -> 0 tokens"),
        ("a", "1 character -> 1 byte -> 1 piece -> 1 token"),
    ],
)
def test_short_texts_need_no_merges(text, counts):
    lines = list(explain(TOKENIZER, text, Style()))
    assert lines[0] == counts
    assert len(lines) == 3 + len(text)


# ------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("tokenizer", [CharTokenizer("ab"), TOKENIZER])
def test_a_state_leads_to_its_class(tokenizer):
    again = tokenizer_from(json.loads(json.dumps(tokenizer.state())))
    assert type(again) is type(tokenizer)
    assert again.state() == tokenizer.state()


@pytest.mark.parametrize("state", [None, [], {}, {"kind": "word"}, {"kind": ["bpe"]}])
def test_an_unknown_kind_is_refused(state):
    with pytest.raises(ValueError, match="there are 'char' and 'bpe'"):
        tokenizer_from(state)


def test_loading_raises_user_errors(folder):
    with pytest.raises(UserError):
        load_tokenizer(folder / "none")
