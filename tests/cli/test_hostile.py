"""Foreign text, foreign files and a full standard error: nothing commands the terminal, nothing
hangs, and the result comes all the same."""

import errno
import io
import os
import re
from contextlib import redirect_stderr, redirect_stdout

import pytest

from tiny_llm.cli import entry, main
from tiny_llm.files import checkpoint
from tiny_llm.run.errors import quoted

EVIL = "\x1b]0;x\x07\x9b31m\u202e"
COMMANDS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200f\u2028-\u202e\u2066-\u2069]")
SIZES = ["--context-length", "4", "--d-model", "4", "--n-heads", "2"]


class Terminal(io.StringIO):
    """A terminal of 80 columns that understands UTF-8."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch, request):
    """(standard output, standard error), which `main` now takes for terminals without colour."""
    for name, value in {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    streams = Terminal(), Terminal()

    def in_terminal(words):
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            return entry.main(words)

    monkeypatch.setattr(request.module, "main", in_terminal)
    return streams


def trained(folder, name="m", text="the cat sat on the mat. " * 5):
    """The checkpoint of a short run, and its text, in files of this name."""
    data, path = folder / f"{name}.txt", folder / f"{name}.safetensors"
    data.write_text(text, encoding="utf-8")
    words = ["train", "--quiet", "--data", str(data), "--out", str(path), "--model", "modern"]
    assert main([*words, *SIZES, "--steps", "2", "-n", "0"]) == 0
    return path, data


def both(terminal):
    return terminal[0].getvalue() + terminal[1].getvalue()


def test_a_sample_in_a_terminal_commands_nothing(tmp_path, terminal):
    path, _ = trained(tmp_path, text=f"ab{EVIL}\tc\n" * 12)
    assert main(["generate", "-c", str(path), "-n", "200", "--temperature", "2"]) == 0
    out = terminal[0].getvalue()
    assert not COMMANDS.search(both(terminal))
    assert "\\x9b" in out
    assert "\\u202e" in out
    assert "\t" in out
    assert out.count("\n") > 3


def test_a_sample_in_a_file_is_what_the_model_wrote(tmp_path, capsys):
    path, _ = trained(tmp_path, text=f"ab{EVIL}\tc\n" * 12)
    assert main(["generate", "-c", str(path), "-n", "200", "--temperature", "2", "--quiet"]) == 0
    assert set(EVIL) <= set(capsys.readouterr().out)


@pytest.mark.skipif(os.name != "posix", reason="no such names")
def test_names_of_files_command_nothing(tmp_path, terminal):
    """Every command that says the name of a file, of one that is there and of one that is not."""
    path, data = trained(tmp_path, EVIL)
    metrics, there = path.with_name(f"{EVIL}.metrics.jsonl"), ["-c", str(path)]
    metrics.write_text(metrics.read_text() + "damaged\n\n")
    (tmp_path / f"{EVIL}.png").write_bytes(b"\x89PNG")
    for words in (
        ["generate", *there, "-n", "1"],
        ["eval", *there, "--data", str(data)],
        ["attention", *there],
        ["trace", *there],
        ["report", *there, "--data", str(data)],
        ["report", *there, "--data", str(data)],  # the older one is kept
        ["plot", str(metrics)],
        ["prepare", str(tmp_path), "-o", str(tmp_path / f"{EVIL}.bin")],
        ["train", "--resume", str(path), "--data", str(data), "--steps", "3", "-n", "0"],
        ["train", "--resume", str(path), "--data", str(data), "--steps", "5", "--stop-after", "4"],
        ["train", "--data", str(data), "--out", str(path), *SIZES, "--steps", "1", "-n", "0",
         "--model", "modern"],
        ["tokenizer", "train", "--data", str(data), "-o", str(tmp_path / f"{EVIL}.json")],
        ["tokenizer", "show", "a", "--tokenizer", str(tmp_path / f"{EVIL}.json")],
    ):  # fmt: skip
        assert main(words) == 0, (words, terminal[1].getvalue())
    for words in (
        ["generate", "-c", f"no{EVIL}"],
        ["plot", f"no{EVIL}"],
        ["train", "--data", f"no{EVIL}"],
        ["train", "--recipe", f"no{EVIL}"],
        ["train", f"--no{EVIL}"],
        ["prepare", f"no{EVIL}", "-o", str(tmp_path / "o.bin")],
        ["tokenizer", "show", "a", "--tokenizer", f"no{EVIL}"],
        ["report", "-c", str(path), "-o", str(metrics)],
        ["generate", "-c", f"no{EVIL}", "--debug"],
    ):
        assert main(words) in (1, 2)
    assert not COMMANDS.search(both(terminal)), COMMANDS.findall(both(terminal))


def test_a_name_is_typed_without_commanding_the_terminal(tmp_path):
    assert quoted("a b") == "'a b'"
    assert quoted("a\x9b\n\\'é") == "$'a\\xc2\\x9b\\x0a\\\\\\'é'"
    assert os.fsdecode(b"\xff") == "\udcff"
    assert quoted("\udcff") == "$'\\xff'"


def test_what_a_checkpoint_holds_is_shown_short_and_commands_nothing(tmp_path, terminal):
    path, _ = trained(tmp_path)
    long = EVIL + "x" * 10**5

    def changed(change):
        tensors, metadata = checkpoint.load(path)
        change(tensors, metadata)
        checkpoint.save(tmp_path / "changed", tensors, metadata)
        size = len(terminal[1].getvalue())
        code = main(["generate", "-c", str(tmp_path / "changed"), "-n", "0"])
        assert len(terminal[1].getvalue()) < size + 1500
        return code

    assert changed(lambda t, m: m["training"].update({long: 1, f"b{EVIL}": 2})) == 0
    assert "left out here" in terminal[1].getvalue()
    for change in (
        lambda t, m: m["config"].update({long: 1}),
        lambda t, m: t.update({long: [1.0]}),
        lambda t, m: m.update(model=long),
        lambda t, m: m.update(format=long),
        lambda t, m: m.update(step=long),
        lambda t, m: m.update(best=long),
        lambda t, m: m.update(recent={"total": long, "count": long}),
        lambda t, m: m["tokenizer"].update(kind=long),
    ):
        assert changed(change) == 1
    assert not COMMANDS.search(both(terminal))


class Full(io.StringIO):
    """Standard error on a disk that is full."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "words",
    [["generate", "-n", "3"], ["attention"], ["trace"], ["eval", "--data", "m.txt"], ["plot"],
     ["report"], ["gradcheck"], ["tokenizer", "show", "a"], ["prepare", "m.txt", "-o", "o.bin"],
     ["train", "--data", "m.txt", *SIZES[:2], "--steps", "1", "-n", "3"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_with_standard_error_full_the_result_comes_all_the_same(
    words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    trained(tmp_path)
    named = {"plot": ["m.metrics.jsonl"], "report": ["m.safetensors"]}
    if words[0] in ("generate", "attention", "trace", "eval"):
        named[words[0]] = ["-c", "m.safetensors"]
    capsys.readouterr()
    with redirect_stderr(Full()):
        assert main([*words, *named.get(words[0], [])]) == 0
    out = capsys.readouterr().out
    assert out or (tmp_path / "m.report.html").exists()
