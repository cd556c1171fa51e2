"""tiny-lm prepare: what it writes, what it prints, and one line for every mistake."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny_llm import BPETokenizer, CharTokenizer, split
from tiny_llm.cli import main
from tiny_llm.files import bpe_files
from tiny_llm.files.token_file import open_tokens, write_tokens
from tiny_llm.text.bpe import END_OF_TEXT
from tiny_llm.text.tokenizers import tokenizer_from

ROOT = Path(__file__).parents[2]
CORPUS = (ROOT / "corpus.txt").read_text("utf-8")
STORIES = [f"The cat number {number} sat on the mat, and so on.\n" * 3 for number in range(10)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every command runs in a folder of its own, with a text and ten stories."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_bytes(CORPUS.encode())
    (tmp_path / "stories" / "more").mkdir(parents=True)
    for number, story in enumerate(STORIES):
        place = f"stories/more/{number}" if number > 6 else f"stories/x{number}"
        (tmp_path / f"{place}.txt").write_bytes(story.encode())
    return tmp_path


IN_ORDER = STORIES[7:] + STORIES[:7]  # "more" comes before "x"


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def error_of(capsys):
    """The only line on standard error, which a user reads."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("tiny-lm: error: ")
    return lines[0]


# ---------------------------------------------------------------------------------- what it writes


def test_a_single_text_is_split_as_train_splits_it(capsys):
    assert main(["prepare", "corpus.txt"]) == 0
    tokens = open_tokens("tokens.bin")
    tokenizer = CharTokenizer.from_text(CORPUS)
    assert [list(tokens.train), list(tokens.val)] == list(split(tokenizer.encode(CORPUS), 0.1))
    assert tokens.tokenizer == tokenizer.state()
    assert (tokens.description.documents, tokens.description.val_documents) == (1, 0)
    tokens.verify()
    out, err = capsys.readouterr()
    assert [line.split()[-3:-1] for line in out.splitlines()[1:3]] == [
        ["4,672", "4,672"],
        ["519", "519"],
    ]
    assert tokens.sha256 in out
    assert "the last 519 are held out" in err
    assert "train --data tokens.bin" in err


def test_documents_of_characters_are_separated_by_newlines(capsys):
    assert main(["prepare", "stories", "--out", "s.bin", "--val-fraction", "0.2"]) == 0
    tokens = open_tokens("s.bin")
    tokenizer = tokenizer_from(tokens.tokenizer)
    held_out = [4, 9]
    for ids, numbers in (
        (tokens.train, [n for n in range(10) if n not in held_out]),
        (tokens.val, held_out),
    ):
        assert tokenizer.decode(ids) == "".join(IN_ORDER[n] + "\n" for n in numbers)
    assert (tokens.description.documents, tokens.description.val_documents) == (10, 2)
    assert "in 10 documents, of which 2 are held out" in capsys.readouterr().err


def test_documents_of_pieces_are_separated_by_a_token_that_no_text_makes():
    Path("stories/x0.txt").write_text(f"{STORIES[0]} {END_OF_TEXT}", "utf-8")
    assert main(["prepare", "stories", "--tokenizer", "bpe", "--vocab-size", "300"]) == 0
    tokens = open_tokens("tokens.bin")
    tokenizer = BPETokenizer.from_state(tokens.tokenizer)
    end = tokenizer.special_tokens[END_OF_TEXT]
    ids = list(tokens.train)
    assert ids.count(end) == 9
    assert ids[-1] == end == tokens.val[-1]
    texts = IN_ORDER[:9]
    texts[3] += f" {END_OF_TEXT}"
    assert ids == [token for text in texts for token in [*tokenizer.encode(text), end]]
    assert list(tokens.val) == [*tokenizer.encode(IN_ORDER[9]), end]


def test_pieces_are_learned_from_the_training_part_alone():
    train, val = split(CORPUS, 0.4)
    assert main(["prepare", "corpus.txt", "--tokenizer", "bpe", "--val-fraction", "0.4"]) == 0
    tokens = open_tokens("tokens.bin")
    assert tokens.tokenizer == BPETokenizer.train(train, 512).state()
    assert tokens.tokenizer != BPETokenizer.train(CORPUS, 512).state()
    tokenizer = BPETokenizer.from_state(tokens.tokenizer)
    assert list(tokens.train) == tokenizer.encode(train)
    assert list(tokens.val) == tokenizer.encode(val)


def test_a_tokenizer_that_is_there_can_be_used(capsys):
    tokenizer = BPETokenizer.train("other words in another text, other words", 270)
    bpe_files.save(tokenizer, Path("tokenizer.json"))
    assert main(["prepare", "corpus.txt", "--tokenizer-file", "tokenizer.json"]) == 0
    tokens = open_tokens("tokens.bin")
    assert tokens.tokenizer == tokenizer.state()
    assert tokenizer.decode([*tokens.train, *tokens.val]) == CORPUS


@pytest.mark.parametrize("flags", [[], ["--tokenizer", "bpe", "--vocab-size", "280"]])
def test_the_bytes_do_not_depend_on_the_workers(folder, flags):
    for workers in ("1", "2", "3"):
        words = ["prepare", "stories", "corpus.txt", "--out", workers, "--workers", workers]
        assert main([*words, *flags]) == 0
    made = files(folder)
    assert made["1"] == made["2"] == made["3"]
    assert made["1.json"] == made["2.json"] == made["3.json"]


def test_a_second_run_takes_neither_its_own_files_nor_one_file_twice(folder):
    assert main(["prepare", ".", "corpus.txt", "stories/../corpus.txt"]) == 0
    before = files(folder)
    assert main(["prepare", "."]) == 0
    assert files(folder) == before
    assert open_tokens("tokens.bin").description.documents == 11


def test_copies_do_not_leak_into_the_validation_part():
    for number, story in enumerate(STORIES):
        Path(f"stories/copy{number}.txt").write_text(story, "utf-8")
    assert main(["prepare", "stories"]) == 0
    tokens = open_tokens("tokens.bin")
    tokenizer = tokenizer_from(tokens.tokenizer)
    train, val = (tokenizer.decode(ids).split("\n\n") for ids in (tokens.train, tokens.val))
    assert not set(filter(None, train)) & set(filter(None, val))
    assert tokens.description.val_documents == 2


def test_what_is_no_text_in_a_folder_is_left_out_and_said(capsys):
    Path("stories/picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    Path("stories/empty.txt").write_bytes(b"")
    assert main(["prepare", "stories"]) == 0
    assert open_tokens("tokens.bin").description.documents == 10
    assert "\x00" not in open_tokens("tokens.bin").tokenizer["characters"]
    err = capsys.readouterr().err
    assert "not utf-8 text: stories/picture.png" in err.replace(os.sep, "/")
    assert "1 empty file" in err


def test_pictures_in_a_folder_are_no_text_to_learn_from(folder, capsys):
    (folder / "stories" / "map.svg").write_text("<svg><path d='M0 0'/></svg>", "utf-8")
    assert main(["prepare", "stories"]) == 0
    assert "pictures, unless --glob names them: stories/map.svg" in capsys.readouterr().err
    assert open_tokens("tokens.bin").description.documents == 10
    assert main(["prepare", "stories", "--glob", "*"]) == 0
    assert open_tokens("tokens.bin").description.documents == 11
    assert main(["prepare", "stories/map.svg", "stories/x0.txt"]) == 0  # named, so wanted
    assert open_tokens("tokens.bin").description.documents == 2


def test_glob_takes_names():
    Path("stories/notes.md").write_text("# notes", "utf-8")
    assert main(["prepare", "stories", "--glob", "x*.txt"]) == 0
    assert open_tokens("tokens.bin").description.documents == 7


def test_another_encoding():
    Path("text.txt").write_bytes("café au lait. ".encode("latin-1") * 9)
    assert main(["prepare", "text.txt", "--encoding", "latin-1"]) == 0
    assert "é" in open_tokens("tokens.bin").tokenizer["characters"]


def test_quiet_leaves_the_table_alone(capsys):
    assert main(["prepare", "corpus.txt", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("      ")
    assert err == ""


# --------------------------------------------------------------------------- one line for mistakes

WRONG_COMMAND_LINES = {
    "no file": ([], "required"),
    "size of char": (["corpus.txt", "--vocab-size", "300"], "is for --tokenizer bpe"),
    "size too small": (["corpus.txt", "--tokenizer", "bpe", "--vocab-size", "256"], "at least 257"),
    "size too large": (["corpus.txt", "--tokenizer", "bpe", "--vocab-size", "65537"], "two bytes"),
    "file and char": (["corpus.txt", "--tokenizer", "char", "--tokenizer-file", "t"], "finished"),
    "file and size": (["corpus.txt", "--vocab-size", "300", "--tokenizer-file", "t"], "finished"),
    "fraction": (["corpus.txt", "--val-fraction", "1"], "between 0 and 1"),
    "encoding": (["corpus.txt", "--encoding", "utf-99"], "not an encoding"),
    "workers": (["corpus.txt", "--workers", "0"], "at least 1"),
}


@pytest.mark.parametrize("case", WRONG_COMMAND_LINES)
def test_a_wrong_command_line_exits_with_2(case, capsys):
    words, expected = WRONG_COMMAND_LINES[case]
    assert main(["prepare", *words]) == 2
    assert expected in error_of(capsys)
    assert not Path("tokens.bin").exists()


def make_mistakes(folder):
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "short.txt").write_bytes(b"abc")
    (folder / "nothing").mkdir()
    for name in ("copies/a.txt", "copies/b.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"the same")
    bpe_files.save(BPETokenizer.from_merges([], []), folder / "bare.json")


MISTAKES = {
    "missing": (["none.txt"], "there is no file none.txt"),
    "empty file": (["empty.txt"], "there is no text in empty.txt"),
    "empty folder": (["nothing"], "the folder nothing holds no files"),
    "no match": (["stories", "--glob", "*.py"], "the folder stories holds no files *.py"),
    "not UTF-8": (["corpus.txt", "latin.txt"], "latin.txt is not utf-8 text"),
    "not UTF-8, by name": ([".", "--glob", "latin*"], "latin.txt is not utf-8 text"),
    "too short": (["short.txt"], "the validation part has 0 tokens"),
    "copies": (["copies"], "all documents are copies of one"),
    "no tokenizer": (["corpus.txt", "--tokenizer-file", "t.json"], "there is no t.json"),
    "no end": (["stories", "--tokenizer-file", "bare.json"], f"bare.json has no {END_OF_TEXT}"),
    "out is text": (["corpus.txt", "--out", "corpus.txt"], "is not from tiny-lm prepare"),
    "out is a folder": (["corpus.txt", "--out", "stories"], "is a folder"),
    "no such folder": (["corpus.txt", "--out", "corpus.txt/t.bin"], "cannot write corpus.txt"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_exits_with_1_and_changes_nothing(folder, case, capsys):
    make_mistakes(folder)
    before = files(folder)
    words, expected = MISTAKES[case]
    assert main(["prepare", "--quiet", *words]) == 1
    assert expected in error_of(capsys)
    assert files(folder) == before


def test_a_file_of_another_tool_is_never_overwritten(folder, capsys):
    Path("train.bin").write_bytes(b"precious")
    assert main(["prepare", "corpus.txt", "--out", "train.bin"]) == 1
    assert "is not from tiny-lm prepare" in error_of(capsys)
    assert Path("train.bin").read_bytes() == b"precious"
    Path("own.bin.json").write_text("{}", "utf-8")
    assert main(["prepare", "corpus.txt", "--out", "own.bin"]) == 1
    assert Path("own.bin.json").read_text("utf-8") == "{}"


def test_the_output_cannot_be_an_input(capsys):
    assert main(["prepare", "corpus.txt", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["prepare", "corpus.txt", "tokens.bin.json"]) == 1
    assert "tokens.bin.json is what --out is about to replace" in error_of(capsys)


def test_an_older_pair_is_replaced_even_if_a_crash_left_it_unequal():
    write_tokens(Path("tokens.bin"), [b"abcd"], [b"abcd"], {"kind": "char", "characters": ["a"]})
    Path("tokens.bin").write_bytes(b"cut")
    assert main(["prepare", "corpus.txt"]) == 0
    open_tokens("tokens.bin").verify()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused(capsys):
    os.mkfifo("pipe")
    assert main(["prepare", "pipe"]) == 1
    assert "pipe is no regular file, and prepare reads a text twice" in error_of(capsys)


def test_a_vocabulary_beyond_two_bytes_is_refused(capsys):
    text = "".join(map(chr, range(0x20, 0xD800))) + "".join(map(chr, range(0xE000, 0x14000)))
    Path("text.txt").write_text(text, "utf-8")
    assert main(["prepare", "text.txt", "--quiet"]) == 1
    assert "does not fit in two bytes each; 65,536 are the most" in error_of(capsys)


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_full_disk_is_one_line_and_leaves_the_old_pair(folder):
    assert main(["prepare", "corpus.txt", "--quiet"]) == 0
    before = files(folder)
    code = (
        "import resource, signal, sys; from tiny_llm.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "sys.exit(main(['prepare', 'stories', 'corpus.txt', '--quiet']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == "tiny-lm: error: cannot write tokens.bin: File too large\n"
    assert files(folder) == before


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_leaves_no_half_of_anything(folder):
    Path("large.txt").write_text(CORPUS * 1500, "utf-8")
    words = ["prepare", "large.txt", "--workers", "2", "--tokenizer-file", "t.json"]
    bpe_files.save(BPETokenizer.from_merges([]), Path("t.json"))
    before = files(folder)
    with subprocess.Popen(
        [sys.executable, "-m", "tiny_llm", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while not any(path.suffix == ".tmp" for path in Path().iterdir()):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all processes
        err = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert err.endswith("tiny-lm: stopped\n")
    assert "Traceback" not in err
    assert files(folder) == before
